// Certificates and CRLs (RFC 5280) with P-256 keys, and PEM chains of them.
import { fromBase64, isEqual, toBase64, toHex, utf8 } from './bytes.js';
import { isSignedP256 } from './crypto.js';
import { DerError, Reader, TAG, bits, fixedSignature, oid, time } from './der.js';

export class ChainError extends Error {}

const fail = (what) => {
  throw new ChainError(what);
};

const id = (dotted) => toHex(oid(dotted));
const BASIC_CONSTRAINTS = id('2.5.29.19');
const KEY_USAGE = id('2.5.29.15');
export const SGX_EXTENSION = id('1.2.840.113741.1.13.1');
const EC_KEY = oid('1.2.840.10045.2.1');
const P256 = oid('1.2.840.10045.3.1.7');
const ECDSA_SHA256 = oid('1.2.840.10045.4.3.2');

/** Bits of the key usage, counted from the highest bit of the first byte. */
const KEY_CERT_SIGN = 5;
const CRL_SIGN = 6;

/** Intel's chains have three certificates at most: leaf, CA, root. They are about 4 KiB long. */
const MAX_CHAIN = 3;
export const MAX_CHAIN_BYTES = 32 * 1024;

/** Turns an error of the DER reader into one of this module. */
function reading(what, read) {
  try {
    return read();
  } catch (error) {
    if (error instanceof DerError) fail(`${what} does not parse: ${error.message}`);
    throw error;
  }
}

/** The bytes of the SubjectPublicKeyInfo in a certificate, exactly as they are in it. */
export function publicKeyInfo(der) {
  return reading('certificate', () => {
    const tbs = new Reader(der).into().into();
    tbs.optional(0xa0);
    for (let field = 0; field < 5; field++) tbs.next();
    return tbs.expect(TAG.SEQUENCE).raw;
  });
}

/** Extensions by object identifier, in hex. */
function extensionsOf(list) {
  const found = new Map();
  while (!list.isEmpty) {
    const extension = list.into();
    const name = toHex(extension.expect(TAG.OID).value);
    const critical = extension.optional(TAG.BOOLEAN);
    if (critical !== undefined && (critical.value.length !== 1 || critical.value[0] !== 0xff)) fail('criticality is not DER');
    const value = extension.expect(TAG.OCTET_STRING).value;
    extension.end();
    if (found.has(name)) fail('extension is repeated');
    found.set(name, { isCritical: critical !== undefined, value });
  }
  return found;
}

/** The tbs part, the algorithm and the signature of a certificate or CRL. */
function signed(der) {
  const outer = new Reader(der);
  const whole = outer.into();
  outer.end();
  const tbs = whole.expect(TAG.SEQUENCE);
  algorithm(whole);
  const signature = fixedSignature(bits(whole.expect(TAG.BIT_STRING)));
  whole.end();
  return { tbs, signature };
}

function algorithm(reader) {
  const fields = reader.into();
  if (!isEqual(fields.expect(TAG.OID).value, ECDSA_SHA256)) fail('signature algorithm is not ECDSA with SHA-256');
  fields.end();
}

/** `04 ‖ X ‖ Y` of a P-256 key. */
function pointOf(info) {
  const fields = new Reader(info).into();
  const kind = fields.into();
  if (!isEqual(kind.expect(TAG.OID).value, EC_KEY) || !isEqual(kind.expect(TAG.OID).value, P256)) fail('public key is not of P-256');
  const point = bits(fields.expect(TAG.BIT_STRING));
  fields.end();
  return point.length === 65 && point[0] === 4 ? point : fail('public key is not an uncompressed point');
}

function constraints(extension) {
  if (extension === undefined) return { isCa: false, pathLength: undefined };
  const fields = new Reader(extension.value).into();
  const isCa = fields.optional(TAG.BOOLEAN)?.value[0] === 0xff;
  const length = fields.optional(TAG.INTEGER)?.value;
  fields.end();
  return { isCa, pathLength: length?.length === 1 ? length[0] : undefined };
}

function usage(extension) {
  if (extension === undefined) return () => true;
  const value = new Reader(extension.value).expect(TAG.BIT_STRING).value;
  return (bit) => ((value[1 + (bit >> 3)] ?? 0) & (0x80 >> (bit & 7))) !== 0;
}

/** A certificate. Its signature is not verified. */
export class Certificate {
  /** @param {Uint8Array} der */
  constructor(der) {
    this.der = der;
    reading('certificate', () => this.#read());
  }

  #read() {
    const { tbs, signature } = signed(this.der);
    this.tbs = tbs.raw;
    this.signature = signature;
    const fields = new Reader(tbs.value);
    const version = fields.into(0xa0).expect(TAG.INTEGER).value;
    if (version.length !== 1 || version[0] !== 2) fail('certificate is not of version 3');
    this.serial = toHex(fields.expect(TAG.INTEGER).value);
    algorithm(fields);
    this.issuer = fields.expect(TAG.SEQUENCE).raw;
    const validity = fields.into();
    this.notBefore = time(validity.next());
    this.notAfter = time(validity.next());
    validity.end();
    this.subject = fields.expect(TAG.SEQUENCE).raw;
    this.point = pointOf(fields.expect(TAG.SEQUENCE).raw);
    const list = fields.into(0xa3);
    this.extensions = extensionsOf(list.into());
    list.end();
    fields.end();
    const { isCa, pathLength } = constraints(this.extensions.get(BASIC_CONSTRAINTS));
    this.isCa = isCa;
    this.pathLength = pathLength;
    this.mayUse = usage(this.extensions.get(KEY_USAGE));
  }

