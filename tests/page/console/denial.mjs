// CVMs are denied: one is allowed at once; what would allow another is tried in shadow, seen there, and activated. Both get their keys at
// their next boot, and the browser verifies the release.

import { accessible, assert, clean, given, PATIENCE, picture, says, scenario } from '../browser.mjs';
import { call, console_, go, settled } from './console.mjs';

/** Opens the first denial with this code, and gives the instance. */
async function explained(page, code) {
  await go(page, `#/denials?code=${code}`);
  await page.locator('main tbody tr').filter({ hasText: code }).first().getByRole('link').first().click();
  await page.locator('main .chain .failed').first().waitFor();
  await settled(page);
  return page.locator('dt', { hasText: 'Instance id' }).locator('xpath=following-sibling::dd').locator('code').textContent();
}

/** Waits for a release to the instance that has its receipt. */
async function released(instance) {
  const until = Date.now() + 2 * PATIENCE;
  while (Date.now() < until) {
    const { body } = await call(given.url, given.owner, 'GET', '/api/v1/releases?limit=200');
    const found = body.releases.find((release) => release.instance_id === instance);
    if (found && (await call(given.url, given.owner, 'GET', `/api/v1/releases/${found.seq}`)).body.receipt) return found;
    await new Promise((later) => { setTimeout(later, 500); });
  }
  throw new Error(`${instance} gets no keys`);
}

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.owner);
  const allowed = await explained(page, 'os_image_not_allowed');
  const told = await page.locator('main .chain .message').allTextContents();
  assert(told.length > 3 && !told.some((text) => text.startsWith('Core.')), `keys stay as they are: ${told.join('; ')}`);
  await accessible(page, 'a denial');
  await picture(page, 'console-denial');
  await page.getByRole('button', { name: 'Dry run' }).click();
  await says(page, 'main .note.good', 'This request would be allowed');
  await page.getByRole('button', { name: 'Allow', exact: true }).click();
  await accessible(page, 'allowing it');
  await page.locator('dialog').getByRole('button', { name: 'Put it in force' }).click();
  await says(page, '.toast', 'The policy in force has it now');

  const tried = await explained(page, 'compose_hash_not_allowed');
  await page.getByRole('button', { name: 'Try in shadow' }).click();
  await accessible(page, 'trying it in shadow');
  await page.locator('dialog').getByRole('button', { name: 'Start the shadow' }).click();
  await page.locator('.toast').getByRole('link', { name: 'See the candidate' }).click();
  await page.locator('main .difference .added').waitFor();
  assert(await page.locator('main .difference .removed').count() === 0, 'it takes nothing away');
  const decision = page.locator('main tbody tr').filter({ hasText: 'would be allowed' }).filter({ hasText: tried.slice(0, 8) });
  await decision.first().waitFor({ timeout: 2 * PATIENCE });
  await accessible(page, 'a candidate that decides otherwise');
  await picture(page, 'console-candidate');
  await page.getByRole('button', { name: 'Activate it' }).click();
  await accessible(page, 'activating it');
  await page.locator('dialog').getByRole('button', { name: 'Activate', exact: true }).click();
  await says(page, '.toast', 'The candidate is in force');
  await says(page, 'main .empty', 'No candidate is in shadow');

  await released(allowed);
  const { seq } = await released(tried);
  await go(page, `#/releases/${seq}`);
  await says(page, 'main h1', 'Release #');
  await page.getByRole('button', { name: 'Verify in my browser' }).click();
  await says(page, 'main .note.good', 'Verified in this browser');
  assert(await page.locator('main .chain .failed').count() === 0, 'no step fails');
  await accessible(page, 'a release that verifies');
  await picture(page, 'console-release');
  clean(seen);
  return { allowed, tried };
});
