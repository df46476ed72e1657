// Releases: what was released to whom, live; one release with its receipt, verified in the browser.

import { call, get, useGet, useTask, withQuery } from '../api.js';
import { METHODS, count, methodName, number } from '../format.js';
import * as proof from '../proof.js';
import { link } from '../router.js';
import {
  Button, Card, Chain, Code, Empty, Failure, Filters, Icon, Id, Loaded, Note, Page, Pages, Table, Time, Values, Whole, html, useMemo, useRef, useState,
} from '../ui.js';
import { SINCE, Tcb, save, start } from './common.js';

const EVENTS = ['app_key_released', 'kms_key_released', 'certificate_issued'];
const FIELDS = [
  { name: 'app', label: 'App id', placeholder: 'all apps' },
  { name: 'method', label: 'What', options: [['', 'everything'], ...Object.entries(METHODS)] },
  { name: 'period', label: 'Period', options: SINCE },
];

function List({ params, navigate }) {
  const { app, method, period, cursor } = params;
  const since = useMemo(() => start(period), [period]);
  const releases = useGet(withQuery('/api/v1/releases', { app, method, since, cursor, limit: 50 }), cursor ? {} : { every: 60, live: EVENTS });
  const first = useRef(null);
  const isFiltered = Boolean(app || method || period);
  return html`<${Page} title="Releases" lead="Keys and certificates that this KMS has given out, the newest first. Each is a record of the ledger.">
    <${Card} flush>
      <${Filters} fields=${FIELDS} params=${params} navigate=${navigate}>${cursor ? 'An older page; it does not change' : 'Updated as they happen'}<//>
      <${Loaded} of=${releases} lines=${10} empty=${(data) => data.releases.length === 0 && (isFiltered
        ? html`<${Empty} title="No release matches these filters">Wider filters show more.<//>`
        : html`<${Empty} title="No keys released yet">The first CVM that your policy allows appears here.<//>`)}>${({ releases: rows, next }) => {
        first.current ??= rows[0]?.seq ?? 0;
        return html`<${Table} caption="Releases" rows=${rows} rowKey=${({ seq }) => seq} href=${({ seq }) => link('releases', seq)} mark=${({ seq }) => (seq > first.current ? 'new' : '')} columns=${[
          { head: 'When', kind: 'shrink', cell: ({ seq, at }) => html`<a href=${link('releases', seq)}><${Time} at=${at} still /></a>` },
          { head: 'What', cell: (row) => methodName(row.method) },
          { head: 'App', cell: (row) => html`<${Id} value=${row.app_id} name="app id" still />` },
          { head: 'Instance', cell: (row) => html`<${Id} value=${row.instance_id} name="instance id" still />` },
          { head: 'Device', kind: 'minor', cell: (row) => html`<${Id} value=${row.device_id} name="device id" still />` },
          { head: 'OS image', kind: 'minor', cell: (row) => html`<${Id} value=${row.os_image_hash} name="OS image hash" still />` },
          { head: 'TCB status', cell: (row) => html`<${Tcb} status=${row.tcb_status} advisories=${row.tcb_advisories} />` },
          { head: 'From', kind: 'minor', cell: (row) => row.address ?? '—' },
          { head: 'Record', kind: 'num', cell: ({ seq }) => `#${number(seq)}` },
        ]} /><${Pages} cursor=${cursor} next=${next} navigate=${navigate} what="releases" />`;
      }}<//>
    <//>
  <//>`;
}

const passed = (step, message) => ({ step, state: 'passed', message });
const failed = (step, message) => ({ step, state: 'failed', message });
const open = (step, message) => ({ step, state: 'not_reached', message });

const fetchTile = async (path) => new Uint8Array(await call('GET', `/log/${path}`, { raw: true, accept: 'application/octet-stream' }));

