// An owner invites a replica: the token is shown once, the page follows the new node until it serves, and an invitation is cancelled.

import { accessible, assert, clean, fits, focused, given, picture, says, scenario } from '../browser.mjs';
import { call, console_, go, sound, unfailed } from './console.mjs';

/** A call of the new node. */
async function onboarding(path, body) {
  const answer = await fetch(new URL(path, given.replica), body && { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
  assert(answer.ok, `${path}: ${answer.status} ${await answer.text()}`);
}

/** Invites from the list, and gives what the dialog shows. */
async function invited(page, domain, label) {
  await page.getByRole('button', { name: 'Invite a replica' }).click();
  await page.getByLabel('DNS name or IPv4 address').fill(domain);
  if (label) await page.getByLabel('Label').fill(label);
  await accessible(page, 'inviting');
  await page.getByRole('button', { name: 'Invite it' }).click();
  await says(page, 'dialog h2', `Invitation of ${domain}`);
  return { command: await page.locator('dialog pre').textContent(), token: await page.locator('dialog .secret code').textContent() };
}

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.owner, { place: '#/replicas', expected: /status of 400/, permissions: ['clipboard-read', 'clipboard-write'] });
  await says(page, 'main', 'No replica was invited');

  // What the KMS does not accept stays in the form, with its reason.
  await page.getByRole('button', { name: 'Invite a replica' }).click();
  await page.getByLabel('DNS name or IPv4 address').fill('a b');
  await page.getByRole('button', { name: 'Invite it' }).click();
  await says(page, 'dialog [role=alert]', 'DNS');
  await page.keyboard.press('Escape');

  const { command, token } = await invited(page, 'replica.example', 'rack 7');
  assert(/^ckmsjoin_[0-9a-f]{16}_[0-9a-f]{64}$/.test(token), token);
  assert(command.startsWith('kmsctl onboard ') && !command.includes(token), command);
  await accessible(page, 'an invitation');
  await picture(page, 'console-invited-replica');
  await page.locator('dialog .secret .copy').click();
  assert(await page.evaluate(() => navigator.clipboard.readText()) === token, 'the token is copied');
  await page.getByRole('button', { name: 'Done' }).click();
  await says(page, 'main h1', 'Invitation of replica.example');
  await says(page, 'main [role=status]', 'Waiting');
  assert(!(await page.locator('body').textContent()).includes(token), 'the token is not shown again');
  const kept = await page.evaluate(() => [location.href, JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage })].join());
  assert(![kept, ...seen.addresses].join().includes(token.slice(-64)), 'the token is in no address and not stored');

  const root = command.match(/--source-root-sha256 ([0-9a-f]{64})/)[1];
  await onboarding('/prpc/Onboard.Onboard?json', { source_url: given.source, domain: 'replica.example', source_token: token, source_root_sha256: root });
  await says(page, 'main [role=status]', 'Keys stored');
  assert(await page.locator('.chain .passed').count() === 5, 'five stages');
  await onboarding('/finish');
  await says(page, 'main [role=status]', 'Serving');
  assert(await page.locator('.chain .not_reached').count() === 0, 'all stages');
  await unfailed(page, 'an invitation');
  await accessible(page, 'an invitation that was used');
  for (const width of [390, 1280]) {
    await page.setViewportSize({ width, height: 900 });
    await fits(page, `an invitation at ${width}`);
    await picture(page, `console-replica-${width}`);
  }
  assert(await page.locator('main').getByRole('button', { name: /^Cancel/ }).count() === 0, 'its keys are gone');

  await go(page, '#/operations');
  await page.locator('main tr').filter({ hasText: 'replica.example' }).getByText('Serving').waitFor();
  await sound(page, '#/operations', 'console-operations');

  // By the keyboard: the dialogs give the focus back.
  await go(page, '#/replicas');
  await page.locator('main tr').filter({ hasText: 'rack 7' }).getByText('Serving').waitFor();
  const invite = page.getByRole('button', { name: 'Invite a replica' });
  await invite.focus();
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  await page.keyboard.type('other.example');
  await page.keyboard.press('Escape');
  await focused(page, 'button.primary');
  await invited(page, 'other.example');
  await page.keyboard.press('Escape');
  await says(page, 'main h1', 'Invitation of other.example');
  // As other people, and nodes, change it.
  const id = new URL(page.url()).hash.split('/').at(-1);
  const { status } = await call(given.url, given.viewer, 'DELETE', `/api/v1/replica-joins/${id}`);
  assert(status === 403, `a viewer cancels: ${status}`);
  await go(page, '#/replicas');
  const row = page.locator('main tr').filter({ hasText: 'other.example' });
  await row.getByRole('button', { name: 'Cancel…' }).click();
  await page.locator('dialog').getByText('Nobody gets keys by it').click();
  assert(new URL(page.url()).hash === '#/replicas', 'a click in the dialog is not one on the row');
  await accessible(page, 'cancelling');
  await page.getByRole('button', { name: 'Cancel it' }).click();
  await says(page, '.toast', 'Cancelled');
  await row.getByText('Cancelled').waitFor();
  assert(await row.getByRole('button', { name: 'Cancel…' }).count() === 0, 'it is over');

  const viewer = await console_(browser, given.viewer, { place: '#/replicas' });
  await says(viewer.page, 'main', 'replica.example');
  assert(await viewer.page.getByRole('button', { name: /Invite|Cancel/ }).count() === 0, 'a viewer only looks');
  clean(seen);
  clean(viewer.seen);
  return { id };
});
