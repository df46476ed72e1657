// TCB levels: which one a platform has by Intel's documents, and what status follows. As Intel's QVL and as
// dcap-qvl 0.7 of Rust, which the KMS itself uses.
import { compare, fromHex, isEqual } from './bytes.js';
import { isObject, parse, whole } from './json.js';

export class TcbError extends Error {
  /** The code of the refusal, if it is about the status. */
  code;

  constructor(message, options, code) {
    super(message, options);
    this.code = code;
  }
}

const fail = (what, code) => {
  throw new TcbError(what, undefined, code);
};

/** The statuses that each document may state. */
const OF_PLATFORM = [
  'UpToDate',
  'OutOfDate',
  'ConfigurationNeeded',
  'Revoked',
  'OutOfDateConfigurationNeeded',
  'SWHardeningNeeded',
  'ConfigurationAndSWHardeningNeeded',
];
const OF_MODULE = ['UpToDate', 'OutOfDate', 'Revoked'];
const OF_QE = ['UpToDate', 'OutOfDate', 'ConfigurationNeeded', 'Revoked', 'OutOfDateConfigurationNeeded'];

/** All that a verified quote can have; `Revoked` is always refused. */
export const TCB_STATUSES = Object.freeze([
  ...OF_PLATFORM.filter((status) => status !== 'Revoked'),
  'TDRelaunchAdvised',
  'TDRelaunchAdvisedConfigurationNeeded',
]);

const hexField = (value, length, name) => {
  const bytes = fromHex(value);
  return bytes?.length === length ? bytes : fail(`${name} must be ${length} bytes in hex`);
};
const number = (value, most, name) =>
  Number.isInteger(value) && value >= 0 && value <= most ? value : fail(`${name} is not a number up to ${most}`);
const list = (value, name) => (Array.isArray(value) && value.every(isObject) ? value : fail(`${name} is not a list of objects`));
const object = (value, name) => (isObject(value) ? value : fail(`${name} is not an object`));
const svns = (value, name) => {
  const components = list(value, name);
  if (components.length !== 16) fail(`${name} must have 16 components`);
  return components.map(({ svn }) => number(svn, 255, name));
};
const advisories = (value) =>
  value === undefined || (Array.isArray(value) && value.every((name) => typeof name === 'string')) ? (value ?? []) : fail('advisoryIDs is not a list of texts');

function level(found, known, name) {
  if (!known.includes(found.tcbStatus)) fail(`${name} has a TCB status that is not known`);
  return { status: found.tcbStatus, advisories: advisories(found.advisoryIDs) };
}

/** Unix seconds of an RFC 3339 date with `Z`, as Intel writes them. */
function date(text, name) {
  if (typeof text !== 'string' || !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(text)) fail(`${name} is not a date`);
  const seconds = Math.floor(Date.parse(text) / 1000);
  return Number.isFinite(seconds) ? seconds : fail(`${name} is not a date`);
}

/** A document of Intel, and its dates in Unix seconds. */
export function readDocument(text, name) {
  const document = object(parse(text, whole), name);
  const issued = date(document.issueDate, `issueDate of ${name}`);
  return { document, issued, nextUpdate: date(document.nextUpdate, `nextUpdate of ${name}`) };
}

/** Only a component that is out of date or revoked changes the platform's status. */
export function converge(platform, component) {
  if (component === 'Revoked') return 'Revoked';
  if (component !== 'OutOfDate') return platform;
  if (platform === 'UpToDate' || platform === 'SWHardeningNeeded') return 'OutOfDate';
  if (platform === 'ConfigurationNeeded' || platform === 'ConfigurationAndSWHardeningNeeded') return 'OutOfDateConfigurationNeeded';
  return platform;
}

/** The status of a TD 1.5 whose module was updated since its launch. */
export function relaunch(launch, current) {
  const isBehind = launch === 'OutOfDate' || launch === 'OutOfDateConfigurationNeeded';
  const isCurrent = ['UpToDate', 'SWHardeningNeeded', 'ConfigurationNeeded', 'ConfigurationAndSWHardeningNeeded'].includes(current);
  if (!isBehind || !isCurrent) return launch;
  const needsConfiguration = launch === 'OutOfDateConfigurationNeeded' || current.startsWith('Configuration');
  return needsConfiguration ? 'TDRelaunchAdvisedConfigurationNeeded' : 'TDRelaunchAdvised';
}

/** The identity of the TDX module with the version in `svn`; `undefined` for version 0. */
function moduleIdentity(tcbInfo, svn) {
  if (svn[1] === 0) return undefined;
  const wanted = `tdx_${svn[1].toString(16).padStart(2, '0')}`;
  const known = list(tcbInfo.tdxModuleIdentities ?? [], 'tdxModuleIdentities');
  return known.find(({ id }) => typeof id === 'string' && id.toLowerCase() === wanted) ?? fail(`no identity of TDX module ${wanted}`);
}

