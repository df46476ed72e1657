// Refusals: the page shows the KMS's own reason and what to do, and the next attempt works once the cause is gone.

import { renameSync, writeFileSync } from 'node:fs';
import { accessible, assert, clean, given, LOOKS, open, picture, says, scenario } from './browser.mjs';

function replace({ path, text }) {
  writeFileSync(`${path}.new`, text);
  renameSync(`${path}.new`, path);
}

await scenario(async (browser) => {
  // The browser logs responses with status 4xx.
  const { page, seen } = await open(browser, { expected: /status of 4\d\d/ });
  await says(page, '#checks-state', '1 of 5 checks fail: Authorization.');
  const check = await page.locator('#check-authorization').textContent();
  await accessible(page, 'a check fails');
  await picture(page, 'check-fails');
  replace(given.own);
  await page.getByRole('button', { name: /^Again.*Authorization$/ }).click();
  await says(page, '#checks-state', 'All checks pass.');

  await page.getByLabel('Replica').check();
  await page.getByLabel('URL of the running KMS').fill(given.source);
  await page.getByLabel('Domain or IPv4 address').fill('replica.example');
  const go = page.getByRole('button', { name: 'Receive keys' });
  await go.click();
  await says(page, '#refusal', 'It did not work');
  const refusal = await page.locator('#refusal').textContent();
  const steps = await page.locator('#progress .badge').allTextContents();
  assert(await page.locator('#finish').isDisabled(), 'no keys, no Finish');
  await accessible(page, 'refused');
  await picture(page, 'refused');
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.setViewportSize(LOOKS[3].viewport);
  await accessible(page, 'refused, dark');
  await picture(page, 'refused-phone-dark');

  replace(given.theirs);
  await go.click();
  await says(page, '#result-title', 'This KMS is a replica');
  assert((await page.locator('#refusal').textContent()) === '', 'the refusal is gone');
  clean(seen);
  return { check, refusal, steps };
});
