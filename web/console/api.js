// Calls of the KMS. The credential stays in this module's memory: not in the address, a cookie or the browser's storage.

import { useCallback, useEffect, useRef, useState } from '../vendor/preact.js';
import { onEvents } from './live.js';

/** How long a call may take, in milliseconds. */
const PATIENCE = 30000;
/** Answers that are kept to be shown while newer ones are fetched. */
const KEPT = 80;

let authorization = null;
/** Whether the credential was refused: nothing is asked until there is another one, because wrong ones are counted. */
let isRefused = false;
let reachable = true;
const kept = new Map();
const listeners = { expired: new Set(), renewed: new Set(), reach: new Set() };

/** Calls `tell` when the credential is not accepted any more (`expired`), when there is another one (`renewed`), or when the KMS is lost or found (`reach`). */
export function on(what, tell) {
  listeners[what].add(tell);
  return () => listeners[what].delete(tell);
}

/** An answer that is no success: the KMS's own reason and its code, or that there was no answer (status 0). */
export class Refusal extends Error {
  constructor(status, message, code = '', requestId = '') {
    super(message);
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }
}

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

const headerOf = ({ token, name, secret }) => (token ? `Bearer ${token.trim()}` : `Basic ${base64(`${name}:${secret}`)}`);

/** Shows this credential from now on: `{ token }`, `{ name, secret }`, or null for none. */
export function useCredential(credential) {
  authorization = credential ? headerOf(credential) : null;
  isRefused = false;
  if (credential) for (const tell of listeners.renewed) tell();
}

/** Drops what was read, as it is not for the next reader. */
export function forget() {
  kept.clear();
}

/** The headers of a call. */
export function headersOf(more = {}) {
  return authorization ? { ...more, Authorization: authorization } : { ...more };
}

/** Whether the KMS answered last time. */
export const isReachable = () => reachable;

function setReach(now) {
  if (reachable === now) return;
  reachable = now;
  for (const tell of listeners.reach) tell(now);
}

function readable(status) {
  const words = { 401: 'the KMS does not accept this credential', 403: 'your role may not do this', 404: 'the KMS does not know this' };
  return words[status] ?? `the KMS answered with status ${status}`;
}

/**
 * One call. `body` is sent as JSON, unless it is a Blob or a text. Gives the parsed JSON, or the text of anything else. `as` is another
 * credential than the one in use. Throws a Refusal.
 */
export async function call(verb, path, { body, signal, as, accept = 'application/json', raw = false, patience = PATIENCE } = {}) {
  if (isRefused && !as) throw new Refusal(401, readable(401));
  const headers = as ? { Accept: accept, Authorization: headerOf(as) } : headersOf({ Accept: accept });
  // `omit`: the browser neither sends what it stores nor asks for a password of its own.
  const init = { method: verb, headers, cache: 'no-store', credentials: 'omit', redirect: 'error' };
  init.signal = signal ? AbortSignal.any([signal, AbortSignal.timeout(patience)]) : AbortSignal.timeout(patience);
  if (body !== undefined) {
    const isRaw = body instanceof Blob || typeof body === 'string';
    init.body = isRaw ? body : JSON.stringify(body);
    headers['Content-Type'] = isRaw ? 'application/octet-stream' : 'application/json';
  }
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (signal?.aborted) throw error;
    setReach(false);
    const late = error.name === 'TimeoutError';
    throw new Refusal(0, late ? 'the KMS did not answer in time' : 'the KMS does not answer', late ? 'too_slow' : 'no_answer');
  }
  setReach(true);
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    const message = told?.message ?? told?.error ?? readable(answer.status);
    const code = told?.code ?? answer.headers.get('x-error-code') ?? '';
    const id = told?.request_id ?? answer.headers.get('x-request-id') ?? '';
    // A late answer to an older credential says nothing about the one in use.
    if (answer.status === 401 && !as && authorization && headers.Authorization === authorization && !isRefused) {
      isRefused = true;
      for (const tell of listeners.expired) tell();
    }
    throw new Refusal(answer.status, message, code, id);
  }
  if (raw) return answer.arrayBuffer();
  const kind = answer.headers.get('content-type') ?? '';
  if (answer.status === 204) return null;
  return kind.includes('json') ? answer.json() : answer.text();
}

