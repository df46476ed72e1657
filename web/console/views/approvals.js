// Approvals.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function ApprovalsView() {
  return html`<${Page} title="Approvals"><${Empty} title="Not here yet" /><//>`;
}
