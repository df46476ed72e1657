'use strict';

const byId = (id) => document.getElementById(id);
const names = {
  device_id: 'Device id', mr_aggregated: 'Aggregated measurement', os_image_hash: 'OS image hash',
  tee_variant: 'TEE', site_name: 'Site', ppid: 'Platform id (PPID)', kms_contract_address: 'KMS contract',
  eth_rpc_url: 'Chain RPC', ca_pubkey: 'Root CA public key (key provider id)', k256_pubkey: 'Root secp256k1 public key',
  attestation: 'Attestation over both keys',
};
const prefixed = new Set(['ca_pubkey', 'k256_pubkey', 'attestation']);

async function call(method, request) {
  const headers = { 'Content-Type': 'application/json' };
  const token = byId('token').value;
  if (token) headers['X-Onboard-Token'] = token;
  const answer = await fetch(`/prpc/Onboard.${method}?json`, { method: 'POST', headers, body: JSON.stringify(request) });
  const body = await answer.json().catch(() => null);
  if (answer.status === 401) byId('token-row').hidden = false;
  if (!answer.ok) throw new Error(body && body.error ? body.error : `HTTP ${answer.status}`);
  return body;
}

function say(id, text, isBad) {
  const line = byId(id);
  line.textContent = text;
  line.classList.toggle('bad', Boolean(isBad));
}

function show(id, values) {
  const list = byId(id);
  list.replaceChildren();
  for (const [key, value] of Object.entries(values)) {
    if (!value || !names[key]) continue;
    const term = document.createElement('dt');
    term.textContent = names[key];
    const detail = document.createElement('dd');
    const code = document.createElement('code');
    code.textContent = prefixed.has(key) ? `0x${value}` : value;
    code.tabIndex = 0;
    const copy = document.createElement('button');
    copy.type = 'button';
    copy.textContent = 'Copy';
    copy.setAttribute('aria-label', `Copy ${names[key]}`);
    copy.addEventListener('click', async () => {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = 'Copied';
    });
    detail.append(code, copy);
    list.append(term, detail);
  }
}

async function introduce() {
  try {
    show('info', await call('GetAttestationInfo', {}));
    say('info-state', 'Allow these values in your policy before you go on.');
  } catch (error) {
    say('info-state', `Its evidence is not to be had: ${error.message}`, true);
  }
}

function onSubmit(id, method, working) {
  byId(id).addEventListener('submit', async (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const button = form.querySelector('button');
    button.disabled = true;
    say('keys-state', working);
    try {
      show('result', await call(method, Object.fromEntries(new FormData(form))));
      say('keys-state', 'This KMS has its keys. Note the values below, then finish.');
      byId('finish').focus();
    } catch (error) {
      say('keys-state', error.message, true);
      button.disabled = false;
    }
  });
}

byId('finish').addEventListener('click', async () => {
  try {
    await call('Finish', {});
    say('finish-state', 'Asked to finish. If keys exist, this port now serves the KMS over https.');
  } catch (error) {
    say('finish-state', error.message, true);
  }
});

onSubmit('bootstrap', 'Bootstrap', 'Making new keys …');
onSubmit('onboard', 'Onboard', 'Verifying the running KMS and receiving keys …');
introduce();
