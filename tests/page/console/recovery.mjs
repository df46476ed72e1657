// Recovery: a set is made, three of five officers prove it in a drill while the page shows how far it is, it is replaced, and grows old.

import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { accessible, assert, clean, focused as hasFocus, given, picture, says, scenario } from '../browser.mjs';
import { console_, go, settled, sound } from './console.mjs';

const list = given.officers.map(({ name, recipient }) => `${name} ${recipient}`).join('\n');

/** Saves a file of the set; gives its text. */
async function saved(page, name) {
  const [file] = await Promise.all([page.waitForEvent('download'), page.locator('dialog').getByRole('button', { name: `Save ${name}` }).click()]);
  const path = join(given.directory, file.suggestedFilename());
  await file.saveAs(path);
  return { path, text: await readFile(path, 'utf8') };
}

/** An officer's share goes to the KMS, which proves itself first. */
async function send(name, manifest, share) {
  const key = join(given.directory, `${name}.key`);
  const root = join(given.directory, 'root.der');
  await promisify(execFile)(given.kmsctl, ['recovery', 'send', '--kms', given.kms, '--pin', given.pin, '--dangerous-root', root, '--manifest', manifest, '--share', share, '--identity', key, '--yes'],
    { env: { HOME: given.directory, KMS_PCCS_URL: given.pccs }, timeout: 120_000 });
}

const reads = (page, text) => page.waitForFunction((wanted) => document.querySelector('main').textContent.replace(/\s+/g, ' ').includes(wanted), text);

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.owner, { place: '#/recovery', acceptDownloads: true });
  await says(page, 'main', 'No officers can restore the root keys');
  await sound(page, 'no set', 'console-recovery-none');

  // A set of five, with a mistake first.
  await page.locator('main').getByRole('link', { name: 'New set' }).click();
  await page.locator('main h1', { hasText: 'New recovery set' }).waitFor();
  const recipients = page.getByLabel('Recipients');
  await recipients.fill(`${list}\nmallory nonsense\nalice age1another`);
  await says(page, 'main .error', 'Line 6: a recipient begins with age1');
  await page.getByRole('button', { name: 'Make the set…' }).click();
  assert(await page.locator('dialog').count() === 0, 'a list with a mistake makes no set');
  await sound(page, 'a wrong list', 'console-recovery-new');
  await page.locator('input[type=file]').setInputFiles({ name: 'officers.txt', mimeType: 'text/plain', buffer: Buffer.from(`# officers\n${list}\n`) });
  await page.locator('main tbody tr').nth(4).waitFor();
  await page.getByLabel('How many of them restore').selectOption('3');
  await says(page, 'main', 'Any 3 of 5 officers restore');
  await page.getByRole('button', { name: 'Make the set…' }).click();
  await accessible(page, 'making a set');
  await page.locator('dialog').getByRole('button', { name: 'Make it' }).click();
  await page.locator('dialog', { hasText: 'Files of the set' }).waitFor();
  await accessible(page, 'files of a set');
  await picture(page, 'console-recovery-files');
  const first = await page.locator('dialog dd code').first().textContent();
  const manifest = await saved(page, `recovery-${first}.json`);
  assert(manifest.text.includes(first), 'the manifest names its set');
  const shares = {};
  for (const { name } of given.officers) {
    const { path, text } = await saved(page, `${name}-of-${first}.age`);
    assert(text.startsWith('-----BEGIN AGE ENCRYPTED FILE-----'), `${name} gets a file of age`);
    shares[name] = path;
  }
  await page.locator('dialog').getByRole('button', { name: 'Done' }).click();
  await settled(page);
  await reads(page, 'Restored by3 of 5');
  await reads(page, 'No drill has ended');

  // The drill.
  await page.getByRole('button', { name: 'Start a drill…' }).click();
  await accessible(page, 'starting a drill');
  await page.locator('dialog').getByRole('button', { name: 'Start it' }).click();
  await says(page, 'main', 'A drill is open');
  await reads(page, '0 of 3 shares');
  await send('erin', manifest.path, shares.erin);
  await reads(page, '1 of 3 shares');
  await send('alice', manifest.path, shares.alice);
  await reads(page, '2 of 3 shares');
  await says(page, 'main', '1 more share is needed');
  assert(await page.locator('main .chain .passed').count() === 2, 'two officers are marked');
  await sound(page, 'a drill', 'console-recovery-drill');
  await send('carol', manifest.path, shares.carol);
  await says(page, 'main tbody', 'gave the root keys');
  await page.locator('main h2', { hasText: 'A drill is open' }).waitFor({ state: 'detached' });
  await reads(page, 'in a drill with 3 shares');
  await sound(page, 'a proved set', 'console-recovery');
  assert(await page.locator('.figure.warn').count() === 0, 'it is young');

  // One that ends early, with the keyboard only.
  await page.getByRole('button', { name: 'Start a drill…' }).focus();
  await page.keyboard.press('Enter');
  await page.locator('dialog[open]').waitFor();
  const reach = async (name) => {
    for (let tries = 0; tries < 40; tries += 1) {
      if (await page.evaluate((wanted) => document.activeElement.textContent.trim() === wanted, name)) return;
      await page.keyboard.press('Tab');
    }
    throw new Error(`the keyboard does not reach ${name}`);
  };
  await reach('Start it');
  await page.keyboard.press('Enter');
  await says(page, 'main', 'A drill is open');
  await page.locator('dialog').waitFor({ state: 'detached' });
  await page.locator('#title').focus();
  await reach('Cancel the drill…');
  await page.keyboard.press('Enter');
  await page.locator('dialog[open]').waitFor();
  await reach('Cancel the drill');
  await page.keyboard.press('Enter');
  await page.locator('main h2', { hasText: 'A drill is open' }).waitFor({ state: 'detached' });

  // Another set retires it.
  await go(page, '#/recovery/new');
  await recipients.fill(list);
  await says(page, 'main', 'It retires the present set');
  await page.getByRole('button', { name: 'Make the set…' }).click();
  await page.locator('dialog').getByRole('button', { name: 'Make it' }).click();
  await page.locator('dialog', { hasText: 'The set before counts no more' }).waitFor();
  const second = await page.locator('dialog dd code').first().textContent();
  assert(second !== first, 'it is another set');
  await page.locator('dialog').getByRole('button', { name: 'Done' }).click();
  await page.locator('main h1', { hasText: /^Recovery$/ }).waitFor();
  await says(page, 'main', 'Retired sets');
  await hasFocus(page, '#title');

  // In 91 days it is old.
  await page.clock.setFixedTime(Date.now() + 91 * 86400 * 1000);
  await go(page, '#/overview');
  await go(page, '#/recovery');
  await page.locator('.figure.warn', { hasText: '3 months ago' }).waitFor();
  await sound(page, 'an old set', 'console-recovery-old');
  clean(seen);
  return { first, second };
});
