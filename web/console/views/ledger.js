// Ledger.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function LedgerView() {
  return html`<${Page} title="Ledger"><${Empty} title="Not here yet" /><//>`;
}
