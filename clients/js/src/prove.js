// The checks of a document `/attestation.json`, in the order of their codes (docs/decisions/0042).
import { concat, fromHex, isEqual, toHex, utf8 } from './bytes.js';
import { isSignedP256, sha256, sha512 } from './crypto.js';
import { argument, printable, refuse } from './errors.js';
import { identityOf, readLog, runtimeEvents } from './events.js';
import { checkSufficient, isHex } from './pins.js';
import { checkFits, checkIsolation, parseQuote, readCollateral, verifyQuote } from './quote.js';
import { readAnswer, readStatement } from './statement.js';
import { TCB_STATUSES } from './tcb.js';
import { ChainError, readRoot } from './x509.js';

/** The greatest age of a statement that is accepted by default, seconds. */
export const MAX_AGE = 600;
/** How far a statement may be ahead of the own clock, seconds. */
export const MAX_AHEAD = 300;

const LABEL = 'cvm-kms-attestation:';
const ROOT_LABEL = 'cvm-kms-attestation-root:';
/** A SubjectPublicKeyInfo of P-256 before its uncompressed point. */
const P256_INFO = '3059301306072a8648ce3d020106082a8648ce3d030107034200';

/** The rules beside the pins, with their defaults. */
export function readRules(given = {}) {
  const { now = Math.floor(Date.now() / 1000), nonce, maxAge = MAX_AGE, tcbStatuses = ['UpToDate'], tdxRootCa } = given;
  if (!Number.isSafeInteger(now) || now < 0) argument('now must be Unix seconds, a whole number');
  if (nonce !== undefined && !isHex(nonce, 32)) argument('nonce must be 64 lower-case hexadecimal digits');
  if (maxAge !== null && (!Number.isFinite(maxAge) || maxAge < 0)) argument('maxAge must be seconds, or null for any age');
  if (!Array.isArray(tcbStatuses) || tcbStatuses.length === 0) argument('tcbStatuses must be a list');
  // `Revoked` may be named, and is accepted by nobody.
  const unknown = tcbStatuses.find((status) => status !== 'Revoked' && !TCB_STATUSES.includes(status));
  if (unknown !== undefined) argument(`tcbStatuses must be of ${TCB_STATUSES.join(', ')}`);
  return { now, nonce, maxAge, tcbStatuses: [...tcbStatuses], root: tdxRootCa === undefined ? undefined : rootOf(tdxRootCa) };
}

function rootOf(given) {
  if (typeof given !== 'string' && !(given instanceof Uint8Array)) argument('tdxRootCa must be a certificate, as PEM text or DER bytes');
  try {
    return readRoot(given);
  } catch (error) {
    if (error instanceof ChainError) argument(`tdxRootCa is not usable: ${error.message}`, { cause: error });
    throw error;
  }
}

/** Verifies a document with pins and rules that were read before. */
export async function prove(document, pins, rules) {
  checkSufficient(pins);
  const answer = readAnswer(document);
  const quote = parseQuote(answer.quote);
  const log = readLog(answer.eventLog);
  const statementBytes = utf8(answer.statement);
  if (!isEqual(await sha512(utf8(LABEL), statementBytes), quote.td.reportData)) {
    refuse('report_data', 'the quote is not over this statement: the statement was changed, or belongs to another quote');
  }
  checkIsolation(quote);
  if (answer.collateral === undefined) {
    refuse('collateral_missing', 'the document has no collateral, without which its quote cannot be verified');
  }
  const collateral = readCollateral(answer.collateral);
  checkFits(quote, collateral, rules.now);
  const events = await runtimeEvents(log, quote.td.rtMr3);
  const { status, advisories, fmspc, ppid } = await verifyQuote(quote, collateral, rules.now, rules.root);
  if (!rules.tcbStatuses.includes(status)) {
    refuse('tcb_status', `the TCB status of the platform is ${status}, and accepted is ${rules.tcbStatuses.join(', ')}`);
  }
  const measurements = await identityOf(quote.td, events, answer.vmConfig, ppid);
  const statement = readStatement(answer.statement);
  const isSignedByRoot = await checkRoot(answer, statement, statementBytes);
  checkFresh(statement, rules);
  checkPins(pins, statement, measurements, isSignedByRoot);
  return {
    statement,
    measurements,
    tcb: { status, advisories, fmspc },
    isSignedByRoot,
    verifiedAt: rules.now,
  };
}

/** Whether the root CA key in the statement has signed quote and statement. A wrong signature is never accepted. */
async function checkRoot({ quote, root }, statement, statementBytes) {
  if (root === null) return false;
  const wrong = (why) => refuse('root_signature', `the root CA key has not signed this quote and statement: ${why}`);
  const info = fromHex(root.ca_spki);
  if (toHex(await sha256(info)) !== statement.root.ca_spki_sha256) wrong("the signer is another key than the statement's root");
  if (!root.ca_spki.startsWith(P256_INFO)) wrong('its key is not of P-256');
  const point = info.subarray(P256_INFO.length / 2);
  const message = concat(utf8(ROOT_LABEL), await sha256(quote), await sha256(statementBytes));
  return (await isSignedP256(point, fromHex(root.signature), message)) || wrong('the signature is wrong');
}

function checkFresh({ time, nonce: stated }, { nonce, maxAge, now }) {
  if (nonce !== undefined && stated !== nonce) refuse('nonce', 'the document is not the answer to this request: its nonce differs');
  const wrong = (why) => refuse('time', `the statement was made at ${time} (Unix seconds), and the time is ${now}: ${why}`);
  if (time > now + MAX_AHEAD) wrong('it is of the future');
  if (maxAge !== null && time + maxAge < now) wrong('it is too old');
}

function checkPins(pins, { root, log, policies }, measurements, isSignedByRoot) {
  if (pins.has('root_ca_spki_sha256') && !isSignedByRoot) {
    refuse('root_signature', 'the root CA key has not signed this quote and statement: there is no signature, and the root is pinned');
  }
  const found = {
    root_ca_spki_sha256: root.ca_spki_sha256,
    k256_public_key: root.k256_public_key,
    mr_aggregated: measurements.mr_aggregated,
    os_image_hash: measurements.os_image_hash,
    compose_hash: measurements.compose_hash,
    app_id: measurements.app_id,
    log_key: log?.key,
    policy_digest: policies.default?.digest ?? undefined,
  };
  for (const [name, value] of Object.entries(found)) {
    if (pins.has(name) && !pins.get(name).includes(value)) {
      refuse('pin_mismatch', `${name} is ${printable(value ?? 'missing')}, which is not pinned`);
    }
  }
}
