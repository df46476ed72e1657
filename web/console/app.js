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

/** The modules of views, each loaded when it is first shown. */
const loaded = new Map();

function useView(name) {
  const [state, set] = useState({ name: null, View: null, failed: null });
  useEffect(() => {
    if (!(name in TITLES)) return undefined;
    if (loaded.has(name)) return void set({ name, View: loaded.get(name), failed: null });
    let gone = false;
    import(`./views/${name}.js`).then(
      (module) => {
        loaded.set(name, module.default);
        if (!gone) set({ name, View: module.default, failed: null });
      },
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
    // The first view leaves the focus where the browser has put it; later ones get it, as a page that was loaded would.
    if (shown.current !== null && shown.current !== where && View) {
      window.scrollTo(0, 0);
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
  useEffect(() => { if (me) live.open(); }, [me]);

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
