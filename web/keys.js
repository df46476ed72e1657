// How a KMS gets its keys: Bootstrap for the first one, Onboard for a replica, a restore after a loss. Each stage is a real call.

import { adviceFor } from './advice.js';
import { call, Refusal, status, validate } from './kms.js';
import * as restore from './restore.js';
import { announce, at, block, compare, element, refused, state, values } from './view.js';

const WAYS = {
  bootstrap: {
    button: 'Make new keys',
    steps: [
      { name: 'Check the domain', run: (form) => checked('domain', { domain: form.domain }, 'domain') },
      {
        name: 'Ask the policy, make keys, attest to them, save them',
        run: (form) => call('Bootstrap', { domain: form.domain }),
      },
      { name: 'See that they are saved', run: saved },
    ],
    title: 'This KMS has new keys',
    text: 'Note the values below now. The root CA public key is what apps pin as their key provider.',
  },
  onboard: {
    button: 'Receive keys',
    steps: [
      { name: 'Check the domain', run: (form) => checked('domain', { domain: form.domain }, 'domain') },
      {
        name: 'Verify the source and ask our policy about it',
        run: (form) => unlessBusy(checkedSource(form)),
      },
      {
        name: 'Receive the keys over the connection that was attested, save them',
        run: (form) => call('Onboard', {
          source_url: form.source_url, domain: form.domain, source_token: form.source_token,
        }),
      },
      { name: 'See that they are saved', run: saved },
    ],
    title: 'This KMS is a replica',
    text: 'It has the keys of the source.',
  },
  restore: {
    button: 'Open the restore',
    steps: [
      { name: 'Check the domain', run: (form) => checked('domain', { domain: form.domain }, 'domain') },
      { name: 'Verify the manifest, ask the policy, open the restore', run: (form) => restore.open(form.domain) },
    ],
  },
};

/** A step that failed at a field of the form. */
class FieldRefusal extends Refusal {
  constructor(field, finding) {
    super(400, finding.detail, '');
    this.field = field;
    this.advice = finding.advice;
  }
}

async function checked(what, about, field) {
  const finding = await validate(what, about);
  if (!finding.ok) throw new FieldRefusal(field, finding);
  return null;
}

let isMadeHere = false;

/** The public key that the source showed when it was last verified, in hexadecimal. */
let shownBySource = '';

/** What the check of the source is asked: the admin listener has other methods. */
function aboutSource(form) {
  return { source_url: form.source_url, source_listener: form.source_token && !form.source_token.startsWith('ckmsjoin_') ? 'admin' : 'main' };
}

async function checkedSource(form) {
  shownBySource = '';
  const finding = await validate('source', aboutSource(form));
  if (!finding.ok) throw new FieldRefusal('source', finding);
  shownBySource = finding.k256_pubkey ?? '';
  return null;
}

/** What a step gives that others kept from being run, and that nothing depends on: the call after it checks the same. */
const SKIPPED = Symbol('skipped');

async function unlessBusy(check) {
  try {
    return await check;
  } catch (error) {
    if (error.status !== 429) throw error;
    return SKIPPED;
  }
}

async function saved() {
  const now = await status();
  if (now.mode === 'onboarding') throw new Refusal(0, 'the key directory holds no keys', 'not_saved');
  return null;
}

/** Shows what a check found about the source, without going further. */
async function examine() {
  const form = { source_url: at('source').value.trim(), source_token: at('source-token').value.trim() };
  mark('source', '');
  state('source-finding', 'Verifying …', 'busy');
  let finding;
  try {
    finding = await validate('source', aboutSource(form));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    finding = { ok: false, detail: error.message, advice: '' };
  }
  const took = finding.latency_ms === undefined ? '' : ` (${finding.latency_ms} ms)`;
  state('source-finding', `${finding.detail} ${finding.advice}`.trim() + took, finding.ok ? 'good' : 'bad');
}

/** Whether keys are being made or received. */
export const isUnderWay = () => at('go').hasAttribute('aria-disabled');

