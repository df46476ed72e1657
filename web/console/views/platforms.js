// The hardware under the CVMs: the age of what Intel says about it, what that says now, and what it will say soon.

import { post, useGet, useTask } from '../api.js';
import { count, duration, number, words } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import { Button, Card, Empty, Failure, Listed, Loaded, Note, Page, Severity, Time, column, html, pill, soft, toast } from '../ui.js';
import { Tcb } from './common.js';

/** What is signed for less time than this is shown as urgent, in seconds. */
const SOON = 3 * 86400;
const KINDS = { tcb_info: 'TCB info, quoting enclave and revocations' };

function Left({ seconds }) {
  if (seconds === null || seconds === undefined) return soft();
  if (seconds <= 0) return pill('expired', 'bad');
  return seconds < SOON ? pill(duration(seconds), 'warn') : duration(seconds);
}

const COLLATERAL = [
  { head: 'Document', kind: 'main', cell: ({ kind }) => KINDS[kind] ?? words(kind) },
  { head: 'Model', cell: ({ fmspc }) => (fmspc ? html`<code class="nowrap">${fmspc}</code>` : soft('all')) },
  column.time('Issued', 'issued_at'),
  { head: 'CA', kind: 'minor', cell: ({ ca }) => ca ?? soft() },
  { head: 'Fetched', cell: ({ age_s: age }) => (age === null || age === undefined ? '—' : html`<span class="nowrap">${duration(age)} ago</span>`) },
  { head: 'Valid for', cell: ({ expires_in_s: left }) => html`<${Left} seconds=${left} />` },
];

const PLATFORMS = [
  { head: 'TCB status', kind: 'main', cell: ({ tcb_status: status, advisories }) => html`<${Tcb} status=${status} advisories=${advisories} />` },
  { head: 'Advisories', cell: ({ advisories }) => (advisories?.length > 0 ? advisories.join(', ') : soft('none')) },
  { head: 'CVMs', kind: 'num', cell: ({ cvms, tcb_status: tcb }) => html`<a href=${link('cvms', null, { tcb })}>${number(cvms)}</a>` },
  column.time('Last release', 'last_at'),
];

function Forecast({ of }) {
  return html`<ul class="todo">${of.map((coming) => {
    const isPast = Date.parse(coming.at) < Date.now();
    return html`<li key=${`${coming.fmspc}${coming.then}`}><${Severity} of="warning" /><div class="what">
      ${coming.machines ? html`<strong>${count(coming.machines, 'machine')}</strong>` : 'Machines'} of model <code>${coming.fmspc}</code> ${coming.machines === 1 ? 'becomes' : 'become'} <strong>${coming.then}</strong>${' '}
      ${coming.at && !isPast ? html`<${Time} at=${coming.at} />` : 'with the next TCB set, at any time'}.
      <div class="soft">${coming.message || `now ${coming.now}`}</div></div></li>`;
  })}</ul>`;
}

/** `#/platforms`. */
export default function Platforms({ me }) {
  const platforms = useGet('/api/v1/platforms', { every: 60, live: ['collateral_refreshed', 'app_key_released'] });
  const refresh = useTask(async () => {
    const done = await post('/api/v1/actions/refresh-collateral', {}, { patience: 90000 });
    platforms.refresh();
    return done;
  });
  const fetchNow = async () => {
    const done = await refresh.run();
    if (done) toast(done.message ? `Collateral: ${done.message}` : 'Collateral is current');
  };
  return html`<${Page} title="Platforms" lead="What Intel says about the machines under your CVMs, how old that is, and what changes next."
      actions=${can(me, 'collateral.refresh') && html`<${Button} busy=${refresh.busy} onClick=${fetchNow}>Fetch collateral now<//>`}>
    <${Failure} error=${refresh.error} title="Collateral could not be fetched" />
    <${Loaded} of=${platforms} lines=${8}>${(data) => html`<div class="grid">
      ${data.last_refresh && !data.last_refresh.ok && html`<${Note} kind="warn" title="No collateral service answers">${data.last_refresh.message}; the last answer came <${Time} at=${data.last_refresh.at} />.<//>`}
      <${Card} title="What comes" aside=${data.forecast.length > 0 && count(data.forecast.length, 'model')}>${data.forecast.length > 0 ? html`<${Forecast} of=${data.forecast} />`
        : html`<p class="soft">Intel's early TCB set changes nothing for the machines that were seen.</p>`}<//>
      <${Listed} title="CVMs by verdict" aside="at their last release" columns=${PLATFORMS} rows=${data.platforms} rowKey=${({ tcb_status: status }) => status}
        empty=${html`<${Empty} title="No CVM has got keys yet">Intel's verdict on its machine appears with the first one.<//>`} />
      <${Listed} title="Collateral" aside=${data.last_refresh?.ok && html`<span>answered <${Time} at=${data.last_refresh.at} /></span>`} columns=${COLLATERAL} rows=${data.collateral}
        rowKey=${({ kind, fmspc, ca }) => `${kind}${fmspc}${ca}`} empty=${html`<${Empty} title="No collateral yet">It is fetched with the first quote that needs it.<//>`} />
    </div>`}<//>
  <//>`;
}
