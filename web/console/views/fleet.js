// The nodes that share their state: what each says of itself, what differs, and what is wrong.

import { post, useGet, useTask } from '../api.js';
import { count, duration, milliseconds, number, sentence, words } from '../format.js';
import { can } from '../roles.js';
import { go, link } from '../router.js';
import { Button, Card, Confirm, Empty, Figure, Id, Listed, Loaded, Note, Page, Table, Time, Values, column, html, pill, soft, toast, useState, whole } from '../ui.js';
import { waits } from './common.js';
import { FleetLists } from './fleet_lists.js';
import { RolloutCard } from './rollout.js';

const PATH = '/api/v1/fleet';
const EVENTS = ['state_adopted', 'state_alarm', 'state_repaired', 'state_set_aside'];

/** What nodes that answer should have in common: name of the field, and words. */
const COMMON = { version: 'version', mr_aggregated: 'measurement', policies: 'policies', domains_sha256: 'domains', root_epoch: 'root epoch' };
const asText = (value) => (value && typeof value === 'object' ? JSON.stringify(Object.entries(value).sort()) : String(value ?? ''));

/** The names of the fields in which a node differs from the one that answers. */
function differing(node, self) {
  if (!node.answers || !node.status || !self?.status || node.this) return [];
  const names = Object.keys(COMMON).filter((name) => asText(node.status[name]) !== asText(self.status[name]));
  return node.canary_equal === false ? [...names, 'canary'] : names;
}

function Standing({ of: { answers, status, unknown } }) {
  if (!answers) return unknown ? pill('Not known', 'warn') : pill('No answer', 'bad');
  if (!status) return pill('Answers');
  if (status.draining && status.reasons.every((reason) => reason === 'draining')) return pill('Drains', 'warn');
  if (!status.ready) return pill('Not ready', 'bad');
  return status.reasons.length > 0 ? pill('Degraded', 'warn') : pill('Ready', 'good');
}

/** Bounds of a difference of clocks, in words. */
function clock({ this: own, skew }) {
  if (own || !skew) return '—';
  const [least, most] = [skew.min_ms, skew.max_ms];
  const [side, far] = least > 0 ? ['ahead', least] : most < 0 ? ['behind', -most] : [null, 0];
  return side ? `at least ${milliseconds(far)} ${side}` : `within ${milliseconds(Math.max(-least, most))}`;
}

/** A value that should be the same on all nodes. */
const common = (name, show) => (row) => html`${show(row.status)}${row.differs.includes(name) && html` ${pill('differs', 'warn')}`}`;
const said = (show) => (row) => (row.status ? show(row) : soft());

const COLUMNS = [
  { head: 'Node', kind: 'main', cell: ({ id, name, this: own }) => html`<a href=${link('fleet', id)}>${name}</a>${own && html` <span class="soft">this node</span>`}` },
  { head: 'Standing', cell: (node) => html`<${Standing} of=${node} />${node.drained && html`<span class="sub">drained by ${node.drained.by}</span>`}` },
  { head: 'Version', cell: said(common('version', ({ version }) => version)) },
  { head: 'Measurement', cell: said(common('mr_aggregated', ({ mr_aggregated: value }) => html`<${Id} value=${value} name="measurement" still />`)) },
  { head: 'Policy', cell: said(common('policies', ({ policies }) => html`<${Id} value=${policies.default} name="digest of the policy" still />`)) },
  { head: 'Epoch', kind: 'num', cell: said(common('root_epoch', ({ root_epoch: epoch }) => epoch)) },
  { head: 'Log', kind: 'num minor', cell: said(({ status }) => number(status.ledger_size)) },
  { head: 'State', kind: 'num minor', cell: ({ state }) => number(state) },
  { head: 'Clock', kind: 'minor spare', cell: clock },
];

function Repair({ onClose, onDone }) {
  const task = useTask(() => post(`${PATH}/repair`));
  return html`<${Confirm} title="Write the state of this node over that of all nodes?" word="Write it" kind="danger" task=${task} onClose=${onClose} onDone=${onDone}>
    <p>Credentials, domains, epochs of apps and policy bundles of all nodes become those of this node; freezes and drains that only others know are added. Do it on the node with the right state, and only if the newer database cannot be brought back.</p><//>`;
}

