// A CVM is denied: an operator sees why, allows it, and the CVM gets its keys at its next boot.

import { accessible, assert, clean, given, picture, says, scenario } from '../browser.mjs';
import { call, console_, go, settled } from './console.mjs';

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.owner, { place: '#/denials?code=os_image_not_allowed' });
  await page.locator('main tbody tr').first().getByRole('link').first().click();
  await page.locator('main .chain .failed').first().waitFor();
  await settled(page);
  await accessible(page, 'a denial');
  await picture(page, 'console-denial');
  const instance = await page.locator('dt', { hasText: 'Instance id' }).locator('xpath=following-sibling::dd').locator('code').textContent();
  await page.getByRole('button', { name: 'Dry run' }).click();
  await says(page, 'main .note.good', 'This request would be allowed');
  await page.getByRole('button', { name: 'Allow', exact: true }).click();
  await accessible(page, 'allowing it');
  await page.locator('dialog').getByRole('button', { name: 'Put it in force' }).click();
  await says(page, '.toast', 'The policy in force has it now');

  const released = async () => {
    const { body } = await call(given.url, given.owner, 'GET', '/api/v1/releases?limit=200');
    return body.releases.find((release) => release.instance_id === instance);
  };
  const until = Date.now() + 90_000;
  let release = await released();
  while (!release && Date.now() < until) {
    await new Promise((later) => { setTimeout(later, 500); });
    release = await released();
  }
  assert(release, `${instance} gets its keys`);
  await go(page, `#/releases/${release.seq}`);
  await says(page, 'main h1', 'Release #');
  await accessible(page, 'a release');
  clean(seen);
  return { instance };
});
