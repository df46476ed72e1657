import assert from 'node:assert/strict';
import test from 'node:test';
import { ATTESTATION_CODES, ArgumentError, AttestationError, parsePins, verify } from '../src/verify.js';
import * as simulated from './simulated.js';
import { EVENTS, NOW, ROOT, ROOT_KEY, document, fingerprint, logOf, newKey, statement } from './simulated.js';

const PINS = { root_ca_spki_sha256: fingerprint(ROOT_KEY) };
const OPTIONS = { now: NOW, tdxRootCa: ROOT };

const verdict = async (given, pins = PINS, options = {}) => {
  try {
    return await verify(given, pins, { ...OPTIONS, ...options });
  } catch (error) {
    if (!(error instanceof AttestationError)) throw error;
    assert.ok(ATTESTATION_CODES.includes(error.code), error.code);
    assert.match(error.message, /^[^\n]{10,600}$/);
    return error.code;
  }
};

const MEASURED = (await verify(document(), PINS, OPTIONS)).measurements;

test('a document proves what its quote measures and its statement says', async () => {
  const proved = await verdict(Buffer.from(document()));
  assert.equal(proved.statement.root.ca_spki_sha256, PINS.root_ca_spki_sha256);
  assert.equal(proved.measurements.app_id, '11'.repeat(20));
  assert.equal(proved.measurements.compose_hash, '22'.repeat(32));
  assert.equal(proved.measurements.instance_id, '33'.repeat(20));
  assert.equal(proved.measurements.os_image_hash, '77'.repeat(32));
  assert.equal(proved.measurements.key_provider, '{"name":"none","id":""}');
  assert.deepEqual(proved.tcb, { status: 'UpToDate', advisories: [], fmspc: '000000000000' });
  assert.equal(proved.isSignedByRoot, true);
});

test('every pin must have the proved value, and one must say which KMS is meant', async () => {
  const matching = {
    root_ca_spki_sha256: PINS.root_ca_spki_sha256,
    k256_public_key: simulated.K256,
    mr_aggregated: MEASURED.mr_aggregated,
    os_image_hash: MEASURED.os_image_hash,
    compose_hash: MEASURED.compose_hash,
    app_id: MEASURED.app_id,
    log_key: statement().log.key,
    policy_digest: statement().policies.default.digest,
  };
  const given = document();
  assert.equal((await verdict(given, matching)).verifiedAt, NOW);
  for (const [name, value] of Object.entries(matching)) {
    const other = name === 'log_key' ? 'another' : value.replace(/./g, (digit) => (digit === '0' ? '1' : '0'));
    assert.equal(await verdict(given, { ...PINS, [name]: other }), 'pin_mismatch', name);
    assert.equal(await verdict(given, { ...PINS, [name]: [] }), 'bad_pins', name);
    assert.equal(await verdict(given, { ...PINS, [name]: value.replace(/.$/, 'F') }), name === 'log_key' ? 'pin_mismatch' : 'bad_pins', name);
    assert.equal((await verdict(given, { ...PINS, [name]: [other, value] })).verifiedAt, NOW, name);
    const isEnough = name === 'root_ca_spki_sha256' || name === 'mr_aggregated';
    const alone = await verdict(given, { [name]: value });
    assert.equal(alone.verifiedAt ?? alone, isEnough ? NOW : 'no_pin', name);
  }
  assert.equal(await verdict(given, {}), 'no_pin');
  for (const pins of [{ ...PINS, root_ca: 'x' }, { ...PINS, app_id: 7 }, { ...PINS, app_id: [null] }, [], null, 'x']) {
    assert.equal(await verdict(given, pins), 'bad_pins', JSON.stringify(pins));
  }
});

test('pins of a file are read strictly', () => {
  assert.deepEqual(parsePins(Buffer.from(`{"app_id":"${'11'.repeat(20)}"}`)), { app_id: ['11'.repeat(20)] });
  const twice = `{"app_id":"${'11'.repeat(20)}","app_id":"${'22'.repeat(20)}"}`;
  for (const text of [twice, '{"__proto__":{"app_id":"x"}}', '', '[]', '{"app_id":{}}', '\xff']) {
    assert.throws(() => parsePins(Buffer.from(text, 'latin1')), { code: 'bad_pins' }, text);
  }
});

