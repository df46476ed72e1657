// Verifies in the browser that a release is in the audit log, and says step by step what was verified and what was not.

import { get } from '../api.js';
import { ago, count, number } from '../format.js';
import * as proof from '../proof.js';

const passed = (step, message) => ({ step, state: 'passed', message });
const failed = (step, message) => ({ step, state: 'failed', message });
/** A step by whether it is right, with a message for either. */
export const check = (step, isRight, right, wrong) => (isRight ? passed(step, right) : failed(step, wrong));
const open = (step, message) => ({ step, state: 'not_reached', message });
/** The steps that decide the outcome: the signatures of the receipt's checkpoint, and of the log's checkpoint now. */
const RECEIPT_SIGNED = 'receipt_signed';
const LOG_SIGNED = 'log_signed';
/** Whether the step with this id has passed. */
const hasPassed = (steps, wanted) => steps.some(({ id, state }) => id === wanted && state === 'passed');
const records = (size) => count(Number(size), 'record');

/** A tile of the log. */
export const tile = async (path) => new Uint8Array(await get(`/log/${path}`, { raw: true }));

/** Whether the log's key has signed a checkpoint of its log; without a key nothing is known. */
async function signature(checkpoint, key, what) {
  if (!key) return open(what, 'the KMS did not tell the key of its log, so its signature is not verified');
  if (checkpoint.origin !== key.name) return failed(what, `it is of the log ${checkpoint.origin}, and the key is of ${key.name}`);
  try {
    const { signed } = await proof.isSigned(checkpoint, key);
    return check(what, signed, `signed by the log's key ${key.id} (Ed25519)`, `not signed by the log's key ${key.id}`);
  } catch (error) {
    if (error instanceof proof.ProofError) throw error;
    return open(what, 'this browser cannot verify Ed25519 signatures');
  }
}

/** The log as this browser has verified it the last time: public data, so they may stay in the browser. */
function recall(origin) {
  try {
    const { key, size, root, at } = JSON.parse(localStorage.getItem(`log:${origin}`));
    return { key: String(key), size: BigInt(size), root: proof.fromBase64(root), at: Number(at) };
  } catch {
    return null;
  }
}

function remember({ origin, size, root }, key) {
  try {
    localStorage.setItem(`log:${origin}`, JSON.stringify({ key, size: String(size), root: proof.toBase64(root), at: Date.now() }));
  } catch {
    // A browser that stores nothing compares with nothing next time.
  }
}

async function continues(old, now) {
  if (old.size > now.size) return false;
  return proof.isConsistent(old.size, old.root, now.size, now.root, await proof.consistencyFromTiles(old.size, now.size, tile));
}

async function sameLog(last, now, key) {
  const when = ago(last.at / 1000);
  if (last.key !== key) return failed('Same log', `it had another key when this browser verified it, ${when}`);
  return check('Same log', await continues(last, now), `continues the ${records(last.size)} that this browser verified ${when}`, `it does not continue the ${records(last.size)} that this browser verified ${when}`);
}

/**
 * Verifies a release `{ record, receipt, leaf }`: gives `{ steps, outcome }`, where the outcome is `verified`, `partly` (nothing is wrong, but a
 * signature could not be verified) or `wrong`.
 */
export async function verify({ record, receipt, leaf }) {
  const steps = [];
  const outcome = () => {
    if (steps.some(({ state }) => state === 'failed')) return 'wrong';
    return hasPassed(steps, LOG_SIGNED) && hasPassed(steps, RECEIPT_SIGNED) ? 'verified' : 'partly';
  };
  try {
    await walk(steps, { record, receipt, leaf });
  } catch (error) {
    if (!(error instanceof proof.ProofError)) throw error;
    steps.push(failed('Proof', error.message));
  }
  return { steps, outcome: outcome() };
}

async function walk(steps, { record, receipt, leaf }) {
  /** Takes a step, and says whether to go on. */
  const goesOn = (step) => {
    steps.push(step);
    return step.state !== 'failed';
  };
  const { entry, fits } = await proof.entryOf(record);
  if (!goesOn(check('Record', fits, 'its own hash fits its content', 'its own hash does not fit its content'))) return;
  const hash = await proof.leafHash(entry);
  if (leaf && !goesOn(check('Leaf', proof.hexOf(hash) === leaf.hash, `SHA-256 of the record: ${leaf.hash}`, 'the KMS names another leaf hash'))) return;
  if (!receipt) return void goesOn(open('Receipt', 'there is none: the record is not signed yet, or its file was moved away'));

  const vkey = (await get('/api/v1/ledger').catch(() => null))?.log_key ?? null;
  const key = vkey ? await proof.parseKey(vkey) : null;
  const file = proof.parseProofFile(receipt);
  const old = proof.parseCheckpoint(file.checkpoint);
  const isIn = await proof.isIncluded(hash, file.index, old.size, file.proof, old.root);
  if (!goesOn(check('Receipt', isIn, `leaf ${number(Number(file.index))} of a tree of ${records(old.size)}, by ${count(file.proof.length, 'hash', 'hashes')}`, 'its proof leads to another root'))) return;
  if (!goesOn({ id: RECEIPT_SIGNED, ...await signature(old, key, 'Its checkpoint') })) return;

  const now = proof.parseCheckpoint(await get('/log/checkpoint', { accept: 'text/plain' }));
  if (!goesOn({ id: LOG_SIGNED, ...await signature(now, key, 'Log now') })) return;
  const made = await proof.proofFromTiles(file.index, now.size, tile);
  const still = await proof.isIncluded(hash, file.index, now.size, made, now.root);
  if (!goesOn(check('Still in it', still, `the tree of ${records(now.size)} has it, as computed from its tiles`, 'the tiles of the log lead to another root'))) return;
  if (old.origin === now.origin) {
    const grown = await continues(old, now);
    if (!goesOn(check('Only grown', grown, `from ${records(old.size)} to ${number(Number(now.size))}; none before was changed`, 'the log does not continue the tree of the receipt'))) return;
  }
  const isSigned = hasPassed(steps, LOG_SIGNED);
  const last = isSigned ? recall(now.origin) : null;
  if (last && !goesOn(await sameLog(last, now, vkey))) return;
  if (isSigned) remember(now, vkey);

  const others = new Set(now.signatures.filter(({ name }) => name !== now.origin).map(({ name }) => name));
  if (others.size > 0) goesOn(open('Witnesses', `cosigned by ${[...others].join(', ')}; not verified, because their keys are not known here`));
  goesOn(open('Root key', 'that it vouches for the log\'s key is not verified in a browser'));
}
