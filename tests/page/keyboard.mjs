// The complete setup without a mouse: every tab stop is visible, and the focus moves to what has changed.

import { assert, clean, onlyOpen, open, says, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser);
  await says(page, '#checks-state', 'All checks pass.');
  const stops = [];

  /** Presses Tab until the focus is on what `selector` selects. */
  async function tabTo(selector) {
    for (let presses = 0; presses < 60; presses += 1) {
      await page.keyboard.press('Tab');
      const stop = await page.evaluate((wanted) => {
        const now = document.activeElement;
        const rings = [now, now.closest('.way')].filter(Boolean).map((each) => getComputedStyle(each).outlineStyle);
        const box = now.getBoundingClientRect();
        const covered = document.querySelector('.top').getBoundingClientRect().bottom;
        return {
          name: `${now.localName}#${now.id} ${now.textContent.trim().slice(0, 30)}`,
          isThere: now.matches(wanted),
          isMarked: rings.some((style) => style !== 'none'),
          isSeen: box.bottom > covered && box.top < innerHeight,
          isAbove: now.closest('.top, .skip') !== null,
        };
      }, selector);
      stops.push(stop.name);
      assert(stop.isMarked, `no ring around ${stop.name}`);
      assert(stop.isSeen || stop.isAbove, `out of sight: ${stop.name}`);
      if (stop.isThere) return;
    }
    throw new Error(`${selector} is not among the stops: ${stops.join(', ')}`);
  }

  await tabTo('.skip');
  await page.keyboard.press('Enter');
  assert(await page.evaluate(() => document.activeElement.id === 'main'), 'the skip link leads to the setup');
  await tabTo('#checks .opener');
  await page.keyboard.press('Enter');
  await onlyOpen(page, 'checks');
  await tabTo('#check-all');
  await page.keyboard.press('Space');
  await says(page, '#checks-state', 'All checks pass.');
  await tabTo('#checks-done');
  await page.keyboard.press('Enter');
  await onlyOpen(page, 'keys');
  assert(await page.evaluate(() => document.activeElement.matches('#keys .opener')), 'the next step has the focus');
  await tabTo('input[name=way]');
  await page.keyboard.press('ArrowDown');
  await says(page, '#go', 'Receive keys');
  await page.keyboard.press('ArrowUp');
  await says(page, '#go', 'Make new keys');
  await tabTo('#domain');
  await page.keyboard.type('local_host');
  await page.keyboard.press('Enter');
  await page.locator('#domain[aria-invalid=true]').waitFor();
  assert(await page.evaluate(() => document.activeElement.id === 'domain'), 'a wrong field keeps the focus');
  await page.keyboard.press('ControlOrMeta+a');
  await page.keyboard.type('localhost');
  await page.keyboard.press('Enter');
  await says(page, '#result-title', 'This KMS has new keys');
  assert(await page.evaluate(() => document.activeElement.id === 'result-title'), 'the result has the focus');
  await tabTo('#result [data-go=serve]');
  await page.keyboard.press('Enter');
  await onlyOpen(page, 'serve');
  await tabTo('#finish');
  await page.keyboard.press('Enter');
  await says(page, '#serving-title', 'This KMS serves');
  assert(await page.evaluate(() => document.activeElement.id === 'serving-title'), 'the end has the focus');
  clean(seen);
  return { stops };
});
