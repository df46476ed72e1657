// Platforms.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function PlatformsView() {
  return html`<${Page} title="Platforms"><${Empty} title="Not here yet" /><//>`;
}
