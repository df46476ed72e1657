// Approvals: changes of owners that wait for a second owner.

import { get, post, useGet, useTask } from '../api.js';
import { can } from '../roles.js';
import { Button, Card, Code, Confirm, Copy, Dialog, Empty, Id, Loaded, Note, Page, Table, Time, Values, html, stated, toast, useEffect, useState, whole } from '../ui.js';

const STATES = {
  waiting: ['warn', 'Waiting'], approved: ['quiet', 'Being made'], done: ['good', 'Done'], failed: ['bad', 'Failed'], rejected: ['quiet', 'Rejected'], expired: ['quiet', 'Expired'],
};
const EVENTS = ['requested', 'approved', 'rejected', 'expired', 'done', 'failed'].map((what) => `approval_${what}`);

const pathOf = ({ id }) => `/api/v1/approvals/${encodeURIComponent(id)}`;
const isOwn = (me, approval) => approval.own ?? (approval.requested_by === me.name);

/** What the second owner is asked, and the two answers. */
function Decision({ me, approval, onDone }) {
  const [asking, ask] = useState(null);
  const [token, setToken] = useState(null);
  const task = useTask((answer) => post(`${pathOf(approval)}/${answer}`, answer === 'approve' && approval.sha256 ? { sha256: approval.sha256 } : {}));
  const own = isOwn(me, approval);
  const done = (result) => {
    const [kind, text] = { done: ['good', 'Approved and done'], approved: ['good', 'Approved'], rejected: ['good', 'Rejected'], failed: ['bad', 'Approved, but it failed'] }[result.state] ?? ['good', 'Done'];
    toast(`${text}${result.result ? `: ${result.result}` : ''}`, { kind });
    ask(null);
    if (result.token) setToken(result.token);
    else onDone();
  };
  if (!can(me, 'approval.decide')) return null;
  return html`<div class="line">
    ${!own && html`<${Button} kind="primary" onClick=${() => ask('approve')}>Approve<//>`}
    <${Button} onClick=${() => ask('reject')}>${own ? 'Take it back' : 'Reject'}<//>
    ${own && html`<span class="hint">You requested it, so another owner has to approve it.</span>`}
    ${asking === 'approve' && html`<${Confirm} title="Approve this change" word="Approve, and do it now" task=${task} given=${['approve']} onClose=${() => ask(null)} onDone=${done}>
      <p><strong>${approval.detail}</strong></p>
      <p class="soft">It is done at once, in the name of ${approval.requested_by} and of you; both are in the audit log.</p>
      ${approval.document && html`<${Code} text=${approval.document} name="document" />`}
      ${approval.sha256 && html`<${Values} of=${[whole('SHA-256 of what is done', approval.sha256, 'SHA-256')]} />`}<//>`}
    ${asking === 'reject' && html`<${Confirm} title=${own ? 'Take this request back' : 'Reject this change'} word=${own ? 'Take it back' : 'Reject'} kind="danger" task=${task} given=${['reject']} onClose=${() => ask(null)} onDone=${done}>
      <p><strong>${approval.detail}</strong></p><p class="soft">Nothing is changed. It can be requested again.</p><//>`}
    ${token && html`<${Half} which="second" token=${token} onClose=${() => { setToken(null); onDone(); }} />`}
  </div>`;
}

/** Half of an invitation: each of the two owners has one, so that neither can use it. */
function Half({ which, token, onClose }) {
  return html`<${Dialog} title=${`The ${which} half of the invitation`} onClose=${onClose}>
    <p>Give it to the person, and to nobody else, within 15 minutes. ${which === 'second'
      ? 'It is shown this once. The owner who requested the change finds the first half here, under Ended.'
      : 'The owner who approved the change has the second half.'} The person types the second half after the first.</p>
    <div class="secret"><code>${token}</code><${Copy} text=${token} name=${`${which} half`} /></div><//>`;
}

const INVITES = ['create_owner', 'rotate_owner', 'invite_replica'];

/** The half of the owner who requested a new secret, while the invitation counts. */
function OwnHalf({ approval }) {
  const [token, setToken] = useState(null);
  const task = useTask(() => get(pathOf(approval)));
  const show = async () => {
    const shown = await task.run();
    if (shown?.token) setToken(shown.token);
    else toast('Your half is not there any more: the invitation has ended, or this KMS has started again', { kind: 'bad' });
  };
  return html`<${Button} small busy=${task.busy} onClick=${show}>Your half of the invitation<//>${token && html`<${Half} which="first" token=${token} onClose=${() => setToken(null)} />`}`;
}

function Waiting({ me, approval, refresh, marked }) {
  // A document that will be put in force is part of the answer for one request only.
  const one = useGet(pathOf(approval));
  const full = { ...approval, ...(one.data ?? {}) };
  return html`<${Card} title=${approval.detail} kind=${marked ? 'marked' : ''}>
    <div class="stack"><p class="soft">Requested by <strong>${approval.requested_by}</strong> <${Time} at=${approval.requested_at} />, ends <${Time} at=${approval.expires_at} /> · <code>${approval.action}</code> · <${Id} value=${approval.id} name="request id" keep=${16} /></p>
      ${full.document && html`<details><summary>What will be in force</summary><${Code} text=${full.document} name="document" /></details>`}
      <${Decision} me=${me} approval=${full} onDone=${refresh} /></div><//>`;
}

/** The view. */
export default function ApprovalsView({ me, params }) {
  const approvals = useGet('/api/v1/approvals', { every: 10, live: EVENTS });
  useEffect(() => {
    if (params.id && approvals.data) document.querySelector('.marked')?.scrollIntoView({ block: 'center' });
  }, [params.id, Boolean(approvals.data)]);
  return html`<${Page} title="Approvals" lead="Changes of owners that need two owners: one requests, another approves. A freeze never waits.">
    <${Loaded} of=${approvals} lines=${6} empty=${(data) => data.approvals.length === 0 && html`<${Card}><${Empty} title="Nothing waits">With <code>core.admin.approvals = 2</code>, lifting a freeze, activating a policy and credentials of owners wait here for a second owner.<//><//>`}>${(data) => {
      const waiting = data.approvals.filter(({ state }) => state === 'waiting');
      const ended = data.approvals.filter(({ state }) => state !== 'waiting').reverse();
      return html`<div class="stack">
        ${waiting.length === 0 && html`<${Note} kind="good" title="Nothing waits for you" />`}
        ${waiting.map((approval) => html`<${Waiting} key=${approval.id} me=${me} approval=${approval} refresh=${approvals.refresh} marked=${approval.id === params.id} />`)}
        ${ended.length > 0 && html`<${Card} title="Ended" flush><${Table} caption="Requests that ended" rows=${ended} rowKey=${({ id }) => id} mark=${({ id }) => (id === params.id ? 'marked' : '')} columns=${[
          { head: 'Requested', kind: 'shrink', cell: ({ requested_at: at }) => html`<${Time} at=${at} />` },
          { head: 'Change', kind: 'text', cell: (row) => html`${row.detail}${row.result && html`<span class="sub">${row.result}</span>`}${row.own && row.state === 'done' && INVITES.includes(row.action) && html`<div><${OwnHalf} approval=${row} /></div>`}` },
          { head: 'By', cell: (row) => row.requested_by },
          { head: 'Decided by', cell: (row) => row.approved_by ?? '—' },
          { head: 'State', kind: 'shrink', cell: (row) => stated(STATES, row.state) },
        ]} /><//>`}
      </div>`;
    }}<//><//>`;
}
