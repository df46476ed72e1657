// A second tab, in front and in the background: after Finish in the first it says that the KMS serves, and shows no error.

import { accessible, assert, clean, finish, onlyOpen, open, picture, says, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const first = await open(browser);
  const second = await open(browser);
  await says(first.page, '#checks-state', 'All checks pass.');
  await says(second.page, '#checks-state', 'All checks pass.');
  // The second tab goes to the background, where browsers throttle it.
  await second.page.evaluate(() => {
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => 'hidden' });
  });
  const third = await open(browser);
  await says(third.page, '#checks-state', 'All checks pass.');
  await first.page.getByLabel('Domain or IPv4 address').fill('localhost');
  await first.page.getByRole('button', { name: 'Make new keys' }).click();
  await says(first.page, '#result-title', 'This KMS has new keys');
  await says(third.page, '#mode', 'Keys saved');
  await onlyOpen(third.page, 'serve');
  await second.page.evaluate(() => {
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => 'visible' });
  });
  await says(second.page, '#mode', 'Keys saved');
  await second.page.evaluate(() => {
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => 'hidden' });
  });
  await finish(first.page);
  const modes = [];
  for (const { page } of [second, third]) {
    await says(page, '#mode', 'Serving');
    await says(page, '#serve-state', 'This KMS serves its keys.');
    await onlyOpen(page, 'serve');
    assert(await page.locator('#serving-title').isVisible(), 'it says what is next');
    assert((await page.locator('.state[data-kind=bad]').count()) === 0, 'nothing is red');
    modes.push(await page.locator('#mode').getAttribute('data-mode'));
  }
  await accessible(third.page, 'another tab after Finish');
  await picture(third.page, 'second-tab');
  for (const { seen } of [first, second, third]) clean(seen);
  return { modes };
});
