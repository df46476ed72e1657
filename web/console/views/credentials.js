// Credentials.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function CredentialsView() {
  return html`<${Page} title="Credentials"><${Empty} title="Not here yet" /><//>`;
}
