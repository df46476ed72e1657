// What the library does, and what it leaves out.
import assert from 'node:assert/strict';
import test from 'node:test';
import dcap from '@phala/dcap-qvl';
import { checkFits, checkIsolation, parseQuote, readCollateral, verifyQuote } from '../src/quote.js';
import { converge, relaunch, statusOf } from '../src/tcb.js';
import { Certificate, readChain, readRoot } from '../src/x509.js';
import * as simulated from './simulated.js';
import { COLLATERAL, NOW, ROOT, crl, json, keyOf, vector } from './simulated.js';

const unhex = (text) => Uint8Array.from(Buffer.from(text, 'hex'));
const root = readRoot(ROOT);
const good = () => simulated.quote(Buffer.alloc(64), Buffer.alloc(48));

const INTEL = null;

const verdict = async (quote, collateral, now = NOW, anchor = root) => {
  try {
    const parsed = parseQuote(Uint8Array.from(quote));
    checkIsolation(parsed);
    const read = readCollateral(collateral);
    checkFits(parsed, read, now);
    return await verifyQuote(parsed, read, now, anchor ?? undefined);
  } catch (error) {
    return error.code ?? Promise.reject(error);
  }
};

test('every quote of the vectors has the verdict of the verifier in Rust', async () => {
  const { cases, collateral, root_ca: roots } = json('tdx_quotes.json');
  assert.equal(cases.length, 43);
  for (const { name, quote, collateral: set, root_ca, now, expected } of cases) {
    const found = await verdict(unhex(quote), collateral[set], now, readRoot(roots[root_ca].pem));
    if (expected.ok === undefined) {
      assert.match(found, /^(quote|debug|td_isolation|tcb_status|collateral_expired|collateral_mismatch)$/, name);
    } else {
      assert.equal(found.status, expected.ok.status, name);
      assert.deepEqual(found.advisories, expected.ok.advisory_ids, name);
      assert.equal(Buffer.from(found.ppid).toString('hex'), expected.ok.ppid, name);
    }
  }
});

test("a quote of Intel's hardware verifies under Intel's root, and no other", async () => {
  const files = 'fixtures/dcap-qvl/';
  const quote = vector(`${files}tdx_quote.bin`);
  const collateral = json(`${files}tdx_quote_collateral.json`);
  const now = 1_751_000_000;
  const { status, fmspc } = await verdict(quote, collateral, now, INTEL);
  assert.deepEqual([status, fmspc], ['UpToDate', 'b0c06f000000']);
  assert.equal(await verdict(quote, collateral, now), 'quote');
  assert.equal(await verdict(quote, collateral, now + 86_400 * 60, INTEL), 'collateral_expired');
  assert.equal(await verdict(vector(`${files}sgx_quote.bin`), collateral, now, INTEL), 'quote');
});

test('CRLs must be signed, of their issuer, in force, and complete; the library does not look', async () => {
  const [ca] = readChain(COLLATERAL.pck_crl_issuer_chain);
  const byRoot = (...rest) => crl(keyOf('tdx-root'), root.subject, ...rest);
  const byCa = (...rest) => crl(keyOf('tdx-pck-ca'), ca.subject, ...rest);
  const library = new dcap.QuoteVerifier(Buffer.from(root.der));
  for (const [name, changes, expected] of [
    ['as they are', {}, 'UpToDate'],
    ['made here', { root_ca_crl: byRoot([]), pck_crl: byCa([]) }, 'UpToDate'],
    ['others revoked', { root_ca_crl: byRoot(['2b', '2c']), pck_crl: byCa(['2b']) }, 'UpToDate'],
    ['root list by another key', { root_ca_crl: crl(simulated.newKey(), root.subject, []) }, 'quote'],
    ['PCK list by another key', { pck_crl: crl(keyOf('tdx-root'), ca.subject, []) }, 'quote'],
    ['PCK list of another issuer', { pck_crl: byRoot([]) }, 'collateral_mismatch'],
    ['PCK list of another CA for platforms', { pck_crl: crl(keyOf('tdx-pck-ca'), readChain(COLLATERAL.tcb_info_issuer_chain)[0].subject, []) }, 'collateral_mismatch'],
    ['root list of another issuer', { root_ca_crl: byCa([]) }, 'quote'],
    ['CA or signer revoked', { root_ca_crl: byRoot(['2a']) }, 'quote'],
    ['PCK certificate revoked', { pck_crl: byCa(['2a']) }, 'quote'],
    ['root list expired', { root_ca_crl: byRoot([], { nextUpdate: '250101000000Z' }) }, 'collateral_expired'],
    ['PCK list expired', { pck_crl: byCa([], { nextUpdate: '250101000000Z' }) }, 'collateral_expired'],
    ['critical extension', { pck_crl: byCa([], { critical: true }) }, 'collateral_mismatch'],
    ['no root list', { root_ca_crl: '' }, 'collateral_mismatch'],
    ['no PCK list', { pck_crl: '3000' }, 'collateral_mismatch'],
    ['cut off', { pck_crl: COLLATERAL.pck_crl.slice(0, -2) }, 'collateral_mismatch'],
    ['more after it', { pck_crl: `${COLLATERAL.pck_crl}00` }, 'collateral_mismatch'],
  ]) {
    const found = await verdict(good(), { ...COLLATERAL, ...changes });
    assert.equal(found.status ?? found, expected, name);
  }
  // Why the checks are here: the library accepts lists that nobody signed, or none at all.
  for (const changes of [{ pck_crl: '3000' }, { root_ca_crl: '' }, { pck_crl: crl(simulated.newKey(), ca.subject, []) }]) {
    assert.equal(library.verify(good(), { ...COLLATERAL, ...changes }, NOW).status, 'UpToDate');
  }
});

