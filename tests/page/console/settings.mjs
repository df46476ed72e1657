// An owner changes a setting, reads the files again and restarts the KMS: the setting is as it was changed.

import { accessible, assert, clean, given, says, scenario } from '../browser.mjs';
import { console_, settled } from './console.mjs';

const KEY = 'core.limits.app_burst';

await scenario(async (browser) => {
  // While the KMS is away, nothing that is loaded from it arrives.
  const { page, seen } = await console_(browser, given.owner, { place: `#/settings?q=${KEY}`, expected: /^Failed to load resource/ });
  await settled(page);
  const row = page.locator('main tbody tr').filter({ hasText: KEY });
  await row.getByRole('button', { name: `Change ${KEY}` }).click();
  await page.locator('dialog').getByLabel('Value').fill('many');
  await says(page, 'dialog .error', 'This has to be a number.');
  await page.locator('dialog').getByLabel('Value').fill('77');
  await accessible(page, 'changing a setting');
  await page.locator('dialog').getByRole('button', { name: 'Change it' }).click();
  await says(page, '.toast', 'Changed');
  await row.filter({ hasText: '77' }).filter({ hasText: 'changed here' }).waitFor();

  await page.getByRole('button', { name: 'Reload files' }).click();
  await says(page, 'dialog h2', 'Read again');
  assert(await page.locator('dialog tbody tr').count() > 1, 'it says what was read');
  await accessible(page, 'what was read again');
  await page.locator('dialog').getByRole('button', { name: 'Done' }).click();

  await page.getByRole('button', { name: 'Restart…' }).first().click();
  await accessible(page, 'asking for a restart');
  await page.locator('dialog').getByRole('button', { name: 'Restart', exact: true }).click();
  await page.locator('dialog h2', { hasText: 'Restarted' }).waitFor();
  await accessible(page, 'restarted');
  await page.locator('dialog').getByRole('button', { name: 'Done' }).click();
  await page.locator('.livestate.live').waitFor();
  await row.filter({ hasText: '77' }).filter({ hasText: 'changed here' }).waitFor();
  clean(seen);
  return {};
});
