// Every view with the data of a sandbox: accessible, within the screen, without a complaint of the browser, and the same after a reload.

import { assert, clean, given, scenario } from '../browser.mjs';
import { call, console_, go, settled, signIn, sound, unfailed } from './console.mjs';

/** Place, and what is there once real data are: a selector that must match, and how often at least. */
const VIEWS = given.views;

/** What an owner asks for, and has to get. */
async function asked(verb, path, body) {
  const { status, body: answer } = await call(given.url, given.owner, verb, path, body);
  assert(status === 200, `${path}: ${status} ${JSON.stringify(answer)}`);
  return answer;
}

/** Starts a candidate without one of the apps, and a freeze that stops nothing; gives how they end. */
async function prepared() {
  const { document } = await asked('GET', '/api/v1/policy');
  const [, ...apps] = Object.entries(document.apps);
  const candidate = JSON.stringify({ ...document, apps: Object.fromEntries(apps) });
  await asked('POST', '/prpc/Admin.StartShadow', { auth_config_json: candidate, name: 'without an app' });
  const { id } = await asked('POST', '/api/v1/freezes', { scope: 'instance', target: 'ee'.repeat(20), reason: 'a drill' });
  return async () => {
    await asked('POST', '/prpc/Admin.StopShadow', {});
    await asked('POST', `/api/v1/freezes/${id}/lift`, {});
  };
}

await scenario(async (browser) => {
  const end = await prepared();
  const { page, seen } = await console_(browser, given.owner);
  const shown = {};
  for (const [place, selector, least] of VIEWS) {
    await go(page, place);
    const found = page.locator(`main ${selector}`);
    await found.nth(least - 1).waitFor();
    await unfailed(page, place);
    await sound(page, place, `console${place.replace(/[^a-z]+/g, '-')}`);
    shown[place] = await found.count();
  }
  await end();

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
