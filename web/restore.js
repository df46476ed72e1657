// A restore: which recovery set is open, whose shares have arrived, and what each officer runs. Shares never pass this page.

import { adviceFor } from './advice.js';
import { cancelRestore, openRestore, Refusal } from './kms.js';
import { announce, at, block, element, refused, state, values } from './view.js';

/** What the manifest file says, once one is chosen. */
let manifest = null;

/** The measurement of this KMS, as its evidence shows it. */
let measurement = '';

/** What was shown last, so that nothing is told again. */
let shown = '';

/** Remembers the measurement, for the command of the officers. */
export function measured(text) {
  measurement = text;
}

function wrong(reason) {
  manifest = null;
  at('manifest-shown').replaceChildren();
  at('manifest-error').textContent = reason;
  if (reason) at('manifest').setAttribute('aria-invalid', 'true');
  else at('manifest').removeAttribute('aria-invalid');
}

/** Reads the file that was chosen, and shows what it is about. The KMS verifies it. */
async function choose() {
  wrong('');
  const file = at('manifest').files[0];
  if (!file) return;
  const read = await file.text().then((text) => JSON.parse(text)).catch(() => null);
  const inner = read?.manifest;
  if (!Array.isArray(inner?.officers) || typeof inner.set !== 'string') {
    return void wrong('This is not the manifest of a recovery set: choose recovery-SET.json.');
  }
  manifest = read;
  values(at('manifest-shown'), [
    { name: 'Recovery set', value: String(inner.set) },
    { name: 'Made', value: new Date(Number(inner.created_at) * 1000).toISOString().replace(/\.\d+/, '') },
    { name: 'Shares needed', value: `${inner.threshold} of ${inner.officers.length}` },
    { name: 'Officers', value: inner.officers.map((officer) => officer.name).join(', ') },
  ]);
  if (!at('domain').value) at('domain').value = String(inner.domain ?? '');
}

/** Whether a manifest is chosen; says so at its field if not. */
export function isChosen() {
  if (manifest) return true;
  if (!at('manifest-error').textContent) wrong('Choose the manifest of the recovery set first.');
  at('manifest').focus();
  return false;
}

/** Opens the restore at the KMS. */
export const open = (domain) => openRestore(manifest, domain);

/** Forgets what is told at the field. */
export function forget() {
  at('manifest-error').textContent = '';
  at('manifest').removeAttribute('aria-invalid');
}

/** The command of an officer; this port serves TLS too. */
function command(set) {
  const port = location.port || (location.protocol === 'https:' ? '443' : '80');
  return `kmsctl recovery send --kms https://${location.hostname}:${port} --pin ${measurement || 'MRAGGREGATED'} \\\n`
    + `  --manifest recovery-${set}.json --share NAME-of-${set}.age --identity FILE`;
}

function officer({ index, name, received }) {
  const badge = element('span', { className: 'badge' }, received ? 'Arrived' : 'Waits');
  const item = element('li', {}, element('div', { className: 'line' },
    element('span', { className: 'what' }, element('strong', {}, name), ` share ${index}`), badge));
  item.dataset.state = received ? 'good' : 'none';
  return item;
}

/** Shows the restore that is open, or that there is none. Gives whether it is open. */
export function show(restore) {
  const { ceremony = null, plan, kms } = restore ?? {};
  const is = JSON.stringify(ceremony && [ceremony.set, ceremony.received, measurement, plan, kms]);
  if (is === shown) return Boolean(ceremony);
  shown = is;
  at('ceremony').hidden = !ceremony;
  if (!ceremony) return false;
  const count = `${ceremony.received} of ${ceremony.threshold} shares have arrived.`;
  state('ceremony-count', count, ceremony.received > 0 ? 'good' : 'busy');
  announce(count);
  const hours = Math.ceil(ceremony.ends_in_seconds / 3600);
  values(at('ceremony-values'), [
    { name: 'Recovery set', value: ceremony.set },
    { name: 'Manifest', hint: 'SHA-256 of its content', value: ceremony.manifest_sha256 },
    { name: 'Set made', value: plan.made_at },
    { name: 'Name that this KMS gets', value: plan.domain },
    { name: 'Epochs of root keys', value: plan.epochs.join(', ') },
    { name: 'Policy', value: kms.policy },
    ...(kms.policy_digest ? [{ name: 'Policy digest', hint: 'SHA-256', value: kms.policy_digest }] : []),
    { name: 'Relaxed settings', value: kms.relaxed.join(', ') || 'none' },
    { name: 'Ends', value: `within ${hours} h; shares are forgotten then` },
  ]);
  at('ceremony-officers').replaceChildren(...ceremony.officers.map(officer));
  block(at('ceremony-command'), 'Command of an officer', command(ceremony.set));
  return true;
}

/** The rows of what was restored. */
export function rows(restored) {
  return [
    { name: 'Recovery set', value: restored.set },
    { name: 'Set made', hint: 'epochs chosen for apps are as of then', value: restored.made_at },
    { name: 'Officers', value: restored.officers.join(', ') },
    ...restored.epochs.flatMap((one) => [
      { name: `Root secp256k1 public key, epoch ${one.epoch}`, value: `0x${one.k256_pubkey}` },
      { name: `Root CA public key, epoch ${one.epoch}`, hint: 'SHA-256', value: one.ca_spki_sha256 },
    ]),
  ];
}

/** Sets the form up; `done` looks at the state of the KMS again. */
export function build(done) {
  at('manifest').addEventListener('change', choose);
  at('ceremony-cancel').addEventListener('click', async () => {
    at('ceremony-refusal').replaceChildren();
    try {
      await cancelRestore();
      await done();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      refused(at('ceremony-refusal'), 'It was not cancelled', error.message, adviceFor(error.code));
    }
  });
}
