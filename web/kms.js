// The calls of the page. The token stays in this module's memory: not in the address, a cookie or the browser's storage.

let token = '';

/** An answer that is no success: the KMS's own reason and its code, or that there was no answer at all (status 0). */
export class Refusal extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Takes `?token=` out of the address, so that neither the history nor a copied link has it. */
export function takeTokenFromAddress() {
  const query = new URLSearchParams(location.search);
  if (!query.has('token')) return;
  useToken(query.get('token'));
  query.delete('token');
  const rest = query.toString();
  history.replaceState(null, '', location.pathname + (rest ? `?${rest}` : '') + location.hash);
}

/** Shows this token from now on. */
export function useToken(text) {
  token = text.trim();
}

/** Whether there is a token to show. */
export function hasToken() {
  return token !== '';
}

async function exchange(path, verb, message, seconds) {
  const headers = {};
  if (token) headers['X-Onboard-Token'] = token;
  if (message) headers['Content-Type'] = 'application/json';
  const init = { method: verb, headers, cache: 'no-store', signal: AbortSignal.timeout(seconds * 1000) };
  if (message) init.body = JSON.stringify(message);
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    const late = error.name === 'TimeoutError';
    throw new Refusal(0, late ? `no answer within ${seconds} s` : 'this KMS does not answer', late ? 'too_slow' : 'no_answer');
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    throw new Refusal(answer.status, body?.error ?? `HTTP ${answer.status}`, answer.headers.get('x-error-code') ?? '');
  }
  return body;
}

/** A method of the Onboard service. */
export function call(method, message = {}) {
  return exchange(`/prpc/Onboard.${method}?json`, 'POST', message, 90);
}

/** Opens a restore from the recovery set of a manifest, for a KMS of this name. */
export function openRestore(manifest, domain) {
  return exchange(`/recovery/restore?domain=${encodeURIComponent(domain)}`, 'POST', manifest, 90);
}

/** Ends the restore that is open; its shares are forgotten. */
export function cancelRestore() {
  return exchange('/recovery/cancel', 'POST', null, 30);
}

/** Where the KMS stands; waits so many seconds for that to change. */
export function status(wait = 0) {
  return exchange(`/api/v1/setup/status${wait ? `?wait=${wait}` : ''}`, 'GET', null, wait + 15);
}

/** Runs a check, once more if others were quicker. */
export async function validate(what, about = {}) {
  const ask = () => exchange(`/api/v1/setup/validate/${what}`, 'POST', about, 25);
  try {
    return await ask();
  } catch (error) {
    if (error.status !== 429) throw error;
    return ask();
  }
}
