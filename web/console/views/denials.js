// Denials.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function DenialsView() {
  return html`<${Page} title="Denials"><${Empty} title="Not here yet" /><//>`;
}