/** Whether the log's key has signed a checkpoint; without a key nothing is known. */
async function signature(checkpoint, key, what) {
  if (!key) return open(what, 'the KMS did not tell the key of its log');
  try {
    const { signed } = await proof.isSigned(checkpoint, key);
    return signed ? passed(what, `Ed25519 signature of ${key.name}, key ${key.id}`) : failed(what, `not signed by key ${key.id} of ${key.name}`);
  } catch (error) {
    if (error instanceof proof.ProofError) throw error;
    return open(what, 'this browser cannot verify Ed25519 signatures');
  }
}

async function logKey() {
  try {
    return await proof.parseKey((await get('/api/v1/ledger')).log_key);
  } catch {
    return null;
  }
}

/** Verifies a release against its receipt, and against the log as it is now. Each step says what it has found. */
async function verify({ record, receipt, leaf }) {
  const steps = [];
  const take = (step) => {
    steps.push(step);
    return step.state !== 'failed';
  };
  const { entry, fits } = await proof.entryOf(record);
  if (!take(fits ? passed('Record', 'its own hash fits its content') : failed('Record', 'its own hash does not fit its content'))) return steps;
  const hash = await proof.leafHash(entry);
  if (leaf && !take(proof.hexOf(hash) === leaf.hash ? passed('Leaf', `SHA-256 of the record, ${leaf.hash.slice(0, 16)}…`) : failed('Leaf', 'the KMS names another leaf hash'))) return steps;
  const key = await logKey();
  let old = null;
  if (receipt) {
    const file = proof.parseProofFile(receipt);
    old = proof.parseCheckpoint(file.checkpoint);
    const isIn = await proof.isIncluded(hash, file.index, old.size, file.proof, old.root);
    const told = `leaf ${file.index} of a tree of ${number(Number(old.size))}, by ${count(file.proof.length, 'hash', 'hashes')}`;
    if (!take(isIn ? passed('Receipt', told) : failed('Receipt', 'its proof leads to another root'))) return steps;
    if (!take(await signature(old, key, 'Its checkpoint'))) return steps;
  } else {
    take(open('Receipt', 'there is none yet; the log itself is read'));
  }
  const now = proof.parseCheckpoint(await get('/log/checkpoint', { accept: 'text/plain' }));
  if (!take(await signature(now, key, 'The log now'))) return steps;
  const index = receipt ? proof.parseProofFile(receipt).index : BigInt(leaf?.index ?? -1);
  const made = await proof.proofFromTiles(index, now.size, fetchTile);
  const still = await proof.isIncluded(hash, index, now.size, made, now.root);
  if (!take(still ? passed('Still in it', `the tree of ${number(Number(now.size))} has the record, as computed from its tiles`) : failed('Still in it', 'the tiles of the log lead to another root'))) return steps;
  if (old && old.origin === now.origin) {
    const grown = await proof.isConsistent(old.size, old.root, now.size, now.root, await proof.consistencyFromTiles(old.size, now.size, fetchTile));
    if (!take(grown ? passed('Only grown', `from ${number(Number(old.size))} to ${number(Number(now.size))} records, nothing before was changed`) : failed('Only grown', 'the log does not continue the tree of the receipt'))) return steps;
  }
  const others = new Set(now.signatures.filter(({ name }) => name !== now.origin).map(({ name }) => name));
  if (others.size > 0) take(open('Witnesses', `cosigned by ${[...others].join(', ')}; their keys are not known here`));
  take(open('The key', 'that the root key vouches for the key of the log is not verified in a browser'));
  return steps;
}

