// What several views have in common: verdicts on platforms, spans of time, and actions that wait for a second owner.

import { useGet } from '../api.js';
import { absolute, methodName, number } from '../format.js';
import { link } from '../router.js';
import { Pill, Time, column, html, soft, toast, whole } from '../ui.js';

const GOOD = ['UpToDate'];
const BAD = ['Revoked', 'OutOfDate', 'OutOfDateConfigurationNeeded'];

/** Intel's verdict on a platform, with its advisories on hover. */
export function Tcb({ status, advisories = [] }) {
  if (!status) return soft();
  // Only what is not as it should be catches the eye.
  if (GOOD.includes(status)) return html`<span>${status}</span>`;
  const kind = BAD.includes(status) ? 'bad' : 'warn';
  return html`<${Pill} kind=${kind} tip=${advisories.length > 0 ? advisories.join(', ') : undefined}>${status}<//>`;
}

/** Columns of releases. */
export const RELEASE = {
  when: { head: 'When', kind: 'shrink', cell: ({ seq, at }) => html`<a href=${link('releases', seq)}><${Time} at=${at} still /></a>` },
  what: { head: 'What', cell: ({ method }) => methodName(method) },
  tcb: { head: 'TCB status', cell: ({ tcb_status: status, tcb_advisories: advisories }) => html`<${Tcb} status=${status} advisories=${advisories} />` },
  record: { head: 'Record', kind: 'num', cell: ({ seq }) => `#${number(seq)}` },
  image: column.id('OS image', 'os_image_hash', 'OS image hash', { kind: 'minor' }),
  device: column.id('Device', 'device_id', 'device id', { kind: 'minor spare' }),
};

/** Who a caller was, as rows of `Values`. */
export const identity = (of) => [
  { name: 'Domain', value: of.domain },
  whole('App id', of.app_id, 'app id', { shown: html`<a href=${link('releases', null, { app: of.app_id })}>${of.app_id}</a>` }),
  whole('Instance id', of.instance_id),
  whole('Compose hash', of.compose_hash),
  whole('Aggregated measurement', of.mr_aggregated),
  whole('OS image', of.os_image_hash, 'OS image hash'),
  whole('Device', of.device_id, 'device id'),
];

/** The verdicts to choose from. */
export const TCB_STATUSES = ['UpToDate', 'SWHardeningNeeded', 'ConfigurationNeeded', 'ConfigurationAndSWHardeningNeeded', 'OutOfDate', 'OutOfDateConfigurationNeeded', 'Revoked'];

const SPANS = { '1h': 3600, '24h': 86400, '7d': 604800, '30d': 2592000 };

/** The spans to choose from. */
export const SINCE = [['', 'Any time'], ['1h', 'Last hour'], ['24h', 'Last 24 hours'], ['7d', 'Last 7 days'], ['30d', 'Last 30 days']];

/** The start of a span as RFC 3339, to the minute, so that asking again within it is the same question. */
export function start(span) {
  if (!(span in SPANS)) return null;
  const at = Math.floor(Date.now() / 60000) * 60 - SPANS[span];
  return absolute(at).replace(' UTC', 'Z').replace(' ', 'T');
}

/** Whether an answer says that a second owner has to approve; if so, everyone is told where. */
export function waits(answer) {
  if (answer?.code !== 'approval_needed') return false;
  toast('A second owner has to approve this', { href: link('approvals', answer.approval?.id), word: 'Show' });
  return true;
}

/** Reported where a domain, or the place of an app in one, changes. */
export const DOMAIN_EVENTS = ['domain_created', 'domain_archived', 'domain_restored', 'app_assigned', 'app_moved'];

/** The domains that this credential sees; none until they are known. */
export function useDomains() {
  return useGet('/api/v1/domains', { live: DOMAIN_EVENTS }).data?.domains ?? [];
}

const DOMAIN = { head: 'Domain', kind: 'minor', cell: ({ domain }) => domain || '—' };

/** What a list has where there is more than one domain, in front of its other `fields`: a filter, and a column. */
export function useDomainFilter(fields) {
  const names = useDomains().map(({ name }) => name);
  if (names.length < 2) return { fields, columns: [] };
  return { fields: [...fields, { name: 'domain', label: 'Domain', options: [['', 'all'], ...names.map((name) => [name, name])] }], columns: [DOMAIN] };
}

/** A file of the browser's, saved under `name`. */
export function save(name, text, type = 'text/plain') {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const anchor = document.createElement('a');
  anchor.href = address;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
