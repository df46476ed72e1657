// The CVMs that got keys: how often, from where, and with what measurements.

import { get, useGet, useTask, withQuery } from '../api.js';
import { count, methodName, number, short, words } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, ButtonLink, Card, Empty, Failure, Figure, Filters, Listed, Loaded, Note, Page, Pages, Table, Time, Values, column, html, soft, useState,
} from '../ui.js';
import { RELEASE, SINCE, TCB_STATUSES, Tcb, identity, useDomainFilter } from './common.js';

const EVENTS = ['app_key_released', 'certificate_issued', 'denied', 'refused'];
const FILTERS = [
  { name: 'app', label: 'App', placeholder: 'app id' },
  { name: 'image', label: 'OS image', placeholder: 'image hash' },
  { name: 'tcb', label: 'TCB status', options: [['', 'Any'], ...TCB_STATUSES.map((status) => [status, status])] },
  { name: 'since', label: 'Last release', options: SINCE },
];

const COLUMNS = [
  { head: 'Instance', kind: 'main', cell: (cvm) => html`<a class="nowrap" href=${link('cvms', cvm.id)}><code>${short(cvm.instance_id || cvm.id, 12)}</code></a>` },
  column.id('App', 'app_id', 'app id'),
  column.time('Last release', 'last_at'),
  column.number('Releases', 'releases'),
  { head: 'Denials', kind: 'num', cell: (cvm) => (cvm.denials > 0 ? html`<span class="bad">${number(cvm.denials)}</span>` : soft('0')) },
  { head: 'Platform', cell: (cvm) => html`<${Tcb} status=${cvm.tcb_status} advisories=${cvm.advisories} />` },
  RELEASE.image,
  RELEASE.device,
];

function List({ params, navigate }) {
  const { app, image, tcb, domain, since, cursor } = params;
  const { fields, columns } = useDomainFilter(FILTERS);
  const path = withQuery('/api/v1/cvms', { app, image, tcb, domain, since, cursor, limit: 50 });
  const cvms = useGet(path, { every: 30, live: EVENTS });
  const isFiltered = Boolean(app || image || tcb || domain || since);
  const nothing = isFiltered
    ? html`<${Empty} title="No CVM matches">Clear a filter to see more of them.<//>`
    : html`<${Empty} title="No CVM has got keys yet">Each CVM appears here with its first release. Those that were refused are under <a href=${link('denials')}>Denials</a>.<//>`;
  return html`<${Page} title="CVMs" lead=${cvms.data?.total ? `${count(cvms.data.total, 'confidential VM')} got keys from this KMS; the latest is first.` : 'The confidential VMs that got keys from this KMS.'}>
    ${cvms.data?.building && html`<${Note} title="The inventory is being built">It counts ${number(cvms.data.building.through)} of ${number(cvms.data.building.of)} records so far.<//>`}
    <${Card} flush>
      <${Filters} fields=${fields} params=${params} navigate=${navigate}>${cvms.data?.covers_since && html`since <${Time} at=${cvms.data.covers_since} />`}<//>
      <${Loaded} of=${cvms} lines=${8} empty=${(data) => data.cvms.length === 0 && nothing}>
        ${(data) => html`<${Table} caption="CVMs" columns=${[...COLUMNS.slice(0, 2), ...columns, ...COLUMNS.slice(2)]} rows=${data.cvms} rowKey=${({ id }) => id} href=${({ id }) => link('cvms', id)} />
          <${Pages} cursor=${cursor} next=${data.next} navigate=${navigate} what="CVMs" />`}
      <//>
    <//>
  <//>`;
}