function Forget({ of, onClose, onDone }) {
  const task = useTask(() => post(`${PATH}/forget`, { node: of.id }));
  return html`<${Confirm} title=${`Forget ${of.name}?`} word="Forget it" kind="danger" task=${task} onClose=${onClose} onDone=${onDone}>
    <p>It is no longer in the list of nodes, with what it has told of its CVMs and denials, and not drained. If it still runs, it is there again at once.</p><//>`;
}

/** Drains a node, or ends it. */
function Drain({ of, onClose, onDone }) {
  const ends = Boolean(of.drained);
  const task = useTask(() => post(`/api/v1/actions/${ends ? 'undrain' : 'drain'}`, { node: of.id }));
  return html`<${Confirm} title=${`${ends ? 'Undrain' : 'Drain'} ${of.name}?`} word=${ends ? 'Undrain it' : 'Drain it'} task=${task} onClose=${onClose} onDone=${onDone}>
    <p>${ends ? 'Load balancers send it requests again.' : 'Load balancers are told to send requests to other nodes, also after it restarts, until it is undrained. Requests that still arrive are served.'}</p><//>`;
}

/** What is wrong, and what to do about it. */
function Alarms({ of: { alarm, alarms = [], stale, warnings }, actions }) {
  return html`${alarm && html`<${Note} kind="bad" role="alert" title=${`The shared state is not believed: ${words(alarm.code)}`} actions=${actions}>${sentence(alarm.text)}. ${alarm.remedy}.<//>`}
    ${!alarm && stale && html`<${Note} kind="bad" role="alert" title="This node does not know what was changed on others">${sentence(stale)}.<//>`}
    ${alarms.map(({ kind, nodes, text, remedy, since }) => html`<${Note} key=${`${kind}${nodes}`} kind="bad" role="alert" title=${`${sentence(text)}.`}>${sentence(remedy)}. <span class="soft">Since <${Time} at=${since} />, <code>${kind}</code></span><//>`)}
    ${warnings.map((text) => html`<${Note} key=${text} kind="warn" title=${`${sentence(text)}.`} />`)}`;
}

/** All that a node says. */
function One({ node, differs, self }) {
  const { status } = node;
  const mark = (name) => (differs.includes(name) ? `not as on ${self.name}` : undefined);
  return html`<div class="grid">
    ${differs.length > 0 && html`<${Note} kind="warn" title=${`It differs from ${self.name}`}>In: ${differs.map((name) => COMMON[name] ?? 'root keys').join(', ')}.<//>`}
    ${status && status.reasons.length > 0 && html`<${Note} kind=${status.ready ? 'warn' : 'bad'} title=${status.ready ? 'It is degraded' : 'It is not ready'}>${status.reasons.map(words).join(', ')}<//>`}
    ${node.drained && html`<${Note} kind="warn" title=${`Drained by ${node.drained.by}`}>Since <${Time} at=${node.drained.since} />, until an operator undrains it. ${!node.drained.shared && 'The other nodes do not know it yet.'}<//>`}
    <${Card} title="Node" aside=${html`<${Standing} of=${node} />`}><${Values} wide of=${[
      whole('Id', node.id, 'node id'),
      { name: 'State', value: number(node.state), hint: 'its number in the database' },
      { name: 'Clock', value: !node.this && clock(node), hint: `against ${self?.name}` },
      ...status ? [
        { name: 'Version', value: status.version, hint: mark('version') },
        { name: 'Started', value: status.started && html`<${Time} at=${status.started} />` },
        { name: 'Ready for', value: status.ready_for !== undefined && duration(status.ready_for) },
        { name: 'Its view of the state', value: status.view_age_ms !== undefined && `${milliseconds(status.view_age_ms)} old` },
        { name: 'Said', value: html`<${Time} at=${status.time} />`, hint: 'by its clock' },
        whole('Boot id', status.boot_id),
        whole('Measurement', status.mr_aggregated, 'measurement', { hint: mark('mr_aggregated') }),
        whole('OS image', status.os_image_hash, 'OS image hash'),
        { name: 'Root epoch', value: `${status.root_epoch} of ${status.root_epochs.map((state, epoch) => `${epoch} ${state}`).join(', ')}`, hint: mark('root_epoch') },
        whole('Fingerprint of the root keys', status.canary, 'fingerprint', { hint: mark('canary') }),
        whole('Domains', status.domains_sha256, 'digest of the domains', { hint: mark('domains_sha256') }),
        { name: 'Collateral ends', value: status.collateral_expires && html`<${Time} at=${status.collateral_expires} />` },
        { name: 'Log', value: status.ledger_size !== undefined && count(status.ledger_size, 'record') },
        whole('Checkpoint', status.checkpoint),
      ] : [],
    ]} /><//>
    ${status && html`<${Listed} title="Policies" aside=${mark('policies')} rows=${Object.entries(status.policies).map(([name, sha256]) => ({ name, sha256, serial: status.bundle_serials?.[name] }))} columns=${[
      { head: 'Domain', kind: 'main', cell: ({ name }) => name },
      column.id('SHA-256 of the rules', 'sha256', 'digest of the policy', { keep: 24 }),
      { head: 'Bundle', kind: 'num', cell: ({ serial }) => number(serial) },
    ]} empty=${html`<${Empty} title="It does not say by which rules it decides" />`} />`}
  </div>`;
}

/** `#/fleet`, and `#/fleet/ID` for a node. */
export default function Fleet({ me, params }) {
  const fleet = useGet(PATH, { every: 3, live: EVENTS });
  const [repairs, repair] = useState(false);
  const [forgets, forget] = useState(false);
  const [drains, drain] = useState(false);
  const { data } = fleet;
  const self = data?.nodes.find((node) => node.this);
  // A node that is stale cannot know whether others answer.
  const nodes = (data?.nodes ?? []).map((node) => ({ ...node, differs: differing(node, self), unknown: Boolean(data.stale) }));
  const node = params.id && nodes.find(({ id }) => id === params.id);
  const done = (answer) => {
    repair(false);
    if (!waits(answer)) toast('The state of this node is that of all nodes now');
    fleet.refresh();
  };
  const forgotten = (answer) => {
    forget(false);
    if (!waits(answer)) {
      toast(`${node.name} is forgotten`);
      go(link('fleet'));
    }
    fleet.refresh();
  };
  const drained = () => {
    drain(false);
    toast(`${node.name} is ${node.drained ? 'undrained' : 'drained'}`);
    fleet.refresh();
  };
  const answering = nodes.filter(({ answers }) => answers).length;
  return html`<${Page} title=${params.id ? `Node ${node?.name ?? params.id}` : 'Fleet'} back=${params.id && { href: link('fleet'), text: 'Fleet' }}
    actions=${node && html`${can(me, 'action.run') && html`<${Button} onClick=${() => drain(true)}>${node.drained ? 'Undrain…' : 'Drain…'}<//>`}
      ${!node.this && !node.answers && can(me, 'fleet.forget') && html`<${Button} onClick=${() => forget(true)}>Forget…<//>`}`}
    lead=${!params.id && 'Nodes that share what operators change, through a database.'}>
    <${Loaded} of=${fleet} lines=${8}>${(view) => {
      if (!view.shared) return html`<${Card}><${Empty} title="This KMS shares no state">It keeps it in files of its own: <code>core.state</code> is <code>"files"</code>. What is changed here, a freeze for example, is not changed on other KMSs.<//><//>`;
      if (params.id) return node ? html`<${One} node=${node} differs=${node.differs} self=${self} />` : html`<${Empty} title="There is no such node" />`;
      return html`<div class="grid">
        <${Alarms} of=${view} actions=${can(me, 'fleet.repair') && html`<${Button} small onClick=${() => repair(true)}>Repair…<//>`} />
        <${Figure} name="Nodes" span=${4} value=${`${number(answering)} of ${number(nodes.length)}`} kind=${answering < nodes.length ? 'warn' : ''} more="answer this node" />
        <${Figure} name="View of the shared state" span=${4} value=${view.view_age_ms === undefined ? '—' : milliseconds(view.view_age_ms)} kind=${view.stale ? 'bad' : ''} more=${view.view_age_ms === undefined ? 'there is none' : 'old'} />
        <${Figure} name="State" span=${4} value=${number(self?.state)} more="its number, which grows with each change" />
        <${Card} title="Nodes" flush><${Table} caption="Nodes" columns=${COLUMNS} rows=${nodes} rowKey=${({ id }) => id} href=${({ id }) => link('fleet', id)} /><//>
        <${RolloutCard} me=${me} />
        <${FleetLists} self=${self?.name} />
      </div>`;
    }}<//>
    ${repairs && html`<${Repair} onClose=${() => repair(false)} onDone=${done} />`}
    ${forgets && node && html`<${Forget} of=${node} onClose=${() => forget(false)} onDone=${forgotten} />`}
    ${drains && node && html`<${Drain} of=${node} onClose=${() => drain(false)} onDone=${drained} />`}<//>`;
}
