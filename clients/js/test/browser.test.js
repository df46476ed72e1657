// What browsers get: no module of Node, and the library's own arithmetic instead of Node's.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { NOW, ROOT, ROOT_KEY, document, fingerprint } from './simulated.js';

// As in a page. It must be there before the library is loaded.
globalThis.window = globalThis;
const { verify } = await import('../src/verify.js');

test('verification imports no module of Node', () => {
  const seen = new Set();
  const read = (file) => {
    if (seen.has(file)) return;
    seen.add(file);
    const text = readFileSync(new URL(`../src/${file}`, import.meta.url), 'utf8');
    for (const [, from] of text.matchAll(/from '([^']+)'/g)) {
      if (from.startsWith('./')) read(from.slice(2));
      else assert.ok(from === '@phala/dcap-qvl' || from === '#webcrypto', `${file} imports ${from}`);
    }
    assert.doesNotMatch(text, /\bBuffer\.|\bprocess\.|\brequire\(/, file);
  };
  read('verify.js');
  assert.ok(seen.has('quote.js') && seen.has('x509.js'), [...seen].join());
});

test('the library verifies without the cryptography of Node', async () => {
  const { isBrowser } = (await import('@phala/dcap-qvl')).default;
  assert.equal(isBrowser, true);
  const pins = { root_ca_spki_sha256: fingerprint(ROOT_KEY) };
  const options = { now: NOW, tdxRootCa: ROOT };
  assert.equal((await verify(document(), pins, options)).isSignedByRoot, true);
  const altered = JSON.parse(document());
  altered.quote = altered.quote.replace(/.{8}$/, '00000000');
  const flip = Buffer.from(altered.quote, 'hex');
  flip[640] ^= 1;
  await assert.rejects(verify(JSON.stringify({ ...altered, quote: flip.toString('hex') }), pins, options), { code: 'quote' });
});
