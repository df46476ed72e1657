// Parts of the settings view: actions of the KMS, and files that are checked before they replace those in use.

import { post, upload, useGet, useTask, withQuery } from '../api.js';
import { bytes, milliseconds, sentence } from '../format.js';
import { can } from '../roles.js';
import { Button, Card, Confirm, Empty, Failure, Field, Listed, Note, Options, Time, Values, Whole, column, html, soft, toast, useRef, useState, whole } from '../ui.js';
import { waits } from './common.js';

/** Actions after which requests are handled otherwise; they ask first. */
const ASKED = {
  drain: 'Load balancers are told to send requests to other KMSs, until it is undone. Requests that still arrive are served.',
  'reissue-certificate': 'Connections that are open keep the old certificate; new ones get a new one.',
};
/** Names of files, words, and what each is. */
const KINDS = [
  ['auth-config', 'Allowlist', 'auth-config.json: it decides from the next request on'],
  ['collateral-bundle', 'Collateral bundle', 'signed by Intel, for sites without a way to the network'],
];
const MAX_FILE = 16 << 20;

function Run({ of, onClose, onDone }) {
  const task = useTask(() => post(`/api/v1/actions/${of.name}`, {}, { patience: 90000 }));
  return html`<${Confirm} title=${`${sentence(of.description).replace(/\.$/, '')}?`} word="Do it" task=${task} onClose=${onClose} onDone=${onDone}><p>${ASKED[of.name]}</p><//>`;
}

/** The closed set of actions, each with how it ended last. */
export function Actions({ me }) {
  const actions = useGet('/api/v1/actions', { every: 30, live: ['action_succeeded', 'action_failed'] });
  const [asked, setAsked] = useState(null);
  const [running, setRunning] = useState(null);
  const task = useTask((name) => post(`/api/v1/actions/${name}`, {}, { patience: 90000 }));
  const done = ({ message, took_ms: took }) => {
    toast(`${message || 'Done'}${took === undefined ? '' : `, in ${milliseconds(took)}`}`);
    setAsked(null);
    actions.refresh();
  };
  const start = async (action) => {
    if (ASKED[action.name]) return void setAsked(action);
    setRunning(action.name);
    const result = await task.run(action.name);
    if (result) done(result);
    else actions.refresh();
  };
  const columns = [
    { head: 'Action', kind: 'main', cell: ({ description }) => sentence(description).replace(/\.$/, '') },
    { head: 'Name', cell: ({ name }) => html`<code class="nowrap">${name}</code>` },
    { head: 'Last time', cell: ({ last }) => (last ? html`<span class=${last.ok ? '' : 'bad'}>${last.ok ? '' : 'failed: '}${last.message}</span><span class="sub"><${Time} at=${last.at} still /></span>` : soft('not since the start')) },
    can(me, 'action.run') && column.actions((action) => html`<${Button} small busy=${(task.busy && running === action.name) || action.running} onClick=${() => start(action)}>Run<span class="unseen"> ${action.name}</span><//>`),
  ];
  return html`<div class="stack"><${Failure} error=${task.error} title=${`${running} failed`} />
    <${Listed} caption="Actions" of=${actions} lines=${6} empty=${html`<${Empty} title="There are no actions" />`} columns=${columns} rows=${(data) => data.actions} />
    ${asked && html`<${Run} of=${asked} onClose=${() => setAsked(null)} onDone=${done} />`}</div>`;
}

/** A file: chosen, checked by the KMS, and only then put in the place of the one in use. */
export function Files({ me }) {
  const [kind, setKind] = useState('auth-config');
  const [file, setFile] = useState(null);
  const [checked, setChecked] = useState(null);
  const [installing, setInstalling] = useState(false);
  const input = useRef(null);
  const path = `/api/v1/file-upload/${kind}`;
  const check = useTask(() => upload(withQuery(path, { dry_run: 'true' }), file));
  const install = useTask(() => upload(path, file));
  const [, name, about] = KINDS.find(([key]) => key === kind);
  if (!can(me, 'policy.upload')) return html`<${Card}><${Empty} title="Owners replace files">Your role is ${me.role}.<//><//>`;
  const clear = () => { setChecked(null); check.clear(); };
  const look = async () => { const result = await check.run(); setChecked(result ?? null); };
  const done = (answer) => {
    if (!waits(answer)) toast(answer.changed === false ? `${name}: it was there already` : `${name} installed`);
    setInstalling(false);
    setFile(null);
    input.current.value = '';
    clear();
  };
  const tooLarge = file && file.size > MAX_FILE;
  return html`<div class="grid"><${Card} title="Replace a file" span=${7}><div class="stack">
      <${Options} legend="Which file" name="kind" of=${KINDS} value=${kind} onChoose=${(key) => { setKind(key); clear(); }} />
      <${Field} label="File" error=${tooLarge && 'It is larger than 16 MB.'}>${(props) => html`<input ...${props} type="file" ref=${input} onChange=${(event) => { setFile(event.target.files[0] ?? null); clear(); }} />`}<//>
    </div><//>
    <${Card} title="What the KMS says" span=${5}><div class="stack" aria-live="polite">
      ${checked ? html`<${Note} kind="good" title="It can be installed">${checked.message}<//><${Values} of=${[{ name: 'Size', value: bytes(checked.bytes) }, whole('SHA-256', checked.sha256, 'digest'), { name: 'Changes', value: checked.changed ? 'yes' : 'no: it is the one in use' }]} />`
        : html`<p class="soft">${file ? 'It is parsed or verified first; nothing is replaced by that.' : `${about}.`}</p>`}
      <${Failure} error=${check.error} title="It cannot be installed" />
      <div class="line"><${Button} kind=${checked ? '' : 'primary'} disabled=${!file || tooLarge} busy=${check.busy} onClick=${look}>Check<//>
        <${Button} kind=${checked ? 'primary' : ''} disabled=${!checked} onClick=${() => setInstalling(true)}>Install…<//></div>
    </div><//>
    ${installing && html`<${Confirm} title=${`Install this ${name.toLowerCase()}?`} word="Install" task=${install} onClose=${() => setInstalling(false)} onDone=${done}>
      <p>It replaces the one in use, at once. The audit log records who did it, and the digest.</p><${Whole} value=${checked?.sha256} name="digest" /><//>`}
  </div>`;
}
