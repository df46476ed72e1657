// The audit log as a transparency log: its signed checkpoint, who witnessed it, its files, and the proof of one entry.

import { post, useGet, useTask } from '../api.js';
import { bytes, number } from '../format.js';
import { can } from '../roles.js';
import { Button, Card, Code, Empty, Failure, Figure, Listed, Loaded, Note, Page, Time, Values, column, html, pill, soft, stated, toast, whole } from '../ui.js';
import { Proof } from './ledger_proof.js';

const STATES = { ok: ['good', 'current'], behind: ['warn', 'behind'], failing: ['bad', 'failing'], never: ['warn', 'not asked since the start'] };

const WITNESSES = [
  { head: 'Witness', kind: 'main', cell: ({ name }) => name },
  { head: 'State', cell: ({ state }) => stated(STATES, state) },
  column.time('Last cosignature', 'last_at'),
  column.number('At size', 'size'),
  column.number('Behind', 'behind'),
  { head: 'What it said', cell: ({ message }) => message ?? soft() },
];
const FILES = [
  { head: 'File', kind: 'main', cell: ({ name }) => html`<code>${name}</code>` },
  { head: 'Entries', cell: ({ first, last }) => html`${first === null && last === null ? soft() : html`<span class="num nowrap">${number(first)} – ${number(last)}</span>`}` },
  { head: 'Size', kind: 'num', cell: (file) => bytes(file.bytes) },
  { head: 'Kept', cell: ({ compressed, archived }) => (archived ? 'archived' : compressed ? 'compressed' : soft('open')) },
];

function Checkpoint({ of, me, refresh }) {
  const sign = useTask(async () => {
    const done = await post('/api/v1/actions/checkpoint');
    refresh();
    return done;
  });
  const act = async () => { if (await sign.run()) toast('A checkpoint was signed'); };
  return html`<${Card} title="Checkpoint" aside=${can(me, 'action.run') && html`<${Button} small busy=${sign.busy} onClick=${act}>Sign one now<//>`}><div class="stack">
    <${Failure} error=${sign.error} />
    <${Values} wide of=${[
      { name: 'Origin', value: of.origin && html`<code>${of.origin}</code>` },
      whole('Root hash', of.root),
      whole('Key of the log', of.log_key, 'key of the log', { hint: 'for verifiers' }),
      { name: 'Vouched for', value: of.vouched ? pill('by the root key', 'good') : pill('not by the root key', 'warn') },
    ]} />
    ${of.checkpoint && html`<${Code} text=${of.checkpoint} name="checkpoint" />`}
    <p class="hint">With a copy of this text elsewhere it can be proved later that the log was changed or shortened: <code>kmsctl audit verify --pin</code>.</p></div><//>`;
}

/** `#/ledger`, and `#/ledger/NUMBER` with the proof of that entry. */
export default function Ledger({ me, params, navigate }) {
  const ledger = useGet('/api/v1/ledger', { every: 15 });
  return html`<${Page} title="Ledger" lead="Each release and refusal is an entry of a log that only grows, and that others can verify.">
    <${Loaded} of=${ledger} lines=${10}>${(data) => {
      const current = data.witnesses.filter(({ state }) => state === 'ok').length;
      return html`<div class="grid">
        ${data.damaged_bytes > 0 && html`<${Note} kind="warn" title="Damage in the files of the log">${bytes(data.damaged_bytes)} at the end of files are not records: <code>kms audit verify</code> says where.<//>`}
        ${!data.healthy && html`<${Note} kind="bad" role="alert" title="The log is not healthy">${data.problem}<//>`}
        <${Figure} span=${4} name="Entries" value=${number(data.size)} more="of the tree" />
        <${Figure} span=${4} name="Checkpoint" value=${html`<${Time} at=${data.checkpoint_at} />`} more="signed by the log's key" />
        <${Figure} span=${4} name="Witnesses" value=${data.witnesses.length > 0 ? `${current} of ${data.witnesses.length}` : 'none'} kind=${current < (data.require ?? 0) ? 'bad' : ''}
          more=${data.require > 0 ? `${data.require} required for a release` : 'none required for a release'} />
        <${Proof} size=${data.size} logKey=${data.log_key} number=${params.id} navigate=${navigate} />
        <${Checkpoint} of=${data} me=${me} refresh=${ledger.refresh} />
        <${Listed} title="Witnesses" columns=${WITNESSES} rows=${data.witnesses}
          empty=${html`<${Empty} title="No witness is configured">Witnesses sign that they saw the same log as everyone else: <code>core.ledger.witnesses</code>.<//>`} />
        <${Listed} title="Files" aside=${data.free_bytes ? `${bytes(data.free_bytes)} free on their disk` : undefined} columns=${FILES} rows=${data.files} empty=${html`<${Empty} title="No file yet" />`} />
      </div>`;
    }}<//>
  <//>`;
}
