// Epochs of the root keys: which there are, how one becomes the next, which replicas lack one, and which apps follow.

import { post, useGet, useTask } from '../api.js';
import { count } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, Card, Choose, Confirm, Empty, Listed, Loaded, Note, Page, Pill, Table, Time, Told, Typed, Whole, column, html, pill, soft, toast, useState,
} from '../ui.js';
import { waits } from './common.js';

const PATH = '/api/v1/epochs';
const EVENTS = ['epoch_prepared', 'epoch_received', 'epoch_activated', 'epoch_retired', 'epoch_destroyed', 'epoch_change_failed', 'kms_key_released', 'approval_done'];
const STATES = { prepared: 'warn', active: 'good', retired: 'quiet', destroyed: 'bad' };

/** Of each change: the word of its button, what it means, and the field of the preview that says why it cannot be made. */
const CHANGES = {
  prepare: ['Prepare', 'New root keys are made inside the TEE. No app gets keys of them before they are activated. Replicas fetch them first, and a new recovery set has to cover them.'],
  activate: ['Activate', 'From then on, apps that follow get keys of it. Apps that stay keep theirs.'],
  retire: ['Retire', 'Nobody gets its keys any more. This is final.', 'not_retirable'],
  destroy: ['Destroy', 'Its root keys are overwritten on this KMS. What only they open is lost.', 'not_destroyable'],
};
const STARTS = [['', 'At once'], ['3600', 'In an hour'], ['86400', 'In a day'], ['604800', 'In a week']];

/** The changes that an epoch can have now. */
function possible({ state, is_current: isCurrent, active_from: from }) {
  if (state === 'prepared') return from ? [] : ['activate'];
  if (state === 'active') return isCurrent ? [] : ['retire'];
  return state === 'retired' ? ['destroy'] : [];
}

const lacking = (epoch) => (['prepared', 'active'].includes(epoch.state) ? epoch.replicas_without ?? [] : []);

function State({ of }) {
  return html`<span class="rowactions"><${Pill} kind=${STATES[of.state]}>${of.state === 'prepared' && of.active_from ? 'planned' : of.state}<//>
    ${of.is_current && html`<${Pill} tip="Apps that follow get its keys">current<//>`}${of.is_identity && html`<${Pill} tip="It signs what this KMS says of itself">identity<//>`}</span>`;
}

function Since({ of }) {
  const at = of.destroyed_at ?? of.retired_at ?? of.active_from ?? of.prepared_at;
  return at ? html`<${Time} at=${at} still />` : soft('the start');
}

/** A change, after its effect was shown and its name was typed. */
function Change({ what, of, onClose, onDone }) {
  const [word, meaning, obstacle] = CHANGES[what];
  const [typed, type] = useState('');
  const [start, setStart] = useState('');
  const [isGone, setGone] = useState(false);
  const preview = useGet(of ? `${PATH}/${of.epoch}` : null);
  const without = of ? lacking(of) : [];
  const task = useTask(() => post(of ? `${PATH}/${of.epoch}/${what}` : PATH, what !== 'activate' ? {} : {
    ...(start ? { at: Math.floor(Date.now() / 1000) + Number(start) } : {}),
    ...(isGone && without.length > 0 ? { except: without } : {}),
  }));
  const phrase = of ? `${what} ${of.epoch}` : what;
  const refusal = obstacle && preview.data?.[obstacle];
  const isReady = typed.trim() === phrase && !refusal && (!of || preview.data) && (what !== 'activate' || without.length === 0 || isGone);
  return html`<${Confirm} title=${of ? `${word} epoch ${of.epoch}?` : 'Prepare new root keys?'} word=${word} kind=${obstacle ? 'danger' : 'primary'} task=${task} disabled=${!isReady} onClose=${onClose} onDone=${onDone}>
    <p>${meaning}</p>
    ${of && html`<div><p class="hint">SHA-256 of its k256 key</p><${Whole} value=${of.k256_fingerprint} name="fingerprint" /></div>`}
    ${of && html`<${Loaded} of=${preview} lines=${3}>${(data) => html`
      ${refusal && html`<${Note} kind="bad" title="It cannot be done now"><${Told}>${refusal}<//><//>`}
      ${obstacle && !refusal && (data.warnings.length > 0 ? html`<${Note} kind="warn" title="Know before"><ul>${data.warnings.map((one) => html`<li key=${one}><${Told}>${one}<//></li>`)}</ul><//>`
        : html`<${Note} kind="good" title="Nothing uses it">No CVM got keys of it in the last 30 days.<//>`)}`}<//>`}
    ${what === 'activate' && html`<${Choose} label="It starts" hint="With several KMSs, choose a time ahead and activate it on each for the same time, with kmsctl epoch activate." of=${STARTS} value=${start} onChoose=${setStart} />
      ${without.length > 0 && html`<label class="choice"><input type="checkbox" checked=${isGone} onChange=${(event) => setGone(event.target.checked)} /><span>${count(without.length, 'replica')} without this epoch ${without.length === 1 ? 'is' : 'are'} gone, or will fetch it before serving again.</span></label>`}`}
    ${!refusal && html`<${Typed} label=${`Type “${phrase}”`} value=${typed} onType=${type} />`}<//>`;
}

