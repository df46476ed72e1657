// TDX quotes. `@phala/dcap-qvl` verifies signatures, and what it leaves out is checked here: CRLs (their
// signatures, dates and issuers), CA certificates, the TDX module, TD attributes, and the form of all documents.
import dcap from '@phala/dcap-qvl';
import { fromHex, isEqual, isZero, toHex } from './bytes.js';
import { DerError, Reader, TAG, oid } from './der.js';
import { printable, refuse } from './errors.js';
import { JsonError, isObject } from './json.js';
import { TcbError, readDocument, statusOf } from './tcb.js';
import { ChainError, MAX_CHAIN_BYTES, RevocationList, SGX_EXTENSION, pemOf, readChain, readRoot } from './x509.js';

const QE_VENDOR = '939a7233f79c4ca9940a0db3957f0607';
const TDX = 0x81;
const ENCRYPTED_PPID = [2, 3];
const PCK_CHAIN = 5;
const QE_REPORT = 6;
/** TDATTRIBUTES that a TD may have: SEPT_VE_DISABLE (28), which it must have, PKS (30) and KL (31). */
const PERMITTED_ATTRIBUTES = 0xd000_0000n;
const SEPT_VE_DISABLE = 0x1000_0000n;
// With any bit of it others may look into the TD, as a debugger or to profile it.
const DEBUG_BYTE = 0xffn;

const MAX_QUOTE_BYTES = 64 * 1024;

const INTELS_ROOT = dcap.constants.TRUSTED_ROOT_CA_DER;

const malformed = (what, options) => refuse('quote', `the quote does not parse: ${what}`, options);

const COLLATERAL = {
  text: [
    'pck_crl_issuer_chain',
    'tcb_info_issuer_chain',
    'tcb_info',
    'qe_identity_issuer_chain',
    'qe_identity',
  ],
  hex: ['root_ca_crl', 'pck_crl', 'tcb_info_signature', 'qe_identity_signature'],
};

/** Collateral as JSON has it, with its parts read. Nothing in it is verified. */
export function readCollateral(given) {
  try {
    return collateralOf(given);
  } catch (error) {
    const isForm = error instanceof ChainError || error instanceof TcbError || error instanceof JsonError;
    if (isForm) refuse('collateral_mismatch', `the collateral does not parse: ${error.message}`, { cause: error });
    throw error;
  }
}

function collateralOf(given) {
  if (!isObject(given)) throw new TcbError('not an object');
  const text = (name) => {
    const value = given[name];
    if (typeof value !== 'string') throw new TcbError(`${name} is not a text`);
    return value;
  };
  const parts = {};
  for (const name of COLLATERAL.text) parts[name] = text(name);
  for (const name of COLLATERAL.hex) {
    parts[name] = fromHex(text(name));
    if (parts[name] === undefined) throw new TcbError(`${name} is not hex`);
  }
  if (given.pck_certificate_chain != null) parts.pck_certificate_chain = text('pck_certificate_chain');

  const tcbInfo = readDocument(parts.tcb_info, 'TCB info');
  const qeIdentity = readDocument(parts.qe_identity, 'QE identity');
  if (fromHex(tcbInfo.document.fmspc)?.length !== 6) throw new TcbError('fmspc of the TCB info is not 6 bytes in hex');
  const crls = { root: new RevocationList(parts.root_ca_crl), pck: new RevocationList(parts.pck_crl) };
  const chains = {
    tcbSigner: readChain(parts.tcb_info_issuer_chain),
    qeSigner: readChain(parts.qe_identity_issuer_chain),
    crlIssuer: readChain(parts.pck_crl_issuer_chain),
  };
  return {
    parts,
    crls,
    chains,
    tcbInfo: tcbInfo.document,
    qeIdentity: qeIdentity.document,
    begins: Math.max(tcbInfo.issued, qeIdentity.issued),
    ends: Math.min(
      tcbInfo.nextUpdate,
      qeIdentity.nextUpdate,
      // Other than the documents, a CRL has expired at its nextUpdate.
      crls.root.nextUpdate - 1,
      crls.pck.nextUpdate - 1,
      ...Object.values(chains).flatMap((chain) => chain.map(({ notAfter }) => notAfter)),
    ),
  };
}

/** A quote, parsed. Nothing in it is verified. */
export function parseQuote(bytes) {
  if (bytes.length > MAX_QUOTE_BYTES) malformed(`longer than ${MAX_QUOTE_BYTES} bytes`);
  let quote;
  try {
    quote = dcap.Quote.parse(bytes);
  } catch (error) {
    malformed(printable(error.message), { cause: error });
  }
  const { header, report, authData } = quote;
  const td = report.asTd10();
  if (header.teeType !== TDX || td === null) malformed('not of a TD');
  if (header.version === 5) {
    // The library does not compare the size of the body with its type.
    const size = new DataView(bytes.buffer, bytes.byteOffset).getUint32(50, true);
    if (size !== (report.type === 'td15' ? 648 : 584)) malformed('its body has a wrong size');
  }
  const td15 = report.asTd15();
  return {
    bytes,
    vendor: toHex(header.qeVendorId),
    td: { ...td, teeTcbSvn2: td15?.teeTcbSvn2, mrServiceTd: td15?.mrServiceTd },
    outerType: authData.data.certificationData?.certType,
    auth: authData.intoV3(),
  };
}

