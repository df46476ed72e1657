// The nodes that share their state: who answers, what differs, a change of another node as it comes, and what is said without a database.

import { accessible, assert, clean, given, says, scenario } from '../browser.mjs';
import { call, console_, go, settled, sound, unfailed } from './console.mjs';

/** While the database is there. */
async function shared(page) {
  const row = (name) => page.locator('main tr').filter({ hasText: name });
  await row('rack-2').getByText(/^(Ready|Degraded)$/).waitFor();
  await row('rack-1').getByText('this node').waitFor();
  await says(page, 'main .figure', '2 of 2');
  await says(page, 'main', 'A rollout replaces the nodes one by one');
  // The allowlist of one of them has another entry.
  await says(page, 'main .note', 'Nodes decide by different policies');
  await row('rack-2').getByText('differs').waitFor();
  assert(await row('rack-1').getByText('differs').count() === 0, 'it does not differ from itself');
  await sound(page, '#/fleet', 'console-fleet');

  const number = async () => Number(await page.locator('main .figure').filter({ hasText: 'its number' }).locator('.value').textContent());
  const before = await number();
  // What the other node has told of itself; what is only there has no page here.
  const told = (title) => page.locator('main section').filter({ has: page.getByRole('heading', { name: title }) }).locator('tbody tr').filter({ hasText: 'rack-2' });
  await told('CVMs of all nodes').getByText(given.app.slice(0, 8)).first().waitFor();
  await told('Denials of all nodes').getByText(given.code).first().waitFor();
  assert(await told('CVMs of all nodes').locator('a').count() === 0, 'a CVM of another node leads nowhere');
  await sound(page, '#/fleet with lists', 'console-fleet-lists');
  await go(page, '#/operations');
  await says(page, 'main .empty', 'Nothing goes on');
  await go(page, '#/fleet');
  await row('rack-2').first().waitFor();

  const { status, body } = await call(given.other, given.owner, 'POST', '/api/v1/freezes', { scope: 'instance', target: 'ee'.repeat(20), reason: 'a drill' });
  assert(status === 200, `a freeze: ${status} ${JSON.stringify(body)}`);
  await page.waitForFunction((known) => Number([...document.querySelectorAll('main .figure')].at(-1).querySelector('.value').textContent) > known, before);

  const drain = await call(given.other, given.owner, 'POST', '/api/v1/actions/drain', { node: 'rack-2' });
  assert(drain.status === 200, 'a drain');
  await row('rack-2').getByText('drained by token').waitFor();
  await row('rack-2').getByRole('link', { name: 'rack-2' }).click();
  await says(page, 'main h1', 'Node rack-2');
  await settled(page);
  await says(page, 'main .note', 'In: policies');
  await says(page, 'main .note', 'Drained by token');
  await says(page, 'main .whole code', given.measured);
  await sound(page, '#/fleet/ID', 'console-fleet-node');
  await unfailed(page, 'a node');
  await page.getByRole('button', { name: 'Undrain…' }).click();
  await accessible(page, 'a drain to be ended');
  await page.locator('dialog').getByRole('button', { name: 'Undrain it' }).click();
  await says(page, '.toast', 'rack-2 is undrained');
  await page.getByRole('button', { name: 'Drain…', exact: true }).waitFor();
  await page.getByRole('link', { name: 'Fleet', exact: true }).first().click();
  await says(page, 'main h1', 'Fleet');
  return { state: before };
}

/** A node that was stopped is forgotten, by an owner only. */
async function forgotten(page) {
  const row = page.getByRole('table', { name: 'Nodes', exact: true }).locator('tr').filter({ hasText: 'rack-2' });
  await row.getByText('No answer').waitFor();
  await row.getByRole('link', { name: 'rack-2' }).click();
  await says(page, 'main h1', 'Node rack-2');
  await page.getByRole('button', { name: 'Forget…' }).click();
  await accessible(page, 'a node to be forgotten');
  await page.locator('dialog').getByRole('button', { name: 'Forget it' }).click();
  await says(page, '.toast', 'rack-2 is forgotten');
  await says(page, 'main h1', 'Fleet');
  await says(page, 'main .figure', '1 of 1');
  await row.waitFor({ state: 'detached' });
  await page.getByRole('link', { name: 'rack-1' }).click();
  await says(page, 'main h1', 'Node rack-1');
  await settled(page);
  assert(await page.getByRole('button', { name: 'Forget…' }).count() === 0, 'a node that answers is not to be forgotten');
  return {};
}

/** When it is gone. */
async function alone(page) {
  await says(page, 'main [role=alert]', 'This node does not know what was changed on others');
  await page.locator('main tr').filter({ hasText: 'rack-2' }).getByText('Not known').waitFor();
  await says(page, 'main .figure', '1 of 2');
  await sound(page, '#/fleet', 'console-fleet-alone');
  await go(page, '#/overview');
  await page.getByRole('link', { name: 'See fleet' }).first().click();
  await says(page, 'main h1', 'Fleet');
  // A freeze counts here, and the page says that it counts nowhere else.
  await go(page, `#/freezes/new?scope=instance&target=${'ed'.repeat(20)}`);
  await says(page, 'main', 'It stops');
  await page.getByLabel('Reason').fill('a drill');
  await page.getByRole('button', { name: 'Freeze now' }).click();
  await says(page, '.toast', 'frozen on this node only');
  await page.locator('main tbody tr').filter({ hasText: 'edededed' }).getByText('this node only').waitFor();
  return {};
}

await scenario(async (browser) => {
  const { page, seen } = await console_(browser, given.owner, { place: '#/fleet' });
  const told = await ({ shared, forgotten, alone }[given.act](page));
  clean(seen);
  return told;
});
