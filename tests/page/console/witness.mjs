// The ledger says which witness does not cosign.

import { clean, given, scenario } from '../browser.mjs';
import { console_, settled, sound } from './console.mjs';

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.owner, { place: '#/ledger' });
  await settled(page);
  await page.locator('main tbody tr').filter({ hasText: given.witness }).filter({ hasText: given.state }).waitFor();
  await sound(page, 'a ledger with a witness', 'console-ledger-witness');
  clean(seen);
  return {};
});
