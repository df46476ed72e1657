// Recovery: the officers who together restore the root keys, the drills that prove it, and sets that count no more.

import { call, get, post, useDraft, useGet, useTask } from '../api.js';
import { ago, count, duration, instant } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, ButtonLink, Card, Choose, Code, Confirm, Dialog, Empty, Failure, Field, Figure, Icon, Listed, Loaded, Note, Page, Pill, Table, Time, Told, Values, column, html, pill, soft, toast, useMemo, useState, whole,
} from '../ui.js';
import { save, waits } from './common.js';

const PATH = '/api/v1/recovery';
const EVENTS = ['recovery_set_created', 'recovery_set_failed', 'recovery_drill_started', 'recovery_drill', 'recovery_drill_failed', 'recovery_drill_cancelled', 'approval_done',
  'epoch_prepared', 'epoch_received', 'epoch_destroyed'];
const MAX_OFFICERS = 32;
const MAX_FILE = 256 << 10;
/** After so many seconds without a drill, a set counts as not proved. */
const DUE = 90 * 86400;

const RECIPIENT = /^(age1|ssh-|ecdsa-|sk-ssh-|age-plugin-)/i;
const PRIVATE = /^(AGE-SECRET-KEY-|AGE-PLUGIN-|-----BEGIN)/;
const NAME = /^[a-z0-9][a-z0-9._@+-]{0,63}$/i;

/** The officers in a text, one `NAME RECIPIENT` or a bare recipient a line, and what is wrong with it. */
export function officersOf(text) {
  const officers = [];
  const wrong = [];
  text.split('\n').map((line) => line.trim()).forEach((line, index) => {
    if (!line || line.startsWith('#')) return;
    const say = (what) => wrong.push(`Line ${index + 1}: ${what}`);
    const [, first, rest] = /^(\S+)\s*(.*)$/.exec(line);
    const isBare = RECIPIENT.test(first) || !rest;
    const [name, recipient] = isBare ? [String(officers.length + 1), line] : [first, rest];
    if (PRIVATE.test(recipient) || PRIVATE.test(name)) say('this is a private key. Give the recipient, and make a new key: this one was shown.');
    else if (!NAME.test(name)) say('a name has letters, digits, dots, dashes, underscores, @ or +, and begins with a letter or digit.');
    else if (!RECIPIENT.test(recipient)) say('a recipient begins with age1, ssh-ed25519 or ssh-rsa.');
    else if (officers.some((one) => one.name.toLowerCase() === name.toLowerCase())) say(`the name ${name} is there twice.`);
    else if (officers.some((one) => one.recipient === recipient)) say('another officer has this recipient.');
    else officers.push({ name, recipient });
  });
  if (officers.length > MAX_OFFICERS) wrong.push(`A set has at most ${MAX_OFFICERS} officers; these are ${officers.length}.`);
  return { officers, wrong };
}

const epochs = (list) => (list.length === 0 ? soft('none') : list.join(', '));
const recipientKind = (recipient) => (recipient.startsWith('ssh-') ? recipient.split(' ')[0] : /^age1[a-z0-9]+1/.test(recipient.slice(0, 24)) ? 'age plugin' : 'age');

const OFFICERS = [
  { head: 'Officer', kind: 'main', cell: ({ name }) => name },
  { head: 'Key', cell: ({ recipient }) => recipientKind(recipient) },
  column.id('Recipient', 'recipient', 'recipient', { keep: 20 }),
];

/** Manifest and files of a set, to be saved one by one. */
function Files({ of, onClose }) {
  const [saved, setSaved] = useState([]);
  const keep = (name, text, type) => { save(name, text, type); setSaved([...saved, name]); };
  const row = (title, name, more, act) => html`<li key=${name}><span class="mark ${saved.includes(name) ? 'good' : 'soft'}"><${Icon} name=${saved.includes(name) ? 'check' : 'dash'} /></span>
    <span class="what"><strong>${title}</strong> <span class="soft">${more}</span></span><${Button} small onClick=${act}><${Icon} name="download" />Save<span class="unseen"> ${name}</span><//></li>`;
  return html`<${Dialog} title="Files of the set" kind="wide" done onClose=${onClose}>
    ${of.files.length > 0 ? html`<p>Give each officer the manifest and their own file. A file opens with its officer's key only; the manifest is public.</p>`
      : html`<${Note} kind="warn" title="Only the manifest is here">The KMS keeps the officers' files until it starts again. Where they are lost, make a new set.<//>`}
    <ul class="todo">${row('Manifest', of.manifest_name, 'for everybody', () => keep(of.manifest_name, of.manifest, 'application/json'))}
      ${of.files.map(({ officer, name, content }) => row(officer, name, name, () => keep(name, content)))}</ul>
    <${Values} of=${[whole('Set', of.set), whole('SHA-256 of the manifest', of.manifest_sha256, 'digest')]} />
    ${of.retires && html`<${Note} kind="warn" title="The set before counts no more">Its shares still open the root keys of then: officers should destroy those files.<//>`}<//>`;
}

