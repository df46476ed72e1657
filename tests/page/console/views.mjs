// Every view with the data of a sandbox: accessible, within the screen, without a complaint of the browser, and the same after a reload.

import { assert, clean, given, picture, scenario } from '../browser.mjs';
import { console_, go, settled, signIn, sound, unfailed } from './console.mjs';

/** Place, and what is there once real data are: a selector that must match, and how often at least. */
const VIEWS = given.views;

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.owner);
  const shown = {};
  for (const [place, selector, least] of VIEWS) {
    await go(page, place);
    const found = page.locator(`main ${selector}`);
    await found.nth(least - 1).waitFor();
    await unfailed(page, place);
    await sound(page, place);
    await picture(page, `console${place.replace(/[^a-z]+/g, '-')}`);
    shown[place] = await found.count();
  }

  const place = '#/releases?method=GetAppKey';
  await go(page, place);
  await page.reload();
  assert(new URL(page.url()).hash === place, 'the address keeps the place');
  await signIn(page, given.owner);
  await settled(page);
  assert(await page.getByLabel('What').inputValue() === 'GetAppKey', 'a filter is there after a reload');

  const { paint, bytes } = await page.evaluate(() => ({
    paint: Math.round(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1),
    bytes: performance.getEntriesByType('resource').filter(({ name }) => name.includes('/assets/')).reduce((sum, { decodedBodySize }) => sum + decodedBodySize, 0),
  }));
  assert(bytes > 50_000 && bytes < 350_000, `${bytes} bytes of assets`);
  const kept = await page.evaluate(() => [location.href, document.cookie, JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage })].join());
  assert(![kept, ...seen.addresses].join().includes(given.owner), 'the credential is in no address and not stored');
  clean(seen);
  return { shown, paint, bytes };
});