function Verification({ release }) {
  const [steps, show] = useState(null);
  const task = useTask(async () => {
    show(null);
    try {
      show(await verify(release));
    } catch (error) {
      if (!(error instanceof proof.ProofError)) throw error;
      show([failed('Proof', error.message)]);
    }
    return true;
  });
  const wrong = steps?.some(({ state }) => state === 'failed');
  const command = `kmsctl audit verify https://${location.hostname}:8000 --receipt release-${release.seq}.proof`;
  return html`<${Card} title="Proof" aside=${release.receipt && html`<${Button} small onClick=${() => save(`release-${release.seq}.proof`, release.receipt)}><${Icon} name="download" />Receipt<//>`}>
    <div class="stack">
      <p class="soft">The record is a leaf of a Merkle tree that this KMS signs. Your browser can compute that from the receipt and the tiles of the log, without trusting an answer of the KMS.</p>
      ${!proof.isAble() && html`<${Note} kind="warn" title="Not possible on this page">Browsers give the functions for it only to pages that came by TLS or from this machine.<//>`}
      <div class="line"><${Button} kind="primary" busy=${task.busy} disabled=${!proof.isAble()} onClick=${() => task.run()}>${task.busy ? 'Verifying' : steps ? 'Verify again' : 'Verify in my browser'}<//></div>
      <${Failure} error=${task.error} retry=${() => task.run()} />
      <div role="status" class="stack">${steps && html`
        <${Note} kind=${wrong ? 'bad' : 'good'} title=${wrong ? 'This does not verify' : 'Verified in this browser'}>
          ${wrong ? 'Keep the receipt, and ask for the log from another place: something was changed.' : 'The record is in the log, and the log has only grown since. What is marked with a dash was not verified.'}<//>
        <${Chain} steps=${steps} />
        ${!wrong && html`<p class="soft">This page came from the KMS too. To depend on neither it nor your browser, with the address at which CVMs call:</p><${Code} text=${command} name="command" />`}`}</div>
    </div><//>`;
}

function One({ params, navigate }) {
  const release = useGet(`/api/v1/releases/${encodeURIComponent(params.id)}`);
  const { id, ...filters } = params;
  return html`<${Page} title=${`Release #${/^\d{1,15}$/.test(id) ? number(Number(id)) : id}`} back=${{ href: link('releases', null, filters), text: 'Releases' }}
    lead=${release.data && html`<span>${methodName(release.data.method)}, <${Time} at=${release.data.at} /></span>`}>
    <${Loaded} of=${release} lines=${12}>${(one) => html`<div class="grid">
      <div class="span7 stack"><${Card} title="What was released, and to whom"><${Values} of=${[
        { name: 'What', value: html`${methodName(one.method)} <code class="soft">${one.method}</code>` },
        { name: 'App id', value: one.app_id && html`<${Whole} value=${one.app_id} name="app id"><a href=${link('releases', null, { app: one.app_id })}>${one.app_id}</a><//>` },
        { name: 'Instance id', value: one.instance_id && html`<${Whole} value=${one.instance_id} name="instance id" />` },
        { name: 'Compose hash', value: one.compose_hash && html`<${Whole} value=${one.compose_hash} name="compose hash" />` },
        { name: 'OS image', value: one.os_image_hash && html`<${Whole} value=${one.os_image_hash} name="OS image hash" />` },
        { name: 'Aggregated measurement', value: one.mr_aggregated && html`<${Whole} value=${one.mr_aggregated} name="aggregated measurement" />` },
        { name: 'Device', value: one.device_id && html`<${Whole} value=${one.device_id} name="device id" />` },
        { name: 'TCB status', value: html`<${Tcb} status=${one.tcb_status} />` },
        { name: 'Advisories', value: one.tcb_advisories?.join(', ') },
        { name: 'Relaxed for it', value: one.relaxations?.join(', ') },
        { name: 'Names in the certificate', value: one.names?.join(', ') },
        { name: 'Key of the caller', hint: 'SHA-256 of its SPKI', value: one.spki_sha256 && html`<${Whole} value=${one.spki_sha256} name="key of the caller" />` },
        { name: 'From', value: one.address },
        { name: 'Policy', hint: 'SHA-256 of the rules', value: one.policy_sha256 && html`<${Whole} value=${one.policy_sha256} name="policy digest" />` },
        { name: 'Boot of the KMS', value: one.boot_id && html`<${Whole} value=${one.boot_id} name="boot id" />` },
      ]} /><//></div>
      <div class="span5 stack"><${Verification} release=${one} />
        <${Card} title="Record"><${Code} text=${one.record} name="record" /><//></div>
    </div>`}<//><//>`;
}

/** The view. */
export default function ReleasesView(props) {
  return props.params.id === null ? html`<${List} ...${props} />` : html`<${One} ...${props} />`;
}
