// Diagnostics.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function DiagnosticsView() {
  return html`<${Page} title="Diagnostics"><${Empty} title="Not here yet" /><//>`;
}
