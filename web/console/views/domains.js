// Domains: parts of this KMS whose apps have keys of their own, and which apps are in each.

import { post, useGet, useTask } from '../api.js';
import { sentence, words } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, Card, Choose, Confirm, Empty, Id, Listed, Loaded, Note, Options, Page, Skeleton, Time, Typed, Values, column, html, pill, soft, toast, useEffect, useState, whole,
} from '../ui.js';
import { DOMAIN_EVENTS, useDomains, waits } from './common.js';

const PATH = '/api/v1/domains';
const EVENTS = [...DOMAIN_EVENTS, 'approval_done'];

/** What a new domain may be given: the name of the rule, words, and what it means. */
const RULES = [
  ['sealed', 'Sealed', 'only guests that nobody can log in to'],
  ['instance_scoped', 'Keys of each instance', 'each CVM has an app key and an app CA of its own'],
  ['allow_dev_images', 'Development images', 'anyone who makes one can log in'],
];

/** What holds in a domain: columns of the list, and rows of one. */
const FACTS = [
  { head: 'State', cell: ({ archived_at: archived, rules }) => html`<span class="rowactions">${archived ? pill('archived', 'warn') : pill('in use', 'good')}${rules.sealed && pill('sealed')}</span>` },
  { head: 'Policy', cell: (of) => html`${words(of.policy_kind)}${!of.own_policy && ' of the KMS'}<span class="sub"><${Id} value=${of.policy_sha256} name="digest of the policy" still /></span>` },
  { head: 'Keys', cell: ({ rules }) => (rules.instance_scoped ? 'of each instance' : 'of each app') },
  { head: 'Default epoch', cell: ({ rules }) => rules.default_epoch ?? soft('by the policy') },
  { head: 'Development images', cell: ({ rules, refuses_dev_images: refused }) => (refused ? 'refused' : pill('admitted', rules.allow_dev_images && 'warn')) },
];
const COLUMNS = [{ head: 'Name', kind: 'main', cell: ({ name }) => html`<a href=${link('domains', name)}>${name}</a>` }, column.number('Apps', 'apps'), ...FACTS];

function Create({ onClose, onDone }) {
  const [name, setName] = useState('');
  const [rules, setRules] = useState({});
  const wrong = name && !/^[a-z0-9][a-z0-9.-]{0,23}$/.test(name) ? 'Up to 24 lower-case letters, digits, “-” and “.”.' : '';
  const task = useTask(() => post(PATH, { name, rules }));
  return html`<${Confirm} title="New domain" word="Create it" task=${task} disabled=${!name || wrong} onClose=${onClose} onDone=${() => onDone('Created')}>
    <${Typed} label="Name" hint="Keys of its apps depend on it, so it stays." error=${wrong} value=${name} onType=${setName} />
    <${Options} type="checkbox" legend="What holds in it" of=${RULES} isChosen=${(key) => rules[key]} onChoose=${(key) => setRules({ ...rules, [key]: !rules[key] })} />
    <p class="hint">More limits: <code>kmsctl domain create</code>. A policy of its own: <code>kms.toml</code>.</p><//>`;
}

/** Archives or restores. */
function Turn({ of, onClose, onDone }) {
  const [word, text] = of.archived_at ? ['Restore', 'Its apps get the same keys again.'] : ['Archive', 'Nothing is released in it until it is restored.'];
  const task = useTask(() => post(`${PATH}/${of.name}/${word.toLowerCase()}`));
  return html`<${Confirm} title=${`${word} the domain ${of.name}?`} word=${word} kind=${of.archived_at ? 'primary' : 'danger'} task=${task} onClose=${onClose} onDone=${(answer) => onDone(waits(answer) ? '' : `${word}d`)}><p>${text}</p><//>`;
}

/** Puts an app that has no keys into a domain. One that has some can be moved. */
function Assign({ of, onClose, onDone, onMove }) {
  const [typed, type] = useState('');
  const app = typed.trim();
  const isId = /^(0x)?[0-9a-f]{40}$/i.test(app);
  const task = useTask(() => post(`${PATH}/${of.name}/apps`, { app_id: app }));
  return html`<${Confirm} title=${`Put an app into ${of.name}`} word="Put it there" task=${task} disabled=${!isId} onClose=${onClose} onDone=${({ changed }) => onDone(changed ? 'The app is there now' : 'The app was there already')}>
    <p>Before its first keys. An app that has keys is moved, and loses them.</p>
    <${Typed} label="App id" error=${app && !isId && 'It has 40 hexadecimal digits.'} value=${typed} onType=${type} />
    ${task.error?.code === 'needs_move' && html`<div><${Button} onClick=${() => onMove(app, of.name)}>Move it…<//></div>`}<//>`;
}

