// A KMS that asks for no credentials: nobody signs in, each view is there, and there are no credentials to manage.

import { assert, clean, given, open, says, scenario } from '../browser.mjs';
import { LIGHT, go, unfailed } from './console.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser, { look: LIGHT });
  await says(page, '.who', 'Anyone');
  const links = await page.locator('#nav a').evaluateAll((all) => all.map((link) => link.getAttribute('href')));
  assert(!links.includes('#/credentials') && links.includes('#/settings'), links.join());
  for (const [place] of given.views) {
    await go(page, place);
    await unfailed(page, place);
  }
  await go(page, '#/credentials');
  await says(page, 'main .empty', 'This KMS asks for no credentials');
  clean(seen);
  return { links };
});
