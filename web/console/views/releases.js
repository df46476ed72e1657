// Releases: what was released to whom, live; one release with its receipt, verified in the browser.

import { useGet, useTask, withQuery } from '../api.js';
import { METHODS, methodName, number } from '../format.js';
import { isAble } from '../proof.js';
import { link } from '../router.js';
import {
  Button, Card, Chain, Code, Empty, Failure, Filters, Icon, Loaded, Note, Page, Pages, Table, Time, Told, Values, column, html, useMemo, useRef, useState, whole,
} from '../ui.js';
import { RELEASE, SINCE, Tcb, identity, save, start, useDomainFilter } from './common.js';
import { verify } from './release_proof.js';

const EVENTS = ['app_key_released', 'kms_key_released', 'certificate_issued'];
const FIELDS = [
  { name: 'app', label: 'App id', placeholder: 'all apps' },
  { name: 'method', label: 'What', options: [['', 'everything'], ...Object.entries(METHODS)] },
  { name: 'period', label: 'Period', options: SINCE },
];

function List({ params, navigate }) {
  const { app, method, domain, period, cursor } = params;
  const { fields, columns } = useDomainFilter(FIELDS);
  const since = useMemo(() => start(period), [period]);
  const releases = useGet(withQuery('/api/v1/releases', { app, method, domain, since, cursor, limit: 50 }), cursor ? {} : { every: 60, live: EVENTS });
  const first = useRef(null);
  const isFiltered = Boolean(app || method || domain || period);
  return html`<${Page} title="Releases" lead="Keys and certificates that this KMS has given out, the newest first. Each is a record of the ledger.">
    <${Card} flush>
      <${Filters} fields=${fields} params=${params} navigate=${navigate}>${cursor ? 'An older page; it does not change' : 'Updated as they happen'}<//>
      <${Loaded} of=${releases} lines=${10} empty=${(data) => data.releases.length === 0 && (isFiltered
        ? html`<${Empty} title="No release matches these filters">Wider filters show more.<//>`
        : html`<${Empty} title="No keys released yet">The first CVM that your policy allows appears here.<//>`)}>${({ releases: rows, next }) => {
        first.current ??= rows[0]?.seq ?? 0;
        return html`<${Table} caption="Releases" rows=${rows} rowKey=${({ seq }) => seq} href=${({ seq }) => link('releases', seq)} mark=${({ seq }) => (seq > first.current ? 'new' : '')} columns=${[
          RELEASE.when, RELEASE.what,
          column.id('App', 'app_id', 'app id'),
          ...columns,
          column.id('Instance', 'instance_id', 'instance id'),
          RELEASE.device, RELEASE.image, RELEASE.tcb,
          { head: 'From', kind: 'minor spare', cell: (row) => row.address ?? '—' },
          RELEASE.record,
        ]} /><${Pages} cursor=${cursor} next=${next} navigate=${navigate} what="releases" />`;
      }}<//>
    <//>
  <//>`;
}

const OUTCOMES = {
  verified: ['good', 'Verified in this browser', 'The record is in the log, and the log has only grown since. What is marked with a dash was not verified.'],
  partly: ['warn', 'Verified in part', 'Nothing is wrong, but no signature of the log was verified. What is marked with a dash was not verified.'],
  wrong: ['bad', 'This does not verify', 'Keep the receipt, and compare the log with a copy from another place: something was changed.'],
};

function Verification({ release }) {
  const [result, show] = useState(null);
  const task = useTask(async () => {
    show(null);
    show(await verify(release));
    return true;
  });
  const [kind, title, text] = OUTCOMES[result?.outcome] ?? [];
  const command = `kmsctl audit verify https://${location.hostname}:8000 --receipt release-${release.seq}.proof`;
  return html`<${Card} title="Proof" aside=${release.receipt && html`<${Button} small onClick=${() => save(`release-${release.seq}.proof`, release.receipt)}><${Icon} name="download" />Receipt<//>`}>
    <div class="stack">
      <p class="soft">The record is a leaf of a Merkle tree that this KMS signs. Your browser can compute that from the receipt and the tiles of the log, without trusting an answer of the KMS.</p>
      ${!isAble() && html`<${Note} kind="warn" title="Not possible on this page">Browsers give the functions for it only to pages that came by TLS or from this machine.<//>`}
      <div class="line"><${Button} kind="primary" busy=${task.busy} disabled=${!isAble()} onClick=${() => task.run()}>${task.busy ? 'Verifying' : result ? 'Verify again' : 'Verify in my browser'}<//></div>
      <${Failure} error=${task.error} retry=${() => task.run()} />
      <div role="status" class="stack">${result && html`
        <${Note} kind=${kind} title=${title}>${text}<//>
        <${Chain} steps=${result.steps.map((step) => ({ ...step, message: html`<${Told} asIs>${step.message}<//>` }))} />
        ${result.outcome !== 'wrong' && html`<p class="soft">This page came from the KMS too. To depend on neither it nor your browser, with the address at which CVMs call:</p><${Code} text=${command} name="command" />`}`}</div>
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
        ...identity(one),
        { name: 'TCB status', value: html`<${Tcb} status=${one.tcb_status} />` },
        { name: 'Advisories', value: one.tcb_advisories?.join(', ') },
        { name: 'Relaxed for it', value: one.relaxations?.join(', ') },
        { name: 'Names in the certificate', value: one.names?.join(', ') },
        whole('Key of the caller', one.spki_sha256, 'key of the caller', { hint: 'SHA-256 of its SPKI' }),
        { name: 'From', value: one.address },
        whole('Policy', one.policy_sha256, 'policy digest', { hint: 'SHA-256 of the rules' }),
        whole('Boot of the KMS', one.boot_id, 'boot id'),
      ]} /><//></div>
      <div class="span5 stack"><${Verification} release=${one} />
        <${Card} title="Record"><${Code} text=${one.record} name="record" /><//></div>
    </div>`}<//><//>`;
}

/** The view. */
export default function ReleasesView(props) {
  return props.params.id === null ? html`<${List} ...${props} />` : html`<${One} ...${props} />`;
}
