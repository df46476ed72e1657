// The stream of events of this KMS, read once for all views.

import { headersOf } from './api.js';

const STREAM = '/api/v1/events/stream';
/** The first and the longest pause before the stream is opened again, in milliseconds. */
const PAUSES = [1000, 30000];
/** No event is longer, in characters; more without an end is not an event. */
const LONGEST = 1000000;
/** Without even a keep-alive for this long, the connection is lost. The KMS sends one every 15 seconds. */
const SILENCE = 40000;

const listeners = new Set();
const watchers = new Set();
let running = null;
let state = 'off';
let lastId = null;

/** `live`, `lost` or `off`. */
export const liveState = () => state;

/** Calls `tell` when the state of the stream changes. */
export function onLive(tell) {
  watchers.add(tell);
  return () => watchers.delete(tell);
}

/** Calls `tell` with each event of these types; of all types if there are none. */
export function onEvents(types, tell) {
  const listener = { types: new Set(types), tell };
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function become(now) {
  if (state === now) return;
  state = now;
  for (const tell of watchers) tell(now);
}

/** One server-sent event from its lines (HTML standard, section 9.2). */
export function parseEvent(block) {
  const event = { type: 'message', id: null, data: [] };
  for (const line of block.split('\n')) {
    const colon = line.indexOf(':');
    if (colon === 0) continue;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') event.type = value;
    else if (field === 'id') event.id = value;
    else if (field === 'data') event.data.push(value);
  }
  return { ...event, data: event.data.join('\n') };
}

function take({ type, id, data }) {
  if (id !== null) lastId = id;
  let event = null;
  if (type === 'gap') event = { type: 'gap' };
  else if (type === 'message' && data) {
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
  }
  if (!event) return;
  for (const { types, tell } of [...listeners]) {
    // After a gap nobody knows which events were missed.
    if (event.type === 'gap' || types.size === 0 || types.has(event.type)) tell(event);
  }
}

async function read(signal) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE);
  try {
    const headers = headersOf({ Accept: 'text/event-stream' });
    if (lastId !== null) headers['Last-Event-ID'] = lastId;
    const both = AbortSignal.any([signal, silence.signal]);
    const answer = await fetch(STREAM, { headers, cache: 'no-store', credentials: 'omit', redirect: 'error', signal: both });
    if (!answer.ok) return answer.status;
    become('live');
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return 200;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE);
      const blocks = (rest + value).replaceAll('\r\n', '\n').split('\n\n');
      rest = blocks.pop();
      if (rest.length > LONGEST) return 0;
      for (const block of blocks) take(parseEvent(block));
    }
  } catch {
    return 0;
  } finally {
    clearTimeout(timer);
  }
}

/** Opens the stream, and again whenever it ends, until `close`. */
export async function open() {
  close();
  const own = new AbortController();
  running = own;
  let pause = PAUSES[0];
  while (!own.signal.aborted) {
    const began = Date.now();
    const status = await read(own.signal);
    if (own.signal.aborted) return;
    // Not for this credential; calls find out and ask to sign in.
    if (status === 401 || status === 403 || status === 404) return void become('off');
    become('lost');
    if (Date.now() - began > 60000) pause = PAUSES[0];
    await new Promise((later) => { setTimeout(later, pause); });
    pause = Math.min(pause * 2, PAUSES[1]);
  }
}

/** Ends it. */
export function close() {
  running?.abort();
  running = null;
  lastId = null;
  become('off');
}
