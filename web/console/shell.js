// What surrounds the views: the name of the KMS and its state, the navigation, and who is signed in.

import { useGet, isReachable, on } from './api.js';
import { liveState, onLive } from './live.js';
import { can } from './roles.js';
import { go, link } from './router.js';
import { Button, Icon, Note, Pill, Time, html, pill, useEffect, useRef, useState } from './ui.js';

/** A KMS without credentials has none to manage. */
const managesCredentials = (me) => me.kind !== 'anyone' && can(me, 'credential.manage');

/** The views in the order of the navigation, in groups: name in addresses, words, and to whom it is shown if not to everyone. */
export const GROUPS = [
  { name: null, views: [['overview', 'Overview']] },
  { name: 'Activity', views: [['releases', 'Releases'], ['denials', 'Denials'], ['cvms', 'CVMs']] },
  { name: 'Control', views: [['policy', 'Policy'], ['freezes', 'Freezes'], ['domains', 'Domains'], ['approvals', 'Approvals']] },
  { name: 'Trust', views: [['ledger', 'Ledger'], ['platforms', 'Platforms'], ['replicas', 'Replicas'], ['fleet', 'Fleet'], ['operations', 'Operations'], ['epochs', 'Epochs'], ['recovery', 'Recovery']] },
  { name: 'System', views: [['credentials', 'Credentials', managesCredentials], ['settings', 'Settings'], ['diagnostics', 'Diagnostics']] },
];

/** The views of what a domain has: others are refused to a credential that is limited to one. */
const OF_DOMAIN = ['overview', 'releases', 'denials', 'cvms', 'policy', 'freezes', 'domains', 'approvals', 'credentials'];

const EVENTS = ['denied', 'refused', 'frozen', 'unfrozen', 'shadow_started', 'shadow_stopped'];

function Badge({ count, kind = '', what }) {
  if (!count) return null;
  const text = count > 999 ? '999+' : String(count);
  return html`<span class="badge ${kind}">${text}<span class="unseen"> ${what}</span></span>`;
}

function badges(overview, approvals) {
  const waiting = approvals?.approvals?.filter(({ state }) => state === 'waiting').length ?? 0;
  const attention = overview?.attention?.filter(({ severity }) => severity !== 'info').length ?? 0;
  const critical = overview?.attention?.some(({ severity }) => severity === 'critical');
  return {
    overview: html`<${Badge} count=${attention} kind=${critical ? 'bad' : 'warn'} what="need attention" />`,
    denials: html`<${Badge} count=${overview?.last_24h?.distinct_denials} kind="bad" what="distinct in 24 hours" />`,
    approvals: html`<${Badge} count=${waiting} kind="warn" what="waiting" />`,
  };
}

function State({ overview, error, reach }) {
  if (!reach) return pill('No answer', 'bad');
  if (!overview) return error ? pill('State not known', 'warn') : pill('Connecting');
  if (!overview.ready) return pill('Not releasing keys', 'bad');
  return overview.reasons?.length > 0 ? pill('Degraded', 'warn') : pill('Releasing keys', 'good');
}

function Who({ me, onSignOut }) {
  const [live, setLive] = useState(liveState);
  useEffect(() => onLive(setLive), []);
  const text = { live: 'Live', lost: 'Reconnecting', off: 'Not live' }[live];
  return html`<section class="who" aria-label="Who is signed in">
    <p class="name"><strong>${me.kind === 'anyone' ? 'Anyone' : me.name}</strong><span class="soft"> ${me.role}</span></p>
    ${me.domain && html`<p class="soft">domain ${me.domain}</p>`}
    ${me.expires_at && html`<p class="soft">credential ends <${Time} at=${me.expires_at} /></p>`}
    <p class="livestate ${live}"><span class="dot" aria-hidden="true"></span>${text}</p>
    ${me.kind !== 'anyone' && html`<${Button} small onClick=${onSignOut}>Sign out<//>`}
  </section>`;
}

/** Whether the KMS answers. */
export function useReach() {
  const [reach, set] = useState(isReachable);
  useEffect(() => on('reach', set), []);
  return reach;
}

/** The frame around a view. */
export function Shell({ me, view, onSignOut, children }) {
  const overview = useGet('/api/v1/overview', { every: 20, live: EVENTS });
  // The KMS says whether the credential sees one domain only.
  const isLimited = Boolean(overview.data?.domain);
  useEffect(() => { if (isLimited && !OF_DOMAIN.includes(view)) go(link('overview'), { replace: true }); }, [isLimited, view]);
  const approvals = useGet('/api/v1/approvals', { every: 30 });
  const reach = useReach();
  useEffect(() => {
    if (reach) return undefined;
    const timer = setInterval(overview.refresh, 3000);
    return () => clearInterval(timer);
  }, [reach, overview.refresh]);
  const [isOpen, setOpen] = useState(false);
  const menu = useRef(null);
  useEffect(() => setOpen(false), [view]);
  const marks = badges(overview.data, approvals.data);
  const name = overview.data?.name || location.hostname;
  const escape = (event) => {
    if (event.key !== 'Escape' || !isOpen) return;
    setOpen(false);
    menu.current?.focus();
  };
  return html`<div class="shell" onKeyDown=${escape}>
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById('main').focus(); }}>Skip to the content</a>
    <header class="top">
      <a class="brand" href=${link('overview')}><img src="/assets/console/icon.svg" alt="" width="24" height="24" /><span class="brandname">${name}</span></a>
      ${isLimited && reach && html`<${Pill}>Domain ${me.domain}<//>`}<${State} overview=${overview.data} error=${overview.error} reach=${reach} />
      <button type="button" class="menu small" ref=${menu} aria-expanded=${isOpen ? 'true' : 'false'} aria-controls="nav" onClick=${() => setOpen(!isOpen)}>
        <${Icon} name=${isOpen ? 'cross' : 'menu'} /><span class="word">Menu</span></button>
    </header>
    <div class="side ${isOpen ? 'open' : ''}" id="nav">
      <nav aria-label="Console">
        ${GROUPS.map((group) => {
          const views = group.views.filter(([key, , isFor]) => (!isFor || isFor(me)) && (!isLimited || OF_DOMAIN.includes(key)));
          if (views.length === 0) return null;
          return html`<div key=${group.name} class="group" role="group" aria-label=${group.name ?? undefined}>
            ${group.name && html`<p class="groupname" aria-hidden="true">${group.name}</p>`}
            <ul>${views.map(([key, text]) => html`<li key=${key}><a href=${link(key)} aria-current=${key === view ? 'page' : undefined}
              onClick=${() => setOpen(false)}><span>${text}</span>${marks[key]}</a></li>`)}</ul></div>`;
        })}
      </nav>
      <${Who} me=${me} onSignOut=${onSignOut} />
    </div>
    <main id="main" tabindex="-1">
      ${!reach && html`<${Note} kind="bad" role="alert" title="The KMS does not answer" actions=${html`<${Button} small onClick=${overview.refresh}>Try again<//>`}>
        What is shown here was true before. The console tries again by itself.<//>`}
      ${overview.data && me.version && overview.data.version !== me.version && html`<${Note} kind="info" title="This KMS was updated" actions=${html`<${Button} small onClick=${() => location.reload()}>Reload<//>`}>
        It now runs ${overview.data.version}; this page is of ${me.version}. After the reload you are asked to sign in.<//>`}
      ${children}
    </main>
  </div>`;
}
