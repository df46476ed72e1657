// Named credentials of the admin listener, each with a role, an end and its last use. Secrets are shown once.

import { post, useGet, useTask } from '../api.js';
import { ago } from '../format.js';
import { can } from '../roles.js';
import {
  Button, Card, Choose, Code, Confirm, Copy, Dialog, Empty, Failure, Listed, Note, Options, Page, Time, Typed, column, html, soft, stated, toast, useState,
} from '../ui.js';
import { useDomains, waits } from './common.js';

const PATH = '/api/v1/credentials';
const EVENTS = ['credential_created', 'credential_rotated', 'credential_revoked', 'credential_activated', 'approval_done'];
const ROLES = [
  ['viewer', 'Viewer', 'reads state, events and denials'],
  ['auditor', 'Auditor', 'reads the audit log with its proofs too'],
  ['operator', 'Operator', 'changes what can be taken back: freezes, candidates, caches'],
  ['owner', 'Owner', 'everything: lifts freezes, activates policies, manages credentials'],
  ['events-writer', 'Events writer', 'reports events, and reads nothing'],
];
const ROLE_WORDS = Object.fromEntries(ROLES.map(([role, word]) => [role, word]));
const ENDS = [['86400', 'In a day'], ['604800', 'In a week'], ['2592000', 'In 30 days'], ['7776000', 'In 90 days'], ['31536000', 'In a year'], ['', 'Never']];
const STATES = { active: ['good', 'active'], invited: ['warn', 'invited'], ended: ['quiet', 'ended'] };

const ISSUES = [['invitation', 'An invitation', 'a link for 15 minutes; only its holder ever sees the token'], ['token', 'The token', 'for a program, or for yourself']];

const invitationLink = (token) => `${location.origin}/#/activate?token=${encodeURIComponent(token)}`;

/** A secret, once. It is gone when the dialog closes. */
function Issued({ made, onClose }) {
  const invited = made.state === 'invited';
  return html`<${Dialog} title=${invited ? `Invitation for ${made.name}` : `Token of ${made.name}`} done onClose=${onClose}>
    <${Note} kind="warn" title="Shown only now">The KMS keeps no more than a hash of it.<//>
    ${invited
      ? html`<p>Send this link by a channel that you trust. It works once, until <${Time} at=${made.invited_until} />: its holder is then shown a token of their own.</p>
        <${Code} text=${invitationLink(made.token)} name="invitation link" />
        <details><summary>Only the activation token</summary><div class="secret"><code>${made.token}</code><${Copy} text=${made.token} name="activation token" /></div></details>`
      : html`<p>Hand it over by a channel that you trust. It is sent as <code>Authorization: Bearer …</code>, or typed where the console asks for a token.</p>
        ${made.old_secret_until && html`<p>The token before it works until this one is used, at most until <${Time} at=${made.old_secret_until} />.</p>`}
        <div class="secret"><code>${made.token}</code><${Copy} text=${made.token} name="token" /></div>`}
  <//>`;
}

function Create({ me, onClose, onMade }) {
  const [values, setValues] = useState({ name: '', role: 'viewer', domain: me.domain ?? '', ends: '7776000', issue: 'invitation' });
  const [tried, setTried] = useState(false);
  const set = (name) => (value) => setValues({ ...values, [name]: value });
  const known = useDomains();
  const domains = me.domain ? [me.domain] : ['', ...known.length > 0 ? known.map(({ name }) => name) : ['default']];
  const wrong = values.name === '' ? 'Type a name.' : /^[a-z0-9][a-z0-9.-]*$/.test(values.name) ? '' : 'Lower-case letters, digits, “-” and “.” only.';
  const task = useTask(() => post(PATH, {
    name: values.name,
    role: values.role,
    invite: values.issue === 'invitation',
    ...(values.domain ? { domain: values.domain } : {}),
    ...(values.ends ? { expires_at: Math.floor(Date.now() / 1000) + Number(values.ends) } : {}),
  }));
  const submit = async (event) => {
    event?.preventDefault();
    setTried(true);
    if (wrong) return void document.getElementById('credential-name')?.focus();
    const made = await task.run();
    if (made) onMade(made);
  };
  return html`<${Dialog} title="New credential" onClose=${onClose} actions=${html`<${Button} onClick=${onClose}>Cancel<//><${Button} kind="primary" busy=${task.busy} onClick=${submit}>${values.issue === 'invitation' ? 'Create the invitation' : 'Create the token'}<//>`}>
    <form class="stack" onSubmit=${submit} novalidate>
      <${Typed} id="credential-name" label="Name" hint="The audit log names its holder by it." error=${(tried || values.name) && wrong} value=${values.name} onType=${set('name')} />
      <${Options} legend="Role" name="role" of=${ROLES} value=${values.role} onChoose=${set('role')} />
      <${Choose} label="It is for" hint="An owner of a domain manages only its credentials." of=${domains.map((domain) => [domain, domain ? `The domain “${domain}”` : 'The whole KMS'])} value=${values.domain} onChoose=${set('domain')} />
      <${Choose} label="It ends" of=${ENDS} value=${values.ends} onChoose=${set('ends')} />
      <${Options} legend="What you hand over" name="issue" of=${ISSUES} value=${values.issue} onChoose=${set('issue')} />
      <${Failure} error=${task.error} />
      <button type="submit" class="unseen" tabindex="-1" aria-hidden="true">Create</button>
    </form><//>`;
}

