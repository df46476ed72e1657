// Freezes.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function FreezesView() {
  return html`<${Page} title="Freezes"><${Empty} title="Not here yet" /><//>`;
}
