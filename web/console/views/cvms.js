// CVMs.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function CvmsView() {
  return html`<${Page} title="CVMs"><${Empty} title="Not here yet" /><//>`;
}