  get isSelfIssued() {
    return isEqual(this.issuer, this.subject);
  }

  #checkExtensions() {
    for (const [name, { isCritical }] of this.extensions) {
      if (isCritical && name !== BASIC_CONSTRAINTS && name !== KEY_USAGE) fail('certificate has an unknown critical extension');
    }
  }

  /** Checks that `issuer` issued this certificate, `below` CAs above its end, and that it is valid at `now`. */
  async checkIssuedBy(issuer, below, now) {
    this.#checkExtensions();
    if (now < this.notBefore || now > this.notAfter) fail('certificate is not valid at this time');
    if (!isEqual(this.issuer, issuer.subject)) fail('certificate has another issuer');
    if (!issuer.isCa || !issuer.mayUse(KEY_CERT_SIGN)) fail('issuer is not a CA');
    if (issuer.pathLength !== undefined && below > issuer.pathLength) fail('chain is longer than its CA permits');
    if (!(await isSignedP256(issuer.point, this.signature, this.tbs))) fail('certificate signature is wrong');
  }
}

/** A certificate revocation list. Its signature is not verified. */
export class RevocationList {
  /** @param {Uint8Array} der */
  constructor(der) {
    reading('CRL', () => this.#read(der));
  }

  #read(der) {
    const { tbs, signature } = signed(der);
    this.tbs = tbs.raw;
    this.signature = signature;
    const fields = new Reader(tbs.value);
    const version = fields.expect(TAG.INTEGER).value;
    if (version.length !== 1 || version[0] !== 1) fail('CRL is not of version 2');
    algorithm(fields);
    this.issuer = fields.expect(TAG.SEQUENCE).raw;
    time(fields.next());
    this.nextUpdate = time(fields.next());
    this.serials = new Set();
    const entries = fields.optional(TAG.SEQUENCE);
    for (const list = new Reader(entries?.value ?? new Uint8Array()); !list.isEmpty; ) {
      const entry = list.into();
      this.serials.add(toHex(entry.expect(TAG.INTEGER).value));
      time(entry.next());
      const extensions = entry.optional(TAG.SEQUENCE);
      if (extensions !== undefined) this.#checkExtensions(new Reader(extensions.value));
      entry.end();
    }
    const list = fields.into(0xa0);
    this.#checkExtensions(list.into());
    list.end();
    fields.end();
  }

  // A critical extension changes what the list covers (RFC 5280, section 5.2.5), and none is known here.
  #checkExtensions(list) {
    for (const { isCritical } of extensionsOf(list).values()) {
      if (isCritical) fail('CRL has an unknown critical extension');
    }
  }

  /** Checks that `issuer` issued this list, and that it is in force at `now`. */
  async checkIssuedBy(issuer, now) {
    if (!isEqual(this.issuer, issuer.subject)) fail('CRL has another issuer');
    if (!issuer.mayUse(CRL_SIGN)) fail('issuer must not sign CRLs');
    if (!(await isSignedP256(issuer.point, this.signature, this.tbs))) fail('CRL signature is wrong');
    if (now >= this.nextUpdate) fail('CRL has expired');
  }

  /** Checks that the list, of the issuer of `certificate`, does not have it. */
  checkNotRevoked(certificate) {
    if (!isEqual(certificate.issuer, this.issuer)) fail('CRL is of another issuer than the certificate');
    if (this.serials.has(certificate.serial)) fail('certificate is revoked');
  }
}

const BLOCK = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/= \t\r\n]*)-----END CERTIFICATE-----[ \t\r\n]*/y;

/**
 * The certificates of a PEM chain: one to three, each naming the next one's subject as its issuer, and nothing
 * between them. NUL bytes may end it, because quotes carry the chain as a C string.
 *
 * @param {string} pem
 * @returns {Certificate[]}
 */
export function readChain(pem) {
  if (pem.length > MAX_CHAIN_BYTES) fail(`chain is longer than ${MAX_CHAIN_BYTES} bytes`);
  const text = pem.replace(/^[ \t\r\n]+/, '').replace(/[\0 \t\r\n]+$/, '');
  const chain = [];
  for (BLOCK.lastIndex = 0; BLOCK.lastIndex < text.length; ) {
    const block = BLOCK.exec(text) ?? fail('chain has something that is not a certificate');
    if (chain.length === MAX_CHAIN) fail(`chain has more than ${MAX_CHAIN} certificates`);
    const der = fromBase64(block[1].replace(/[ \t\r\n]/g, '')) ?? fail('certificate is not base64');
    const certificate = new Certificate(der);
    const before = chain.at(-1);
    if (before !== undefined && (before.isSelfIssued || !isEqual(before.issuer, certificate.subject))) {
      fail('chain is not in order: leaf, CA, root');
    }
    chain.push(certificate);
  }
  return chain.length > 0 ? chain : fail('chain is empty');
}

/** The chain in PEM: 64 columns, LF. */
export const pemOf = (chain) =>
  chain.map(({ der }) => `-----BEGIN CERTIFICATE-----\n${toBase64(der).replace(/.{1,64}/g, '$&\n')}-----END CERTIFICATE-----\n`).join('');

/** A root CA, from PEM or DER. */
export function readRoot(given) {
  const bytes = typeof given === 'string' ? utf8(given) : given;
  const chain = bytes[0] === 0x30 ? [new Certificate(bytes)] : readChain(String.fromCharCode(...bytes.subarray(0, MAX_CHAIN_BYTES + 1)));
  if (chain.length !== 1) fail('more than one certificate');
  return chain[0].isCa ? chain[0] : fail('not a certificate of a CA');
}