export const get = (path, options) => call('GET', path, options);
export const post = (path, body = {}, options = {}) => call('POST', path, { ...options, body });
export const patch = (path, body, options = {}) => call('PATCH', path, { ...options, body });
/** Sends a file as it is. */
export const upload = (path, file, options = {}) => call('POST', path, { ...options, body: file, patience: 120000 });

/** A path with a query; parameters without a value are left out. */
export function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const text = new URLSearchParams(given).toString();
  return text ? `${path}?${text}` : path;
}

function keep(path, data) {
  kept.delete(path);
  kept.set(path, { data, at: Date.now() });
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
}

/**
 * What the KMS answers to GET `path`; null asks nothing. Asked again `every` so many seconds while the page is visible, and when
 * events of the types `live` are recorded. Data that were there stay while newer ones are fetched, and when that fails.
 * Gives `{ loading, error, data, refresh, at }`: `loading` only while there is nothing to show.
 */
export function useGet(path, { every = 0, live = null } = {}) {
  const [, redraw] = useState(0);
  const own = useRef({ path: null, error: null, asking: null });
  if (own.current.path !== path) own.current = { path, error: null, asking: null };
  const known = path === null ? undefined : kept.get(path);

  const refresh = useCallback(async () => {
    if (path === null || isRefused) return;
    const mine = own.current;
    mine.asking?.abort();
    const asking = new AbortController();
    mine.asking = asking;
    try {
      keep(path, await get(path, { signal: asking.signal }));
      mine.error = null;
    } catch (error) {
      if (asking.signal.aborted) return;
      mine.error = error instanceof Refusal ? error : new Refusal(0, 'the answer cannot be read', 'unreadable');
    }
    redraw((times) => times + 1);
  }, [path]);

  const types = live ? live.join(',') : '';
  useEffect(() => {
    if (path === null) return undefined;
    const mine = own.current;
    refresh();
    let timer = null;
    const again = () => { if (document.visibilityState === 'visible') refresh(); };
    if (every > 0) timer = setInterval(again, every * 1000);
    document.addEventListener('visibilitychange', again);
    // Several events at once are one reason to ask.
    let soon = null;
    const stop = types && onEvents(types.split(','), () => { soon ??= setTimeout(() => { soon = null; again(); }, 700); });
    const found = on('reach', (now) => { if (now && mine.error?.status === 0) refresh(); });
    const renewed = on('renewed', refresh);
    return () => {
      mine.asking?.abort();
      clearInterval(timer);
      clearTimeout(soon);
      document.removeEventListener('visibilitychange', again);
      if (stop) stop();
      found();
      renewed();
    };
  }, [path, every, types, refresh]);

  const error = own.current.error;
  return { data: known?.data, at: known?.at, error, loading: path !== null && !known && !error, refresh };
}

/** Something that a button does: `{ run, busy, error, clear }`. `run` gives what `task` gives, or undefined if it was refused. */
export function useTask(task) {
  const [state, set] = useState({ busy: false, error: null });
  const latest = useRef(task);
  latest.current = task;
  const run = useCallback(async (...given) => {
    set({ busy: true, error: null });
    try {
      const result = await latest.current(...given);
      set({ busy: false, error: null });
      return result;
    } catch (error) {
      set({ busy: false, error: error instanceof Refusal ? error : new Refusal(0, String(error?.message ?? error)) });
      return undefined;
    }
  }, []);
  const clear = useCallback(() => set({ busy: false, error: null }), []);
  return { ...state, run, clear };
}

/** A draft that survives a reload of the page, in this tab only. Not for secrets. */
export function useDraft(name, initial) {
  const key = `draft:${name}`;
  const [value, set] = useState(() => sessionStorage.getItem(key) ?? initial);
  const write = useCallback((next) => {
    set(next);
    if (next === initial || next === '') sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, next);
  }, [key, initial]);
  return [value, write];
}
