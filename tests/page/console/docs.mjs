// The description of the API: accessible in every look, and a call of it with a credential that is kept nowhere.

import { assert, clean, given, open, says, scenario } from '../browser.mjs';
import { LIGHT, sound } from './console.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser, { look: LIGHT, url: `${given.url}docs` });
  const operations = page.locator('main details');
  await operations.nth(50).waitFor();
  await sound(page, 'the description of the API', 'docs');
  await page.getByLabel('Search').fill('GET /api/v1/me ');
  const me = operations.filter({ has: page.getByText('/api/v1/me', { exact: true }) });
  await me.locator('summary').click();
  await page.getByLabel('Token, or name:secret').fill(given.owner);
  await me.getByRole('button', { name: 'Send' }).click();
  await says(page, 'main [role=status] pre', '"role": "owner"');
  await sound(page, 'a call of the API', 'docs-call');
  const kept = await page.evaluate(() => [location.href, document.cookie, JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage })].join());
  assert(![kept, ...seen.addresses].join().includes(given.owner), 'the credential is in no address and not stored');
  clean(seen);
  return { operations: await operations.count() };
});
