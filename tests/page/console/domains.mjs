// Domains: one is made, apps are put into it and moved, it is archived and restored; an owner of it sees nothing else.

import { accessible, assert, clean, given, picture, says, scenario } from '../browser.mjs';
import { call, console_, go, settled, sound } from './console.mjs';

const [withKeys, without] = given.apps;

/** What an owner asks for beside the page, and has to get. */
async function asked(token, verb, path, body) {
  const { status, body: answer } = await call(given.url, token, verb, path, body);
  assert(status === 200, `${path}: ${status} ${JSON.stringify(answer)}`);
  return answer;
}

await scenario(async (browser) => {
  const bob = await asked(given.owner, 'POST', '/api/v1/credentials', { name: 'bob', role: 'owner' });
  // A browser says of each refusal that it was one.
  const { page, seen } = await console_(browser, given.owner, { place: '#/releases', expected: /status of 409/ });
  const dialog = page.locator('dialog[open]');
  // What a toast says may be of the change before: the KMS decides when one waits.
  const approve = async (said) => {
    let waiting;
    for (const end = Date.now() + 30_000; !waiting && Date.now() < end;) {
      const { approvals } = await asked(bob.token, 'GET', '/api/v1/approvals');
      waiting = approvals.find(({ state, detail }) => state === 'waiting' && said.every((text) => detail.includes(text)));
    }
    assert(waiting, `nothing waits that says ${said}`);
    const { id, sha256 } = waiting;
    return { id, ...await asked(bob.token, 'POST', `/api/v1/approvals/${id}/approve`, sha256 ? { sha256 } : {}) };
  };
  const closed = () => page.locator('dialog').waitFor({ state: 'detached' });
  const row = (text) => page.locator('main tbody tr').filter({ hasText: text });
  const heads = () => page.locator('main thead th').allTextContents();
  const isThere = (texts, name) => texts.some((text) => text.trim() === name);
  await settled(page);
  await row(withKeys.slice(0, 8)).first().waitFor();
  assert(!isThere(await heads(), 'Domain'), 'no column while there is one domain');

  // Made with the keyboard.
  await go(page, '#/domains');
  await row('default').waitFor();
  await page.getByRole('button', { name: 'New domain' }).focus();
  await page.keyboard.press('Enter');
  await dialog.getByLabel('Name').focus();
  await page.keyboard.type('Team');
  await says(page, 'dialog .error', 'lower-case');
  const create = dialog.getByRole('button', { name: 'Create it' });
  assert(await create.isDisabled(), 'a wrong name is not sent');
  for (let letter = 0; letter < 4; letter += 1) await page.keyboard.press('Backspace');
  await page.keyboard.type('team');
  await dialog.getByLabel('Development images', { exact: false }).focus();
  await page.keyboard.press('Space');
  await accessible(page, 'a new domain');
  await picture(page, 'console-domain-new');
  await create.focus();
  await page.keyboard.press('Enter');
  await says(page, '.toast', 'Created');
  await closed();
  await row('team').getByText('admitted').waitFor();
  await sound(page, 'domains', 'console-domains');

  // An app that has no keys is put into it.
  await row('team').getByRole('link', { name: 'team' }).click();
  await page.locator('main h1', { hasText: 'Domain team' }).waitFor();
  await says(page, 'main .empty', 'It names no app');
  const assign = async (app) => {
    await page.getByRole('button', { name: 'Put an app into it…' }).click();
    await dialog.getByLabel('App id').fill(app.slice(1));
    await says(page, 'dialog .error', '40 hexadecimal digits');
    await dialog.getByLabel('App id').fill(app);
    await dialog.getByRole('button', { name: 'Put it there' }).click();
  };
  await assign(without);
  await says(page, '.toast', 'The app is there now');
  await row(without.slice(0, 8)).waitFor();
  await sound(page, 'a domain', 'console-domain');

  // One that has keys is moved: the KMS says what it loses, and a second owner approves.
  await assign(withKeys);
  await dialog.getByRole('alert').filter({ hasText: 'needs_move' }).waitFor();
  await accessible(page, 'an app that has keys');
  await dialog.getByRole('button', { name: 'Move it…' }).click();
  await dialog.filter({ hasText: 'It loses the disk key' }).filter({ hasText: 'of the domain default' }).waitFor();
  await says(page, 'dialog .note', '1 CVM');
  const move = dialog.getByRole('button', { name: 'Move it', exact: true });
  assert(await move.isDisabled(), 'a move waits until the loss is confirmed');
  await dialog.getByRole('checkbox').check();
  await accessible(page, 'a move');
  await picture(page, 'console-domain-move');
  await move.click();
  await says(page, '.toast', 'A second owner has to approve this');
  await closed();
  assert(await row(withKeys.slice(0, 8)).count() === 0, 'it is not moved yet');
  await approve([withKeys, 'team']);
  await row(withKeys.slice(0, 8)).waitFor();

  // Nothing is offered to an archived domain's apps; restored, all is as before.
  const turn = async (word) => {
    await page.getByRole('button', { name: `${word}…` }).click();
    await dialog.filter({ hasText: `${word} the domain team?` }).waitFor();
    await accessible(page, `${word} a domain`);
    await dialog.getByRole('button', { name: word, exact: true }).click();
    await closed();
  };
  await turn('Archive');
  await says(page, 'main .note', 'It is archived, so nothing is released in it');
  await go(page, '#/domains');
  await row('team').getByText('archived').waitFor();
  await go(page, '#/domains/team');
  await turn('Restore');
  await says(page, '.toast', 'A second owner has to approve this');
  await approve(['team']);
  await page.locator('main .note', { hasText: 'It is archived' }).waitFor({ state: 'detached' });

  // Back to the default one, from the row: given up after the loss is shown.
  await row(without.slice(0, 8)).getByRole('button', { name: /^Move…/ }).click();
  await dialog.getByLabel('To the domain').selectOption('default');
  await dialog.filter({ hasText: 'of the domain team' }).filter({ hasText: 'no CVM has received any' }).waitFor();
  await page.keyboard.press('Escape');
  await closed();

  // Lists have a column and a filter of domains.
  for (const [place, name] of [['#/releases', 'releases'], ['#/denials', 'denials'], ['#/cvms', 'cvms']]) {
    await go(page, place);
    await row('default').first().waitFor();
    assert(isThere(await heads(), 'Domain'), `${place} has the column`);
    await sound(page, `${place} with domains`, `console-domains-${name}`);
    await page.locator('main .filters').getByLabel('Domain').selectOption('team');
    await page.locator('main .empty').waitFor();
    assert(page.url().endsWith('?domain=team'), page.url());
  }

  // A credential of the domain, whose owner sees only that one and changes nothing of it.
  await go(page, '#/credentials');
  await page.getByRole('button', { name: 'New credential' }).click();
  await dialog.getByLabel('Name').fill('team-owner');
  await dialog.getByLabel('Owner', { exact: false }).check();
  await dialog.getByLabel('It is for').selectOption('team');
  await dialog.getByRole('radio', { name: /^The token/ }).check();
  await dialog.getByRole('button', { name: 'Create the token' }).click();
  await says(page, '.toast', 'A second owner has to approve this');
  const approved = await approve(['team-owner']);
  const half = (await asked(given.owner, 'GET', `/api/v1/approvals/${approved.id}`)).token;
  const { token, secret } = await asked(`${half}${approved.token}`, 'POST', '/api/v1/activate', {});
  const limited = await console_(browser, token ?? secret, { place: '#/domains' });
  const rows = limited.page.locator('main tbody tr');
  await rows.filter({ hasText: 'team' }).waitFor();
  assert(await rows.count() === 1, 'only its own domain');
  assert(await limited.page.getByRole('button', { name: 'New domain' }).count() === 0, 'it makes none');
  await go(limited.page, '#/domains/team');
  await limited.page.locator('main tbody tr').filter({ hasText: without.slice(0, 8) }).waitFor();
  assert(await limited.page.locator('main').getByRole('button', { name: /^(Put|Archive|Restore|Move)/ }).count() === 0, 'it changes nothing');
  await accessible(limited.page, 'a domain as its owner sees it');
  await go(limited.page, '#/releases');
  assert(await limited.page.locator('main thead th', { hasText: 'Domain' }).count() === 0, 'no column for one domain');
  clean(seen);
  clean(limited.seen);
  return {};
});
