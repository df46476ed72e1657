// Invitations of replicas: a token by which one machine gets the root keys, once, and how far each has come.

import { call, post, useGet, useTask } from '../api.js';
import { sentence, words } from '../format.js';
import { can } from '../roles.js';
import { go, link } from '../router.js';
import {
  Button, Card, Chain, Choose, Code, Confirm, Copy, Dialog, Empty, Listed, Loaded, Note, Page, Time, Typed, Values, column, html, soft, stated, toast, useState, whole,
} from '../ui.js';
import { waits } from './common.js';

const PATH = '/api/v1/replica-joins';
const EVENTS = ['replica_invited', 'replica_progress', 'replica_refused', 'invitation_ended', 'state_adopted', 'approval_done'];

/** The stages on the way to a node that serves: name, words, and what each means. */
const STAGES = [
  ['started', 'Started', 'somebody has shown the token'],
  ['attested', 'Attested', 'the evidence verified; the invitation belongs to this machine from here on'],
  ['allowed', 'Allowed', 'policy and freezes allow it'],
  ['keys', 'Keys sent', 'the invitation is used up'],
  ['committed', 'Keys stored', 'the new node says that it has them on its disk'],
  ['serving', 'Serving', 'the new node says that it serves'],
];
/** What else happens. */
const FAILURES = {
  refused: ['Refused', 'the same machine may try again'],
  used_by_another: ['Another machine', 'it has shown the token, and was refused'],
  expired: ['Expired', 'nobody got keys by it'],
  cancelled: ['Cancelled', 'nobody got keys by it'],
};
const STATES = {
  waiting: ['quiet', 'Waiting'],
  ...Object.fromEntries(STAGES.map(([stage, text]) => [stage, [stage === 'serving' ? 'good' : 'quiet', text]])),
  refused: ['bad', 'Refused'], expired: ['quiet', 'Expired'], cancelled: ['quiet', 'Cancelled'], unconfirmed: ['warn', 'Not confirmed'],
};
const ENDS = [['900', 'In 15 minutes'], ['600', 'In 10 minutes'], ['300', 'In 5 minutes']];

const has = ({ stages }, name) => stages.some(({ stage }) => stage === name);
const isOpen = (join) => !join.over && !has(join, 'keys');
const state = (join) => stated(STATES, join.over && !join.confirmed && has(join, 'keys') ? 'unconfirmed' : join.state);

/** What happened, and what has to. */
function steps({ stages }) {
  const reached = stages.map(({ stage, at, code, denial_id: denial }) => {
    const [step, meaning] = FAILURES[stage] ?? STAGES.find(([name]) => name === stage)?.slice(1) ?? [words(stage), ''];
    return { step, state: stage in FAILURES ? 'failed' : 'passed', message: html`<${Time} at=${at} />: ${code && html`<code>${code}</code>, `}${meaning}${denial && html` <a href=${link('denials', denial)}>Explain</a>`}` };
  });
  const open = STAGES.filter(([name]) => !stages.some(({ stage }) => stage === name));
  return [...reached, ...open.map(([, step, message]) => ({ step, state: 'not_reached', message }))];
}

function Invite({ onClose, onDone }) {
  const [values, setValues] = useState({ domain: '', label: '', source: '', ends: '900' });
  const set = (name) => (value) => setValues({ ...values, [name]: value });
  const [domain, label, source] = [values.domain.trim(), values.label.trim(), values.source.trim()];
  const task = useTask(() => post(PATH, { domain, ...(label ? { label } : {}), ...(source ? { source_url: source } : {}), valid_for: Number(values.ends) }));
  return html`<${Confirm} title="Invite a replica" word="Invite it" task=${task} disabled=${!domain} onClose=${onClose} onDone=${onDone}>
    <p>One more machine gets the root keys, once. Its evidence, the policy and freezes are checked as always.</p>
    <${Typed} label="DNS name or IPv4 address" hint="CVMs will reach the new node by it; it is in its certificate." value=${values.domain} onType=${set('domain')} />
    <${Typed} label="Label, if you like" hint="What people call it." maxlength=${100} value=${values.label} onType=${set('label')} />
    <${Typed} label="URL of this KMS for it, if another" hint="Behind NAT, for example. Otherwise the command has this KMS’s name, and the port of its main listener." placeholder="https://kms.example.com:8000" value=${values.source} onType=${set('source')} />
    <${Choose} label="It ends" of=${ENDS} value=${values.ends} onChoose=${set('ends')} /><//>`;
}