test('the signer of documents must be issued by the root itself, and chains have nothing else in them', async () => {
  const pck = Buffer.from(parseQuote(Uint8Array.from(good())).auth.certificationData.body).toString('latin1').replace(/\0+$/, '');
  const signature = simulated.signed(keyOf('tdx-pck'), COLLATERAL.tcb_info).toString('hex');
  for (const [name, changes, expected] of [
    ['TCB info signed by a PCK key', { tcb_info_issuer_chain: pck, tcb_info_signature: signature }, 'quote'],
    ['text in a chain', { tcb_info_issuer_chain: `x\n${COLLATERAL.tcb_info_issuer_chain}` }, 'collateral_mismatch'],
    ['chain twice', { tcb_info_issuer_chain: COLLATERAL.tcb_info_issuer_chain.repeat(2) }, 'collateral_mismatch'],
    ['only the root', { tcb_info_issuer_chain: ROOT }, 'quote'],
    ['no chain', { qe_identity_issuer_chain: '' }, 'collateral_mismatch'],
    ['a chain of PCK beside that in the quote', { pck_certificate_chain: pck }, 'UpToDate'],
    ['another chain of PCK', { pck_certificate_chain: COLLATERAL.tcb_info_issuer_chain }, 'quote'],
    ['repeated key', { tcb_info: COLLATERAL.tcb_info.replace('{', '{"id":"TDX",') }, 'collateral_mismatch'],
    ['no date', { qe_identity: COLLATERAL.qe_identity.replace('issueDate', 'issued') }, 'collateral_mismatch'],
    ['documents exchanged', { tcb_info: COLLATERAL.qe_identity, tcb_info_signature: COLLATERAL.qe_identity_signature }, 'collateral_mismatch'],
    ['not hex', { qe_identity_signature: 'zz' }, 'collateral_mismatch'],
    ['not a text', { tcb_info: {} }, 'collateral_mismatch'],
  ]) {
    const found = await verdict(good(), { ...COLLATERAL, ...changes });
    assert.equal(found.status ?? found, expected, name);
  }
});

test('a TD that others can read or change is refused, however it is signed', async () => {
  for (const [name, offset, value, expected] of [
    ['as it is', 168, 0, 'UpToDate'],
    ['debug', 168, 1, 'debug'],
    ['profiling', 168, 0x10, 'debug'],
    ['migration', 171, 0x30, 'td_isolation'],
    ['PERFMON', 175, 0x80, 'td_isolation'],
    ['no SEPT_VE_DISABLE', 171, 0, 'td_isolation'],
    ['module of another signer', 112, 9, 'td_isolation'],
    ['module attributes', 160, 1, 'quote'],
  ]) {
    const quote = simulated.quote(Buffer.alloc(64), Buffer.alloc(48), (bytes) => {
      bytes[offset] = value;
    });
    const found = await verdict(quote, COLLATERAL);
    assert.equal(found.status ?? found, expected, name);
  }
});

test('every flipped bit of what is signed is refused', async () => {
  const quote = good();
  for (let offset = 0; offset < 632; offset += 7) {
    const altered = Buffer.from(quote);
    altered[offset] ^= 1 << (offset % 8);
    assert.equal(typeof (await verdict(altered, COLLATERAL)), 'string', `byte ${offset}`);
  }
});

test('bytes that are no quote are refused without another error', async () => {
  const quote = good();
  for (let length = 0; length < quote.length; length += 97) assert.equal(await verdict(quote.subarray(0, length), COLLATERAL), 'quote', `${length}`);
  assert.equal(await verdict(Buffer.alloc(70_000), COLLATERAL), 'quote');
});