function Rotate({ of, onClose, onDone }) {
  const task = useTask(() => post(`${PATH}/${of.name}/rotate`));
  return html`<${Confirm} title=${`Replace the token of ${of.name}?`} word="Replace it" task=${task} onClose=${onClose} onDone=${onDone}>
    <p>You are shown the new one. The present token works until the new one is used, for a short time at most. Role and end stay.</p><//>`;
}

function Revoke({ of, me, onClose, onDone }) {
  const task = useTask(async () => (await post(`${PATH}/${of.name}/revoke`)) ?? {});
  return html`<${Confirm} title=${`Revoke ${of.name}?`} word="Revoke it" kind="danger" task=${task} onClose=${onClose} onDone=${onDone}>
    <p>Its requests are refused at once, and its open event streams end. ${of.last_used ? `It was last used ${ago(of.last_used)}.` : 'It was never used.'}</p>
    ${of.name === me.name && html`<${Note} kind="warn" title="This is your own credential">You will be asked to sign in again.<//>`}<//>`;
}

/** `#/credentials`. */
export default function Credentials({ me }) {
  const isOwner = can(me, 'credential.manage') && me.kind !== 'anyone';
  const credentials = useGet(isOwner ? PATH : null, { every: 60, live: EVENTS });
  const [open, setOpen] = useState(null);
  const close = () => { setOpen(null); credentials.refresh(); };
  const made = (answer) => {
    if (waits(answer)) return close();
    credentials.refresh();
    return setOpen({ what: 'issued', made: answer });
  };
  const revoked = (answer) => {
    if (answer.shared === false) toast('Revoked on this node only: the other nodes do not know it yet.', { kind: 'bad' });
    else if (!waits(answer)) toast('Revoked');
    close();
  };
  if (!isOwner) {
    return html`<${Page} title="Credentials"><${Card}>${me.kind === 'anyone' ? html`<${Empty} title="This KMS asks for no credentials">Everybody who reaches this listener is an owner: <code>core.admin.insecure_no_auth</code> is true.<//>`
      : html`<${Empty} title="Owners manage credentials">You are signed in as ${me.name}, with the role ${me.role}.<//>`}<//><//>`;
  }
  const columns = [
    { head: 'Name', kind: 'main', cell: ({ name }) => html`${name}${name === me.name && html` <span class="soft">you</span>`}` },
    { head: 'Role', cell: ({ role }) => ROLE_WORDS[role] ?? role },
    credentials.data?.credentials.some(({ domain }) => domain) && { head: 'Domain', cell: ({ domain }) => domain ?? soft('all') },
    { head: 'State', cell: ({ state, invited_until: until, old_secret_until: old }) => html`${stated(STATES, state)}${state === 'invited' && html`<span class="sub">until <${Time} at=${until} still /></span>`}${old && html`<span class="sub">old token until <${Time} at=${old} still /></span>`}` },
    column.time('Last used', 'last_used', { none: 'never' }),
    column.time('Ends', 'expires_at', { none: 'never' }),
    { head: 'Created', cell: ({ created_at: at, created_by: by }) => html`<${Time} at=${at} still /><span class="sub">${by}</span>` },
    column.actions((credential) => html`<span class="rowactions"><${Button} small onClick=${() => setOpen({ what: 'rotate', of: credential })}>Replace token<span class="unseen"> of ${credential.name}</span><//>
      <${Button} small onClick=${() => setOpen({ what: 'revoke', of: credential })}>Revoke<span class="unseen"> ${credential.name}</span><//></span>`),
  ];
  const create = html`<${Button} kind="primary" onClick=${() => setOpen({ what: 'create' })}>New credential<//>`;
  return html`<${Page} title="Credentials" lead="People and programs that may call this listener, and what each of them may do." actions=${create}>
    <${Listed} caption="Named credentials" of=${credentials} columns=${columns} rows=${(data) => data.credentials}
      empty=${html`<${Empty} title="There are no named credentials">You came with a token of the configuration. Give each person and program a credential of its own, so that the audit log can tell them apart.<//>`} />
    ${open?.what === 'create' && html`<${Create} me=${me} onClose=${close} onMade=${made} />`}
    ${open?.what === 'issued' && html`<${Issued} made=${open.made} onClose=${close} />`}
    ${open?.what === 'rotate' && html`<${Rotate} of=${open.of} onClose=${close} onDone=${made} />`}
    ${open?.what === 'revoke' && html`<${Revoke} of=${open.of} me=${me} onClose=${close} onDone=${revoked} />`}
  <//>`;
}
