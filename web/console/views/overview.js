// Overview: what this KMS is, whether it releases keys, and what needs attention by when.

import { useGet, withQuery } from '../api.js';
import { Chart } from '../chart.js';
import { ago, count, duration, milliseconds, number, sentence, spaced } from '../format.js';
import { link } from '../router.js';
import {
  Button, ButtonLink, Card, Empty, Figure, Icon, Id, Listed, Loaded, Note, Page, Segments, Severity, Time, Told, Values, column, html, useState, whole,
} from '../ui.js';
import { RELEASE } from './common.js';

const RELEASES = ['app_key_released', 'kms_key_released', 'certificate_issued'];
const WINDOWS = [['1h', '1h', 'hour'], ['6h', '6h', '6 hours'], ['24h', '24h', '24 hours'], ['7d', '7d', '7 days'], ['30d', '30d', '30 days']];
const POINTS = { '1h': 60, '6h': 72, '24h': 72, '7d': 84, '30d': 90 };

/** What the button of an item does, by the view that it leads to. */
const WORDS = {
  denials: 'Explain', releases: 'See releases', cvms: 'See machines', policy: 'See policy', freezes: 'See freezes', domains: 'See domains', approvals: 'Decide', platforms: 'See platforms', ledger: 'See ledger',
  replicas: 'See replicas', fleet: 'See fleet', credentials: 'See credentials', settings: 'See settings', diagnostics: 'See diagnostics',
};

/** How many items are shown at first. */
const SOME = 5;

function Attention({ items }) {
  const [all, showAll] = useState(false);
  if (items.length === 0) {
    return html`<div class="line soft"><span class="good"><${Icon} name="check" /></span>Nothing needs attention.</div>`;
  }
  const shown = all ? items : items.slice(0, items.length > SOME + 1 ? SOME : items.length);
  return html`<ul class="todo">${shown.map((item) => html`<li key=${`${item.code}${item.link?.id ?? item.message}`}>
    <${Severity} of=${item.severity} />
    <div class="what"><${Told} asIs>${item.message}<//>
      <div class="soft">${[
        item.by && html`<span key="by">${Date.parse(item.by) < Date.now() ? 'was due' : 'due'} <${Time} at=${item.by} /></span>`,
        item.since && html`<span key="since">since <${Time} at=${item.since} /></span>`,
        item.last && html`<span key="last">last <${Time} at=${item.last} /></span>`,
        item.since && item.count > 1 && html`<span key="count">${number(item.count)} times</span>`,
        item.detail && html`<span key="detail"><${Told} asIs>${item.detail}<//></span>`,
      ].filter(Boolean).flatMap((part, index) => (index > 0 ? [' · ', part] : [part]))}</div></div>
    ${item.link && html`<${ButtonLink} small kind=${item.severity === 'critical' ? 'primary' : ''} href=${link(item.link.view, item.link.id)}>${WORDS[item.link.view] ?? 'Show'}<//>`}
  </li>`)}</ul>
  ${shown.length < items.length && html`<div class="below"><${Button} small kind="quiet" onClick=${() => showAll(true)}>Show all ${items.length}<//></div>`}`;
}

/** What stops the release of keys, at the top and not in the list as well. */
const stopping = ({ reasons = [] }) => reasons.filter(({ stops }) => stops);
const others = (overview) => overview.attention.filter(({ code }) => !stopping(overview).some((reason) => reason.code === code));

function Stops({ overview }) {
  const reasons = stopping(overview);
  if (reasons.length === 0) return null;
  return html`<div class="span12 stack">${reasons.map(({ code, message, detail }) => {
    const place = overview.attention.find((item) => item.code === code)?.link;
    return html`<${Note} key=${code} kind="bad" title="No keys are released" actions=${place && html`<${ButtonLink} small href=${link(place.view, place.id)}>${WORDS[place.view] ?? 'Show'}<//>`}>
      ${message}${detail && html`: ${detail}`} <code class="soft">${code}</code><//>`;
  })}</div>`;
}

const sum = (list) => list.reduce((total, value) => total + value, 0);

/** The chart of one question: how many requests, or how long releases took. */
function Drawn({ shows, points, span }) {
  const times = points.map(({ at }) => Date.parse(at) / 1000);
  const of = (name) => points.map((point) => point[name]);
  if (shows === 'latency') {
    const slowest = Math.max(0, ...of('p99_ms').filter((value) => value !== null));
    return html`<${Chart} times=${times} format=${milliseconds} unit="ms" describe=${`Time of a release in the last ${span}, at most ${milliseconds(slowest)} at the 99th percentile`}
      series=${[{ name: 'median', tone: 'accent', line: true, values: of('p50_ms') }, { name: '99th percentile', tone: 'warn', line: true, values: of('p99_ms') }]} />`;
  }
  const [released, denied] = [of('released'), of('denied')];
  return html`<${Chart} times=${times} format=${number} describe=${`${number(sum(released))} releases and ${number(sum(denied))} denials in the last ${span}`}
    series=${[{ name: 'released', tone: 'accent', values: released }, { name: 'denied', tone: 'bad', values: denied }]} />`;
}

function Traffic({ params, navigate }) {
  const window = params.window in POINTS ? params.window : '6h';
  const shows = params.chart === 'latency' ? 'latency' : 'requests';
  const history = useGet(withQuery('/api/v1/history', { window, points: POINTS[window] }), { every: 30, live: [...RELEASES, 'denied', 'refused'] });
  const choose = (change) => navigate(change, { replace: true });
  return html`<${Card} title=${shows === 'latency' ? 'Time of a release' : 'Releases and denials'} span=${8} aside=${html`
      <${Segments} inline name="chart" legend="What is shown" of=${[['requests', 'Requests'], ['latency', 'Latency']]} chosen=${shows} onChoose=${(value) => choose({ chart: value === 'requests' ? null : value })} />
      <${Segments} inline name="window" legend="Time shown" of=${WINDOWS} chosen=${window} onChoose=${(value) => choose({ window: value === '6h' ? null : value })} />`}>
    <${Loaded} of=${history} lines=${6}>${({ points }) => html`<${Drawn} key=${shows} shows=${shows} points=${points} span=${WINDOWS.find(([value]) => value === window)[2]} />`}<//><//>`;
}