const APPS = [
  column.id('App', 'app_id', 'app id', { kind: 'main', keep: 12 }),
  { head: 'Root keys', cell: ({ follows, root_epoch: root }) => (follows ? pill('follows') : `stays at ${root}`) },
  { head: 'App epoch', cell: ({ app_epoch: own }) => own },
  { head: 'Chosen', cell: ({ since, by }) => html`<${Time} at=${since} still /><span class="sub">${by}</span>` },
];

function Apps() {
  const apps = useGet(`${PATH}/apps`, { every: 60, live: ['app_epoch_set'] });
  return html`<${Listed} title="Apps" caption="Apps whose epochs an operator chose" aside=${html`<code>kmsctl epoch follow|stay APP</code>`} of=${apps} lines=${3} columns=${APPS} rows=${(data) => data.apps} rowKey=${({ app_id: id }) => id}
    empty=${html`<${Empty} title="No operator chose for an app">Each has the epochs that the policy says, 0 and 0 where it says nothing.<//>`} />`;
}

/** `#/epochs`. */
export default function Epochs({ me }) {
  const epochs = useGet(PATH, { every: 30, live: EVENTS });
  const [open, setOpen] = useState(null);
  const isOwner = can(me, 'epoch.manage');
  const close = () => { setOpen(null); epochs.refresh(); };
  const done = (answer) => { if (!waits(answer)) toast(`${CHANGES[open.what][0].replace(/e?$/, 'ed')}${open.of ? ` epoch ${open.of.epoch}` : ' new root keys'}`); close(); };
  const columns = [
    { head: 'Epoch', kind: 'main', cell: ({ epoch }) => epoch },
    { head: 'State', cell: (one) => html`<${State} of=${one} />` },
    { head: 'Since', cell: (one) => html`<${Since} of=${one} />` },
    column.id('Root CA', 'ca_fingerprint', 'SHA-256 of the CA key', { kind: 'minor' }),
    column.id('k256 key', 'k256_fingerprint', 'SHA-256 of the k256 key'),
    { head: 'Apps that stay', kind: 'num', cell: ({ apps_staying: apps }) => apps },
    isOwner && column.actions((one) => possible(one).map((what) => html`<${Button} small onClick=${() => setOpen({ what, of: one })}>${CHANGES[what][0]}…<span class="unseen"> epoch ${one.epoch}</span><//>`)),
  ];
  const replicas = (data) => {
    const rows = data.epochs.flatMap((one) => lacking(one).map((id) => ({ id, epoch: one.epoch })));
    if (data.epochs.some((one) => one.replicas_without === null)) return html`<${Note} title="It is not known which replicas lack an epoch">The index of events is not there.<//>`;
    return rows.length > 0 && html`<${Card} title="Replicas that lack an epoch" flush aside="kmsctl epoch fetch on each of them"><${Table} caption="Replicas that lack an epoch" rows=${rows} rowKey=${({ id, epoch }) => `${id}/${epoch}`} columns=${[
      column.id('Replica', 'id', 'replica', { kind: 'main', keep: 16 }), { head: 'Lacks epoch', cell: ({ epoch }) => epoch }]} /><//>`;
  };
  return html`<${Page} title="Epochs" lead="Each epoch has its own root keys. Apps that follow move to the current one."
    actions=${isOwner && html`<${Button} onClick=${() => setOpen({ what: 'prepare' })}>Prepare…<//>`}>
    <${Loaded} of=${epochs} lines=${6}>${(data) => html`<div class="stack">
      ${data.restart_required && html`<${Note} kind="warn" title="A restart is needed" actions=${can(me, 'restart') && html`<a class="button small" href=${link('settings')}>Settings</a>`}>This KMS still signs with epoch ${data.identity}; after the restart it signs with epoch ${data.next_identity}.<//>`}
      <${Card} flush><${Table} caption="Epochs of the root keys" columns=${columns} rows=${data.epochs} rowKey=${({ epoch }) => epoch} /><//>
      ${replicas(data)}<${Apps} /></div>`}<//>
    ${open && html`<${Change} key=${`${open.what}${open.of?.epoch ?? ''}`} what=${open.what} of=${open.of} onClose=${close} onDone=${done} />`}
  <//>`;
}
