// The CVMs that got keys from the nodes of a fleet, and the requests that they refused: what each node tells the others, newest first.

import { useGet, withQuery } from '../api.js';
import { short } from '../format.js';
import { link } from '../router.js';
import { Empty, Listed, Time, column, html } from '../ui.js';
import { RELEASE, Tcb } from './common.js';

/** How many rows are shown. */
const SOME = 50;
const NODE = { head: 'Node', cell: ({ node }) => node };
const rowKey = ({ node, id }) => `${node}/${id}`;
/** What another node has told has no page here. */
const own = (view, self) => ({ node, id }) => (node === self ? link(view, id) : null);

function OfAll({ title, here, view, self, of, columns, empty }) {
  const href = own(view, self);
  const first = { ...columns[0], cell: (row) => (href(row) ? html`<a href=${href(row)}>${columns[0].cell(row)}</a>` : columns[0].cell(row)) };
  return html`<${Listed} title=${title} aside=${html`<a href=${link(view)}>${here}</a>`} of=${of} lines=${3} rows=${(data) => data[view]} rowKey=${rowKey} columns=${[first, NODE, ...columns.slice(1)]}
    empty=${html`<${Empty} title=${empty} />`} />`;
}

/** Both lists; `self` is the name of the node that answers. */
export function FleetLists({ self }) {
  const query = { fleet: true, limit: SOME };
  const cvms = useGet(withQuery('/api/v1/cvms', query), { every: 15, live: ['app_key_released', 'certificate_issued'] });
  const denials = useGet(withQuery('/api/v1/denials', query), { every: 15, live: ['denied', 'refused'] });
  return html`<${OfAll} title="CVMs of all nodes" here="CVMs of this node" view="cvms" self=${self} of=${cvms} empty="No CVM has got keys from a node yet" columns=${[
      { head: 'Instance', kind: 'main', cell: (cvm) => html`<code class="nowrap">${short(cvm.instance_id || cvm.id, 12)}</code>` },
      column.id('App', 'app_id', 'app id'),
      column.time('Last release', 'last_at'),
      column.number('Releases', 'releases'),
      { head: 'Platform', kind: 'minor', cell: ({ tcb_status: status, advisories }) => html`<${Tcb} status=${status} advisories=${advisories} />` },
      { ...RELEASE.image, kind: 'minor spare' },
    ]} />
    <${OfAll} title="Denials of all nodes" here="Denials of this node" view="denials" self=${self} of=${denials} empty="No node has refused anybody" columns=${[
      { head: 'Last', kind: 'shrink', cell: ({ last_at: at }) => html`<${Time} at=${at} still />` },
      { head: 'Why', kind: 'why', cell: ({ message, code }) => html`<span class="clamp" title=${message}>${message}</span><code class="sub">${code}</code>` },
      column.id('App', 'app_id', 'app id'),
      column.number('Times', 'count'),
    ]} />`;
}
