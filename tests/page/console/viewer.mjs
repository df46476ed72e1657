// A viewer sees every view, and no button that would be refused.

import { assert, clean, given, scenario } from '../browser.mjs';
import { console_, go, unfailed } from './console.mjs';

/** Buttons and links that only others may use. */
const FORBIDDEN = /^(freeze|lift|activate|allow|dry run|try in shadow|stop the candidate|new credential|revoke|replace|restart|reload|run|change|fetch|sign one|install|prepare|retire|destroy|new set|start a drill|cancel the drill|files|invite|cancel…|repair|forget|pause|resume|retry|skip|roll an|check$)/i;

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.viewer);
  const links = await page.locator('#nav a').evaluateAll((all) => all.map((link) => link.getAttribute('href')));
  assert(!links.includes('#/credentials'), 'credentials are for owners');
  for (const [place] of given.views) {
    await go(page, place);
    await unfailed(page, place);
    const names = await page.locator('main :is(button, a.button)').evaluateAll((all) => all.map((one) => one.textContent.trim()));
    // There it is the list on the screen that pauses.
    const wrong = names.filter((name) => FORBIDDEN.test(name) && !(place === '#/diagnostics' && name === 'Pause'));
    assert(wrong.length === 0, `${place} offers a viewer: ${wrong.join(', ')}`);
  }
  clean(seen);
  return { links };
});
