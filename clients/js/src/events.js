// The event log of the KMS's machine: it must replay to RTMR3, and says what runs there.
import { concat, fromBase64, fromHex, isEqual, isZero, toHex, utf8 } from './bytes.js';
import { sha256, sha384 } from './crypto.js';
import { printable, refuse } from './errors.js';
import { JsonError, isObject, parse, whole } from './json.js';

const RUNTIME_EVENT = 0x08000001;
const RUNTIME_REGISTER = 3;
const SYSTEM_READY = 'system-ready';
const MAX_EVENTS = 4096;
/** Init scripts of a guest. */
const MAX_INIT_SCRIPTS = 5;

const bad = (what) => refuse('malformed', `the document is malformed: ${what}`);

/** A text of JSON inside the answer. */
function inner(text, name, refused = bad) {
  try {
    return parse(text, whole);
  } catch (error) {
    if (error instanceof JsonError) refused(`${name} ${error.message}`);
    throw error;
  }
}

const register = (value) => Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff;

/** An entry of the log. */
function entryOf(given, index) {
  const at = `event ${index} of the event log`;
  if (!isObject(given)) bad(`${at} is not an object`);
  const { imr, event_type: type, event, version = 1 } = given;
  if (!register(imr) || !register(type)) bad(`${at} has no register or no type`);
  if (typeof event !== 'string') bad(`${at} has no name`);
  if (version !== 1 && version !== 2) bad(`${at} has an unknown version`);
  const payload = fromHex(given.event_payload) ?? bad(`the payload of ${at} is not hex`);
  const digest = fromHex('digest' in given ? given.digest : '') ?? bad(`the digest of ${at} is not hex`);
  const preimage = given.preimage == null ? undefined : (fromHex(given.preimage) ?? bad(`the preimage of ${at} is not hex`));
  return { imr, type, event, version, payload, digest, preimage };
}

/**
 * What is hashed into the digest of a runtime event.
 *
 * Version 1: `u32le(type) ‖ ":" ‖ name ‖ ":" ‖ payload`. Version 2: canonical JSON (RFC 8785) of name, payload in
 * hex, and type; JSON.stringify writes texts and whole numbers in that form.
 */
function preimageOf({ event, payload, version }) {
  if (version === 2) return utf8(JSON.stringify({ name: event, payload: toHex(payload), type: RUNTIME_EVENT }));
  const type = new Uint8Array(4);
  new DataView(type.buffer).setUint32(0, RUNTIME_EVENT, true);
  return concat(type, utf8(`:${event}:`), payload);
}

/** The event log, from its JSON. */
export function readLog(text) {
  const log = inner(text, 'the event log');
  if (!Array.isArray(log)) bad('the event log is not a list');
  if (log.length > MAX_EVENTS) bad(`the event log has more than ${MAX_EVENTS} events`);
  return log.map(entryOf);
}

const changed = (what) => refuse('event_log', `the event log is not what the quote measured: ${what}`);

/** The runtime events of a log, in order. They must replay to RTMR3, which alone binds them to the quote. */
export async function runtimeEvents(log, rtMr3) {
  const events = log.filter(({ type }) => type === RUNTIME_EVENT);
  // A version 1 digest covers `name:payload`, so the border between them could be moved.
  if (systemEvents(events).some(({ event, version }) => version === 1 && event.includes(':'))) changed('the name of an event has a colon');
  let replayed = new Uint8Array(48);
  for (const event of events) {
    event.canonical = preimageOf(event);
    event.measured = await sha384(event.canonical);
    replayed = await sha384(replayed, event.measured);
  }
  if (!isEqual(replayed, rtMr3)) changed('its events do not replay to RTMR3');
  // As in the guests that write only version 1, nothing is read from its digests.
  if (events.some(({ version }) => version === 2)) events.forEach(checkDigest);
  return events;
}

function checkDigest({ imr, event, version, digest, preimage, measured, canonical }) {
  const isStripped = digest.length === 0;
  if (imr !== RUNTIME_REGISTER || (!isStripped && !isEqual(digest, measured))) changed(`${printable(event)} has another register or digest`);
  if (version === 2 && !isStripped && preimage === undefined) changed(`${printable(event)} has no preimage`);
  if (preimage !== undefined && !isEqual(preimage, canonical)) changed(`${printable(event)} has another preimage`);
}

const systemEvents = (events) => {
  const end = events.findIndex(({ event }) => event === SYSTEM_READY);
  return end === -1 ? events : events.slice(0, end);
};