const pckChain = ({ body }) => readChain(String.fromCharCode(...body.subarray(0, MAX_CHAIN_BYTES + 1)));

/** Checks that `chain` is a certificate, `cas` CAs, and at most the root, and leads to `root`. */
async function checkChain(chain, cas, root, crls, now) {
  const last = chain.at(-1);
  // The root in the chain is not trusted, only compared.
  const path = isEqual(last.der, root.der) ? chain.slice(0, -1) : chain;
  if (path.length !== cas + 1) throw new ChainError('chain has a wrong length');
  if (path[0].isCa) throw new ChainError('chain begins with a CA');
  for (const [index, certificate] of path.entries()) {
    const issuer = path[index + 1] ?? root;
    await certificate.checkIssuedBy(issuer, index === 0 ? 0 : index - 1, now);
    const crl = issuer === root ? crls.root : crls.pck;
    crl.checkNotRevoked(certificate);
  }
}

/** CPUSVN, PCESVN, FMSPC and PPID in the SGX extension of a PCK certificate. */
function platformOf(leaf) {
  const extension = leaf.extensions.get(SGX_EXTENSION);
  if (extension === undefined) throw new ChainError('PCK certificate has no SGX extension');
  const entries = (value) => {
    const found = new Map();
    for (const list = new Reader(value); !list.isEmpty; ) {
      const entry = list.into();
      const name = toHex(entry.expect(TAG.OID).value);
      if (found.has(name)) throw new ChainError('SGX extension has a repeated value');
      found.set(name, entry.next());
    }
    return found;
  };
  const whole = new Reader(extension.value);
  const top = entries(whole.expect(TAG.SEQUENCE).value);
  whole.end();
  const value = (map, dotted, tag, length) => {
    const element = map.get(toHex(oid(`1.2.840.113741.1.13.1.${dotted}`)));
    if (element?.tag !== tag || (length !== undefined && element.value.length !== length)) {
      throw new ChainError('SGX extension lacks a value');
    }
    return element.value;
  };
  const tcb = entries(value(top, '2', TAG.SEQUENCE));
  const pce = value(tcb, '2.17', TAG.INTEGER);
  return {
    ppid: value(top, '1', TAG.OCTET_STRING, 16),
    fmspc: value(top, '4', TAG.OCTET_STRING, 6),
    cpuSvn: value(tcb, '2.18', TAG.OCTET_STRING, 16),
    pceSvn: pce.reduce((number, byte) => number * 256 + byte, 0),
  };
}

/** The quoting enclave's ISVSVN, and the checks of its signed data that the library does not make. */
function qeIsvSvn({ auth, outerType }) {
  if (outerType !== QE_REPORT) throw new TcbError('quote has no report of the quoting enclave');
  if (auth.qeAuthData.length !== 32) throw new TcbError('QE authentication data must be 32 bytes');
  return new DataView(auth.qeReport.buffer, auth.qeReport.byteOffset).getUint16(258, true);
}

const attributesOf = (td) => new DataView(td.tdAttributes.buffer, td.tdAttributes.byteOffset).getBigUint64(0, true);

/**
 * Checks that nobody but the TD may read or change its memory. This is before the signatures, so that the code is the
 * same whatever the library looks at first.
 */
export function checkIsolation({ td }) {
  const attributes = attributesOf(td);
  if ((attributes & DEBUG_BYTE) !== 0n) refuse('debug', 'the KMS runs in debug mode, so its host can read its memory');
  const weak = (why) => refuse('td_isolation', `the KMS is not isolated from its host: ${why}`);
  if ((attributes & ~PERMITTED_ATTRIBUTES) !== 0n) weak('it has TD attributes that are not accepted');
  if ((attributes & SEPT_VE_DISABLE) === 0n) weak('SEPT_VE_DISABLE is not set');
  if (!isZero(td.mrSignerSeam)) weak('the TDX module is not signed by Intel');
  if (td.mrServiceTd !== undefined && !isZero(td.mrServiceTd)) weak('a service TD is bound to it');
}

/** Checks that collateral is valid at `now`, and of the platform model that the quote names. */
export function checkFits(quote, { begins, ends, tcbInfo, crls }, now) {
  if (now < begins || now > ends) {
    refuse('collateral_expired', `the collateral is valid from ${begins} to ${ends} (Unix seconds), and the time is ${now}`);
  }
  const leaf = asQuote(() => named(quote));
  if (leaf === undefined) return;
  const fmspc = asQuote(() => toHex(platformOf(leaf).fmspc));
  if (fmspc !== tcbInfo.fmspc.toLowerCase() || isOfPlatformCa(leaf.issuer) !== isOfPlatformCa(crls.pck.issuer)) {
    refuse('collateral_mismatch', `the collateral does not fit the quote: it is of the model ${tcbInfo.fmspc}, and the quote of ${fmspc}`);
  }
}