/** What a proxy is told that asks whether to route to the app. */
function Resolved({ app }) {
  const [told, tell] = useState(null);
  const task = useTask(async () => {
    try {
      tell({ data: await get(`/api/v1/resolve/${app}`) });
    } catch (error) {
      if (error.status !== 403) throw error;
      tell({ refused: error.message });
    }
  });
  const { data, refused } = told ?? {};
  return html`<${Card} title="What proxies are told" aside=${html`<code>/v1/resolve/${short(app, 8)}</code>`}><div class="stack">
    <p class="soft">A proxy asks whether to route to this app: only if its keys were released not long ago, on a platform that is still good.</p>
    ${data && html`<${Note} kind="good" role="status" title="Route to it">Keys were released <${Time} at=${data.released_at} />, platform ${data.tcb_status}${data.sealed === false ? ', OS image not verified' : ''}${data.policy_checked === false ? '; the policy was not asked' : ''}.<//>`}
    ${refused && html`<${Note} kind="warn" role="status" title="Do not route to it">${refused}<//>`}
    <${Failure} error=${task.error} />
    <div><${Button} busy=${task.busy} onClick=${() => task.run()}>Ask as a proxy<//></div></div><//>`;
}

function Latest({ cvm }) {
  const releases = useGet(withQuery('/api/v1/releases', { app: cvm.app_id, limit: 50 }), { live: EVENTS });
  const own = (data) => data.releases.filter(({ instance_id: instance }) => !cvm.instance_id || instance === cvm.instance_id).slice(0, 8);
  return html`<${Listed} title="Latest releases" aside=${html`<a href=${link('releases', null, { app: cvm.app_id })}>All of this app</a>`} of=${releases} lines=${4} empty=${html`<${Empty} title="None among the latest of this app" />`}
    columns=${[RELEASE.when, RELEASE.what, RELEASE.tcb, RELEASE.record]} rows=${own} rowKey=${({ seq }) => seq} href=${({ seq }) => link('releases', seq)} />`;
}

function One({ id, me }) {
  const answer = useGet(`/api/v1/cvms/${encodeURIComponent(id)}`, { every: 30, live: EVENTS });
  const cvm = answer.data;
  const actions = cvm && html`
    ${cvm.denials > 0 && html`<${ButtonLink} href=${link('denials', null, { app: cvm.app_id })}>Denials of this app<//>`}
    ${can(me, 'freeze.create') && html`${cvm.instance_id && html`<${ButtonLink} href=${link('freezes', 'new', { scope: 'instance', target: cvm.instance_id })}>Freeze this CVM<//>`}
      <${ButtonLink} href=${link('freezes', 'new', { scope: 'app', target: cvm.app_id })}>Freeze its app<//>`}`;
  return html`<${Page} title=${`CVM ${short(cvm?.instance_id || id, 12)}`} back=${{ href: link('cvms'), text: 'CVMs' }} actions=${actions}
      lead=${cvm && html`Got keys last <${Time} at=${cvm.last_at} />, first <${Time} at=${cvm.first_at} />.`}>
    <${Loaded} of=${answer} lines=${10}>${(data) => html`<div class="grid">
      <${Figure} name="Releases" value=${number(data.releases)} more=${Object.entries(data.methods ?? {}).filter(([, times]) => times > 0).map(([method, times]) => `${number(times)} ${methodName(method)}`).join(', ') || 'none yet'} />
      <${Figure} name="Denials" value=${number(data.denials)} kind=${data.denials > 0 ? 'bad' : ''} more=${data.last_denied_at ? html`last <${Time} at=${data.last_denied_at} />` : 'since its first release'} />
      <${Card} title="Platform" span=${6}><${Values} of=${[
        { name: 'TCB status', value: html`<${Tcb} status=${data.tcb_status} />` },
        { name: 'Advisories', value: data.advisories?.length > 0 ? data.advisories.join(', ') : 'none' },
        { name: 'TEE', value: words(data.tee) },
        { name: 'Address', value: data.address && html`<code>${data.address}</code>` },
      ]} /><//>
      <${Card} title="Identity and measurements"><${Values} wide of=${identity(data)} />
        <p class="line hint below"><a href=${link('cvms', null, { app: data.app_id })}>Other CVMs of this app</a><a href=${link('cvms', null, { image: data.os_image_hash })}>CVMs with this OS image</a></p><//>
      <${Latest} cvm=${data} />
      ${data.app_id && html`<${Resolved} app=${data.app_id} />`}
    </div>`}<//>
  <//>`;
}

/** `#/cvms` and `#/cvms/ID`. */
export default function Cvms({ me, params, navigate }) {
  return params.id ? html`<${One} key=${params.id} id=${params.id} me=${me} />` : html`<${List} params=${params} navigate=${navigate} />`;
}