/** The payloads of the events with this name before `system-ready`, after which apps add theirs. */
const payloads = (events, name) => systemEvents(events).filter(({ event }) => event === name).map(({ payload }) => payload);

const number = (most) => (value) => Number.isInteger(value) && value >= 0 && value <= most;
const isText = (value) => typeof value === 'string';
const isBool = (value) => typeof value === 'boolean';
const nullable = (is) => (value) => value === null || is(value);
const isList = (is) => (value) => Array.isArray(value) && value.every(is);
const isBase64 = (value) => isText(value) && fromBase64(value) !== undefined;
const isMeasurement = (value) => isObject(value) && isBase64(value.checksum_file) && isBase64(value.measurement);
const isNode = (value) => isObject(value) && nullable(number(255))(value.pxb_bus ?? null);
const [u32, u64] = [number(0xffff_ffff), number(2 ** 64)];

/** The keys of a VM configuration, and which values they may have. */
const VM_CONFIG = {
  os_image_hash: (value) => fromHex(value) !== undefined,
  cpu_count: u32,
  memory_size: u64,
  qemu_single_pass_add_pages: nullable(isBool),
  pic: nullable(isBool),
  qemu_version: nullable(isText),
  pci_hole64_size: u64,
  hugepages: isBool,
  numa_nodes: isList(isNode),
  num_gpus: u32,
  num_nvswitches: u32,
  num_nics: u32,
  num_verity_volumes: u32,
  extra_root_devices: isList(() => true),
  swtpm: isBool,
  hotplug_off: isBool,
  image: nullable(isText),
  host_share_mode: isText,
  ovmf_variant: nullable((value) => value === 'pre202505'),
  tdx_attestation_variant: (value) => value === 'legacy' || value === 'lite',
  tdx_measurement: nullable(isMeasurement),
  gcp_measurement: nullable(isMeasurement),
  aws_measurement: nullable(isMeasurement),
  // Read by other platforms only.
  sev_snp_measurement: () => true,
};

const nameless = (what) => refuse('identity', `the evidence names no guest: ${what}`);

/** The hash of the OS image that a VM configuration claims; empty if it claims none. */
function osImageHash(text) {
  const read = (config, name) => {
    const value = inner(config, name, nameless);
    return isObject(value) ? value : nameless(`${name} is not an object`);
  };
  let config = read(text === '' ? '{}' : text, 'vm_config');
  const nested = config.vm_config ?? '';
  if (typeof nested !== 'string') nameless('vm_config in vm_config is not a text');
  if (nested !== '') {
    if (Object.keys(VM_CONFIG).some((key) => key in config)) nameless('a nested vm_config is beside keys of one');
    config = read(nested, 'nested vm_config');
    if ((config.vm_config ?? '') !== '') nameless('vm_config is nested twice');
  }
  for (const [key, isValid] of Object.entries(VM_CONFIG)) {
    if (key in config && !isValid(config[key])) nameless(`${key} of vm_config has a value of another form`);
  }
  return fromHex(config.os_image_hash ?? '');
}

/**
 * Who a machine is, from the registers of its verified quote and the events that replay to RTMR3. Bytes are in
 * hex; what the log does not state is empty.
 *
 * @param {object} td
 * @param {Awaited<ReturnType<typeof runtimeEvents>>} events
 * @param {string} vmConfig the hash of the OS image in it is a claim
 * @param {Uint8Array} ppid
 */
export async function identityOf(td, events, vmConfig, ppid) {
  const first = (name) => payloads(events, name)[0] ?? new Uint8Array(0);
  const scripts = payloads(events, 'init-script-hash');
  if (scripts.length > MAX_INIT_SCRIPTS || scripts.some(({ length }) => length !== 32)) nameless('init script hashes have a wrong form');
  const keyProvider = first('key-provider');
  const mrKeyProvider = keyProvider.length === 0 ? new Uint8Array(32) : await sha256(keyProvider);
  const base = [td.mrTd, td.rtMr0, td.rtMr1, td.rtMr2];
  const launch = concat(td.mrConfigId, td.mrOwner, td.mrOwnerConfig);
  return {
    app_id: toHex(first('app-id')),
    compose_hash: toHex(first('compose-hash')),
    instance_id: toHex(first('instance-id')),
    device_id: toHex(await sha256(ppid)),
    mr_system: toHex(await sha256(...base, mrKeyProvider)),
    mr_aggregated: toHex(await sha256(...base, td.rtMr3, isZero(launch) ? new Uint8Array(0) : launch)),
    os_image_hash: toHex(osImageHash(vmConfig)),
    key_provider: new TextDecoder().decode(keyProvider),
  };
}