/** The PCK certificate in a quote; one with an encrypted PPID has none. */
function named({ auth: { certificationData } }) {
  const { certType } = certificationData;
  if (certType === PCK_CHAIN) return pckChain(certificationData)[0];
  if (ENCRYPTED_PPID.includes(certType)) return undefined;
  throw new ChainError('its certification data name no platform');
}

/** Intel has two CAs for PCK certificates, one for platforms with several packages. */
const isOfPlatformCa = (name) => {
  const text = String.fromCharCode(...name);
  return text.includes('Platform') && !text.includes('Processor');
};

/** Errors of the forms in a quote as refusals of it. */
function asQuote(read) {
  try {
    return read();
  } catch (error) {
    if (error instanceof ChainError || error instanceof TcbError || error instanceof DerError) {
      refuse('quote', `the quote is not genuine: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

/**
 * Verifies a quote at `now`, with collateral that fits: signatures up to the root, revocation and TCB level.
 *
 * @param {ReturnType<typeof parseQuote>} quote
 * @param {ReturnType<typeof readCollateral>} collateral
 * @param {number} now Unix seconds
 * @param {import('./x509.js').Certificate} [root] instead of Intel's
 * @returns {Promise<{status: string, advisories: string[], fmspc: string, ppid: Uint8Array}>}
 */
export async function verifyQuote(quote, collateral, now, root = readRoot(Uint8Array.from(INTELS_ROOT))) {
  try {
    return await verified(quote, collateral, now, root);
  } catch (error) {
    const { code, message } = error;
    if (error instanceof TcbError && code !== undefined) {
      refuse(code, `the TCB status of the platform is not accepted: ${message}`, { cause: error });
    }
    if (error instanceof ChainError || error instanceof TcbError || error instanceof DerError) {
      refuse('quote', `the quote is not genuine: ${message}`, { cause: error });
    }
    throw error;
  }
}

async function verified(quote, { parts, crls, chains, tcbInfo, qeIdentity }, now, root) {
  const { certificationData } = quote.auth;
  const isInQuote = parts.pck_certificate_chain === undefined;
  if (isInQuote && certificationData.certType !== PCK_CHAIN) throw new ChainError('there is no PCK certificate chain');
  const pck = isInQuote ? pckChain(certificationData) : readChain(parts.pck_certificate_chain);
  if (quote.vendor !== QE_VENDOR) throw new TcbError('quoting enclave is of an unknown vendor');

  await crls.root.checkIssuedBy(root, now);
  crls.root.checkNotRevoked(root);
  await checkChain(chains.tcbSigner, 0, root, crls, now);
  await checkChain(chains.qeSigner, 0, root, crls, now);
  if (pck.length < 2) throw new ChainError('PCK chain has no CA');
  await crls.pck.checkIssuedBy(pck[1], now);
  await checkChain(pck, 1, root, crls, now);
  const isvSvn = qeIsvSvn(quote);

  // The library reads exactly the certificates that were checked.
  const given = { ...parts };
  for (const name of COLLATERAL.hex) given[name] = Array.from(parts[name]);
  given.tcb_info_issuer_chain = pemOf(chains.tcbSigner);
  given.qe_identity_issuer_chain = pemOf(chains.qeSigner);
  given.pck_certificate_chain = pemOf(pck);
  const td = libraryVerdict(quote, given, now, root.der).report.asTd10();
  for (const name of Object.keys(td)) {
    if (!isEqual(td[name], quote.td[name])) throw new TcbError('quote was read in two ways');
  }

  const platform = platformOf(pck[0]);
  const { status, advisories } = statusOf(tcbInfo, qeIdentity, platform, quote.td, isvSvn);
  return { status, advisories, fmspc: toHex(platform.fmspc), ppid: platform.ppid };
}

/** What the library says of versions that are too low, after it has verified the signatures that state them. */
const LEVELS = /^(TCB status is invalid: |No matching TCB level found|QE ISVSVN \d+ is below)/;

function libraryVerdict(quote, collateral, now, root) {
  try {
    return dcap.QuoteVerifier.newWithRootCa(dcapBuffer(root)).verify(quote.bytes, collateral, now);
  } catch (error) {
    const message = printable(String(error.message));
    throw new TcbError(message, { cause: error }, LEVELS.test(message) ? 'tcb_status' : undefined);
  }
}

// The library's own kind of buffer, which it does not export, also in browsers.
const dcapBuffer = (bytes) => INTELS_ROOT.constructor.from(bytes);
