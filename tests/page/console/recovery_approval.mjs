// Recovery under the two-person rule: the set that one owner asks for is made when another approves it, and both can save its files.

import { accessible, assert, clean, given, says, scenario } from '../browser.mjs';
import { call, console_ } from './console.mjs';

await scenario(async (browser) => {
  const { body: bob } = await call(given.url, given.owner, 'POST', '/api/v1/credentials', { name: 'bob', role: 'owner' });
  const { page, seen } = await console_(browser, given.owner, { place: '#/recovery/new', acceptDownloads: true });
  await page.getByLabel('Recipients').fill(given.officers.map(({ name, recipient }) => `${name} ${recipient}`).join('\n'));
  await says(page, 'main', 'Any 3 of 5 officers restore');
  await page.getByRole('button', { name: 'Make the set…' }).click();
  await page.locator('dialog').getByRole('button', { name: 'Make it' }).click();
  await says(page, '.toast', 'A second owner has to approve this');
  await says(page, 'main', 'No officers can restore the root keys');

  const { page: other, seen: otherSeen } = await console_(browser, bob.token, { place: '#/approvals' });
  await other.locator('main').getByRole('button', { name: 'Approve', exact: true }).click();
  await accessible(other, 'approving a set');
  await other.locator('dialog').getByRole('button', { name: /^Approve/ }).click();
  await says(other, '.toast', 'Approved and done');

  await page.getByRole('button', { name: 'Files…' }).click();
  await page.locator('dialog', { hasText: 'Files of the set' }).waitFor();
  const set = await page.locator('dialog dd code').first().textContent();
  const name = `dave-of-${set}.age`;
  const [file] = await Promise.all([page.waitForEvent('download'), page.locator('dialog').getByRole('button', { name: `Save ${name}` }).click()]);
  assert(file.suggestedFilename() === name, `${file.suggestedFilename()} is saved`);
  clean(seen);
  clean(otherSeen);
  return { set };
});