/** Moves an app, after the KMS has said which keys it loses. */
function Move({ app, from, to: given = '', onClose, onDone }) {
  const others = useDomains().filter(({ name, archived_at: archived }) => name !== from && !archived).map(({ name }) => [name, name]);
  const [to, setTo] = useState(given);
  const [told, tell] = useState(null);
  const [sure, setSure] = useState(false);
  const task = useTask((body) => post(`${PATH}/${to}/apps/${app}/move`, body));
  useEffect(() => {
    tell(null);
    setSure(false);
    if (to) task.run({ preview: true }).then(tell);
  }, [to]);
  const loses = told?.domain === to && told.loses;
  return html`<${Confirm} title="Move the app?" word="Move it" kind="danger" task=${task} disabled=${!loses || !sure} onClose=${onClose} onDone=${(answer) => onDone(waits(answer) ? '' : 'Moved')}>
    <${Values} of=${[whole('App id', app)]} />
    ${!given && html`<${Choose} label="To the domain" of=${[['', 'Choose one'], ...others]} value=${to} onChoose=${setTo} />`}
    <div class="stack" aria-live="polite">${to && !told && task.busy && html`<${Skeleton} lines=${2} />`}
      ${loses && html`<${Note} kind="warn" title="It loses keys">${sentence(told.message)}.<//>
        <label class="choice"><input type="checkbox" checked=${sure} onChange=${(event) => setSure(event.target.checked)} /><span>What they encrypt cannot be read while the app is in ${to}.</span></label>`}</div><//>`;
}

function List({ me }) {
  const domains = useGet(PATH, { every: 60, live: EVENTS });
  const [isOpen, setOpen] = useState(false);
  const done = (text) => { toast(text); setOpen(false); domains.refresh(); };
  return html`<${Page} title="Domains" lead="An app is in one domain, and gets keys of that one only."
    actions=${can(me, 'domain.manage') && html`<${Button} kind="primary" onClick=${() => setOpen(true)}>New domain<//>`}>
    <${Listed} caption="Domains" of=${domains} lines=${4} columns=${COLUMNS} rows=${(data) => data.domains} href=${({ name }) => link('domains', name)} />
    ${isOpen && html`<${Create} onClose=${() => setOpen(false)} onDone=${done} />`}<//>`;
}

function One({ me, name }) {
  const domain = useGet(`${PATH}/${encodeURIComponent(name)}`, { every: 60, live: EVENTS });
  const [open, setOpen] = useState(null);
  const close = () => setOpen(null);
  const done = (text) => { if (text) toast(text); close(); domain.refresh(); };
  const isOwner = can(me, 'domain.manage');
  const { data } = domain;
  const columns = [
    column.id('App', 'app_id', 'app id', { kind: 'main', keep: 12 }),
    column.time('Since', 'since', { none: 'the configuration' }),
    { head: 'By', cell: ({ by }) => by ?? '—' },
    isOwner && column.actions(({ app_id: app, source }) => source === 'run_time' && html`<${Button} small onClick=${() => setOpen({ what: 'move', app })}>Move…<span class="unseen"> app ${app.slice(0, 12)}</span><//>`),
  ];
  return html`<${Page} title=${`Domain ${name}`} back=${{ href: link('domains'), text: 'Domains' }}
    actions=${data && isOwner && html`<${Button} onClick=${() => setOpen({ what: 'assign' })}>Put an app into it…<//>
      ${name !== 'default' && html`<${Button} onClick=${() => setOpen({ what: 'turn' })}>${data.archived_at ? 'Restore…' : 'Archive…'}<//>`}`}>
    <${Loaded} of=${domain} lines=${8}>${(of) => html`<div class="grid">
      ${of.archived_at && html`<${Note} kind="warn" title="It is archived, so nothing is released in it">By ${of.archived_by} <${Time} at=${of.archived_at} />.<//>`}
      <${Card} title="What holds in it"><${Values} wide of=${[
        ...FACTS.map(({ head, cell }) => ({ name: head, value: cell(of) })),
        { name: 'TCB statuses', value: of.rules.tcb_statuses?.join(', ') },
        { name: 'Machines', value: of.rules.devices?.join(', ') },
        { name: 'OS images', value: of.rules.os_images?.join(', ') },
        { name: 'Fresh evidence', value: of.rules.require_fresh },
        { name: 'Made', value: of.created_at ? html`<${Time} at=${of.created_at} /> by ${of.created_by}` : 'by the configuration' },
      ]} /><//>
      <${Listed} title="Apps" columns=${columns} rows=${of.members} rowKey=${({ app_id: app }) => app}
        empty=${html`<${Empty} title="It names no app">${name === 'default' && 'All apps that no domain names are in it.'}<//>`} />
    </div>`}<//>
    ${open?.what === 'turn' && html`<${Turn} of=${data} onClose=${close} onDone=${done} />`}
    ${open?.what === 'assign' && html`<${Assign} of=${data} onClose=${close} onDone=${done} onMove=${(app, to) => setOpen({ what: 'move', app, to })} />`}
    ${open?.what === 'move' && html`<${Move} ...${open} from=${name} onClose=${close} onDone=${done} />`}
  <//>`;
}

/** `#/domains` and `#/domains/NAME`. */
export default function Domains({ me, params }) {
  return params.id ? html`<${One} key=${params.id} me=${me} name=${params.id} />` : html`<${List} me=${me} />`;
}
