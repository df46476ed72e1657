// The last step: Finish, and the wait until the KMS serves.

import { adviceFor } from './advice.js';
import { call, Refusal, status } from './kms.js';
import { show } from './steps.js';
import { at, element, state } from './view.js';

/** So long one answer is waited for, in seconds. */
const PATIENCE = 15;

let finishing = false;

/** Whether Finish was pressed: this module asks for the status then. */
export const isFinishing = () => finishing;

/** Keys exist, so Finish can be pressed. */
export function allow() {
  if (finishing) return;
  at('finish').disabled = false;
  state('serve-state', 'The keys are saved.', 'good');
}

/** Finish would come to nothing. */
export function forbid(reason) {
  if (finishing) return;
  at('finish').disabled = true;
  state('serve-state', reason, 'bad');
}

function origin(port) {
  const own = location.port || (location.protocol === 'https:' ? '443' : '80');
  return `https://${location.hostname}:${port ?? own}`;
}

/** Where the console is, and whether a browser on another machine reaches it. */
function reached({ scheme, address, port }) {
  const host = address ?? location.hostname.replace(/^\[|\]$/g, '');
  const isLocal = /^(127\.|::1$)/.test(host);
  const isHere = !isLocal || /^(127\.|\[::1\]$|localhost$)/.test(location.hostname);
  return { url: `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}/`, isHere };
}

function toConsole(given) {
  const { url, isHere } = reached(given);
  const link = element('a', { href: url }, url);
  return isHere ? ['Go on at its console: ', link] : ['Go on at its console, which only its own machine reaches, for example through an SSH tunnel: ', link];
}

/** It serves: the end of this page. */
export function serves(port, console_) {
  if (!at('serving').hidden) return;
  const url = origin(port);
  at('finish').hidden = true;
  at('serve-text').hidden = true;
  state('serve-state', 'This KMS serves its keys.', 'good');
  at('serving').hidden = false;
  const step = (...parts) => element('li', {}, ...parts);
  const line = (text) => element('code', { className: 'command' }, text);
  at('serving-next').replaceChildren(
    ...(console_ ? [step(...toConsole(console_))] : []),
    step('See what it serves: ', line(`curl -k ${url}/prpc/GetMeta`)),
    step('Give its root CA public key to the apps that pin a key provider, and its values to the contract, if there is one.'),
    step('Add a replica, which is the best protection against the loss of the key directory: start a second KMS with an '
      + 'empty directory, choose Replica on its page, and give this URL: ', line(url)),
  );
  show('serve');
  if (finishing) at('serving-title').focus();
}

/** The KMS had keys and does not answer any more. */
export function lost() {
  state('serve-state', 'Setup has ended: this KMS serves now, or it has stopped. This page cannot tell which; '
    + `${origin(null)}/prpc/GetMeta can.`);
}

function stuck(now) {
  finishing = false;
  state('serve-state', now.next.map((step) => step.text).join('. '), 'bad');
}

/** Waits for the switch. The KMS holds each answer back until something changes, so the last one arrives. */
async function wait(told) {
  for (;;) {
    let now;
    try {
      now = await status(PATIENCE);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.status !== 0) throw error;
      return void lost();
    }
    told(now);
    if (now.mode === 'serving') return;
    if (now.mode !== 'committed') return void stuck(now);
    state('serve-state', `Keys exist; ${now.next.map((step) => step.text).join('. ')} …`, 'busy');
  }
}

/** Sets Finish up; `told` gets every status that is seen. */
export function build(told) {
  at('finish').addEventListener('click', async () => {
    if (finishing) return;
    finishing = true;
    at('finish').disabled = true;
    state('serve-state', 'Finishing …', 'busy');
    try {
      // Before Finish is called, so that the answer to the switch has a connection to arrive on.
      const waiting = wait(told);
      waiting.catch(() => {});
      await call('Finish');
      await waiting;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      finishing = false;
      at('finish').disabled = false;
      state('serve-state', `${error.message}. ${adviceFor(error.code)}`, 'bad');
    }
  });
}
