// A simulated platform, from the development keys of the vectors: signs quotes, CRLs and whole documents.
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';

export const vectors = new URL('../../../tests/vectors/', import.meta.url);
export const vector = (name) => readFileSync(new URL(name, vectors));
export const json = (name) => JSON.parse(vector(name));

const QUOTES = json('tdx_quotes.json');
/** When the collateral of the vectors is valid, Unix seconds. */
export const NOW = 1_750_000_000;
export const ROOT = QUOTES.root_ca.mock.pem;
export const COLLATERAL = QUOTES.collateral.good;

export const hash = (name, ...parts) => {
  const hash = createHash(name);
  for (const part of parts) hash.update(part);
  return hash.digest();
};
const unhex = (text) => Buffer.from(text, 'hex');

/** A P-256 key: scalar = SHA-256("dstack-mock-p256-v1" ‖ seed ‖ label ‖ u32be counter). */
export function keyOf(label, counter = 0) {
  const number = Buffer.alloc(4);
  number.writeUInt32BE(counter);
  const scalar = hash('sha256', 'dstack-mock-p256-v1', unhex(QUOTES.mock_seed), label, number);
  const der = Buffer.concat([unhex('30310201010420'), scalar, unhex('a00a06082a8648ce3d030107')]);
  return createPrivateKey({ key: der, format: 'der', type: 'sec1' });
}

export const newKey = () => generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
export const spkiOf = (key) => createPublicKey(key).export({ type: 'spki', format: 'der' });
export const signed = (key, data) => sign('sha256', data, { key, dsaEncoding: 'ieee-p1363' });

const GOOD = unhex(QUOTES.cases[0].quote);
const SIGNED = 632;
const REGISTERS = { mrTd: 184, rtMr0: 376, rtMr1: 424, rtMr2: 472, rtMr3: 520 };

/** The good quote of the vectors, altered by `alter(body)` and signed again, by a new attestation key. */
export function quote(reportData, rtMr3, alter = () => {}) {
  const bytes = Buffer.from(GOOD);
  Buffer.from(rtMr3).copy(bytes, REGISTERS.rtMr3);
  Buffer.from(reportData).copy(bytes, 568);
  alter(bytes);
  const attestationKey = newKey();
  const point = spkiOf(attestationKey).subarray(-64);
  const signature = SIGNED + 4;
  signed(attestationKey, bytes.subarray(0, SIGNED)).copy(bytes, signature);
  point.copy(bytes, signature + 64);
  const qeReport = signature + 128 + 6;
  const authData = qeReport + 384 + 64;
  const length = bytes.readUInt16LE(authData);
  hash('sha256', point, bytes.subarray(authData + 2, authData + 2 + length)).copy(bytes, qeReport + 320);
  signed(keyOf('tdx-pck'), bytes.subarray(qeReport, qeReport + 384)).copy(bytes, qeReport + 384);
  return bytes;
}

export const EVENTS = [
  ['system-preparing', ''],
  ['app-id', '11'.repeat(20)],
  ['compose-hash', '22'.repeat(32)],
  ['instance-id', '33'.repeat(20)],
  ['boot-mr-done', ''],
  ['key-provider', Buffer.from('{"name":"none","id":""}').toString('hex')],
  ['system-ready', ''],
];

const RUNTIME_EVENT = 0x08000001;

/** Entries of an event log, version 1 or 2. */
export function logOf(events, version = 1) {
  return events.map(([event, payload]) => {
    const type = Buffer.alloc(4);
    type.writeUInt32LE(RUNTIME_EVENT);
    const preimage =
      version === 1
        ? Buffer.concat([type, Buffer.from(`:${event}:`), unhex(payload)])
        : Buffer.from(JSON.stringify({ name: event, payload, type: RUNTIME_EVENT }));
    const digest = hash('sha384', preimage).toString('hex');
    const entry = { imr: 3, event_type: RUNTIME_EVENT, digest, event, event_payload: payload };
    return version === 1 ? entry : { ...entry, version, preimage: preimage.toString('hex') };
  });
}

export const replayed = (log) =>
  log.reduce((register, { digest }) => hash('sha384', register, unhex(digest)), Buffer.alloc(48));

