// Policy.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function PolicyView() {
  return html`<${Page} title="Policy"><${Empty} title="Not here yet" /><//>`;
}
