// Where requests for keys spend their time and where they wait: queues, caches, upstreams, stages, the last errors.

import { useGet } from '../api.js';
import { bytes, duration, methodName, milliseconds, number, words } from '../format.js';
import { Button, Card, Empty, Figure, Listed, Loaded, Page, Time, Values, column, html, pill, soft, stated, useState } from '../ui.js';
import { save } from './common.js';

const BREAKERS = { closed: ['good', 'closed'], half_open: ['warn', 'trying'], open: ['bad', 'open'] };

function Meter({ value, limit, name }) {
  if (!limit) return number(value);
  const high = value / limit >= 0.8;
  return html`<span class="metered"><meter min="0" max=${limit} high=${limit * 0.8} optimum="0" value=${value} aria-label=${name}></meter>
    <span class="num ${high ? 'bad' : ''}">${number(value)} of ${number(limit)}</span></span>`;
}

const named = (head) => ({ head, kind: 'main', cell: ({ name }) => words(name) });
const TIMES = [['Median', 'p50_ms'], ['99th percentile', 'p99_ms']].map(([head, field]) => ({ head, kind: 'num', cell: (row) => milliseconds(row[field]) }));
const QUEUES = [
  named('Queue'),
  { head: 'Waiting', cell: ({ name, waiting, limit }) => html`<${Meter} value=${waiting} limit=${limit} name=${`${words(name)}: waiting`} />` },
  { head: 'Turned away', kind: 'num', cell: ({ shed }) => (shed > 0 ? html`<span class="bad">${number(shed)}</span>` : soft('0')) },
];
const CACHES = [
  named('Cache'),
  { head: 'Entries', cell: ({ name, entries, limit }) => html`<${Meter} value=${entries} limit=${limit} name=${`${words(name)}: entries`} />` },
  { head: 'Hits', kind: 'num', cell: ({ hits, misses }) => (hits + misses > 0 ? `${Math.round((100 * hits) / (hits + misses))} %` : '—') },
  column.number('Misses', 'misses'),
];
const STAGES = [
  named('Stage'),
  ...TIMES,
  column.number('Requests', 'count'),
];
const UPSTREAMS = [
  named('Upstream'),
  { head: 'State', cell: ({ ok }) => (ok ? pill('answers', 'good') : pill('fails', 'bad')) },
  { head: 'Breaker', cell: ({ breaker }) => (breaker ? stated(BREAKERS, breaker) : soft()) },
  ...TIMES,
  { head: 'Last error', cell: ({ last_error: error }) => (error ? html`${error.message}<span class="sub"><${Time} at=${error.at} still /></span>` : soft('none')) },
];
const ERRORS = [
  column.time('When', 'at', { kind: 'main' }),
  { head: 'What', cell: ({ method }) => methodName(method) },
  { head: 'Error', cell: ({ message, code }) => html`${message} <code class="soft">${code}</code>` },
  column.number('Times', 'count'),
  column.id('Last request', 'request_id', 'request id', { keep: 12 }),
];

/** Facts about clock or process under their own names, whatever this version of the KMS reports. */
function facts(of) {
  return Object.entries(of ?? {}).map(([key, value]) => ({ name: words(key).replace(/ (s|ms|bytes)$/, '').replace(/^./, (first) => first.toUpperCase()), value: told(key, value) }));
}

function told(key, value) {
  if (value === null || value === undefined) return null;
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'string') return /^\d{4}-\d\d-\d\dT/.test(value) ? html`<${Time} at=${value} />` : value;
  if (key.endsWith('_bytes')) return bytes(value);
  if (key.endsWith('_ms')) return milliseconds(value);
  return key.endsWith('_s') ? duration(value) : number(value);
}

/** `#/diagnostics`. */
export default function Diagnostics() {
  const [paused, setPaused] = useState(false);
  const flow = useGet('/api/v1/diagnostics/key-flow', { every: paused ? 0 : 5 });
  const sum = (list, value) => list.reduce((total, one) => total + value(one), 0);
  const actions = html`<${Button} onClick=${() => setPaused(!paused)} aria-pressed=${paused ? 'true' : 'false'}>${paused ? 'Continue' : 'Pause'}<//>
    ${flow.data && html`<${Button} onClick=${() => save('key-flow.json', JSON.stringify(flow.data, null, 2), 'application/json')}>Download as JSON<//>`}`;
  return html`<${Page} title="Diagnostics" lead="How a request for keys flows through this KMS, asked again every five seconds." actions=${actions}>
    <${Loaded} of=${flow} lines=${10}>${(data) => {
      const failing = data.upstreams.filter(({ ok }) => !ok).length;
      const shed = sum(data.queues, (queue) => queue.shed);
      const busiest = data.in_flight.filter((one) => one.count > 0).map((one) => `${number(one.count)} ${methodName(one.method)}`).join(', ');
      return html`<div class="grid">
        <${Figure} name="In flight" value=${number(sum(data.in_flight, (one) => one.count))} more=${busiest || 'no request at the moment'} />
        <${Figure} name="Waiting" value=${number(sum(data.queues, (queue) => queue.waiting))} more=${`in ${data.queues.length} queues`} />
        <${Figure} name="Turned away" value=${number(shed)} kind=${shed > 0 ? 'bad' : ''} more="since the start, because a queue was full" />
        <${Figure} name="Upstreams" value=${failing > 0 ? `${failing} failing` : 'all answer'} kind=${failing > 0 ? 'bad' : ''} more=${`${data.upstreams.length} in use`} />
        <${Listed} title="Stages of a release" span=${6} columns=${STAGES} rows=${data.stages} empty=${html`<${Empty} title="No request yet" />`} />
        <${Listed} title="Queues" span=${6} columns=${QUEUES} rows=${data.queues} empty=${html`<${Empty} title="There are none" />`} />
        <${Listed} title="Upstreams" columns=${UPSTREAMS} rows=${data.upstreams} empty=${html`<${Empty} title="Nothing outside was asked yet" />`} />
        <${Listed} title="Caches" span=${6} columns=${CACHES} rows=${data.caches} empty=${html`<${Empty} title="There are none" />`} />
        <${Card} title="Process and clock" span=${6}><${Values} of=${[...facts(data.process), ...facts(data.clock)]} /><//>
        <${Listed} title="Last errors" columns=${ERRORS} rows=${data.last_errors} rowKey=${({ method, code, message }) => `${method}${code}${message}`} empty=${html`<${Empty} title="No errors">Since the start of the process.<//>`} />
      </div>`;
    }}<//>
  <//>`;
}
