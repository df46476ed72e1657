// The onboarding page: what this KMS is, checks, the way to keys, and the switch.

import * as checks from './checks.js';
import { call, hasToken, Refusal, status, takeTokenFromAddress, useToken } from './kms.js';
import * as roads from './roads.js';
import * as serve from './serve.js';
import { at, block, element, refused, state, values } from './view.js';

/** Between two looks at the state while nothing is under way, in milliseconds. */
const LOOK_EVERY = 4000;

const MODES = {
  onboarding: 'No keys yet',
  committed: 'Keys saved',
  serving: 'Serving',
  broken: 'Key directory incomplete',
  restart_required: 'Restart required',
  locked: 'Token needed',
  gone: 'No answer',
};

const LEADS = {
  committed: 'It has keys now. Note what you need of them, then let it serve.',
  serving: 'It serves its keys. What is below shows how it came to them.',
  broken: 'A part of its keys is missing. Nothing is written over the others.',
  restart_required: 'It has keys, but its configuration keeps it from serving them.',
};

let bootId = null;
let mode = 'unknown';

function showMode(now) {
  mode = now;
  at('mode').textContent = MODES[mode] ?? mode;
  at('mode').dataset.mode = mode;
  markSteps();
}

/** Marks the steps that are done. */
function markSteps() {
  const done = {
    identity: !at('allow').hidden,
    checks: checks.allPassed(),
    keys: ['committed', 'serving'].includes(mode),
    serve: mode === 'serving',
  };
  for (const link of document.querySelectorAll('[data-step]')) {
    link.classList.toggle('done', Boolean(done[link.dataset.step]));
  }
}

/** Acts on a status, whoever asked for it. */
function told(now) {
  if (bootId && bootId !== now.boot_id) return void location.reload();
  bootId = now.boot_id;
  showMode(now.mode);
  if (LEADS[now.mode]) at('lead').textContent = LEADS[now.mode];
  at('open-warning').hidden = now.token_required || now.mode === 'serving';
  at('about').textContent = `cvm-kms ${now.version}, started ${now.started_at}, boot id ${now.boot_id}`;
  if (now.mode === 'broken' || now.mode === 'restart_required') {
    refused(at('notices'), MODES[now.mode], now.next.map((step) => step.text).join('. '));
    serve.forbid(`Not now: ${MODES[now.mode].toLowerCase()}.`);
  } else {
    at('notices').replaceChildren();
  }
  if (now.mode === 'committed') {
    if (!at('go').getAttribute('aria-disabled')) roads.keysExist();
    serve.allow();
  }
}

/** Locks or unlocks what needs the token. */
function lock(locked) {
  at('gate').hidden = !locked;
  for (const id of ['checks', 'keys', 'serve']) {
    at(id).hidden = locked;
    document.querySelector(`[data-step=${id}]`).parentElement.hidden = locked;
  }
}

/** Asks for the status; whether the KMS lets us in. */
async function look() {
  try {
    told(await status());
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 401) {
      lock(true);
      showMode('locked');
      if (hasToken()) at('token-error').textContent = 'This is not the token.';
      useToken('');
    } else if (error.status === 0) {
      if (mode === 'committed') serve.lost();
      showMode('gone');
    } else {
      refused(at('notices'), 'The state of this KMS is not known', error.message);
    }
    return false;
  }
}

async function introduce() {
  state('identity-state', 'Asking for its evidence …', 'busy');
  let info;
  try {
    info = await call('GetAttestationInfo');
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    state('identity-state', `Its evidence is not to be had: ${error.message}`, 'bad');
    return;
  }
  state('identity-state', 'Proved by its own evidence, just now.', 'good');
  const hex = (text) => (text ? `0x${text}` : '');
  values(at('identity-values'), [
    { name: 'Aggregated measurement', hint: 'mrAggregated', value: info.mr_aggregated },
    { name: 'OS image hash', value: info.os_image_hash },
    { name: 'Device id', value: info.device_id },
    { name: 'TEE variant', value: info.tee_variant },
    { name: 'Site', value: info.site_name },
    { name: 'Contract', value: /^0x0*$/.test(info.kms_contract_address) ? '' : info.kms_contract_address },
    { name: 'Chain RPC', value: info.eth_rpc_url },
  ]);
  const list = (text) => (text ? [hex(text)] : []);
  const file = {
    osImages: list(info.os_image_hash),
    kms: { mrAggregated: list(info.mr_aggregated), devices: list(info.device_id) },
  };
  block(at('allow-file'), 'auth-config.json', JSON.stringify(file, null, 2));
  values(at('allow-contract'), [
    { name: 'addKmsAggregatedMr', value: hex(info.mr_aggregated) },
    { name: 'addOsImageHash', value: hex(info.os_image_hash) },
    { name: 'addKmsDevice', value: hex(info.device_id) },
  ]);
  at('allow').hidden = false;
  markSteps();
}

/** Comes in, if the KMS lets us, and runs the checks. */
async function enter(welcome) {
  if (!(await look())) return false;
  lock(false);
  welcome?.();
  await checks.runAll();
  await look();
  return true;
}

function watch() {
  setTimeout(async () => {
    const isIdle = !serve.isFinishing() && at('gate').hidden && document.visibilityState === 'visible';
    if (isIdle) await look();
    if (at('serving').hidden) watch();
  }, LOOK_EVERY);
}

takeTokenFromAddress();
checks.build(() => {
  markSteps();
  if (at('allow').hidden && checks.passed('attester')) introduce();
});
roads.build(look);
serve.build(told);
at('gate-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  at('token-error').textContent = '';
  useToken(at('token').value);
  if (!hasToken()) {
    at('token-error').textContent = 'Type the token first.';
    return void at('token').focus();
  }
  at('token').value = '';
  // Whoever works by keyboard goes on where the form was.
  if (!(await enter(() => at('checks-title').focus()))) at('token').focus();
});
introduce();
enter();
watch();