/** Marks the domain as wrong as soon as it is typed, unless all of it is sent right away. */
async function examineDomain() {
  await new Promise((later) => { setTimeout(later, 200); });
  const typed = at('domain').value.trim();
  if (!typed || isUnderWay()) return;
  const finding = await validate('domain', { domain: typed }).catch(() => null);
  if (finding && !isUnderWay() && at('domain').value.trim() === typed) mark('domain', finding.ok ? '' : finding.detail);
}

const chosen = () => document.querySelector('input[name=way]:checked').value;

/** Shows the fields of what is chosen. */
function turn() {
  at('source-fields').hidden = chosen() !== 'onboard';
  at('manifest-fields').hidden = chosen() !== 'restore';
  restore.forget();
  at('go').textContent = WAYS[chosen()].button;
  at('refusal').replaceChildren();
  at('progress').hidden = true;
  for (const field of ['source', 'domain']) mark(field, '');
  state('source-finding', '');
}

/** Marks a field as wrong, or as right again with an empty reason. */
function mark(field, reason) {
  const input = at(field);
  if (reason) input.setAttribute('aria-invalid', 'true');
  else input.removeAttribute('aria-invalid');
  at(`${field}-error`).textContent = reason;
}

function progress(steps) {
  const list = at('progress');
  const items = steps.map((step) => {
    const word = element('span', { className: 'badge' }, 'Waits');
    const item = element('li', {}, element('span', { className: 'what' }, step.name), element('span', { className: 'latency' }), word);
    item.dataset.state = 'none';
    return item;
  });
  list.replaceChildren(...items);
  list.hidden = false;
  const tell = (index, kind, word, took) => {
    const item = items[index];
    item.dataset.state = kind;
    item.querySelector('.badge').textContent = word;
    item.querySelector('.latency').textContent = took === undefined ? '' : `${Math.round(took)} ms`;
    announce(`Step ${index + 1} of ${steps.length}, ${steps[index].name}: ${word}`);
  };
  tell.clock = (index, took) => {
    items[index].querySelector('.latency').textContent = `${Math.round(took / 1000)} s`;
  };
  return tell;
}

/** Runs the stages; gives what the decisive call answered. */
async function run(way, form) {
  const tell = progress(way.steps);
  let answer = null;
  for (const [index, step] of way.steps.entries()) {
    tell(index, 'busy', 'Under way');
    const began = performance.now();
    const clock = setInterval(() => tell.clock(index, performance.now() - began), 1000);
    try {
      const given = await step.run(form);
      const took = performance.now() - began;
      if (given === SKIPPED) {
        tell(index, 'none', 'Skipped: others run it', took);
      } else {
        answer = given ?? answer;
        tell(index, 'good', 'Done', took);
      }
    } catch (error) {
      tell(index, 'bad', 'Failed', performance.now() - began);
      throw error;
    } finally {
      clearInterval(clock);
    }
  }
  return answer;
}

function fail(error) {
  if (error instanceof FieldRefusal) {
    mark(error.field, error.message);
    at(error.field).focus();
  }
  refused(at('refusal'), 'It did not work', error.message, error.advice || adviceFor(error.code));
}

function succeed(way, form, answer) {
  isMadeHere = true;
  const hex = (text) => (text ? `0x${text}` : '');
  at('ways').hidden = true;
  at('result').hidden = false;
  at('source-token').value = '';
  at('result-title').textContent = way.title;
  at('result-text').textContent = way.text;
  state('keys-state', way === WAYS.onboard ? `Received from ${form.source_url}.` : 'Made here.', 'good');
  values(at('result-values'), [
    { name: 'Root CA public key', hint: 'caPubkey of setKmsInfo', value: hex(answer.ca_pubkey) },
    { name: 'Root secp256k1 public key', hint: 'k256Pubkey of setKmsInfo', value: hex(answer.k256_pubkey) },
    { name: 'Attestation over both', hint: 'proves that this CVM made the keys', value: hex(answer.attestation) },
    { name: 'Key provider id', hint: 'pinned by apps, without 0x', value: answer.ca_pubkey },
  ]);
  if (answer.ca_pubkey) {
    const info = { k256Pubkey: hex(answer.k256_pubkey), caPubkey: hex(answer.ca_pubkey) };
    const details = element('details', {}, element('summary', {}, 'Both keys as JSON'));
    const holder = element('div');
    block(holder, 'Both keys as JSON', JSON.stringify(info, null, 2));
    details.append(holder);
    at('result-json').replaceChildren(details);
  }
  if (way === WAYS.onboard) showComparison(answer.k256_pubkey);
  at('result-title').focus();
}

