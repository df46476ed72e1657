// The allowlist entry shown on the page allows this KMS: the check fails before it is pasted, and passes after.

import { renameSync, writeFileSync } from 'node:fs';
import { accessible, assert, clean, given, onlyOpen, open, primary, says, scenario, step } from './browser.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser);
  await says(page, '#checks-state', '1 of 5 checks fail: Authorization.');
  const badge = page.locator('#check-authorization .badge');
  const checks = [await badge.textContent()];
  await onlyOpen(page, 'checks');
  assert((await primary(page)) === 'Check all again', 'no keys are proposed while a check fails');
  await step(page, 'keys');
  await says(page, '#go-warning', '1 check fails.');
  assert((await primary(page)) === '', 'making keys is possible, and not proposed');
  await accessible(page, 'keys while a check fails');
  await page.getByRole('button', { name: 'See the checks' }).click();
  await onlyOpen(page, 'checks');
  await page.getByRole('button', { name: 'Show what to allow' }).click();
  await onlyOpen(page, 'identity');
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.getByRole('button', { name: 'Copy auth-config.json' }).click();
  await says(page, '#announce', 'auth-config.json copied');
  writeFileSync(`${given.allowlist}.new`, await page.evaluate(() => navigator.clipboard.readText()));
  renameSync(`${given.allowlist}.new`, given.allowlist);
  await page.getByRole('button', { name: 'Continue to the checks' }).click();
  await page.getByRole('button', { name: 'Check all again' }).click();
  await says(page, '#checks-state', 'All checks pass.');
  assert((await primary(page)) === 'Continue to the keys', 'keys are next now');
  checks.push(await badge.textContent());
  clean(seen);
  return { checks };
});
