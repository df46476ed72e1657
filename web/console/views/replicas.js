// Replicas.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function ReplicasView() {
  return html`<${Page} title="Replicas"><${Empty} title="Not here yet" /><//>`;
}