/** Compares our key with that of the source: as it showed it, or as an operator pastes it. */
function showComparison(own) {
  at('compare').hidden = false;
  compare('compare-shown', own, shownBySource);
  at('compare-row').hidden = !shownBySource;
  at('compare-value').addEventListener('input', () => compare('compare-pasted', own, at('compare-value').value));
}

/** The button is the primary one only where nothing speaks against it. */
export function follow(failures) {
  at('go').classList.toggle('primary', failures === 0);
  at('go-warning').hidden = failures === 0;
  at('go-warning-text').textContent = failures === 1 ? '1 check fails.' : `${failures} checks fail.`;
}

/** Sets the form up; `done` is told when keys have been saved. */
export function build(done) {
  for (const input of document.querySelectorAll('input[name=way]')) input.addEventListener('change', turn);
  turn();
  restore.build(done);
  at('clear-warning').hidden = location.protocol === 'https:' || isSecureContext;
  at('check-source').addEventListener('click', examine);
  at('domain').addEventListener('change', examineDomain);
  at('way').addEventListener('submit', async (event) => {
    event.preventDefault();
    const go = at('go');
    if (isUnderWay()) return;
    const way = WAYS[chosen()];
    if (way === WAYS.restore && !restore.isChosen()) return;
    const form = Object.fromEntries([...new FormData(event.currentTarget)].map(([name, value]) => [name, value.trim()]));
    for (const field of ['source', 'domain']) mark(field, '');
    at('refusal').replaceChildren();
    go.setAttribute('aria-disabled', 'true');
    for (const input of document.querySelectorAll('input[name=way]')) input.disabled = true;
    try {
      const answer = await run(way, form);
      if (way === WAYS.restore) at('progress').hidden = true;
      else succeed(way, form, answer);
      await done();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      fail(error);
    } finally {
      go.removeAttribute('aria-disabled');
      for (const input of document.querySelectorAll('input[name=way]')) input.disabled = false;
    }
  });
}

/** Whether this page made or received the keys. */
export const madeHere = () => isMadeHere;

/** Shows the restore that is open, if there is one, instead of the ways to keys. */
export function restoring(given) {
  const wasOpen = !at('ceremony').hidden;
  const isOpen = restore.show(given);
  if (isOpen) {
    const { ceremony } = given;
    at('ways').hidden = true;
    state('keys-state', `A restore is open: ${ceremony.received} of ${ceremony.threshold} shares have arrived.`, 'busy');
  } else if (wasOpen && at('result').hidden) {
    at('ways').hidden = false;
    state('keys-state', 'The restore has ended; no keys were made.', 'bad');
  }
}

/** Officers have restored the keys. */
export function restored(given) {
  if (!at('result').hidden) return;
  isMadeHere = !at('ceremony').hidden;
  at('ways').hidden = true;
  at('result').hidden = false;
  at('result-title').textContent = 'The keys of this KMS are restored';
  at('result-text').textContent = 'They are saved, and the public keys of every epoch are those of the manifest.';
  state('keys-state', 'Restored by officers.', 'good');
  values(at('result-values'), restore.rows(given));
  announce('The keys of this KMS are restored');
}

/** Keys came in another way: by curl, or before this page was loaded. */
export function keysExist() {
  if (!at('result').hidden) return;
  at('ways').hidden = true;
  at('result').hidden = false;
  at('result-title').textContent = 'This KMS has keys';
  state('keys-state', 'They came by another call.', 'good');
  at('result-text').textContent = 'They came by another call. After Finish, GetMeta shows its public keys and, on a first KMS, '
    + 'the attested statement over them.';
}