test('whoever alters a part of a document is found out', async () => {
  const altered = (alter) => document(statement(), { alter });
  const of = (value) => JSON.stringify(value);
  for (const [name, alter, expected] of [
    ['nothing', () => {}, NOW],
    ['unknown keys', (parts) => ({ ...parts, more: { a: [] } }), NOW],
    ['statement', (parts) => { parts.statement = parts.statement.replace('"sealed":true', '"sealed":false'); }, 'report_data'],
    ['white space in the statement', (parts) => { parts.statement += ' '; }, 'report_data'],
    ['quote of another statement', (parts) => { parts.quote = JSON.parse(document(statement({ sealed: false }))).quote; }, 'report_data'],
    ['no collateral', (parts) => { parts.collateral = null; }, 'collateral_missing'],
    ['collateral left out', (parts) => { delete parts.collateral; }, 'collateral_missing'],
    ['collateral is a list', (parts) => { parts.collateral = []; }, 'collateral_mismatch'],
    ['event left out', (parts) => { parts.event_log = of(logOf(EVENTS).slice(1)); }, 'event_log'],
    ['event renamed', (parts) => { parts.event_log = parts.event_log.replace('compose-hash', 'compose-hush'); }, 'event_log'],
    ['no events', (parts) => { parts.event_log = '[]'; }, 'event_log'],
    ['events are no list', (parts) => { parts.event_log = '{}'; }, 'malformed'],
    ['events are no text', (parts) => { parts.event_log = []; }, 'malformed'],
    ['events are no JSON', (parts) => { parts.event_log = 'x'; }, 'malformed'],
    ['event payload is not hex', (parts) => { parts.event_log = parts.event_log.replace(/"event_payload":"1111/, '"event_payload":"111'); }, 'malformed'],
    ['5000 events', (parts) => { parts.event_log = of(Array(5000).fill(logOf(EVENTS)[0])); }, 'malformed'],
    ['digest of a version 1 event', (parts) => { parts.event_log = parts.event_log.replace(/"digest":"[^"]*"/g, '"digest":""'); }, NOW],
    ['event that is not a runtime event', (parts) => { parts.event_log = of([{ imr: 0, event_type: 10, digest: 'ab', event: 'x', event_payload: '' }, ...logOf(EVENTS)]); }, NOW],
    ['signature of the root', (parts) => { parts.root.signature = '11'.repeat(64); }, 'root_signature'],
    ['another key than the root', (parts) => { parts.root.ca_spki = simulated.spkiOf(newKey()).toString('hex'); }, 'root_signature'],
    ['no signature of the root', (parts) => { parts.root = null; }, 'root_signature'],
    ['signature of the root of another quote', (parts) => { parts.root = JSON.parse(document()).root; }, 'root_signature'],
    ['signature of another length', (parts) => { parts.root.signature += '00'; }, 'malformed'],
    ['version', (parts) => { parts.version = 2; }, 'unknown_version'],
    ['no version', (parts) => { delete parts.version; }, 'malformed'],
    ['quote in upper case', (parts) => { parts.quote = parts.quote.toUpperCase(); }, 'malformed'],
    ['quote cut off', (parts) => { parts.quote = parts.quote.slice(0, 100); }, 'quote'],
    ['no quote', (parts) => { parts.quote = ''; }, 'quote'],
    ['image', (parts) => { parts.vm_config = of({ os_image_hash: '88'.repeat(32) }); }, NOW],
    ['configuration nested', (parts) => { parts.vm_config = of({ vm_config: parts.vm_config }); }, NOW],
    ['configuration nested beside another', (parts) => { parts.vm_config = of({ vm_config: parts.vm_config, image: 'x' }); }, 'identity'],
    ['configuration is no JSON', (parts) => { parts.vm_config = '{'; }, 'identity'],
    ['configuration with a key twice', (parts) => { parts.vm_config = '{"image":"a","image":"b"}'; }, 'identity'],
    ['configuration with a value of another type', (parts) => { parts.vm_config = of({ cpu_count: '2' }); }, 'identity'],
    ['configuration with a fraction', (parts) => { parts.vm_config = '{"cpu_count":2.0}'; }, 'identity'],
    ['configuration with all kinds of values', (parts) => { parts.vm_config = of({ os_image_hash: 'AB'.repeat(32), cpu_count: 2, memory_size: 2 ** 40, pic: null, image: 'x', numa_nodes: [{}, { pxb_bus: 5 }], extra_root_devices: [1], hugepages: true, tdx_attestation_variant: 'lite', tdx_measurement: { checksum_file: 'AA==', measurement: '' }, spec_version: {} }); }, NOW],
    ['image hash null', (parts) => { parts.vm_config = of({ os_image_hash: null }); }, 'identity'],
    ['measurement cut', (parts) => { parts.vm_config = of({ tdx_measurement: { checksum_file: 'AA==' } }); }, 'identity'],
    ['digest null', (parts) => { parts.event_log = parts.event_log.replace(/"digest":"[^"]*"/, '"digest":null'); }, 'malformed'],
    ['no configuration', (parts) => { parts.vm_config = ''; }, NOW],
    ['too large', (parts) => { parts.more = 'x'.repeat(1 << 20); }, 'too_large'],
  ]) {
    const found = await verdict(altered(alter));
    assert.equal(found.verifiedAt ?? found, expected, name);
  }
});

test('without the signature of the root a measurement can say which KMS it is', async () => {
  const unsigned = document(statement(), { alter: (parts) => void delete parts.root });
  const proved = await verdict(unsigned, { mr_aggregated: MEASURED.mr_aggregated });
  assert.equal(proved.isSignedByRoot, false);
  const wrong = document(statement(), { alter: (parts) => void (parts.root.signature = '11'.repeat(64)) });
  assert.equal(await verdict(wrong, { mr_aggregated: MEASURED.mr_aggregated }), 'root_signature');
});

test('what is no document is refused with a code', async () => {
  const good = document();
  for (const [given, expected] of [
    ['', 'malformed'],
    ['[]', 'malformed'],
    ['null', 'malformed'],
    ['{"version":1}', 'malformed'],
    [`${good}x`, 'malformed'],
    [Buffer.from([0xff]), 'malformed'],
    [`\ufeff${good}`, 'malformed'],
    [good.replace('"version":1', '"version":1.0'), 'malformed'],
    [good.replace('"version":1', '"version":1e0'), 'malformed'],
    [good.replace('{', '{"version":1,'), 'duplicate_key'],
    [good.replace('{', '{"a":{"b":1,"b":2},'), 'duplicate_key'],
    [`${good.replace('{', '{"version":1,')}x`, 'malformed'],
    [good.replace('{', '{"__proto__":{"version":1,"quote":"00"},'), NOW],
    [`{"__proto__":${good}}`, 'malformed'],
    ['['.repeat(100_000), 'malformed'],
    [Buffer.alloc((1 << 20) + 1, ' '), 'too_large'],
  ]) {
    const found = await verdict(given);
    assert.equal(found.verifiedAt ?? found, expected, String(given).slice(0, 60));
  }
  assert.equal({}.quote, undefined);
});

test('a statement must have its form even when it is attested', async () => {
  const without = (name) => {
    const stated = statement();
    delete stated[name];
    return stated;
  };
  for (const [stated, expected] of [
    [statement({ version: 2 }), 'unknown_version'],
    [statement({ more: 1 }), NOW],
    [statement({ log: null }), NOW],
    [statement({ policies: { default: { kind: 'dev', digest: null }, __proto__: null, other: { kind: 'x' } } }), NOW],
    [statement({ time: -1 }), 'malformed'],
    [statement({ time: 1.5 }), 'malformed'],
    [statement({ time: '1' }), 'malformed'],
    [statement({ sealed: 1 }), 'malformed'],
    [statement({ nonce: 'xy' }), 'malformed'],
    [statement({ endpoints: 'https://a' }), 'malformed'],
    [statement({ rpc_spki_sha256: '55'.repeat(31) }), 'malformed'],
    [statement({ policies: { default: {} } }), 'malformed'],
    [without('root'), 'malformed'],
    [without('endpoints'), 'malformed'],
    [without('sealed'), 'malformed'],
    ['{}', 'malformed'],
    ['[]', 'malformed'],
    [JSON.stringify(statement()).replace('{', '{"time":1,'), 'duplicate_key'],
  ]) {
    const found = await verdict(document(stated));
    assert.equal(found.verifiedAt ?? found, expected, JSON.stringify(stated));
  }
});

test('a document is believed for ten minutes, and only as the answer to its nonce', async () => {
  const nonce = 'ab'.repeat(32);
  for (const [stated, options, expected] of [
    [{}, { now: NOW + 600 }, true],
    [{}, { now: NOW + 601 }, 'time'],
    [{}, { now: NOW + 601, maxAge: 700 }, true],
    [{}, { now: NOW + 86_400, maxAge: null }, true],
    [{}, { now: NOW - 300 }, true],
    [{}, { now: NOW - 301 }, 'time'],
    [{}, { now: NOW - 301, maxAge: null }, 'time'],
    [{ nonce }, { nonce }, true],
    [{ nonce }, {}, true],
    [{}, { nonce }, 'nonce'],
    [{ nonce }, { nonce: 'ac'.repeat(32) }, 'nonce'],
  ]) {
    const found = await verdict(document(statement(stated)), PINS, options);
    assert.equal(found.verifiedAt === undefined ? found : true, expected, JSON.stringify([stated, options]));
  }
});

test('a TCB status is accepted only if it is named', async () => {
  const { collateral } = simulated.json('tdx_quotes.json');
  const behind = document(statement(), { alter: (parts) => void (parts.collateral = collateral['platform-outofdate']) });
  assert.equal(await verdict(behind), 'tcb_status');
  assert.equal(await verdict(behind, PINS, { tcbStatuses: ['SWHardeningNeeded'] }), 'tcb_status');
  const proved = await verdict(behind, PINS, { tcbStatuses: ['UpToDate', 'OutOfDate'] });
  assert.deepEqual(proved.tcb, { status: 'OutOfDate', advisories: ['INTEL-SA-00001', 'INTEL-SA-00002'], fmspc: '000000000000' });
  const revoked = document(statement(), { alter: (parts) => void (parts.collateral = collateral['platform-revoked']) });
  assert.equal(await verdict(revoked), 'tcb_status');
});

test('events are read before system-ready, and version 2 needs its preimages', async () => {
  const events = (list, version) => document(statement(), { log: logOf(list, version) });
  const proved = await verdict(events([...EVENTS, ['app-id', '99'.repeat(20)], ['a:b', '00']]));
  assert.equal(proved.measurements.app_id, '11'.repeat(20));
  assert.equal(await verdict(events([['app-id:', ''], ...EVENTS])), 'event_log');
  assert.equal((await verdict(events(EVENTS, 2))).measurements.app_id, '11'.repeat(20));
  const altered = (alter) => document(statement(), { log: logOf(EVENTS, 2), alter: (parts) => {
    const log = JSON.parse(parts.event_log);
    alter(log);
    parts.event_log = JSON.stringify(log);
  } });
  for (const [name, alter, expected] of [
    ['no preimage', (log) => void delete log[1].preimage, 'event_log'],
    ['stripped', (log) => log.forEach((event) => { event.digest = ''; delete event.preimage; }), NOW],
    ['preimage of another', (log) => { log[1].preimage = log[2].preimage; }, 'event_log'],
    ['digest of another', (log) => { log[1].digest = log[2].digest; }, 'event_log'],
    ['another register', (log) => { log[1].imr = 2; }, 'event_log'],
    ['said to be version 1', (log) => { log[1].version = 1; }, 'event_log'],
    ['version 3', (log) => { log[1].version = 3; }, 'malformed'],
  ]) {
    const found = await verdict(altered(alter));
    assert.equal(found.verifiedAt ?? found, expected, name);
  }
});

test("only Intel's root is trusted unless another is given", async () => {
  const given = document();
  await assert.rejects(verify(given, PINS, { now: NOW }), { code: 'quote' });
  const { root_ca: roots } = simulated.json('tdx_quotes.json');
  assert.equal(await verdict(given, PINS, { tdxRootCa: roots.other.pem }), 'quote');
  assert.equal((await verdict(given, PINS, { tdxRootCa: Uint8Array.from(Buffer.from(roots.mock.der, 'hex')) })).verifiedAt, NOW);
});

test('wrong options are errors of the caller', async () => {
  for (const options of [{ now: 1.5 }, { now: '1' }, { nonce: 'x' }, { maxAge: -1 }, { maxAge: 'any' }, { tcbStatuses: [] }, { tcbStatuses: ['Unknown'] }, { tcbStatuses: 'UpToDate' }, { tdxRootCa: 'x' }, { tdxRootCa: 7 }]) {
    await assert.rejects(verify(document(), PINS, { ...OPTIONS, ...options }), ArgumentError, JSON.stringify(options));
  }
});
