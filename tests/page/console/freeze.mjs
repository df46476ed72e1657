// Two operators freeze the same app, and two owners lift it: the second one is told each time, and both see the same afterwards.

import { accessible, assert, clean, given, picture, says, scenario } from '../browser.mjs';
import { appOf, call, console_, go, settled } from './console.mjs';

await scenario(async (browser) => {
  const expected = /status of (404|409)/;
  const app = await appOf(given);
  const { body: second } = await call(given.url, given.owner, 'POST', '/api/v1/credentials', { name: 'freezer', role: 'owner' });
  const place = `#/freezes/new?scope=app&target=${app}`;
  const [ada, grace] = [await console_(browser, given.owner, { place, expected }), await console_(browser, second.token, { place, expected })];
  for (const { page } of [ada, grace]) {
    await says(page, 'main', 'It stops');
    await page.getByLabel('Reason').fill('incident 412');
  }
  await accessible(ada.page, 'a freeze with its preview');
  await picture(ada.page, 'console-freeze');
  await ada.page.getByRole('button', { name: 'Freeze now' }).click();
  await says(ada.page, '.toast', 'App frozen');
  // The event stream tells the other operator while the form is open.
  await says(grace.page, 'main .note', 'It is frozen already');
  await grace.page.getByRole('button', { name: 'Freeze now' }).click();
  await says(grace.page, '.toast', 'App frozen');

  for (const { page } of [ada, grace]) await go(page, '#/freezes');
  const rows = (page) => page.locator('main tbody tr').filter({ hasText: app.slice(0, 8) });
  for (const { page } of [ada, grace]) {
    assert(await rows(page).count() === 1, 'one freeze, however many asked for it');
    await rows(page).getByText('freezer').waitFor();
  }

  for (const { page } of [ada, grace]) await rows(page).getByRole('button', { name: 'Lift' }).click();
  await accessible(ada.page, 'lifting a freeze');
  await ada.page.locator('dialog').getByRole('button', { name: 'Lift it' }).click();
  await says(ada.page, '.toast', 'Lifted');
  await grace.page.locator('dialog').getByRole('button', { name: 'Lift it' }).click();
  await grace.page.locator('dialog').getByRole('alert').waitFor();
  const late = await grace.page.locator('dialog').getByRole('alert').textContent();
  await grace.page.keyboard.press('Escape');
  for (const { page } of [ada, grace]) {
    await settled(page);
    await says(page, 'main .empty', 'Nothing is frozen');
    await page.locator('main').getByRole('link', { name: 'Freeze now' }).waitFor();
  }
  clean(ada.seen);
  clean(grace.seen);
  assert(late.includes('not found'), late);
  return { late };
});
