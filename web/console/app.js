// The console: signs in, then shows the view that the address names.

import { forget, get, on, useCredential } from './api.js';
import * as live from './live.js';
import { usePlace } from './router.js';
import { GROUPS, Shell } from './shell.js';
import { SignIn, SignInForm } from './signin.js';
import { Button, Dialog, Empty, Failure, Page, Skeleton, Tips, Toasts, html, useEffect, useRef, useState } from './ui.js';
import { render } from '../vendor/preact.js';

const TITLES = Object.fromEntries(GROUPS.flatMap(({ views }) => views.map(([key, text]) => [key, text])));
const needsCredential = document.documentElement.dataset.credentials !== 'not-needed';

/** The views whose modules are loaded: each when it is first shown, and all of them a moment after signing in, so that they are there also
 * while the KMS does not answer. */
const loaded = new Map();
const MOMENT = 2000;

async function load(name) {
  if (!loaded.has(name)) loaded.set(name, (await import(`./views/${name}.js`)).default);
  return loaded.get(name);
}

async function loadAll() {
  for (const name of Object.keys(TITLES)) await load(name).catch(() => null);
}

function useView(name) {
  const [state, set] = useState({ name: null, View: null, failed: null });
  useEffect(() => {
    if (!(name in TITLES)) return undefined;
    if (loaded.has(name)) return void set({ name, View: loaded.get(name), failed: null });
    let gone = false;
    load(name).then(
      (View) => { if (!gone) set({ name, View, failed: null }); },
      () => { if (!gone) set({ name, View: null, failed: { status: 0, message: 'This part of the console could not be loaded.' } }); },
    );
    return () => { gone = true; };
  }, [name]);
  return state.name === name ? state : { name, View: null, failed: null };
}

function Place({ me, place }) {
  const { view, params, navigate } = place;
  const { View, failed } = useView(view);
  const shown = useRef(null);
  const where = `${view}/${params.id ?? ''}`;
  useEffect(() => {
    document.title = `${TITLES[view] ?? 'Not found'} · ${location.hostname}`;
    // A view gets the focus as a page that was loaded would; the form that asked for the credential is gone.
    if (shown.current !== where && View) {
      if (shown.current !== null) window.scrollTo(0, 0);
      (document.getElementById('title') ?? document.getElementById('main'))?.focus({ preventScroll: true });
    }
    if (View) shown.current = where;
  }, [where, View]);
  if (!(view in TITLES)) {
    return html`<${Page} title="Not found"><${Empty} title="There is no such page" action=${html`<a class="button" href="#/overview">Overview</a>`} /><//>`;
  }
  if (failed) return html`<${Page} title=${TITLES[view]}><${Failure} error=${failed} retry=${() => location.reload()} /><//>`;
  if (!View) return html`<${Page} title=${TITLES[view]}><${Skeleton} lines=${8} /><//>`;
  return html`<${View} key=${view} me=${me} params=${params} navigate=${navigate} />`;
}

function App() {
  const [me, setMe] = useState(null);
  const [expired, setExpired] = useState(false);
  const [failure, setFailure] = useState(null);
  const place = usePlace();

  useEffect(() => on('expired', () => {
    live.close();
    setExpired(true);
  }), []);
  const enter = () => get('/api/v1/me').then((now) => { setFailure(null); setMe(now); }, setFailure);
  useEffect(() => { if (!needsCredential) enter(); }, []);
  useEffect(() => {
    if (!me) return undefined;
    live.open();
    const timer = setTimeout(loadAll, MOMENT);
    return () => clearTimeout(timer);
  }, [me]);

  const signedIn = (now) => {
    if (me && (me.name !== now.name || me.role !== now.role)) forget();
    setExpired(false);
    setMe(now);
  };
  const signOut = () => {
    live.close();
    useCredential(null);
    forget();
    setMe(null);
    setExpired(false);
  };

  let content;
  if (me) {
    content = html`<${Shell} key=${`${me.name}/${me.role}`} me=${me} view=${place.view} onSignOut=${signOut}><${Place} me=${me} place=${place} /><//>`;
  } else if (needsCredential) {
    content = html`<${SignIn} onSignedIn=${signedIn} />`;
  } else {
    content = html`<main class="signin" id="main">${failure ? html`<${Failure} error=${failure} retry=${enter} />` : html`<${Skeleton} />`}</main>`;
  }
  return html`${content}
    ${me && expired && html`<${Dialog} title="Sign in again" onClose=${signOut}><${SignInForm} onSignedIn=${signedIn} reason="The KMS does not accept your credential any more" />
      <p class="hint"><${Button} kind="quiet" small onClick=${signOut}>Sign out instead<//></p><//>`}
    <${Toasts} /><${Tips} />`;
}

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
