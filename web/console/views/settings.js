// The configuration in force: each setting with its source, changes at run time, actions, files, and the restart.

import { call, get, patch, useGet, useTask } from '../api.js';
import { count, sentence, words } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, Card, Confirm, Dialog, Empty, Failure, Field, Filters, Loaded, Note, Page, Pill, Table, Tabs, Values, html, pill, soft, toast, useState,
} from '../ui.js';
import { waits } from './common.js';
import { Actions, Files } from './settings_parts.js';

const SOURCES = { default: 'default', file: 'file', environment: 'environment', runtime: 'changed here', argument: 'argument' };
const FILTERS = [
  { name: 'q', label: 'Search', placeholder: 'name or meaning' },
  { name: 'source', label: 'Source', options: [['', 'Any'], ...Object.entries(SOURCES)] },
  { name: 'can', label: 'Change', options: [['', 'All'], ['edit', 'Can be changed here'], ['restart', 'Needs a restart']] },
];

/** How a setting is changed that decides what the KMS is. */
const MEASURED = 'in kms.toml, then a restart; in a CVM that changes what is measured';

function shown(value) {
  if (value === null || value === undefined || value === '') return soft('empty');
  if (Array.isArray(value) && value.length === 0) return soft('none');
  const isPlain = Array.isArray(value) && value.every((one) => typeof one !== 'object');
  const text = typeof value === 'string' ? value : isPlain ? value.join(', ') : JSON.stringify(value);
  return html`<code class=${text.length < 24 ? 'nowrap' : ''}>${text}</code>`;
}

const isSame = (left, right) => JSON.stringify(left) === JSON.stringify(right);

/** A value as the text of its input, and back; the kind is that of the present value. */
const written = (value) => (Array.isArray(value) ? value.join('\n') : String(value ?? ''));

function read(text, like) {
  if (Array.isArray(like)) return text.split('\n').map((line) => line.trim()).filter(Boolean);
  if (typeof like === 'boolean') return text === 'true';
  if (typeof like === 'number') return text.trim() === '' || Number.isNaN(Number(text)) ? undefined : Number(text);
  return text;
}

function Edit({ of, onClose, onDone }) {
  const [text, setText] = useState(written(of.value));
  const like = of.value ?? of.default;
  const value = read(text, like);
  const task = useTask(() => patch('/api/v1/settings', { [of.key]: value }));
  const input = (props) => {
    const change = (event) => setText(event.target.value);
    if (typeof like === 'boolean') return html`<select ...${props} value=${text} onChange=${change}><option value="true">true</option><option value="false">false</option></select>`;
    if (Array.isArray(like)) return html`<textarea ...${props} class="mono" value=${text} onInput=${change}></textarea>`;
    return html`<input ...${props} value=${text} inputmode=${typeof like === 'number' ? 'decimal' : undefined} spellcheck=${false} autocomplete="off" onInput=${change} />`;
  };
  return html`<${Confirm} title="Change a setting" word="Change it" task=${task} disabled=${value === undefined || isSame(value, of.value)} onClose=${onClose} onDone=${onDone}>
    <p><code>${of.key}</code></p><p class="soft">${sentence(of.message)}</p>
    <${Field} label="Value" hint=${Array.isArray(like) ? 'One a line.' : undefined} error=${value === undefined && 'This has to be a number.'}>${input}<//>
    <p class="line">${shown(of.default)}<span class="soft">is the default</span>${!isSame(value, of.default) && html`<${Button} small onClick=${() => setText(written(of.default))}>Use it<//>`}</p>
    ${of.restart_required && html`<${Note} kind="warn" title="It counts after a restart">Until then the KMS uses the present value.<//>`}<//>`;
}

function One({ of, me, onClose, onEdit }) {
  return html`<${Dialog} title=${of.key} onClose=${onClose} actions=${of.editable && can(me, 'settings.change') && html`<${Button} kind="primary" onClick=${onEdit}>Change<//>`}>
    <p>${sentence(of.message)}</p>
    <${Values} of=${[
      { name: 'Value', value: of.secret ? html`${of.value} <span class="soft">(secrets are not shown)</span>` : shown(of.value) },
      { name: 'Source', value: SOURCES[of.source] ?? of.source },
      { name: 'Default', value: of.secret ? null : shown(of.default) },
      { name: 'Change', value: of.measured ? MEASURED : of.editable ? 'here, at run time' : 'in kms.toml, then a restart' },
    ]} /><//>`;
}

function Restart({ me, onClose }) {
  const [state, setState] = useState('ask');
  const task = useTask(async () => {
    const answer = await call('POST', '/api/v1/restart');
    if (waits(answer)) { onClose(); return answer; }
    setState('waiting');
    // A new boot id says that it is another process. Bounded, so that a supervisor that does not start it is noticed.
    for (let tries = 0; tries < 60; tries += 1) {
      await new Promise((later) => { setTimeout(later, 1000); });
      const me2 = await get('/api/v1/me', { patience: 3000 }).catch(() => null);
      if (me2 && me2.boot_id !== answer.boot_id) { setState('done'); return answer; }
    }
    throw new Error('It did not come back within a minute: look at its supervisor.');
  });
  if (state === 'done') return html`<${Dialog} title="Restarted" done onClose=${onClose}><${Note} kind="good" role="status" title="The KMS is back">It started again with the same keys.<//><//>`;
  return html`<${Confirm} title="Restart the KMS?" word="Restart" kind="danger" task=${task} onClose=${onClose}>
    ${state === 'waiting' && !task.error ? html`<${Note} role="status" title="Waiting for it to come back">Requests fail meanwhile; CVMs try again by themselves.<//>`
      : html`<p>It finishes running requests and ends; its supervisor starts it again. Requests fail for some seconds.</p>`}<//>`;
}

