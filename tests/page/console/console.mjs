// The console in a browser: signing in, going to views, and what must hold on each of them.

import { accessible, assert, fits, given, open, picture } from '../browser.mjs';

export const LIGHT = { name: 'light', viewport: { width: 1280, height: 900 }, colorScheme: 'light' };

/** Types the token and waits for the frame. */
export async function signIn(page, token) {
  await page.locator('input[name=token]').fill(token);
  await page.getByRole('button', { name: 'Sign in', exact: true }).click();
  await page.locator('.shell').waitFor();
}

/** A page of the console at a place (`#/…`), signed in. */
export async function console_(browser, token, { place = '', url = given.url, ...options } = {}) {
  const { page, seen } = await open(browser, { look: LIGHT, ...options, url: `${url}${place}` });
  await signIn(page, token);
  return { page, seen };
}

/** Goes to a place and waits until nothing is being loaded. */
export async function go(page, place) {
  await page.evaluate((hash) => { location.hash = hash; }, place);
  await settled(page);
}

/** Waits until a view is shown and its data are there. */
export async function settled(page) {
  await page.locator('main h1').waitFor();
  await page.waitForFunction(() => !document.querySelector('main .skeleton'));
}

/** Nothing on the page says that a call failed. */
export async function unfailed(page, where) {
  const told = await page.locator('main [role=alert]').allTextContents();
  assert(told.length === 0, `${where}: ${told.join('; ')}`);
}

/** No table has columns that only a scroll shows. */
async function whole(page, where) {
  const over = await page.locator('.tableframe').evaluateAll((all) => all.map((one) => one.scrollWidth - one.clientWidth));
  assert(over.every((width) => width <= 0), `${where}: tables wider than their place by ${over.join(', ')} px`);
}

/** Accessible, and no wider than a phone, a tablet and a desk, in light and dark; with a picture of each. */
export async function sound(page, where, name) {
  for (const colorScheme of ['dark', 'light']) {
    await page.emulateMedia({ colorScheme });
    await accessible(page, `${where}, ${colorScheme}`);
    for (const width of [390, 1024, 1600]) {
      await page.setViewportSize({ width, height: 900 });
      // Charts follow the width a moment later.
      await page.waitForFunction(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth, null, { timeout: 30_000 }).catch(() => {});
      await fits(page, `${where} at ${width}`);
      await whole(page, `${where} at ${width}`);
      await picture(page, `${name}-${width}-${colorScheme}`);
    }
    await page.setViewportSize(LIGHT.viewport);
  }
}

/** A call as the browser's page would make it, for what a story needs beside the page. */
export async function call(url, token, verb, path, body) {
  const answer = await fetch(new URL(path, url), {
    method: verb,
    headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await answer.text();
  return { status: answer.status, body: text ? JSON.parse(text) : null };
}

/** An app that got keys. */
export async function appOf({ url, owner }) {
  const { status, body } = await call(url, owner, 'GET', '/api/v1/cvms?limit=50');
  assert(status === 200, `GET /api/v1/cvms: ${status}`);
  return body.cvms.find(({ releases }) => releases > 0).app_id;
}
