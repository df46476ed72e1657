// The complete setup without a mouse: every tab stop is visible, and the focus moves to what has changed.

import { assert, clean, focused, onlyOpen, open, says, scenario } from './browser.mjs';

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
  await focused(page, '#main');
  await tabTo('#checks .opener');
  await page.keyboard.press('Enter');
  await onlyOpen(page, 'checks');
  await tabTo('#check-all');
  await page.keyboard.press('Space');
  await says(page, '#checks-state', 'All checks pass.');
  await tabTo('#checks-done');
  await page.keyboard.press('Enter');
  await onlyOpen(page, 'keys');
  await focused(page, '#keys .opener');
  await tabTo('input[name=way]');
  await page.keyboard.press('ArrowDown');
  await says(page, '#go', 'Receive keys');
  await page.keyboard.press('ArrowUp');
  await says(page, '#go', 'Make new keys');
  await tabTo('#domain');
  await page.keyboard.type('local_host');
  await page.keyboard.press('Enter');
  await page.locator('#domain[aria-invalid=true]').waitFor();
  await focused(page, '#domain');
  await page.keyboard.press('ControlOrMeta+a');
  await page.keyboard.type('localhost');
  await page.keyboard.press('Enter');
  await says(page, '#result-title', 'This KMS has new keys');
  await focused(page, '#result-title');
  await tabTo('#result [data-go=serve]');
  await page.keyboard.press('Enter');
  await onlyOpen(page, 'serve');
  await tabTo('#finish');
  await page.keyboard.press('Enter');
  await says(page, '#serving-title', 'This KMS serves');
  await focused(page, '#serving-title');
  clean(seen);
  return { stops };
});
