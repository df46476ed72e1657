import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { kms, plain, send } from './server.js';
import { ROOT, ROOT_KEY, document, fingerprint, statement } from './simulated.js';

const PROGRAM = fileURLToPath(new URL('../bin/cvm-kms.js', import.meta.url));

/** Runs the command in a directory with these files. */
function run(t, files, ...given) {
  const directory = mkdtempSync(join(tmpdir(), 'cvm-kms-'));
  t.after(() => rmSync(directory, { recursive: true }));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, name)), { recursive: true });
    writeFileSync(join(directory, name), content);
  }
  return new Promise((resolve) => {
    execFile(process.execPath, [PROGRAM, ...given], { cwd: directory }, (error, out, err) => resolve({ code: error?.code ?? 0, out, err }));
  });
}

const FILES = {
  'pins.json': JSON.stringify({ root_ca_spki_sha256: fingerprint(ROOT_KEY) }),
  'other.json': JSON.stringify({ root_ca_spki_sha256: '00'.repeat(32) }),
  'twice.json': `{"app_id":"${'11'.repeat(20)}","app_id":"${'11'.repeat(20)}"}`,
  'root.pem': ROOT,
  'large.json': 'x'.repeat(2 << 20),
};

test('a saved document', async (t) => {
  const now = Math.floor(Date.now() / 1000);
  const files = { ...FILES, 'saved.json': document(statement({ time: now })), 'old.json': document(statement({ time: now - 9999 })) };
  const nonce = 'ab'.repeat(32);
  for (const [given, code, said] of [
    [['saved.json', '--pins', 'pins.json'], 0],
    [['old.json', '--pins', 'pins.json'], 1, 'time: '],
    [['old.json', '--pins', 'pins.json', '--max-age', 'any'], 0],
    [['old.json', '--pins', 'pins.json', '--max-age', '99999'], 0],
    [['saved.json', '--pins', 'other.json'], 1, 'pin_mismatch: '],
    [['saved.json', '--pins', 'twice.json'], 1, 'bad_pins: '],
    [['saved.json'], 1, 'no_pin: '],
    [['saved.json', '--pins', 'pins.json', '--nonce', nonce], 1, 'nonce: '],
    [['large.json', '--pins', 'pins.json'], 1, 'too_large: '],
    [['pins.json', '--pins', 'pins.json'], 1, 'malformed: '],
    [['none.json', '--pins', 'pins.json'], 2, 'argument: none.json cannot be read: ENOENT'],
    [['saved.json', '--pins', 'pins.json', '--max-age', '-1'], 2, 'argument: '],
    [['saved.json', '--pins', 'pins.json', '--tcb-status', 'Fine'], 2, 'argument: '],
    [['saved.json', '--pin', 'x'], 2, 'argument: '],
    [['saved.json', 'more', '--pins', 'pins.json'], 2, 'argument: '],
  ]) {
    const ran = await run(t, files, 'verify', ...given, '--tdx-root-ca', 'root.pem');
    assert.equal(ran.code, code, `${given}: ${ran.err}`);
    if (code === 0) assert.equal(JSON.parse(ran.out).isSignedByRoot, true);
    else assert.ok(ran.out === '' && ran.err.startsWith(said), `${given}: ${ran.err}`);
  }
  const untrusted = await run(t, files, 'verify', 'saved.json', '--pins', 'pins.json');
  assert.deepEqual([untrusted.code, untrusted.err.split(':')[0]], [1, 'quote']);
});

test('a KMS', async (t) => {
  const at = await kms(t);
  const options = ['--pins', 'pins.json', '--tdx-root-ca', 'root.pem', '--timeout', '20'];
  const good = await run(t, FILES, 'verify', at.url, ...options);
  assert.equal(good.code, 0, good.err);
  assert.equal(JSON.parse(good.out).measurements.app_id, '11'.repeat(20));
  await at.close();
  const gone = await run(t, FILES, 'verify', at.url, ...options);
  assert.deepEqual([gone.code, gone.err.split(':')[0]], [3, 'unreachable']);
  const both = await run(t, FILES, 'verify', at.url, ...options, '--nonce', '00'.repeat(32));
  assert.equal(both.code, 2);
});

test('owner/repo is a file if there is one', async (t) => {
  const { url, seen } = await plain(t, (_, response) => send(response, 404, ''));
  const given = ['--pins', 'pins.json', '--base', url];
  const repository = await run(t, FILES, 'verify', 'owner/repo', ...given);
  assert.deepEqual([repository.code, repository.err.split(':')[0]], [3, 'release']);
  assert.deepEqual(seen.requests, ['GET /owner/repo/releases/latest/download/cvm-kms-release.json']);
  const file = await run(t, { ...FILES, 'owner/repo': '{}' }, 'verify', 'owner/repo', ...given);
  assert.deepEqual([file.code, file.err.split(':')[0], seen.requests.length], [1, 'malformed', 1]);
});

test('help', async (t) => {
  const { code, out } = await run(t, {}, '--help');
  assert.equal(code, 0);
  assert.match(out, /^cvm-kms verify TARGET/);
});
