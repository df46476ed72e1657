// Documents that are altered at random end in a refusal with a code, never in another error, and never in a proof of
// something else. CVM_KMS_MUTATIONS says how many, CVM_KMS_SEED which.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import test from 'node:test';
import { AttestationError, verify } from '../src/verify.js';
import { NOW, ROOT, ROOT_KEY, document, fingerprint } from './simulated.js';

const COUNT = Number(process.env.CVM_KMS_MUTATIONS ?? 400);
const SEED = process.env.CVM_KMS_SEED ?? 'cvm-kms';
const PINS = { root_ca_spki_sha256: fingerprint(ROOT_KEY) };
const OPTIONS = { now: NOW, tdxRootCa: ROOT };

/** Numbers below `limit`, the same for the same seed. */
function generator(seed) {
  let count = 0;
  return (limit) => createHash('sha256').update(`${seed} ${count++}`).digest().readUInt32LE() % limit;
}

/** `text` with a few characters changed, left out, doubled or moved. */
function altered(text, random) {
  const characters = [...text];
  const pool = '0123456789abcdefABCDEF{}[]":,.\\-+eE \n\0ué😀_=/';
  for (let left = 1 + random(3); left > 0; left--) {
    const at = random(characters.length + 1);
    const length = random(4) === 0 ? random(200) : random(3);
    const taken = characters.slice(at, at + length);
    const put = [() => [[...pool][random([...pool].length)]], () => [], () => [...taken, ...taken], () => characters.slice(random(characters.length)).slice(0, length)][random(4)]();
    characters.splice(at, length, ...put);
  }
  return characters.join('');
}

/** A document with one part altered; its quote is over another statement if that was altered. */
function mutation(whole, random) {
  const parts = JSON.parse(whole);
  const where = random(6);
  if (where === 0) return altered(whole, random);
  if (where === 1) return JSON.stringify({ ...parts, event_log: altered(parts.event_log, random) });
  if (where === 2) return JSON.stringify({ ...parts, vm_config: altered(parts.vm_config, random) });
  if (where === 3) {
    // Behind the signed part, which a change of would end in report_data most of the time.
    const from = random(2) === 0 ? 0 : 2 * 632;
    return JSON.stringify({ ...parts, quote: parts.quote.slice(0, from) + altered(parts.quote.slice(from), random) });
  }
  if (where === 4) return document(altered(parts.statement, random));
  const names = Object.keys(parts.collateral);
  const name = names[random(names.length)];
  return JSON.stringify({ ...parts, collateral: { ...parts.collateral, [name]: altered(parts.collateral[name], random) } });
}

test(`${COUNT} altered documents`, async () => {
  const whole = document();
  const good = await verify(whole, PINS, OPTIONS);
  const random = generator(SEED);
  const codes = new Map();
  for (let number = 0; number < COUNT; number++) {
    const given = mutation(whole, random);
    let code = 'ok';
    try {
      const { measurements, tcb } = await verify(given, PINS, OPTIONS);
      // The image is a claim. All else is proved, so it cannot differ.
      assert.deepEqual({ ...measurements, os_image_hash: '' }, { ...good.measurements, os_image_hash: '' });
      assert.deepEqual(tcb, good.tcb);
    } catch (error) {
      assert.ok(error instanceof AttestationError, `seed ${SEED}, number ${number}: ${error.stack}`);
      code = error.code;
    }
    codes.set(code, (codes.get(code) ?? 0) + 1);
  }
  for (const code of ['malformed', 'quote', 'collateral_mismatch']) assert.ok(codes.has(code), [...codes].join(' '));
});
