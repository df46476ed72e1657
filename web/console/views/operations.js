// What goes on for longer than a request: invited replicas, and the rollout of an OS image.

import { useGet } from '../api.js';
import { sentence, words } from '../format.js';
import { link } from '../router.js';
import { Empty, Listed, Note, Page, Told, column, html, pill } from '../ui.js';

const EVENTS = [
  'replica_invited', 'replica_progress', 'replica_refused', 'invitation_ended', 'rollout_started', 'rollout_changed', 'rollout_node', 'rollout_failed', 'rollout_ended', 'state_adopted', 'approval_done',
];
const KINDS = { replica_join: 'Invited replica', rollout: 'Rollout' };

const place = ({ kind, id }) => (kind === 'rollout' ? link('fleet') : link('replicas', id));

/** Whether somebody has to do something about what goes on, or it did not come to its end. */
function state({ state: name, over, succeeded, advice }) {
  return pill(sentence(words(name)), over ? (succeeded ? 'good' : 'quiet') : advice ? 'warn' : 'good');
}

const COLUMNS = [
  { head: 'What', kind: 'main', cell: (one) => html`<a href=${place(one)}>${KINDS[one.kind] ?? words(one.kind)}</a><span class="sub"><${Told}>${one.title}<//></span>` },
  { head: 'State', cell: state },
  column.time('Began', 'started_at'),
  { head: 'To do', kind: 'why', cell: ({ over, advice, waits_for: waits }) => (over || !(advice || waits) ? '—' : html`<${Told}>${advice ?? waits}<//>`) },
];

/** `#/operations`. */
export default function Operations() {
  const all = useGet('/api/v1/operations', { every: 10, live: EVENTS });
  return html`<${Page} title="Operations" lead="What goes on for longer than a request, and what has ended recently; the newest is first.">
    <div class="grid">
      ${all.data?.problem && html`<${Note} kind="warn" title="Not all can be shown">${sentence(all.data.problem)}.<//>`}
      <${Listed} title="Operations" of=${all} lines=${4} rows=${({ operations }) => operations} rowKey=${({ id }) => id} href=${place} columns=${COLUMNS}
        empty=${html`<${Empty} title="Nothing goes on">Invited replicas and rollouts of OS images appear here.<//>`} />
    </div><//>`;
}