function Relaxed({ settings }) {
  return html`<${Card} title="Relaxed settings" span=${4} aside=${settings.length > 0 && html`<a href=${link('settings')}>Settings</a>`}>
    ${settings.length === 0 ? html`<div class="line soft"><span class="good"><${Icon} name="check" /></span>None: every check is on.</div>`
      : html`<ul class="todo">${settings.map(({ setting, message }) => html`<li key=${setting}><${Severity} of="warning" /><div class="what">${sentence(message)}<div class="soft"><code>${setting}</code></div></div></li>`)}</ul>`}<//>`;
}

function Latest() {
  const releases = useGet('/api/v1/releases?limit=6', { every: 60, live: RELEASES });
  return html`<${Listed} title="Latest releases" aside=${html`<a href=${link('releases')}>All releases</a>`} of=${releases} rows=${(data) => data.releases}
    empty=${html`<${Empty} title="No keys released yet">CVMs that your policy allows get their keys here.<//>`} rowKey=${({ seq }) => seq} href=${({ seq }) => link('releases', seq)} columns=${[
        RELEASE.when, RELEASE.what,
        column.id('App', 'app_id', 'app id'),
        column.id('Instance', 'instance_id', 'instance id', { kind: 'minor' }),
        RELEASE.tcb, RELEASE.image, RELEASE.record,
      ]} />`;
}

/** The view. */
export default function OverviewView({ params, navigate }) {
  const overview = useGet('/api/v1/overview', { every: 20 });
  const { data } = overview;
  const lead = data && html`<span>${data.started_at ? `Running for ${duration((Date.parse(data.server_time) - Date.parse(data.started_at)) / 1000)}` : `Domain ${data.domain}`} · ${data.version.startsWith('v') ? data.version : `v${data.version}`} · root <${Id} value=${data.root_fingerprint} name="root fingerprint" keep=${16} /></span>`;
  return html`<${Page} title=${data?.name || 'Overview'} lead=${lead}>
    <${Loaded} of=${overview} lines=${10}>${(now) => html`<div class="grid">
      <${Stops} overview=${now} />
      ${now.building && html`<${Note} title="Older records are still being counted">${number(now.building.through)} of ${number(now.building.of)} are; until then the numbers below are lower than they should be.<//>`}
      <${Card} title="Needs attention" aside=${others(now).length > 0 && count(others(now).length, 'item')}><${Attention} items=${others(now)} /><//>
      <${Figure} name="Released, 24 hours" value=${number(now.last_24h.releases)} href=${link('releases')} more=${now.last_24h.releases === null ? 'not counted yet' : `${count(now.last_24h.cvms, 'CVM')}, ${count(now.last_24h.apps, 'app')}`} />
      <${Figure} name="Denied, 24 hours" value=${number(now.last_24h.denials)} href=${link('denials')} kind=${now.last_24h.denials > 0 ? 'bad' : ''}
        more=${now.last_24h.denials === null ? 'not counted yet' : now.last_24h.denials > 0 ? `${number(now.last_24h.distinct_denials)} distinct, ${count(now.last_24h.denied_cvms, 'CVM')}` : 'no request was refused'} />
      ${now.latency && html`<${Figure} name="Release, 99th percentile" value=${milliseconds(now.latency.p99_ms)}
        more=${now.latency.p99_ms === null ? 'none since the start' : `median ${milliseconds(now.latency.p50_ms)}${now.latency.ledger_p99_ms === null ? '' : ` · ledger ${milliseconds(now.latency.ledger_p99_ms)}`}`} />`}
      ${now.ledger && html`<${Figure} name="Ledger" value=${number(now.ledger.size)} href=${link('ledger')} kind=${now.ledger.witnesses_ok < now.ledger.required ? 'bad' : ''}
        more=${now.ledger.size === null ? 'nothing is signed yet' : `checkpoint ${ago(now.ledger.checkpoint_at)}${now.ledger.witnesses > 0 ? ` · ${now.ledger.witnesses_ok} of ${count(now.ledger.witnesses, 'witness', 'witnesses')}` : ' · no witnesses'}`} />`}
      ${now.archived && html`<${Note} kind="warn" title="This domain is archived">Nothing is released in it.<//>`}
      <${Traffic} params=${params} navigate=${navigate} />
      ${now.relaxed && html`<${Relaxed} settings=${now.relaxed} />`}
      <${Latest} />
      <${Card} title="Identity"><${Values} wide of=${[
        { name: 'Name', value: now.name },
        whole('Root fingerprint', now.root_fingerprint, 'root fingerprint', { shown: spaced(now.root_fingerprint) }),
        whole('CA fingerprint', now.ca_fingerprint, 'CA fingerprint', { shown: spaced(now.ca_fingerprint) }),
        whole('OS image of this KMS', now.os_image_hash, 'OS image hash'),
        whole('Boot id', now.boot_id),
        { name: 'Version', value: now.version },
        { name: 'Mode', value: now.mode },
        { name: 'Started', value: now.started_at && html`<${Time} at=${now.started_at} />` },
      ]} /><//>
    </div>`}<//><//>`;
}