/** Checks signer and attributes of the TDX module. */
export function checkModule(tcbInfo, td) {
  const base = object(tcbInfo.tdxModule, 'tdxModule');
  const expected = moduleIdentity(tcbInfo, td.teeTcbSvn) ?? base;
  if (!isEqual(td.mrSignerSeam, hexField(expected.mrsigner, 48, 'mrsigner of the TDX module'))) fail('TDX module has another signer');
  const attributes = hexField(expected.attributes, 8, 'attributes of the TDX module');
  const mask = hexField(expected.attributesMask, 8, 'attributesMask of the TDX module');
  td.seamAttributes.forEach((actual, i) => {
    if ((actual & mask[i]) !== (attributes[i] & mask[i]) || (actual & ~mask[i] & 0xff) !== 0) fail('TDX module has other attributes');
  });
}

/** The level of a platform with these versions, with that of its TDX module. */
function evaluate(tcbInfo, levels, { cpuSvn, pceSvn }, svn) {
  // With module identities, components 0 and 1 are the module's.
  const skipped = svn[1] > 0 ? 2 : 0;
  const found = levels.find(
    ({ sgx, tdx, pce }) =>
      sgx.every((needed, i) => cpuSvn[i] >= needed) && pceSvn >= pce && tdx.every((needed, i) => i < skipped || svn[i] >= needed),
  );
  if (found === undefined) fail('platform is below every TCB level', 'tcb_status');
  const platform = level(found.level, OF_PLATFORM, 'TCB info');
  const identity = moduleIdentity(tcbInfo, svn);
  if (identity === undefined) return platform;
  const ofModule = list(identity.tcbLevels, 'tcbLevels of the TDX module').find(
    ({ tcb }) => svn[0] >= number(object(tcb, 'tcb').isvsvn, 255, 'isvsvn'),
  );
  if (ofModule === undefined) fail('TDX module is below every TCB level', 'tcb_status');
  const module = level(ofModule, OF_MODULE, 'TDX module identity');
  return { status: converge(platform.status, module.status), advisories: union(platform.advisories, module.advisories) };
}

const union = (...lists) => [...new Set(lists.flat())];

/** The status of the quoting enclave with this ISVSVN. */
function qeLevel(identity, isvSvn) {
  const found = list(identity.tcbLevels, 'tcbLevels of the QE identity').find(
    ({ tcb }) => isvSvn >= number(object(tcb, 'tcb').isvsvn, 65535, 'isvsvn'),
  );
  if (found === undefined) fail('quoting enclave is below every TCB level', 'tcb_status');
  return level(found, OF_QE, 'QE identity');
}

/**
 * The TCB status of a quote, and the advisories that apply.
 *
 * @param {object} tcbInfo Intel's TCB info, verified
 * @param {object} qeIdentity Intel's QE identity, verified
 * @param {{cpuSvn: Uint8Array, pceSvn: number, fmspc: Uint8Array}} platform from the PCK certificate
 * @param {{teeTcbSvn: Uint8Array, teeTcbSvn2?: Uint8Array, mrSignerSeam: Uint8Array, seamAttributes: Uint8Array}} td
 * @param {number} qeIsvSvn
 */
export function statusOf(tcbInfo, qeIdentity, platform, td, qeIsvSvn) {
  if (tcbInfo.id !== 'TDX' || number(tcbInfo.version, 255, 'version') < 3) fail('TCB info is not about TDX');
  if (qeIdentity.id !== 'TD_QE' || ![2, 3].includes(qeIdentity.version)) fail('QE identity is not about TDX');
  if (!isEqual(platform.fmspc, hexField(tcbInfo.fmspc, 6, 'fmspc'))) fail('TCB info is about another platform model');
  const levels = list(tcbInfo.tcbLevels, 'tcbLevels').map((entry) => {
    const tcb = object(entry.tcb, 'tcb');
    return {
      level: entry,
      sgx: svns(tcb.sgxtcbcomponents, 'sgxtcbcomponents'),
      tdx: svns(tcb.tdxtcbcomponents, 'tdxtcbcomponents'),
      pce: number(tcb.pcesvn, 65535, 'pcesvn'),
    };
  });
  // Intel's order does not depend on that of the text.
  levels.sort((a, b) => compare(b.sgx, a.sgx) || b.pce - a.pce || compare(b.tdx, a.tdx));

  checkModule(tcbInfo, td);
  const launch = evaluate(tcbInfo, levels, platform, td.teeTcbSvn);
  const qe = qeLevel(qeIdentity, qeIsvSvn);
  const status = converge(launch.status, qe.status);
  const current =
    td.teeTcbSvn2 && converge(evaluate(tcbInfo, levels, platform, td.teeTcbSvn2).status, qe.status);
  if (status === 'Revoked' || current === 'Revoked') fail('TCB status is Revoked', 'tcb_status');
  return {
    status: current === undefined ? status : relaunch(status, current),
    advisories: union(launch.advisories, qe.advisories),
  };
}
