// A freeze from signing in to lifting it, with the keyboard only: each stop has a visible focus.

import { assert, clean, focused as hasFocus, given, open, says, scenario } from '../browser.mjs';
import { LIGHT, appOf } from './console.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser, { look: LIGHT });
  const app = await appOf(given);
  const stops = [];
  const focused = () => page.evaluate(() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    const text = one.labels?.[0]?.textContent ?? one.getAttribute('aria-label') ?? one.textContent;
    return { name: text.trim().slice(0, 60), tag: one.tagName, outline: style.outlineStyle !== 'none' || one.closest('label') !== null };
  });
  /** Tab until something has this name. */
  const reach = async (name, key = 'Tab') => {
    for (let tries = 0; tries < 60; tries += 1) {
      await page.keyboard.press(key);
      const now = await focused();
      if (now.tag === 'BODY') continue;
      assert(now.outline, `the focus shows on ${now.tag} “${now.name}”`);
      stops.push(now.name);
      if (now.name.startsWith(name)) return;
    }
    throw new Error(`the keyboard does not reach ${name}: ${stops.slice(-60).join(' | ')}`);
  };
  await page.locator('input[name=token]').waitFor();
  await hasFocus(page, 'input[name=token]');
  assert((await focused()).name === 'Token', 'the first field has the focus');
  await page.keyboard.type(given.owner);
  await page.keyboard.press('Enter');
  await page.locator('.shell').waitFor();
  // The view takes the focus once it is there.
  await hasFocus(page, '#title');

  await reach('Freezes');
  await page.keyboard.press('Enter');
  await page.locator('main h1', { hasText: 'Freezes' }).waitFor();
  await hasFocus(page, '#title');
  await reach('Freeze now');
  await page.keyboard.press('Enter');
  await page.locator('main h1', { hasText: /^Freeze$/ }).waitFor();
  await hasFocus(page, '#title');
  await reach('App id');
  await page.keyboard.type(app);
  await reach('Reason');
  await page.keyboard.type('a drill');
  await says(page, 'main .note', 'It stops');
  await reach('Freeze now');
  await page.keyboard.press('Enter');
  await says(page, '.toast', 'App frozen');
  await page.locator('main h1', { hasText: 'Freezes' }).waitFor();
  await hasFocus(page, '#title');
  await reach('Lift');
  await page.keyboard.press('Enter');
  await page.locator('dialog[open]').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('dialog').waitFor({ state: 'detached' });
  // It returns to the button.
  await page.waitForFunction(() => document.activeElement.textContent.trim().startsWith('Lift'));
  await page.keyboard.press('Enter');
  await reach('Lift it');
  await page.keyboard.press('Enter');
  await says(page, 'main .empty', 'Nothing is frozen');
  clean(seen);
  return { stops };
});
