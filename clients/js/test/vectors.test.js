// The documents whose verdict clients of every language must reach.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import test from 'node:test';
import { ATTESTATION_CODES, AttestationError, parsePins, verify } from '../src/verify.js';
import { hash, json, vector, vectors } from './simulated.js';

const names = readdirSync(new URL('attestation/', vectors)).filter((name) => name.endsWith('.json'));
const root = vector('attestation/root.der');

test('there are documents', () => assert.ok(names.length > 100));

for (const name of names) {
  test(name, async () => {
    const { answer, text, padded_to: length, pins, ...given } = json(`attestation/${name}`);
    const bytes = Buffer.from(text ?? JSON.stringify(answer));
    const document = Buffer.concat([bytes, Buffer.alloc(Math.max(0, (length ?? 0) - bytes.length), ' ')]);
    const options = { now: given.now, tcbStatuses: given.tcb_statuses };
    if (given.nonce !== null) options.nonce = given.nonce;
    if (given.root === 'simulated') options.tdxRootCa = Uint8Array.from(root);
    let found = 'ok';
    try {
      const known = parsePins(Buffer.from(JSON.stringify(pins)));
      const { statement } = await verify(document, known, options);
      const key = given.tls_spki && hash('sha256', Buffer.from(given.tls_spki, 'hex')).toString('hex');
      if (key && key !== statement.rpc_spki_sha256) found = 'tls_key';
    } catch (error) {
      if (!(error instanceof AttestationError)) throw error;
      found = error.code;
      assert.ok(ATTESTATION_CODES.includes(found));
      if (given.pin) assert.ok(error.message.startsWith(`${given.pin} is `), error.message);
      assert.match(error.message, /^[ -~…]{10,600}$/);
    }
    assert.equal(found, given.expect, given.says);
  });
}