function NewSet({ navigate }) {
  const recovery = useGet(PATH);
  const [text, setText] = useDraft('recovery-officers', '');
  const [threshold, setThreshold] = useState('');
  const [problem, setProblem] = useState('');
  const [tried, setTried] = useState(false);
  const [asking, ask] = useState(false);
  const [made, setMade] = useState(null);
  const { officers, wrong } = useMemo(() => officersOf(text), [text]);
  const needed = Number(threshold || Math.max(2, Math.floor(officers.length / 2) + 1));
  const few = officers.length < 2 ? 'A set has at least two officers.' : '';
  const isGood = !few && wrong.length === 0 && needed >= 2 && needed <= officers.length;
  const task = useTask(() => post(`${PATH}/sets`, { recipients: officers, threshold: needed }, { patience: 120000 }));
  const before = recovery.data?.set;
  const read = async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    setProblem(file.size > MAX_FILE ? 'It is larger than 256 kB.' : '');
    if (file.size <= MAX_FILE) setText(await file.text());
  };
  const submit = (event) => {
    event.preventDefault();
    setTried(true);
    if (isGood) ask(true);
  };
  const done = (answer) => {
    ask(false);
    setTried(false);
    setText('');
    if (waits(answer)) return navigate(link('recovery'));
    return setMade(answer);
  };
  return html`<${Page} title="New recovery set" back=${{ href: link('recovery'), text: 'Recovery' }} lead="The root keys are split inside the TEE; each share is encrypted to one officer.">
    <form class="grid" onSubmit=${submit} novalidate>
      <${Card} title="Officers" span=${7}><div class="stack">
        <${Field} label="Recipients" hint="One a line: a name and a recipient of age or an SSH public key. Lines that begin with # do not count." error=${(tried || text) && (wrong[0] ?? (tried && few))}>${(props) => html`<textarea ...${props} class="mono"
          placeholder="alice age1…" spellcheck=${false} autocapitalize="none" value=${text} onInput=${(event) => setText(event.target.value)}></textarea>`}<//>
        <${Field} label="Or a file of them" error=${problem}>${(props) => html`<input ...${props} type="file" accept=".txt,text/plain" onChange=${read} />`}<//>
        <${Choose} label="How many of them restore" hint="So many together have every key. The files of all others may be lost." value=${String(needed)} disabled=${officers.length < 2} onChoose=${setThreshold}
          of=${officers.slice(1).map((_, index) => [String(index + 2), `${index + 2} of ${officers.length}`])} />
      </div><//>
      <${Card} title="The set" span=${5}><div class="stack" aria-live="polite">
        ${few ? html`<p class="soft">Who is in it is shown here, before anything is made.</p>` : html`
          <${Table} caption="Officers of the new set" columns=${OFFICERS} rows=${officers} rowKey=${({ name }) => name} />
          <p>Any <strong>${needed}</strong> of ${count(officers.length, 'officer')} restore; up to ${count(officers.length - needed, 'file')} may be lost.</p>`}
        ${wrong.length > 1 && html`<ul>${wrong.slice(1, 6).map((one) => html`<li class="error" key=${one}>${one}</li>`)}</ul>`}
        ${before && html`<${Note} kind="warn" title="It retires the present set">Shares of the present set still open the root keys of now. Its officers should destroy their files.<//>`}
        <div class="line"><${Button} type="submit" kind="primary">Make the set…<//><${ButtonLink} href=${link('recovery')}>Cancel<//></div>
      </div><//>
    </form>
    ${asking && html`<${Confirm} title="Make this recovery set?" word="Make it" task=${task} onClose=${() => ask(false)} onDone=${done}>
      <p>${needed} of ${officers.map(({ name }) => name).join(', ')} can restore every root key of this KMS, wherever they are allowed to. The audit log records it.</p><//>`}
    ${made && html`<${Files} of=${made} onClose=${() => navigate(link('recovery'))} />`}
  <//>`;
}

/** What a drill does not prove. */
function NotProved({ of }) {
  return of?.length > 0 && html`<p class="hint">The set lacks the root keys of epochs ${of.join(', ')}: a drill does not prove those.</p>`;
}

