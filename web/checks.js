// The list of checks before setup: each runs the real call, and shows latency, result and what to do.

import { Refusal, validate } from './kms.js';
import { at, element, state } from './view.js';

const CHECKS = [
  { what: 'key-directory', name: 'Key directory', about: 'can be written' },
  { what: 'clock', name: 'Clock', about: 'shows a plausible time' },
  { what: 'attester', name: 'Attester', about: 'proves what this machine runs' },
  { what: 'collateral', name: 'Collateral service', about: 'vouches for this platform' },
  { what: 'authorization', name: 'Authorization', about: 'the policy allows this KMS' },
];

const rows = new Map();
let changed = () => {};

/** Shows a finding in its row. */
function show(row, finding) {
  row.item.dataset.state = finding.ok ? 'good' : 'bad';
  row.result.textContent = finding.ok ? 'Passed' : 'Failed';
  row.latency.textContent = `${finding.latency_ms} ms`;
  row.detail.textContent = finding.detail;
  row.advice.textContent = finding.advice;
  row.advice.hidden = !finding.advice;
}

async function run(row) {
  row.item.dataset.state = 'busy';
  row.result.textContent = 'Checking …';
  row.latency.textContent = '';
  row.item.setAttribute('aria-busy', 'true');
  row.again.setAttribute('aria-disabled', 'true');
  try {
    show(row, await validate(row.what));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    show(row, { ok: false, latency_ms: 0, detail: error.message, advice: '' });
    row.latency.textContent = '';
  }
  row.item.removeAttribute('aria-busy');
  row.again.removeAttribute('aria-disabled');
}

function isBusy(row) {
  return row.item.dataset.state === 'busy';
}

function tell() {
  const all = [...rows.values()];
  const failed = all.filter((row) => row.item.dataset.state === 'bad');
  if (all.some(isBusy)) return;
  if (failed.length === 0) {
    state('checks-state', 'All checks pass.', 'good');
  } else {
    const names = failed.map((row) => row.name).join(', ');
    state('checks-state', `${failed.length} of ${all.length} checks fail: ${names}.`, 'bad');
  }
  at('show-allow').hidden = !failed.some((row) => row.what === 'authorization');
  at('checks-done').hidden = failed.length > 0;
  at('check-all').classList.toggle('primary', failed.length > 0);
  changed();
}

/** Whether a check passed when it last ran. */
export const passed = (what) => rows.get(what)?.item.dataset.state === 'good';

/** Whether all of them did. */
export const allPassed = () => CHECKS.every(({ what }) => passed(what));

/** How many fail, as far as they have run. */
export const failures = () => [...rows.values()].filter((row) => row.item.dataset.state === 'bad').length;

/** Runs all checks. */
export async function runAll() {
  state('checks-state', 'Checking …', 'busy');
  await Promise.all([...rows.values()].filter((row) => !isBusy(row)).map(run));
  tell();
}

/** Builds the rows; nothing runs yet. `told` is called whenever checks have run. */
export function build(told) {
  changed = told;
  for (const { what, name, about } of CHECKS) {
    const result = element('span', { className: 'badge' }, 'Not checked');
    const latency = element('span', { className: 'latency' });
    const detail = element('p', { className: 'detail' });
    const advice = element('p', { className: 'advice', hidden: true });
    const again = element('button', { type: 'button', className: 'again' }, 'Again', element('span', { className: 'unseen' }, ` ${name}`));
    const item = element(
      'li', { id: `check-${what}` },
      element('div', { className: 'line' },
        element('span', { className: 'what' }, element('strong', {}, name), ` ${about}`), latency, result, again),
      detail, advice,
    );
    item.dataset.state = 'none';
    const row = { what, name, item, result, latency, detail, advice, again };
    again.addEventListener('click', async () => {
      if (isBusy(row)) return;
      await run(row);
      tell();
    });
    rows.set(what, row);
  }
  at('check-list').replaceChildren(...[...rows.values()].map((row) => row.item));
  at('check-all').addEventListener('click', runAll);
}
