// What each view shows while it loads, when the KMS fails, and when the KMS is there again.

import { accessible, assert, clean, given, scenario } from '../browser.mjs';
import { console_, settled } from './console.mjs';

/** Calls of the frame, which goes on while a view fails. */
const FRAME = /\/api\/v1\/(me|overview|approvals|events)/;
/** Views that ask for nothing until somebody types, and those that show what the frame asks for. */
const STILL = ['#/freezes/new', '#/settings/files', '#/overview', '#/approvals'];

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.owner, { place: '#/nowhere', expected: /status of 503/ });
  await page.locator('main h1', { hasText: 'Not found' }).waitFor();
  let mode = 'slow';
  let held = [];
  await page.route((url) => /^\/(api|prpc|log)\//.test(url.pathname), async (route) => {
    if (mode === 'up' || FRAME.test(route.request().url())) return route.fallback();
    if (mode === 'slow') await new Promise((later) => held.push(later));
    if (mode === 'up') return route.fallback();
    return route.fulfill({ status: 503, json: { error: 'the index is being built', code: 'unavailable', message: 'the index is being built', request_id: 'req-42' } });
  });
  const told = [];
  for (const [place] of given.views) {
    if (STILL.includes(place)) continue;
    mode = 'slow';
    held = [];
    // A new page, because the console keeps what it has seen.
    await page.goto(`${given.url}?${told.length}${place}`);
    await page.locator('input[name=token]').fill(given.owner);
    await page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.locator('main .skeleton').first().waitFor();
    mode = 'down';
    for (const go of held) go();
    const alert = page.locator('main [role=alert]').filter({ hasText: 'the index is being built' }).first();
    await alert.waitFor();
    await accessible(page, `${place}, which failed`);
    // Nothing is answered until the click: a view that asks again by itself would take the button away.
    mode = 'slow';
    held = [];
    await alert.getByRole('button', { name: 'Try again' }).click();
    mode = 'up';
    for (const go of held) go();
    await alert.waitFor({ state: 'detached' });
    await settled(page);
    told.push(place);
  }
  assert(told.length > 0, 'views were looked at');
  clean(seen);
  return { told };
});
