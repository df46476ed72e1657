// A page opened late: keys already exist, a key file disappears and returns, and Finish has to wait.

import { renameSync } from 'node:fs';
import { accessible, assert, clean, given, onlyOpen, open, picture, says, scenario, step } from './browser.mjs';

await scenario(async (browser) => {
  // Without its attester the KMS returns 503 to requests for its evidence, which the browser logs.
  const { page, seen } = await open(browser, { expected: /status of 503/ });
  await says(page, '#mode', 'Keys saved');
  await says(page, '#keys-state', 'They came by another call.');
  await onlyOpen(page, 'serve');
  await says(page, '#identity-state', 'It gives no evidence');
  await says(page, '#checks-state', '3 of 5 checks fail: Attester, Collateral service, Authorization.');

  renameSync(given.key, given.away);
  await says(page, '#notices', 'Key directory incomplete');
  const notice = await page.locator('#notices').textContent();
  await says(page, '#serve-state', 'Not now: key directory incomplete.');
  assert(await page.locator('#finish').isDisabled(), 'half of the keys are not served');
  await accessible(page, 'a part of the keys');
  await picture(page, 'broken');
  renameSync(given.away, given.key);
  await says(page, '#mode', 'Keys saved');
  assert((await page.locator('#notices').textContent()) === '', 'the notice is gone');
  await says(page, '#serve-state', 'The keys are saved.');

  await step(page, 'serve');
  await page.evaluate(() => {
    globalThis.told = [];
    const line = document.getElementById('serve-state');
    new MutationObserver(() => globalThis.told.push(line.textContent)).observe(line, { childList: true, characterData: true, subtree: true });
  });
  await page.getByRole('button', { name: 'Finish' }).click();
  await says(page, '#serving-title', 'This KMS serves');
  clean(seen);
  return { notice, told: await page.evaluate(() => globalThis.told) };
});
