#!/usr/bin/env node
// `cvm-kms verify URL|OWNER/REPO|FILE`: verifies a KMS, and prints what was proved as JSON.
// Exit codes: 0 proved, 1 not proved, 2 wrong arguments, 3 no usable answer.
import { existsSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { ArgumentError, AttestationError, KmsError, connect, parsePins, verify } from '../src/index.js';
import { isRepository } from '../src/release.js';
import { MAX_BYTES } from '../src/statement.js';

const USAGE = `cvm-kms verify TARGET [options]

TARGET is the URL of a KMS, a saved /attestation.json, or owner/repo of a release.

  --pins FILE         JSON object of known values: root_ca_spki_sha256, mr_aggregated, …
  --tcb-status NAME   accept this TCB status too (may be repeated); UpToDate always is
  --max-age SECONDS   greatest age of a statement (default 600); any: no limit
  --nonce HEX         the nonce that a saved document must have
  --tdx-root-ca FILE  trust this root CA instead of Intel's: for simulators
  --base URL          where releases are, instead of https://github.com
  --timeout SECONDS   for each request (default 30)
`;

/** The content of a file of at most `MAX_BYTES`, one byte more of a larger one. */
async function read(path) {
  let file;
  try {
    file = await open(path);
    const buffer = new Uint8Array(MAX_BYTES + 1);
    let length = 0;
    for (let got = 1; got > 0 && length < buffer.length; length += got) {
      ({ bytesRead: got } = await file.read(buffer, length, buffer.length - length, null));
    }
    return buffer.subarray(0, length);
  } catch (error) {
    throw new ArgumentError(`${path} cannot be read: ${error.code ?? error.message}`);
  } finally {
    await file?.close();
  }
}

function argumentsOf(given) {
  const text = { type: 'string' };
  const options = {
    pins: text,
    'tcb-status': { type: 'string', multiple: true },
    'max-age': text,
    nonce: text,
    'tdx-root-ca': text,
    base: text,
    timeout: text,
    help: { type: 'boolean' },
  };
  try {
    return parseArgs({ args: given, options, allowPositionals: true });
  } catch (error) {
    throw new ArgumentError(error.message);
  }
}

const seconds = (text, name) => (/^\d{1,12}$/.test(text) ? Number(text) : usage(`${name} must be a number of seconds`));

function usage(what) {
  throw new ArgumentError(`${what}\n\n${USAGE}`);
}

async function main(given) {
  const { values, positionals } = argumentsOf(given);
  if (values.help) return USAGE;
  const [command, target, ...more] = positionals;
  if (command !== 'verify' || target === undefined || more.length > 0) usage('give the command verify and one target');
  const pins = values.pins === undefined ? {} : parsePins(await read(values.pins));
  const maxAge = values['max-age'];
  const options = {
    tcbStatuses: ['UpToDate', ...(values['tcb-status'] ?? [])],
    ...(maxAge !== undefined && { maxAge: maxAge === 'any' ? null : seconds(maxAge, '--max-age') }),
    ...(values['tdx-root-ca'] !== undefined && { tdxRootCa: await read(values['tdx-root-ca']) }),
  };
  const isUrl = /^[a-z]+:\/\//i.test(target);
  // A saved document may be in a directory: `saved/document.json` is a file if there is one.
  if (!isUrl && (existsSync(target) || !isRepository(target))) {
    const document = await read(target);
    return `${JSON.stringify(await verify(document, pins, { ...options, nonce: values.nonce }), null, 2)}\n`;
  }
  if (values.nonce !== undefined) usage('--nonce is for saved documents: a request has its own');
  const online = {
    ...options,
    ...(values.timeout !== undefined && { timeout: 1000 * seconds(values.timeout, '--timeout') }),
    ...(values.base !== undefined && { base: values.base }),
  };
  const kms = await (isUrl ? connect(target, pins, online) : connect(target, { ...online, pins }));
  kms.close();
  return `${JSON.stringify(kms.attestation, null, 2)}\n`;
}

const EXIT = (error) => (error instanceof AttestationError ? 1 : error instanceof ArgumentError ? 2 : 3);

main(process.argv.slice(2)).then(
  (said) => process.stdout.write(said),
  (error) => {
    if (!(error instanceof KmsError)) throw error;
    process.stderr.write(`${error.code}: ${error.message}\n`);
    process.exitCode = EXIT(error);
  },
);
