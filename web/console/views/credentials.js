// Named credentials of the admin listener, each with a role, an end and its last use. Secrets are shown once.

import { post, useGet, useTask } from '../api.js';
import { ago } from '../format.js';
import { can } from '../roles.js';
import { Button, Card, Code, Confirm, Copy, Dialog, Empty, Failure, Field, Loaded, Note, Page, Pill, Table, Time, html, toast, useState } from '../ui.js';
import { waits } from './common.js';

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

/** The domain that each KMS has. */
const DOMAIN = 'default';

const invitationLink = (token) => `${location.origin}/#/activate?token=${encodeURIComponent(token)}`;

/** A secret, once. It is gone when the dialog closes. */
function Issued({ made, onClose }) {
  const invited = made.state === 'invited';
  return html`<${Dialog} title=${invited ? `Invitation for ${made.name}` : `Token of ${made.name}`} onClose=${onClose} actions=${html`<${Button} kind="primary" onClick=${onClose}>Done<//>`}>
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
  const set = (name) => (event) => setValues({ ...values, [name]: event.target.value });
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
      <${Field} id="credential-name" label="Name" hint="The audit log names its holder by it." error=${(tried || values.name) && wrong}>${(props) => html`<input ...${props} value=${values.name} autocomplete="off" spellcheck=${false} autocapitalize="none" onInput=${set('name')} />`}<//>
      <fieldset class="stack tight"><legend>Role</legend>${ROLES.map(([role, word, what]) => html`<label class="choice" key=${role}><input type="radio" name="role" value=${role} checked=${values.role === role} onChange=${set('role')} />
        <span><strong>${word}</strong> <span class="soft">${what}</span></span></label>`)}</fieldset>
      <${Field} label="It is for" hint="An owner of a domain manages only its credentials.">${(props) => html`<select ...${props} value=${values.domain} onChange=${set('domain')}>
        ${(me.domain ? [me.domain] : ['', DOMAIN]).map((domain) => html`<option key=${domain} value=${domain}>${domain ? `The domain “${domain}”` : 'The whole KMS'}</option>`)}</select>`}<//>
      <${Field} label="It ends">${(props) => html`<select ...${props} value=${values.ends} onChange=${set('ends')}>${ENDS.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}</select>`}<//>
      <fieldset class="stack tight"><legend>What you hand over</legend>
        <label class="choice"><input type="radio" name="issue" value="invitation" checked=${values.issue === 'invitation'} onChange=${set('issue')} /><span><strong>An invitation</strong> <span class="soft">a link for 15 minutes; only its holder ever sees the token</span></span></label>
        <label class="choice"><input type="radio" name="issue" value="token" checked=${values.issue === 'token'} onChange=${set('issue')} /><span><strong>The token</strong> <span class="soft">for a program, or for yourself</span></span></label></fieldset>
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
    if (!waits(answer)) toast('Revoked');
    close();
  };
  if (me.kind === 'anyone') return html`<${Page} title="Credentials"><${Card}><${Empty} title="This KMS asks for no credentials">Everybody who reaches this listener is an owner: <code>core.admin.insecure_no_auth</code> is true.<//><//><//>`;
  if (!isOwner) return html`<${Page} title="Credentials"><${Card}><${Empty} title="Owners manage credentials">You are signed in as ${me.name}, with the role ${me.role}.<//><//><//>`;
  const columns = [
    { head: 'Name', kind: 'main', cell: ({ name }) => html`${name}${name === me.name && html` <span class="soft">you</span>`}` },
    { head: 'Role', cell: ({ role }) => ROLE_WORDS[role] ?? role },
    ...(credentials.data?.credentials.some(({ domain }) => domain) ? [{ head: 'Domain', cell: ({ domain }) => domain ?? html`<span class="soft">all</span>` }] : []),
    { head: 'State', cell: ({ state, invited_until: until, old_secret_until: old }) => html`<${Pill} kind=${STATES[state]?.[0]}>${STATES[state]?.[1] ?? state}<//>${state === 'invited' && html`<span class="sub">until <${Time} at=${until} still /></span>`}${old && html`<span class="sub">old token until <${Time} at=${old} still /></span>`}` },
    { head: 'Last used', cell: ({ last_used: at }) => (at ? html`<${Time} at=${at} still />` : html`<span class="soft">never</span>`) },
    { head: 'Ends', cell: ({ expires_at: at }) => (at ? html`<${Time} at=${at} still />` : html`<span class="soft">never</span>`) },
    { head: 'Created', cell: ({ created_at: at, created_by: by }) => html`<${Time} at=${at} still /><span class="sub">${by}</span>` },
    { head: 'Actions', kind: 'hide shrink', cell: (credential) => html`<span class="rowactions"><${Button} small onClick=${() => setOpen({ what: 'rotate', of: credential })}>Replace token<span class="unseen"> of ${credential.name}</span><//>
      <${Button} small onClick=${() => setOpen({ what: 'revoke', of: credential })}>Revoke<span class="unseen"> ${credential.name}</span><//></span>` },
  ];
  const create = html`<${Button} kind="primary" onClick=${() => setOpen({ what: 'create' })}>New credential<//>`;
  return html`<${Page} title="Credentials" lead="People and programs that may call this listener, and what each of them may do." actions=${create}>
    <${Card} flush><${Loaded} of=${credentials} lines=${5} empty=${(data) => data.credentials.length === 0 && html`<${Empty} title="There are no named credentials">You came with a token of the configuration. Give each person and program a credential of its own, so that the audit log can tell them apart.<//>`}>
      ${(data) => html`<${Table} caption="Named credentials" columns=${columns} rows=${data.credentials} rowKey=${({ name }) => name} />`}<//><//>
    ${open?.what === 'create' && html`<${Create} me=${me} onClose=${close} onMade=${made} />`}
    ${open?.what === 'issued' && html`<${Issued} made=${open.made} onClose=${close} />`}
    ${open?.what === 'rotate' && html`<${Rotate} of=${open.of} onClose=${close} onDone=${made} />`}
    ${open?.what === 'revoke' && html`<${Revoke} of=${open.of} me=${me} onClose=${close} onDone=${revoked} />`}
  <//>`;
}
