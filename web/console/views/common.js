// What several views have in common: verdicts on platforms, spans of time, and actions that wait for a second owner.

import { absolute } from '../format.js';
import { link } from '../router.js';
import { Pill, html, toast } from '../ui.js';

const GOOD = ['UpToDate'];
const BAD = ['Revoked', 'OutOfDate', 'OutOfDateConfigurationNeeded'];

/** Intel's verdict on a platform, with its advisories on hover. */
export function Tcb({ status, advisories = [] }) {
  if (!status) return html`<span class="soft">—</span>`;
  // Only what is not as it should be catches the eye.
  if (GOOD.includes(status)) return html`<span>${status}</span>`;
  const kind = BAD.includes(status) ? 'bad' : 'warn';
  return html`<${Pill} kind=${kind} tip=${advisories.length > 0 ? advisories.join(', ') : undefined}>${status}<//>`;
}

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

/** A file of the browser's, saved under `name`. */
export function save(name, text, type = 'text/plain') {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const anchor = document.createElement('a');
  anchor.href = address;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
