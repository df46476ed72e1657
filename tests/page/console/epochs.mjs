// Epochs: one is prepared and activated, the first is retired, and cannot be destroyed while this process signs with it.

import { accessible, assert, clean, given, says, scenario } from '../browser.mjs';
import { call, console_, sound } from './console.mjs';

await scenario(async (browser) => {
  const app = '0a'.repeat(20);
  const { status } = await call(given.url, given.owner, 'PUT', `/api/v1/epochs/apps/${app}`, { root_epoch: 'current' });
  assert(status === 200, `an app follows: ${status}`);
  const { page, seen } = await console_(browser, given.owner, { place: '#/epochs' });
  const row = (epoch) => page.locator('main table').first().locator('tbody tr').nth(epoch);
  const dialog = page.locator('dialog[open]');
  await row(0).getByText('current').waitFor();
  await says(page, 'main', 'follows');
  assert(await row(0).getByRole('button', { name: /^(Activate|Retire|Destroy)/ }).count() === 0, 'the current epoch stays');
  await sound(page, 'the first epoch', 'console-epochs-first');

  /** Opens a change, types its name with the keyboard, and confirms it by the return of its button. */
  const change = async (button, title, word, phrase) => {
    await button.focus();
    await page.keyboard.press('Enter');
    await dialog.filter({ hasText: title }).waitFor();
    const field = dialog.getByLabel(`Type “${phrase}”`);
    await field.waitFor();
    await accessible(page, title);
    const confirm = dialog.getByRole('button', { name: word, exact: true });
    await field.focus();
    await page.keyboard.type(phrase.slice(0, -1));
    assert(await confirm.isDisabled(), `${title} waits for the whole name`);
    await page.keyboard.type(phrase.slice(-1));
    await confirm.focus();
    await page.keyboard.press('Enter');
    await page.locator('dialog').waitFor({ state: 'detached' });
  };
  await change(page.getByRole('button', { name: 'Prepare…' }), 'Prepare new root keys?', 'Prepare', 'prepare');
  await row(1).getByText('prepared').waitFor();
  await change(row(1).getByRole('button', { name: /^Activate/ }), 'Activate epoch 1?', 'Activate', 'activate 1');
  await says(page, '.toast', 'Activated epoch 1');
  await row(1).getByText('current').waitFor();
  await change(row(0).getByRole('button', { name: /^Retire/ }), 'Retire epoch 0?', 'Retire', 'retire 0');
  await row(0).getByText('retired').waitFor();
  await says(page, 'main', 'A restart is needed');
  await sound(page, 'a retired epoch', 'console-epochs');

  await row(0).getByRole('button', { name: /^Destroy/ }).click();
  await dialog.filter({ hasText: 'It cannot be done now' }).waitFor();
  assert(await dialog.getByRole('button', { name: 'Destroy', exact: true }).isDisabled(), 'it is not offered');
  await accessible(page, 'a change that cannot be made');
  await page.keyboard.press('Escape');
  await page.locator('dialog').waitFor({ state: 'detached' });
  clean(seen);
  return {};
});
