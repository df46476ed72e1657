// This KMS, the KMSs that were invited to have its root keys, and those that received them, from the audit log.

import { useGet } from '../api.js';
import { count, short, spaced } from '../format.js';
import { link } from '../router.js';
import { Card, Empty, Id, Listed, Loaded, Note, Page, Values, column, html, pill, whole } from '../ui.js';
import { InviteButton, Join, Joins } from './replica_joins.js';

const COLUMNS = [
  { head: 'KMS', kind: 'main', cell: (handover) => html`<a class="nowrap" href=${handover.allowed ? link('releases', handover.seq) : link('denials', handover.denial_id)}><code>${short(handover.mr_aggregated || 'not measured', 12)}</code></a>` },
  { head: 'Root keys', cell: ({ allowed }) => (allowed ? pill('received', 'good') : pill('refused', 'bad')) },
  column.time('Last', 'at'),
  column.number('Times', 'count'),
  column.id('OS image', 'os_image_hash', 'OS image hash', { kind: 'minor' }),
  column.id('Device', 'device_id', 'device id', { kind: 'minor' }),
  { head: 'Address', cell: ({ address }) => (address ? html`<code>${address}</code>` : '—') },
];

function List({ me }) {
  const replicas = useGet('/api/v1/replicas', { every: 60, live: ['kms_key_released', 'denied'] });
  const refused = (data) => data.handovers.filter(({ allowed }) => !allowed).length;
  const nothing = html`<${Empty} title="No other KMS has asked for the root keys">A replica receives them at its setup: choose “Replica” on its setup page, with the address of this KMS as the source.<//>`;
  return html`<${Page} title="Replicas" lead="KMSs with the same root keys release the same keys to the same apps." actions=${html`<${InviteButton} me=${me} />`}>
    <${Loaded} of=${replicas} lines=${8}>${(data) => html`<div class="grid">
      <${Card} title="This KMS" aside=${data.self.ready ? pill('Releasing keys', 'good') : pill('Not releasing keys', 'bad')}><${Values} wide of=${[
        { name: 'Name', value: data.self.name },
        whole('Root fingerprint', data.self.root_fingerprint, 'root fingerprint', { hint: 'the same on each replica', shown: spaced(data.self.root_fingerprint) }),
        { name: 'Version', value: data.self.version },
        { name: 'Boot', value: html`<${Id} value=${data.self.boot_id} name="boot id" />` },
      ]} /><//>
      ${refused(data) > 0 && html`<${Note} kind="warn" title=${`${count(refused(data), 'KMS', 'KMSs')} asked and did not receive the root keys`}>If one of them is yours, its measurements are missing in the policy; if none is, find out who asked.<//>`}
      <${Joins} me=${me} />
      <${Listed} title="Requests for the root keys" aside=${data.handovers.length > 0 && 'from the audit log'} columns=${COLUMNS} rows=${data.handovers}
        rowKey=${({ seq, denial_id: denial }) => denial ?? seq} empty=${nothing} />
    </div>`}<//>
  <//>`;
}

/** `#/replicas`, and `#/replicas/ID` for an invitation. */
export default function Replicas({ me, params }) {
  return params.id ? html`<${Join} key=${params.id} me=${me} id=${params.id} />` : html`<${List} me=${me} />`;
}