function Effective({ me, params, navigate, settings }) {
  const [open, setOpen] = useState(null);
  const restart = settings.data?.restart_required ?? [];
  const matches = ({ key, message, source, editable, restart_required: needs }) => {
    const query = (params.q ?? '').toLowerCase();
    if (query && !`${key} ${message}`.toLowerCase().includes(query)) return false;
    if (params.source && source !== params.source) return false;
    return params.can === 'edit' ? editable : params.can === 'restart' ? needs : true;
  };
  const columns = [
    { head: 'Setting', kind: 'main', cell: (one) => html`<button type="button" class="plain" onClick=${() => setOpen({ what: 'one', of: one })}><code>${one.key}</code></button>${restart.includes(one.key) && html` <${Pill} kind="warn">restart<//>`}<span class="sub">${sentence(one.message)}</span>` },
    { head: 'Value', cell: ({ value, secret }) => (secret ? html`<span class="soft">${value}</span>` : shown(value)) },
    { head: 'Source', cell: ({ source }) => (source === 'default' ? soft('default') : SOURCES[source] ?? source) },
    { head: 'Change', kind: 'hide shrink', cell: (one) => (one.editable && can(me, 'settings.change') ? html`<${Button} small onClick=${() => setOpen({ what: 'edit', of: one })}>Change<span class="unseen"> ${one.key}</span><//>`
      : one.measured ? html`<span class="soft" data-tip=${sentence(MEASURED)} aria-description=${sentence(MEASURED)} tabindex="0">measured</span>` : null) },
  ];
  const done = (answer) => {
    if (!waits(answer)) toast('Changed');
    setOpen(null);
    settings.refresh();
  };
  return html`<${Card} flush>
    <${Filters} fields=${FILTERS} params=${params} navigate=${navigate} />
    <${Loaded} of=${settings} lines=${10}>${(data) => {
      const rows = data.settings.filter(matches);
      return rows.length === 0 ? html`<${Empty} title="No setting matches">Clear a filter to see more.<//>`
        : html`<${Table} caption="Settings in force" columns=${columns} rows=${rows} rowKey=${({ key }) => key} />`;
    }}<//>
    ${open?.what === 'one' && html`<${One} of=${open.of} me=${me} onClose=${() => setOpen(null)} onEdit=${() => setOpen({ ...open, what: 'edit' })} />`}
    ${open?.what === 'edit' && html`<${Edit} of=${open.of} onClose=${() => setOpen(null)} onDone=${done} />`}
  <//>`;
}

function Reloaded({ of, onClose }) {
  const columns = [
    { head: 'What', kind: 'main', cell: ({ name }) => words(name) },
    { head: 'Result', cell: ({ changed }) => (changed ? pill('new', 'good') : soft('unchanged')) },
    { head: 'Details', cell: ({ message }) => message },
  ];
  return html`<${Dialog} title="Read again" kind="wide" done onClose=${onClose}>
    <${Table} caption="What was read again" columns=${columns} rows=${of.reloaded} rowKey=${({ name }) => name} />
    ${of.restart_required.length > 0 && html`<${Note} kind="warn" title="Some changes need a restart">${of.restart_required.join(', ')}<//>`}<//>`;
}

/** `#/settings`, `#/settings/actions` and `#/settings/files`. */
export default function Settings({ me, params, navigate }) {
  const settings = useGet('/api/v1/settings', { live: ['setting_changed', 'reloaded'] });
  const [restarting, setRestarting] = useState(false);
  const [reloaded, setReloaded] = useState(null);
  const reload = useTask(() => call('POST', '/api/v1/reload'));
  const part = ['actions', 'files'].includes(params.id) ? params.id : 'settings';
  const restart = settings.data?.restart_required ?? [];
  const readAgain = async () => {
    const result = await reload.run();
    if (!result) return;
    setReloaded(result);
    settings.refresh();
  };
  const actions = html`
    ${can(me, 'reload') && html`<${Button} busy=${reload.busy} onClick=${readAgain}>Reload files<//>`}
    ${can(me, 'restart') && html`<${Button} onClick=${() => setRestarting(true)}>Restart…<//>`}`;
  const tabs = [['settings', 'Settings', null], ['actions', 'Actions', 'actions'], ['files', 'Files', 'files']].map(([value, text, id]) => ({ value, text, href: link('settings', id) }));
  return html`<${Page} title="Settings" lead="The configuration in force, and where each value comes from." actions=${actions}>
    <${Failure} error=${reload.error} title="Not everything could be read again" />
    ${restart.length > 0 && html`<${Note} kind="warn" title=${`${count(restart.length, 'setting')} ${restart.length === 1 ? 'waits' : 'wait'} for a restart`}
      actions=${can(me, 'restart') && html`<${Button} small onClick=${() => setRestarting(true)}>Restart…<//>`}><code>${restart.join(', ')}</code><//>`}
    <${Tabs} label="Parts of the settings" current=${part} of=${tabs} />
    ${part === 'settings' && html`<${Effective} me=${me} params=${params} navigate=${navigate} settings=${settings} />`}
    ${part === 'actions' && html`<${Actions} me=${me} />`}
    ${part === 'files' && html`<${Files} me=${me} />`}
    ${restarting && html`<${Restart} me=${me} onClose=${() => { setRestarting(false); settings.refresh(); }} />`}
    ${reloaded && html`<${Reloaded} of=${reloaded} onClose=${() => setReloaded(null)} />`}
  <//>`;
}
