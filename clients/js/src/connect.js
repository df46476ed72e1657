// Connects to a KMS: verifies what it proves with a nonce of its own, then sends requests only to its TLS key.
import { setTimeout as sleep } from 'node:timers/promises';
import { toHex } from './bytes.js';
import { randomBytes } from './crypto.js';
import { AttestationError, CallError, ConnectionError, argument, printable } from './errors.js';
import { isObject } from './json.js';
import { checkSufficient, joinPins, readPins } from './pins.js';
import { prove, readRules } from './prove.js';
import { fetchRelease, isRepository } from './release.js';
import { DEFAULT_TIMEOUT, Transport, originOf } from './transport.js';

const OPTIONS = ['base', 'maxAge', 'pins', 'signal', 'tcbStatuses', 'tdxRootCa', 'timeout'];

function readOptions(given = {}) {
  if (!isObject(given)) argument('the options must be an object');
  const unknown = Object.keys(given).find((name) => !OPTIONS.includes(name));
  if (unknown !== undefined) argument(`there is no option ${printable(unknown)}: use ${OPTIONS.join(', ')}`);
  const { timeout = DEFAULT_TIMEOUT, base, signal, pins = {}, maxAge, tcbStatuses, tdxRootCa } = given;
  if (!Number.isSafeInteger(timeout) || timeout < 1 || timeout > 600_000) argument('timeout must be 1 to 600000 milliseconds');
  if (base !== undefined && typeof base !== 'string') argument('base must be a URL');
  const rules = { maxAge, tcbStatuses, tdxRootCa };
  readRules(rules);
  return { timeout, base, signal, pins: readPins(pins), rules };
}

/** See index.d.ts. */
export async function connect(target, ...rest) {
  if (typeof target !== 'string') argument('give the URL of a KMS, or owner/repo');
  if (!isRepository(target)) {
    const [pins, options] = rest;
    const read = readOptions(options);
    return attested(originOf(target), joinPins(readPins(pins), read.pins), read);
  }
  const read = readOptions(rest[0]);
  const release = await fetchRelease(target, read);
  const pins = joinPins(release.pins, read.pins);
  let failed;
  for (const origin of release.endpoints) {
    try {
      return await attested(origin, pins, read);
    } catch (error) {
      // Another endpoint may answer; one that proves too little ends it.
      if (!(error instanceof ConnectionError)) throw error;
      failed = error;
    }
  }
  throw failed;
}

/** An answer to a nonce of our own. A KMS makes only so many quotes in a time, and says when to ask again. */
async function fresh(transport, timeout, signal) {
  const end = performance.now() + timeout;
  for (;;) {
    const nonce = toHex(randomBytes(32));
    const answer = await transport.request(`/attestation.json?nonce=${nonce}`, { signal });
    const seconds = answer.headers['retry-after'] ?? '';
    const isToWait = answer.status === 429 && /^[1-9]\d{0,3}$/.test(seconds) && performance.now() + 1000 * seconds < end;
    if (!isToWait) return { nonce, answer };
    await sleep(1000 * seconds, undefined, { signal }).catch(() => {
      throw signal.reason;
    });
  }
}

async function attested(origin, pins, { timeout, signal, rules }) {
  checkSufficient(pins);
  let key;
  const accept = (found) => {
    key ??= found;
    if (found !== key) {
      throw new AttestationError('tls_key', "the server's TLS key is not the one that the quote proves: connect again if the KMS has restarted, otherwise another program answers at this address");
    }
  };
  const transport = new Transport(origin, { accept, timeout });
  try {
    const { nonce, answer } = await fresh(transport, timeout, signal);
    if (answer.status !== 200) {
      throw new ConnectionError('http', `${transport.address} answers ${answer.status} where its attestation must be`);
    }
    const attestation = await prove(await answer.bytes(), pins, readRules({ ...rules, nonce }));
    if (attestation.statement.rpc_spki_sha256 !== key) {
      throw new AttestationError('tls_key', "the server's TLS key is not the one that the quote proves: another program answers at this address");
    }
    return new Kms(transport, attestation);
  } catch (error) {
    transport.close();
    throw error;
  }
}

/** A KMS whose attestation was verified. `connect` makes one. */
export class Kms {
  #transport;
  #attestation;

  constructor(transport, attestation) {
    this.#transport = transport;
    this.#attestation = deepFreeze(attestation);
  }

  /** What was proved. */
  get attestation() {
    return this.#attestation;
  }

  /** Sends a request to a path of the KMS. */
  async fetch(path, init) {
    return this.#transport.request(path, init);
  }

  /** Calls a method of the KMS, such as `GetMeta`. */
  async call(method, request = {}, { signal } = {}) {
    if (typeof method !== 'string' || !/^(?:[A-Za-z]+\.)?[A-Za-z0-9]+$/.test(method)) argument('the method must be a name such as GetMeta');
    const headers = { 'content-type': 'application/json', accept: 'application/json' };
    const answer = await this.fetch(`/prpc/${method}`, { method: 'POST', headers, body: JSON.stringify(request), signal });
    if (answer.status === 200) return answer.json();
    let why = 'it gives no reason';
    try {
      const { error } = Object(await answer.json());
      if (typeof error === 'string') why = printable(error);
    } catch {
      // A proxy in between may answer with something else.
    }
    throw new CallError(answer.status, `the KMS answers ${method} with ${answer.status}: ${why}`);
  }

  /** Closes all connections. */
  close() {
    this.#transport.close();
  }
}

function deepFreeze(value) {
  if (typeof value === 'object' && value !== null) {
    Object.values(value).forEach(deepFreeze);
    Object.freeze(value);
  }
  return value;
}
