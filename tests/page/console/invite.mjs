// An owner invites somebody; the link gives them a credential of their own, with its role; a revocation ends it.

import { accessible, assert, clean, given, open, picture, says, scenario } from '../browser.mjs';
import { LIGHT, console_, go } from './console.mjs';

await scenario(async (browser) => {
  const { page: owner, seen } = await console_(browser, given.owner, { place: '#/credentials' });
  await owner.getByRole('button', { name: 'New credential' }).click();
  await owner.getByRole('button', { name: 'Create the invitation' }).click();
  await says(owner, 'dialog .error', 'Type a name.');
  await owner.getByLabel('Name').fill('grace');
  await owner.getByLabel('It is for').selectOption('default');
  await accessible(owner, 'a new credential');
  await owner.getByRole('button', { name: 'Create the invitation' }).click();
  await says(owner, 'dialog h2', 'Invitation for grace');
  await accessible(owner, 'an invitation');
  const link = await owner.locator('dialog pre').textContent();
  assert(link.startsWith(`${new URL(given.url).origin}/#/activate?token=`), link);
  await owner.getByRole('button', { name: 'Done' }).click();
  const row = owner.locator('main tr').filter({ hasText: 'grace' });
  await row.getByText('invited').waitFor();
  await row.getByText('default', { exact: true }).waitFor();

  const guest = await open(browser, { look: LIGHT, url: link, expected: /status of 401/ });
  await guest.page.getByLabel('Activation token').waitFor();
  assert(!guest.page.url().includes('token'), 'the token leaves the address');
  await guest.page.getByRole('button', { name: 'Activate' }).click();
  await says(guest.page, 'h2', 'Your credential');
  await accessible(guest.page, 'an activated invitation');
  const token = await guest.page.locator('.secret code').textContent();
  await picture(guest.page, 'console-activated');
  await guest.page.getByRole('button', { name: 'I have stored it, sign in' }).click();
  await says(guest.page, '.who', 'grace');
  await says(guest.page, '.who', 'domain default');
  assert(await guest.page.locator('#nav a[href="#/credentials"]').count() === 0, 'a viewer has no view of credentials');

  // The link works once.
  const second = await open(browser, { look: LIGHT, url: link, expected: /status of 40[13]/ });
  await second.page.getByRole('button', { name: 'Activate' }).click();
  await second.page.getByRole('alert').waitFor();

  await owner.reload();
  await owner.locator('input[name=token]').fill(given.owner);
  await owner.getByRole('button', { name: 'Sign in', exact: true }).click();
  await row.getByText('active', { exact: true }).waitFor();
  await row.getByRole('button', { name: 'Revoke' }).click();
  await owner.locator('dialog').getByRole('button', { name: 'Revoke it' }).click();
  await says(owner, '.toast', 'Revoked');
  await guest.page.evaluate(() => { location.hash = '#/ledger'; });
  await says(guest.page, 'dialog h2', 'Sign in again');
  await go(owner, '#/credentials');
  clean(seen);
  clean(guest.seen);
  return { token };
});
