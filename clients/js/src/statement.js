// The document and the statement in it, read strictly. Keys that are added later are skipped.
import { fromHex } from './bytes.js';
import { refuse } from './errors.js';
import { JsonError, isObject, parse, textOf, whole } from './json.js';
import { isHex } from './pins.js';

/** The largest document that is read. */
export const MAX_BYTES = 1024 * 1024;

const VERSION = 1;

const malformed = (what) => refuse('malformed', `the document is malformed: ${what}`);

/** An object of version 1. */
function versioned(text, place) {
  let value;
  try {
    value = parse(text, whole);
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    const code = error.isRepeatedKey ? 'duplicate_key' : 'malformed';
    refuse(code, `the document is malformed: ${place}${error.message}`, { cause: error });
  }
  if (!isObject(value)) malformed(`${place}not a JSON object`);
  if (!Number.isSafeInteger(value.version) || value.version < 0) malformed(`${place}version is not a number`);
  if (value.version !== VERSION) {
    refuse('unknown_version', `the version of the document is ${value.version}, and this package knows version 1: update it`);
  }
  return value;
}

/** How the values of a document are read; each throws, naming the value. */
const text = (value, name) => (typeof value === 'string' ? value : malformed(`${name} is not a text`));
const hex = (bytes) => (value, name) => (isHex(value, bytes) ? value : malformed(`${name} must be ${2 * bytes} lower-case hexadecimal digits`));
const integer = (most) => (value, name) =>
  Number.isInteger(value) && value >= 0 && value <= most ? value : malformed(`${name} is not a whole number`);
// Not left out: what is not there says nothing.
const known = (value, name) => (typeof value === 'boolean' || value === null ? value : malformed(`${name} is not true, false or null`));
const nullable = (read) => (value, name) => (value === undefined || value === null ? null : read(value, name));
const list = (read) => (value, name) => (Array.isArray(value) ? value.map((item) => read(item, name)) : malformed(`${name} is not a list`));
const object = (fields) => (value, name) => {
  if (!isObject(value)) malformed(`${name} is not an object`);
  return Object.fromEntries(Object.entries(fields).map(([key, read]) => [key, read(value[key], `${name}.${key}`)]));
};
const record = (read) => (value, name) => {
  if (!isObject(value)) malformed(`${name} is not an object`);
  const entries = Object.create(null);
  for (const key of Object.keys(value)) entries[key] = read(value[key], name);
  return entries;
};

const readStatementFields = object({
  time: integer(2 ** 64),
  nonce: nullable(hex(32)),
  kms_version: text,
  program_sha256: nullable(hex(32)),
  name: text,
  endpoints: list(text),
  rpc_spki_sha256: hex(32),
  root: object({ ca_spki_sha256: hex(32), k256_public_key: hex(33) }),
  epochs: list(object({ epoch: integer(0xffff_ffff), state: text, ca_spki_sha256: hex(32), k256_public_key: hex(33) })),
  log: nullable(object({ origin: text, key: text, checkpoint: text })),
  policies: record(object({ kind: text, digest: nullable(hex(32)) })),
  relaxed: list(text),
  sealed: known,
});

/** The statement; only a verified quote makes it one of the KMS. */
export const readStatement = (given) => readStatementFields(versioned(given, 'statement: '), 'statement');

const readRootSignature = nullable(object({ ca_spki: hex(91), signature: hex(64) }));

/**
 * The document. Nothing in it is verified.
 *
 * @param {Uint8Array | string} given
 */
export function readAnswer(given) {
  let content = given;
  if (typeof given !== 'string') {
    if (given.length > MAX_BYTES) refuse('too_large', `the document must have at most ${MAX_BYTES} bytes`);
    try {
      content = textOf(given);
    } catch (error) {
      malformed(`it ${error.message}`);
    }
  } else if (new TextEncoder().encode(given).length > MAX_BYTES) {
    refuse('too_large', `the document must have at most ${MAX_BYTES} bytes`);
  }
  const answer = versioned(content, '');
  const quote = text(answer.quote, 'quote');
  return {
    statement: text(answer.statement, 'statement'),
    quote: (/^[0-9a-f]*$/.test(quote) && fromHex(quote)) || malformed('quote is not lower-case hexadecimal'),
    eventLog: text(answer.event_log, 'event_log'),
    vmConfig: text(answer.vm_config, 'vm_config'),
    collateral: answer.collateral ?? undefined,
    root: readRootSignature(answer.root, 'root'),
  };
}