/** The token, once: it is gone when the dialog closes. */
function Invited({ made: { join, token }, onClose }) {
  return html`<${Dialog} title=${`Invitation of ${join.domain}`} kind="wide" done onClose=${onClose}>
    <${Note} kind="warn" title="Its token is shown only now">The KMS keeps no more than a hash of it. It ends <${Time} at=${join.expires_at} />, and is for one run of the machine that shows it first: if that is restarted before it has the keys, invite it again.<//>
    <p>1. Run this, with the address of the new node for <code>NEW-NODE:8000</code> (there, <code>127.0.0.1</code> and the port of its onboarding):</p>
    <${Code} text=${join.command} name="command" />
    <p>2. It waits for the token: paste it, then press Enter and Ctrl-D.</p>
    <div class="secret"><code>${token}</code><${Copy} text=${token} name="token" /></div>
    <p>3. Run <code>kmsctl finish</code> there. The next page shows how far it has come.</p><//>`;
}

function Cancel({ of, onEnd }) {
  const task = useTask(() => call('DELETE', `${PATH}/${of.id}`));
  return html`<${Confirm} title=${`Cancel the invitation of ${of.domain}?`} word="Cancel it" kind="danger" task=${task} onClose=${onEnd} onDone=${() => { toast('Cancelled'); onEnd(); }}>
    <p>Nobody gets keys by it any more.</p><//>`;
}

/** A button of owners that invites, with its dialogs. */
export function InviteButton({ me }) {
  const [asks, ask] = useState(false);
  const [made, setMade] = useState(null);
  if (!can(me, 'replica.invite')) return null;
  const done = (answer) => {
    ask(false);
    if (!waits(answer)) setMade(answer);
  };
  return html`<${Button} kind="primary" onClick=${() => ask(true)}>Invite a replica<//>
    ${asks && html`<${Invite} onClose=${() => ask(false)} onDone=${done} />`}
    ${made && html`<${Invited} made=${made} onClose=${() => go(link('replicas', made.join.id))} />`}`;
}

/** All invitations that are known. */
export function Joins({ me }) {
  const joins = useGet(PATH, { every: 30, live: EVENTS });
  const [cancelled, cancel] = useState(null);
  return html`<${Listed} title="Invitations" of=${joins} lines=${2} rows=${(data) => data.joins} rowKey=${({ id }) => id} href=${({ id }) => link('replicas', id)}
    empty=${html`<${Empty} title="No replica was invited in the last week">An invitation lets one more machine get the root keys, once.<//>`} columns=${[
      { head: 'New node', kind: 'main', cell: ({ id, domain, label }) => html`<a href=${link('replicas', id)}>${domain}</a>${label && html`<span class="sub">${label}</span>`}` },
      { head: 'Stage', cell: state },
      { head: 'Invited', cell: ({ created_at: at, created_by: by }) => html`<${Time} at=${at} still /><span class="sub">${by}</span>` },
      { head: 'Ends', cell: (join) => (isOpen(join) ? html`<${Time} at=${join.expires_at} still />` : soft()) },
      can(me, 'replica.invite') && column.actions((join) => isOpen(join) && html`<${Button} small onClick=${() => cancel(join)}>Cancel…<span class="unseen"> the invitation of ${join.domain}</span><//>`),
    ]} />
    ${cancelled && html`<${Cancel} of=${cancelled} onEnd=${() => { cancel(null); joins.refresh(); }} />`}`;
}

/** `#/replicas/ID`: one invitation, live. */
export function Join({ me, id }) {
  const join = useGet(`${PATH}/${encodeURIComponent(id)}`, { every: 5, live: EVENTS });
  const [cancels, cancel] = useState(false);
  const { data } = join;
  return html`<${Page} title=${data ? `Invitation of ${data.domain}` : 'Invitation'} back=${{ href: link('replicas'), text: 'Replicas' }} lead=${data?.label}
    actions=${data && isOpen(data) && can(me, 'replica.invite') && html`<${Button} onClick=${() => cancel(true)}>Cancel…<//>`}>
    <${Loaded} of=${join} lines=${8}>${(of) => html`<div class="grid">
      ${of.advice && html`<${Note} kind="warn" title="What to do">${sentence(of.advice)}.<//>`}
      <${Card} title="How far it has come" aside=${html`<span role="status">${state(of)}</span>`}><${Chain} steps=${steps(of)} /><//>
      <${Card} title="Invitation"><${Values} wide of=${[
        { name: 'Id', value: html`<code>${of.id}</code>` },
        { name: 'Made', value: html`<${Time} at=${of.created_at} /> by ${of.created_by}` },
        { name: 'Ends', value: html`<${Time} at=${of.expires_at} />` },
        whole('Key of the machine', of.key_sha256, 'key of the machine', { hint: 'SHA-256' }),
        whole('Root CA', of.source_root_sha256, 'SHA-256 of the root CA', { hint: 'it takes no other keys' }),
        { name: 'Command', value: isOpen(of) && html`<${Code} text=${of.command} name="command" />` },
      ]} /><//>
    </div>`}<//>
    ${cancels && html`<${Cancel} of=${data} onEnd=${() => { cancel(false); join.refresh(); }} />`}<//>`;
}