/** A drill that is open: whose shares are in, and how they are sent. */
function Ceremony({ of, me, onEnded, notProved }) {
  const [asking, ask] = useState(false);
  const cancel = useTask(() => call('DELETE', `${PATH}/drill`));
  const missing = of.threshold - of.received;
  return html`<${Card} title="A drill is open" kind="marked" aside=${html`<span>ends in ${duration(of.ends_in_seconds)}</span>`}><div class="stack">
    <div class="line" aria-live="polite"><strong>${of.received} of ${of.threshold} shares</strong>
      <meter min="0" max=${of.threshold} value=${of.received} aria-label="Shares that are in">${of.received}</meter>
      <span class="soft">${missing > 0 ? `${count(missing, 'more share')} ${missing === 1 ? 'is' : 'are'} needed` : 'The root keys are put together'}</span></div>
    <ul class="chain">${of.officers.map(({ index, name, received }) => html`<li key=${index} class=${received ? 'passed' : 'not_reached'}><span class="mark"><${Icon} name=${received ? 'check' : 'dash'} /></span>
      <span class="step">${name}</span><span class="message">${received ? 'share is in' : 'not yet'}</span></li>`)}</ul>
    <${NotProved} of=${notProved} />
    <details open=${of.received === 0}><summary>How an officer sends a share</summary><${Code} name="command" text=${`kmsctl recovery send --kms https://THIS-KMS:PORT --pin MR-AGGREGATED \\\n  --manifest recovery-${of.set}.json --share NAME-of-${of.set}.age --identity YOUR-KEY-FILE`} />
      <p class="hint">kmsctl opens the file locally, verifies this KMS by attestation, and sends the share to it only.</p></details>
    ${can(me, 'recovery.manage') && html`<div class="line"><${Button} onClick=${() => ask(true)}>Cancel the drill…<//></div>`}
    ${asking && html`<${Confirm} title="Cancel the drill?" word="Cancel the drill" kind="danger" task=${cancel} onClose=${() => ask(false)} onDone=${() => { ask(false); toast('The drill was cancelled'); onEnded(); }}>
      <p>The shares that are in are forgotten; officers send them again in the next drill. The audit log records that it ended early.</p><//>`}
  </div><//>`;
}