test('a status converges as in the verifier in Rust', () => {
  for (const [platform, component, expected] of [
    ['UpToDate', 'OutOfDate', 'OutOfDate'],
    ['SWHardeningNeeded', 'OutOfDate', 'OutOfDate'],
    ['ConfigurationNeeded', 'OutOfDate', 'OutOfDateConfigurationNeeded'],
    ['ConfigurationAndSWHardeningNeeded', 'OutOfDate', 'OutOfDateConfigurationNeeded'],
    ['OutOfDateConfigurationNeeded', 'OutOfDate', 'OutOfDateConfigurationNeeded'],
    ['ConfigurationNeeded', 'Revoked', 'Revoked'],
    ['UpToDate', 'ConfigurationNeeded', 'UpToDate'],
    ['SWHardeningNeeded', 'UpToDate', 'SWHardeningNeeded'],
  ]) {
    assert.equal(converge(platform, component), expected);
  }
  for (const [launch, current, expected] of [
    ['OutOfDate', 'UpToDate', 'TDRelaunchAdvised'],
    ['OutOfDate', 'SWHardeningNeeded', 'TDRelaunchAdvised'],
    ['OutOfDate', 'ConfigurationNeeded', 'TDRelaunchAdvisedConfigurationNeeded'],
    ['OutOfDateConfigurationNeeded', 'UpToDate', 'TDRelaunchAdvisedConfigurationNeeded'],
    ['OutOfDate', 'OutOfDate', 'OutOfDate'],
    ['UpToDate', 'UpToDate', 'UpToDate'],
    ['ConfigurationNeeded', 'UpToDate', 'ConfigurationNeeded'],
  ]) {
    assert.equal(relaunch(launch, current), expected);
  }
});

test('the TDX module has a level of its own, and the order of levels in the text does not matter', () => {
  const svn = (first, second = 0) => Uint8Array.from([first, second, ...Array(14).fill(3)]);
  const level = (sgx, tcbStatus) => ({
    tcb: {
      sgxtcbcomponents: Array.from({ length: 16 }, () => ({ svn: sgx })),
      tdxtcbcomponents: Array.from({ length: 16 }, (_, i) => ({ svn: i === 1 ? 0 : 3 })),
      pcesvn: 5,
    },
    tcbStatus,
  });
  const form = { mrsigner: '00'.repeat(48), attributes: '00'.repeat(8), attributesMask: 'ff'.repeat(8) };
  const tcbInfo = {
    id: 'TDX',
    version: 3,
    fmspc: '00'.repeat(6),
    tdxModule: form,
    tdxModuleIdentities: [
      { ...form, id: 'TDX_01', tcbLevels: [{ tcb: { isvsvn: 4 }, tcbStatus: 'UpToDate' }, { tcb: { isvsvn: 2 }, tcbStatus: 'OutOfDate', advisoryIDs: ['A'] }] },
      { ...form, id: 'TDX_02', tcbLevels: [{ tcb: { isvsvn: 1 }, tcbStatus: 'Revoked' }] },
    ],
    tcbLevels: [level(1, 'OutOfDate'), level(7, 'UpToDate')],
  };
  const qe = { id: 'TD_QE', version: 2, tcbLevels: [{ tcb: { isvsvn: 2 }, tcbStatus: 'UpToDate' }] };
  const platform = { cpuSvn: new Uint8Array(16).fill(7), pceSvn: 5, fmspc: new Uint8Array(6) };
  const td = (teeTcbSvn, changes) => ({ teeTcbSvn, mrSignerSeam: new Uint8Array(48), seamAttributes: new Uint8Array(8), ...changes });
  const status = (teeTcbSvn, changes, on = platform, isvSvn = 2) => {
    try {
      return statusOf(tcbInfo, qe, on, td(teeTcbSvn, changes), isvSvn).status;
    } catch (error) {
      return error.code ?? 'quote';
    }
  };
  assert.equal(status(svn(3)), 'UpToDate');
  assert.equal(status(svn(2)), 'tcb_status');
  assert.equal(status(svn(4, 1)), 'UpToDate');
  assert.equal(status(svn(2, 1)), 'OutOfDate');
  assert.equal(status(svn(1, 1)), 'tcb_status');
  assert.equal(status(svn(9, 2)), 'tcb_status');
  assert.equal(status(svn(9, 3)), 'quote', 'a module that Intel does not list');
  assert.equal(status(svn(2, 1), { teeTcbSvn2: svn(4, 1) }), 'TDRelaunchAdvised');
  assert.equal(status(svn(4, 1), { teeTcbSvn2: svn(9, 2) }), 'tcb_status');
  assert.equal(status(svn(3), { mrSignerSeam: new Uint8Array(48).fill(1) }), 'quote');
  assert.equal(status(svn(3), {}, { ...platform, cpuSvn: new Uint8Array(16).fill(6) }), 'OutOfDate');
  assert.equal(status(svn(3), {}, { ...platform, pceSvn: 4 }), 'tcb_status');
  assert.equal(status(svn(3), {}, { ...platform, fmspc: new Uint8Array(6).fill(1) }), 'quote');
  assert.equal(status(svn(3), {}, platform, 1), 'tcb_status');
});

test('certificates are read as DER only', () => {
  const { der } = root;
  for (let offset = 0; offset < der.length; offset += 3) {
    for (const bytes of [der.subarray(0, offset), Uint8Array.from([...der.subarray(0, offset), 0x80, ...der.subarray(offset + 1)])]) {
      try {
        new Certificate(bytes);
      } catch (error) {
        assert.equal(error.constructor.name, 'ChainError', error.stack);
      }
    }
  }
});
