// The two-person rule: what one owner asks for waits, another owner approves it, and it is done once.

import { accessible, assert, clean, given, picture, says, scenario } from '../browser.mjs';
import { call, console_, go } from './console.mjs';

await scenario(async (browser) => {
  // With one owner there is nobody to ask, so the second one is made at once.
  const { body: bob } = await call(given.url, given.owner, 'POST', '/api/v1/credentials', { name: 'bob', role: 'owner' });
  const { page: first, seen } = await console_(browser, given.owner, { place: '#/credentials' });
  await first.getByRole('button', { name: 'New credential' }).click();
  await first.getByLabel('Name').fill('carol');
  await first.getByLabel('Owner', { exact: false }).check();
  await first.getByRole('button', { name: 'Create the invitation' }).click();
  await says(first, '.toast', 'A second owner has to approve this');
  const carol = first.locator('main tbody tr').filter({ hasText: 'carol' });
  assert(await carol.count() === 0, 'there is no such owner yet');
  await go(first, '#/approvals');
  await says(first, 'main', 'carol');
  assert(await first.locator('main').getByRole('button', { name: 'Approve', exact: true }).count() === 0, 'not by the owner who asked');

  const second = await console_(browser, bob.token, { place: '#/approvals' });
  await says(second.page, 'main', 'carol');
  await accessible(second.page, 'approvals');
  await picture(second.page, 'console-approvals');
  await second.page.locator('main').getByRole('button', { name: 'Approve', exact: true }).click();
  await accessible(second.page, 'approving');
  await second.page.locator('dialog').getByRole('button', { name: /^Approve/ }).click();
  await says(second.page, '.toast', 'Approved and done');
  await second.page.keyboard.press('Escape');

  await go(first, '#/credentials');
  await carol.getByText('invited').waitFor();
  clean(seen);
  clean(second.seen);
  return {};
});