function SetCard({ set, data, me }) {
  const [files, setFiles] = useState(null);
  const load = useTask(() => get(`${PATH}/sets/${encodeURIComponent(set.set)}`));
  const show = async () => { const found = await load.run(); if (found) setFiles(found); };
  return html`<${Card} title="Set in force" aside=${can(me, 'recovery.manage') && html`<${Button} small busy=${load.busy} onClick=${show}><${Icon} name="download" />Files…<//>`}><div class="stack">
    <${Failure} error=${load.error} />
    <${Values} wide of=${[
      whole('Set', set.set),
      { name: 'Made', value: html`<${Time} at=${set.created_at} /> by ${set.created_by}` },
      { name: 'Epochs covered', hint: 'of the root keys', value: html`<span class="rowactions">${epochs(set.epochs)}${data.not_covered.length > 0 && html`<${Pill} kind="warn">without ${data.not_covered.join(', ')}<//>`}${data.out_of_date.length > 0 && html`<${Pill} kind="warn">old state of ${data.out_of_date.join(', ')}<//>`}${data.app_epochs_changed && pill('old epochs of apps', 'warn')}</span>` },
      whole('SHA-256 of the manifest', set.manifest_sha256, 'digest'),
    ]} />
    <${Table} caption="Officers" rows=${set.officers} rowKey=${({ index }) => index} columns=${[OFFICERS[0], { head: 'Share', kind: 'shrink', cell: ({ index }) => index }, ...OFFICERS.slice(1)]} />
    ${files && html`<${Files} of=${files} onClose=${() => setFiles(null)} />`}
  </div><//>`;
}

const DRILLS = [
  column.time('Ended', 'at', { kind: 'main' }),
  { head: 'Result', cell: ({ ok }) => (ok ? pill('gave the root keys', 'good') : pill('did not', 'bad')) },
  { head: 'Officers', cell: ({ officers, reason }) => html`${officers.join(', ') || '—'}${reason && html`<span class="sub"><${Told}>${reason}<//></span>`}` },
  column.id('Set', 'set', 'set', { kind: 'minor' }),
];
const RETIRED = [
  column.id('Set', 'set', 'set', { kind: 'main', keep: 12 }),
  column.time('Made', 'created_at'),
  column.time('Retired', 'retired_at'),
  { head: 'Officers', cell: ({ officers, threshold }) => html`${threshold} of ${officers.length}<span class="sub">${officers.join(', ')}</span>` },
  { head: 'Epochs', cell: ({ epochs: list }) => epochs(list) },
];

function State({ data, me, refresh }) {
  const { set } = data;
  const age = data.proved_at ? (Date.now() - instant(data.proved_at)) / 1000 : null;
  const isLate = age !== null && age > DUE;
  const last = data.drills.find((drill) => drill.set === set?.set && drill.ok);
  const makeOne = can(me, 'recovery.manage') && html`<${ButtonLink} kind="primary" href=${link('recovery', 'new')}>New set<//>`;
  if (!set) {
    return html`<${Card}><${Empty} title="No officers can restore the root keys" action=${makeOne}>If every KMS is lost, so is every key of every app. A recovery set splits the root keys among officers, of whom some together restore them.<//><//>
      ${data.retired.length > 0 && html`<${Retired} of=${data.retired} />`}`;
  }
  return html`<div class="grid">
    <${Figure} name="Restored by" value=${`${set.threshold} of ${set.officers.length}`} more="officers together" span=${4} />
    <${Figure} name="Last proved" kind=${isLate || !data.proved_at ? 'warn' : ''} value=${data.proved_at ? ago(data.proved_at) : 'never'} more=${`${last ? `in a drill with ${count(last.officers.length, 'share')}` : 'no drill has given the root keys'}; next drill due ${ago(data.drill_due_at)}`} span=${4} />
    <${Figure} name="Epochs covered" kind=${data.covers_all_epochs && data.out_of_date.length === 0 ? '' : 'warn'} value=${data.covers_all_epochs ? 'all' : `not ${data.not_covered.join(', ')}`} more=${!data.covers_all_epochs ? 'make a new set to cover them' : data.out_of_date.length > 0 ? `but ${data.out_of_date.join(', ')} in an old state: make a new set` : 'of the root keys'} span=${4} />
    ${data.ceremony && html`<div class="span12"><${Ceremony} of=${data.ceremony} me=${me} onEnded=${refresh} notProved=${data.not_covered} /></div>`}
    <div class="span12"><${SetCard} key=${set.set} set=${set} data=${data} me=${me} /></div>
    <${Listed} title="Drills" columns=${DRILLS} rows=${data.drills} rowKey=${({ at, set: id }) => `${at}${id}`}
      empty=${html`<${Empty} title="No drill has ended">In a drill, officers send their shares to this KMS; it puts the root keys together in memory, compares them, and forgets.<//>`} />
    ${data.retired.length > 0 && html`<${Retired} of=${data.retired} />`}
  </div>`;
}

function Retired({ of }) {
  return html`<${Listed} title="Retired sets" aside="their shares still open the root keys of then" columns=${RETIRED} rows=${of} rowKey=${({ set }) => set} />`;
}

function Overview({ me }) {
  const [isOpen, setOpen] = useState(false);
  const recovery = useGet(PATH, { every: isOpen ? 3 : 30, live: EVENTS });
  const open = Boolean(recovery.data?.ceremony);
  if (open !== isOpen) setOpen(open);
  const [starting, setStarting] = useState(false);
  const start = useTask(() => post(`${PATH}/drill`));
  const isOwner = can(me, 'recovery.manage');
  const { set, advice } = recovery.data ?? {};
  const actions = isOwner && set && html`${!open && html`<${Button} onClick=${() => setStarting(true)}>Start a drill…<//>`}<${ButtonLink} href=${link('recovery', 'new')}>New set<//>`;
  return html`<${Page} title="Recovery" lead="Officers who together restore the root keys when every KMS is lost." actions=${actions}>
    ${advice && html`<${Note} kind="warn" title=${set ? 'Something is due' : 'There is no recovery set'}><${Told}>${advice}<//><//>`}
    <${Loaded} of=${recovery} lines=${8}>${(data) => html`<${State} data=${data} me=${me} refresh=${recovery.refresh} />`}<//>
    ${starting && html`<${Confirm} title="Start a drill?" word="Start it" task=${start} onClose=${() => setStarting(false)} onDone=${() => { setStarting(false); toast('The drill is open for an hour'); recovery.refresh(); }}>
      <p>For an hour this KMS takes the shares of officers. With ${set?.threshold} of them it puts the root keys together in memory, compares them with its own, and forgets them. Nothing is replaced.</p><${NotProved} of=${recovery.data?.not_covered} /><//>`}
  <//>`;
}

/** `#/recovery` and `#/recovery/new`. */
export default function Recovery({ me, params, navigate }) {
  if (params.id === 'new' && can(me, 'recovery.manage')) return html`<${NewSet} navigate=${navigate} />`;
  return html`<${Overview} me=${me} />`;
}
