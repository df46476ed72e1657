// What the page gives to paste into an allowlist allows this KMS: the check fails before, and passes after.

import { renameSync, writeFileSync } from 'node:fs';
import { clean, given, open, says, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser);
  await says(page, '#checks-state', '1 of 5 checks fail: Authorization.');
  const badge = page.locator('#check-authorization .badge');
  const checks = [await badge.textContent()];
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.getByRole('button', { name: 'Copy auth-config.json' }).click();
  await says(page, '#announce', 'auth-config.json copied');
  writeFileSync(`${given.allowlist}.new`, await page.evaluate(() => navigator.clipboard.readText()));
  renameSync(`${given.allowlist}.new`, given.allowlist);
  await page.getByRole('button', { name: 'Check all again' }).click();
  await says(page, '#checks-state', 'All checks pass.');
  checks.push(await badge.textContent());
  clean(seen);
  return { checks };
});
