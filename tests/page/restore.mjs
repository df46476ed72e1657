// A restore: the page opens it with a manifest, follows the shares that officers send with kmsctl, and lets the KMS serve.

import { writeFileSync } from 'node:fs';
import { accessible, assert, clean, finish, fits, given, LOOKS, open, picture, primary, says, scenario } from './browser.mjs';

const reached = (what) => writeFileSync(`${given.steps}/${what}`, '');

await scenario(async (browser) => {
  // The browser logs the refusal of the altered manifest.
  const { page, seen } = await open(browser, { expected: /status of 400/ });
  await says(page, '#checks-state', 'All checks pass.');
  await page.getByRole('radio', { name: /^Recovery set/ }).check();
  const go = page.getByRole('button', { name: 'Open the restore' });
  await go.click();
  await says(page, '#manifest-error', 'Choose the manifest of the recovery set first.');
  const file = page.getByLabel('Manifest of the recovery set');
  await file.setInputFiles({ name: 'other.json', mimeType: 'application/json', buffer: Buffer.from('{"manifest":1}') });
  await says(page, '#manifest-error', 'This is not the manifest of a recovery set');
  await accessible(page, 'a wrong file');
  await file.setInputFiles(given.altered);
  await says(page, '#manifest-shown', '2 of 3');
  await go.click();
  await says(page, '#refusal', 'It did not work');
  const refusal = await page.locator('#refusal').textContent();

  await file.setInputFiles(given.manifest);
  await says(page, '#manifest-shown', '2 of 3');
  const chosen = await page.locator('#manifest-shown code').allTextContents();
  assert((await page.getByLabel('Domain or IPv4 address').inputValue()) === given.domain, 'the domain is that of the set');
  await picture(page, 'restore-form');
  await go.click();
  await says(page, '#ceremony-count', '0 of 2 shares have arrived.');
  assert(await go.isHidden(), 'there is no other way to keys meanwhile');
  await page.getByRole('button', { name: 'Cancel the restore' }).click();
  await says(page, '#keys-state', 'The restore has ended; no keys were made.');
  await go.click();
  await says(page, '#ceremony-count', '0 of 2 shares have arrived.');
  const command = await page.locator('#ceremony-command code').textContent();
  await accessible(page, 'a restore is open');
  assert((await primary(page)) === '', 'nothing is left to press here');
  await picture(page, 'restore-open');

  reached('opened');
  await says(page, '#ceremony-count', '1 of 2 shares have arrived.');
  // What officers send to.
  for (const told of ['Name that this KMS gets', 'Policy', 'Relaxed settings', 'Set made']) await says(page, '#ceremony-values', told);
  const officers = await page.locator('#ceremony-officers li').allTextContents();
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.setViewportSize(LOOKS[3].viewport);
  await accessible(page, 'a restore is open, dark');
  await fits(page, 'a restore is open');
  await picture(page, 'restore-phone-dark');
  await page.setViewportSize(LOOKS[0].viewport);
  // Who opens the page late sees the same.
  const late = await open(browser);
  await says(late.page, '#ceremony-count', '1 of 2 shares have arrived.');
  clean(late.seen);
  await late.page.context().close();

  reached('followed');
  await says(page, '#result-title', 'The keys of this KMS are restored');
  assert(await page.locator('#ceremony').isHidden(), 'the restore has ended');
  const result = await page.locator('#result-values code').allTextContents();
  await accessible(page, 'restored');
  await picture(page, 'restored');
  await finish(page);
  clean(seen);
  return { refusal, chosen, command, officers, result };
});
