// The onboarding page: what this KMS is, checks, the way to keys, and the switch.

import * as checks from './checks.js';
import { call, hasToken, Refusal, status, takeTokenFromAddress, useToken } from './kms.js';
import * as keys from './keys.js';
import * as restore from './restore.js';
import * as serve from './serve.js';
import * as steps from './steps.js';
import { at, block, element, refused, state, values } from './view.js';

/** Between two looks that are answered at once, in milliseconds. */
const LOOK_EVERY = 4000;
/** So long one look waits for a change, in seconds: who asks after the switch finds the port changed. */
const PATIENCE = 15;

const MODES = {
  onboarding: 'No keys yet',
  committed: 'Keys saved',
  serving: 'Serving',
  broken: 'Key directory incomplete',
  restart_required: 'Restart required',
  locked: 'Token needed',
  ended: 'Setup has ended',
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
  follow();
}

const hasKeys = () => ['committed', 'serving', 'ended'].includes(mode);

/** Marks the steps that are done, and proposes the one that is next. */
function follow() {
  steps.mark({
    identity: !at('allow').hidden,
    checks: checks.allPassed(),
    keys: hasKeys(),
    serve: mode === 'serving',
  });
  keys.follow(checks.failures());
  if (hasKeys()) {
    // Who has made keys here reads about them first.
    if (!keys.madeHere() && !keys.isUnderWay()) steps.propose('serve');
  } else if (checks.failures() > 0) {
    steps.propose('checks');
  } else if (checks.allPassed() || !at('ceremony').hidden) {
    steps.propose('keys');
  }
}

/** Acts on a status, whoever asked for it. */
function told(now) {
  if (bootId && bootId !== now.boot_id) return void location.reload();
  bootId = now.boot_id;
  // Before the next step is proposed: who followed a restore here reads first what it gave.
  if (now.restore?.restored) keys.restored(now.restore.restored);
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
  keys.restoring(now.restore ?? null);
  if (now.mode === 'committed') {
    if (!keys.isUnderWay()) keys.keysExist();
    serve.allow();
  }
  if (now.mode === 'serving') serve.serves(now.serving_port, now.console);
}

/** Locks or unlocks what needs the token. */
function lock(locked) {
  at('gate').hidden = !locked;
  steps.hide(['checks', 'keys', 'serve'], locked);
}

/** Asks for the status, and waits so many seconds for it to change; whether the KMS lets us in. */
async function look(wait = 0) {
  try {
    told(await status(wait));
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 401) {
      lock(true);
      showMode('locked');
      if (hasToken()) at('token-error').textContent = 'This is not the token.';
      useToken('');
    } else if (error.status === 0) {
      // Once there are keys, the end of setup is what is expected.
      if (hasKeys()) serve.lost();
      showMode(hasKeys() ? 'ended' : 'gone');
    } else {
      refused(at('notices'), 'The state of this KMS is not known', error.message);
    }
    return false;
  }
}

let isAsking = false;

/** Asks for its evidence, unless that is being asked for already. */
async function introduce() {
  if (isAsking) return;
  isAsking = true;
  state('identity-state', 'Asking for its evidence …', 'busy');
  const hadPassed = checks.passed('attester');
  let info;
  try {
    info = await call('GetAttestationInfo');
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    state('identity-state', `It gives no evidence: ${error.message}`, 'bad');
    isAsking = false;
    // The attester has come back meanwhile.
    if (!hadPassed && checks.passed('attester')) await introduce();
    return;
  }
  isAsking = false;
  state('identity-state', 'Proved by its own evidence, just now.', 'good');
  restore.measured(info.mr_aggregated);
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
  follow();
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

const pause = (milliseconds) => new Promise((later) => { setTimeout(later, milliseconds); });

/** Follows the state until the KMS serves. Each look waits for a change, also in a tab that nobody sees: only who waits at the
 * switch is told of it, and whoever comes back to the tab reads how it ended. */
async function watch() {
  while (at('serving').hidden) {
    const began = performance.now();
    const before = mode;
    if (!serve.isFinishing() && at('gate').hidden) await look(PATIENCE);
    if (mode === before && performance.now() - began < LOOK_EVERY) await pause(LOOK_EVERY);
  }
}

takeTokenFromAddress();
steps.build();
checks.build(() => {
  follow();
  if (at('allow').hidden && checks.passed('attester')) introduce();
});
keys.build(look);
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
  if (!(await enter(() => at('main').focus()))) at('token').focus();
});
introduce();
enter();
watch();