/** The root CA key of the simulated KMS. */
export const ROOT_KEY = newKey();
export const K256 = `02${'44'.repeat(32)}`;
export const fingerprint = (key) => hash('sha256', spkiOf(key)).toString('hex');

/** A statement that nothing is wrong with. */
export function statement(changes = {}) {
  const root = { ca_spki_sha256: fingerprint(ROOT_KEY), k256_public_key: K256 };
  return {
    version: 1,
    time: NOW,
    nonce: null,
    kms_version: '0.1.0',
    program_sha256: null,
    name: 'kms.example.com',
    endpoints: ['https://kms.example.com:8000'],
    rpc_spki_sha256: '55'.repeat(32),
    root,
    epochs: [{ epoch: 0, state: 'active', ...root }],
    log: { origin: 'kms.example.com/log', key: 'kms.example.com/log+00000000+AAAA', checkpoint: '' },
    policies: { default: { kind: 'allowlist', digest: '66'.repeat(32) } },
    relaxed: [],
    sealed: true,
    ...changes,
  };
}

/** A document as `/attestation.json` has it, after `alter` has changed its parts. */
export function document(stated = statement(), { log = logOf(EVENTS), alterQuote, alter = () => {} } = {}) {
  const text = typeof stated === 'string' ? stated : JSON.stringify(stated);
  const bytes = quote(hash('sha512', 'cvm-kms-attestation:', text), replayed(log), alterQuote);
  const message = Buffer.concat([Buffer.from('cvm-kms-attestation-root:'), hash('sha256', bytes), hash('sha256', text)]);
  const parts = {
    version: 1,
    statement: text,
    quote: bytes.toString('hex'),
    event_log: JSON.stringify(log),
    vm_config: JSON.stringify({ os_image_hash: '77'.repeat(32) }),
    collateral: structuredClone(COLLATERAL),
    root: { ca_spki: spkiOf(ROOT_KEY).toString('hex'), signature: signed(ROOT_KEY, message).toString('hex') },
  };
  return JSON.stringify(alter(parts) ?? parts);
}

/** `tag length content` in DER. */
export function der(tag, ...contents) {
  const content = Buffer.concat(contents.map((part) => Buffer.from(part)));
  const length = content.length;
  const size = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}

const ECDSA_SHA256 = unhex('300a06082a8648ce3d040302');
const bits = (bytes) => der(0x03, [0], bytes);
const dated = (text) => der(0x17, Buffer.from(text));

/** A certificate or CRL: the tbs part, signed. */
export const signedDer = (key, tbs) => der(0x30, tbs, ECDSA_SHA256, bits(sign('sha256', tbs, key)));

/** A self-signed certificate for a TLS server. */
export function certificate(key) {
  const name = der(0x30, der(0x31, der(0x30, unhex('0603550403'), der(0x0c, Buffer.from('kms.example.com')))));
  const tbs = der(
    0x30,
    der(0xa0, unhex('020102')),
    unhex('020107'),
    ECDSA_SHA256,
    name,
    der(0x30, dated('200101000000Z'), dated('491231235959Z')),
    name,
    spkiOf(key),
  );
  return `-----BEGIN CERTIFICATE-----\n${signedDer(key, tbs).toString('base64')}\n-----END CERTIFICATE-----\n`;
}

/** A CRL of the issuer with this name (DER), with these serial numbers. */
export function crl(key, issuer, serials, { nextUpdate = '491231235959Z', critical = false } = {}) {
  const entries = serials.map((serial) => der(0x30, der(0x02, unhex(serial)), dated('240101000000Z')));
  const number = der(0x30, unhex('0603551d14'), ...(critical ? [unhex('0101ff')] : []), der(0x04, unhex('020101')));
  const tbs = der(
    0x30,
    unhex('020101'),
    ECDSA_SHA256,
    issuer,
    dated('240101000000Z'),
    dated(nextUpdate),
    ...(entries.length > 0 ? [der(0x30, ...entries)] : []),
    der(0xa0, der(0x30, number)),
  );
  return signedDer(key, tbs).toString('hex');
}
