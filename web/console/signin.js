// Signing in: a token, a name with its secret, or the activation of an invitation. Nothing is stored.

import { call, get, useCredential, useTask } from './api.js';
import { go, place } from './router.js';
import { AS_TYPED, Button, Copy, Failure, Field, Note, Segments, html, useEffect, useRef, useState } from './ui.js';

const WAYS = [['token', 'Token'], ['name', 'Name and secret'], ['invitation', 'Invitation']];
const isLoopback = /^(localhost|127\.|\[::1\]|.*\.localhost$)/.test(location.hostname);

/** Whether what is typed here can be read on the network. */
const isClear = location.protocol === 'http:' && !isLoopback;

async function signIn(credential) {
  const me = await get('/api/v1/me', { as: credential });
  useCredential(credential);
  return me;
}

/** The activation token of an invitation link, `#/activate?token=…`, which leaves the address as soon as it is read. */
function takeInvitation() {
  const { view, params } = place();
  if (view !== 'activate') return '';
  go('#/overview', { replace: true });
  return params.token ?? '';
}

/** Read before anything is drawn. */
const invitationAtStart = takeInvitation();

const activate = (token) => call('POST', '/api/v1/activate', { body: {}, as: { token } });

function Activated({ made, onUse, busy }) {
  const heading = useRef(null);
  useEffect(() => heading.current?.focus(), []);
  return html`<div class="stack">
    <h2 tabindex="-1" ref=${heading}>Your credential</h2>
    <p>This is the secret of <strong>${made.name}</strong> (${made.role}). Store it now: it is shown this once.</p>
    <div class="secret"><code>${made.secret ?? made.token}</code><${Copy} text=${made.secret ?? made.token} name="secret" /></div>
    <${Button} kind="primary" busy=${busy} onClick=${onUse}>I have stored it, sign in<//>
  </div>`;
}

/** The form. `onSignedIn(me)` is called once a credential is accepted; `reason` says why it is asked for again. */
export function SignInForm({ onSignedIn, reason }) {
  const [invitation, setInvitation] = useState(invitationAtStart);
  const [way, setWay] = useState(invitation ? 'invitation' : 'token');
  const [missing, setMissing] = useState('');
  const [made, setMade] = useState(null);
  const first = useRef(null);
  const task = useTask(async (credential) => {
    if (credential.invitation) return void setMade(await activate(credential.invitation));
    onSignedIn(await signIn(credential));
  });
  useEffect(() => first.current?.focus(), [way]);
  // A link that is opened where the console is open already changes the address only.
  useEffect(() => {
    const opened = () => {
      const token = takeInvitation();
      if (!token) return;
      setInvitation(token);
      setWay('invitation');
    };
    window.addEventListener('hashchange', opened);
    return () => window.removeEventListener('hashchange', opened);
  }, []);

  if (made) {
    return html`<${Activated} made=${made} busy=${task.busy} onUse=${() => task.run({ token: made.secret ?? made.token })} /><${Failure} error=${task.error} />`;
  }
  const submit = (event) => {
    event.preventDefault();
    const { way: _, ...typed } = Object.fromEntries(new FormData(event.target));
    const lacks = Object.entries(typed).find(([, value]) => !value.trim());
    if (lacks) {
      setMissing(lacks[0]);
      event.target.elements[lacks[0]].focus();
      return;
    }
    setMissing('');
    task.run(typed);
  };
  const secret = { type: 'password', ...AS_TYPED };
  const problem = task.error && (task.error.status === 401 ? { ...task.error, status: 401, message: way === 'name' ? 'Name or secret is wrong, or they have expired.' : 'This credential is not valid here: wrong, expired or revoked.', code: '' } : task.error);
  return html`<form class="stack" onSubmit=${submit} novalidate>
    ${reason && html`<${Note} kind="warn" title=${reason}>The place and its filters stay.<//>`}
    ${isClear && html`<${Note} kind="bad" title="This page came without TLS">Anyone on the network between can read what you type here.<//>`}
    <${Segments} legend="How do you sign in?" name="way" of=${WAYS} chosen=${way} onChoose=${(value) => { setWay(value); setMissing(''); task.clear(); }} />
    ${way === 'token' && html`<${Field} label="Token" hint="Of the configuration, of a named credential, or an access token of your identity provider." error=${missing === 'token' && 'Type the token first.'}>
      ${(props) => html`<input ...${props} ...${secret} name="token" ref=${first} />`}<//>`}
    ${way === 'name' && html`<${Field} label="Name" error=${missing === 'name' && 'Type the name first.'}>
        ${(props) => html`<input ...${props} name="name" ...${AS_TYPED} ref=${first} />`}<//>
      <${Field} label="Secret" error=${missing === 'secret' && 'Type the secret first.'}>${(props) => html`<input ...${props} ...${secret} name="secret" />`}<//>`}
    ${way === 'invitation' && html`<${Field} label="Activation token" hint="It works once. You are then shown a credential of your own." error=${missing === 'invitation' && 'Type the activation token first.'}>
      ${(props) => html`<input ...${props} ...${secret} name="invitation" key=${invitation} defaultValue=${invitation} ref=${first} />`}<//>`}
    <${Failure} error=${problem} title=${task.error?.status === 401 ? 'Not accepted' : undefined} />
    <${Button} type="submit" kind="primary" busy=${task.busy}>${way === 'invitation' ? 'Activate' : 'Sign in'}<//>
    <p class="hint">Kept in the memory of this page only: after a reload you are asked again.</p>
  </form>`;
}

/** The page before anything else. */
export function SignIn({ onSignedIn }) {
  useEffect(() => { document.title = `Sign in · ${location.hostname}`; }, []);
  return html`<main class="signin" id="main">
    <div class="signinbox card">
      <p class="brand"><img src="/assets/console/icon.svg" alt="" width="28" height="28" />cvm-kms</p>
      <h1>Sign in</h1>
      <p class="lead">to the KMS at <strong>${location.host}</strong></p>
      <${SignInForm} onSignedIn=${onSignedIn} />
    </div></main>`;
}
