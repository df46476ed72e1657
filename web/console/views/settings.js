// Settings.

import { Empty, Page, html } from '../ui.js';

/** The view. */
export default function SettingsView() {
  return html`<${Page} title="Settings"><${Empty} title="Not here yet" /><//>`;
}
