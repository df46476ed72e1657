// The two roads to keys: Bootstrap for the first KMS, Onboard for a replica. Each step is a real call.

import { adviceFor } from './advice.js';
import { call, Refusal, status, validate } from './kms.js';
import { announce, at, block, element, refused, state, values } from './view.js';

const ROADS = {
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
        run: (form) => unlessBusy(checked('source', { source_url: form.source_url }, 'source')),
      },
      {
        name: 'Receive the keys over the connection that was attested, save them',
        run: (form) => call('Onboard', { source_url: form.source_url, domain: form.domain }),
      },
      { name: 'See that they are saved', run: saved },
    ],
    title: 'This KMS is a replica',
    text: 'It has the keys of the source. Compare the value below with k256_pubkey in GetMeta of the source.',
  },
};

/** A step that failed at a field of the form. */
class FieldRefusal extends Refusal {
  constructor(field, finding) {
    super(400, finding.detail);
    this.field = field;
    this.advice = finding.advice;
  }
}

async function checked(what, about, field) {
  const finding = await validate(what, about);
  if (!finding.ok) throw new FieldRefusal(field, finding);
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
  if (now.mode === 'onboarding') throw new Refusal(0, 'the key directory holds no keys');
  return null;
}

/** Shows what a check found about the source, without going further. */
async function examine() {
  const source = at('source').value.trim();
  mark('source', '');
  state('source-finding', 'Verifying …', 'busy');
  let finding;
  try {
    finding = await validate('source', { source_url: source });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    finding = { ok: false, detail: error.message, advice: '' };
  }
  const took = finding.latency_ms === undefined ? '' : ` (${finding.latency_ms} ms)`;
  state('source-finding', `${finding.detail} ${finding.advice}`.trim() + took, finding.ok ? 'good' : 'bad');
}

const isWalking = () => at('go').hasAttribute('aria-disabled');

/** Marks the domain as wrong as soon as it is typed, unless the whole road is walked right away. */
async function examineDomain() {
  await new Promise((later) => { setTimeout(later, 200); });
  const typed = at('domain').value.trim();
  if (!typed || isWalking()) return;
  const finding = await validate('domain', { domain: typed }).catch(() => null);
  if (finding && !isWalking() && at('domain').value.trim() === typed) mark('domain', finding.ok ? '' : finding.detail);
}

const chosen = () => document.querySelector('input[name=road]:checked').value;

/** Shows the fields of the road that is chosen. */
function turn() {
  at('source-field').hidden = chosen() !== 'onboard';
  at('go').textContent = ROADS[chosen()].button;
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

/** Walks the road; gives what its decisive call answered. */
async function walk(road, form) {
  const tell = progress(road.steps);
  let answer = null;
  for (const [index, step] of road.steps.entries()) {
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
  refused(at('refusal'), 'It did not work', error.message, error.advice || adviceFor(error.message));
}

function succeed(road, answer) {
  const hex = (text) => (text ? `0x${text}` : '');
  at('roads').hidden = true;
  at('result').hidden = false;
  at('result-title').textContent = road.title;
  at('result-text').textContent = road.text;
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
  at('result-title').focus();
}

/** Sets the roads up; `done` is told when keys have been saved. */
export function build(done) {
  for (const input of document.querySelectorAll('input[name=road]')) input.addEventListener('change', turn);
  turn();
  at('check-source').addEventListener('click', examine);
  at('domain').addEventListener('change', examineDomain);
  at('road').addEventListener('submit', async (event) => {
    event.preventDefault();
    const go = at('go');
    if (isWalking()) return;
    const road = ROADS[chosen()];
    const form = Object.fromEntries([...new FormData(event.currentTarget)].map(([name, value]) => [name, value.trim()]));
    for (const field of ['source', 'domain']) mark(field, '');
    at('refusal').replaceChildren();
    go.setAttribute('aria-disabled', 'true');
    for (const input of document.querySelectorAll('input[name=road]')) input.disabled = true;
    try {
      succeed(road, await walk(road, form));
      done();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      fail(error);
    } finally {
      go.removeAttribute('aria-disabled');
      for (const input of document.querySelectorAll('input[name=road]')) input.disabled = false;
    }
  });
}

/** Keys came in another way: by curl, or before this page was loaded. */
export function keysExist() {
  if (!at('result').hidden) return;
  at('roads').hidden = true;
  at('result').hidden = false;
  at('result-title').textContent = 'This KMS has keys';
  at('result-text').textContent = 'They came by another call. After Finish, GetMeta shows its public keys and, on a first KMS, '
    + 'the attested statement over them.';
}
