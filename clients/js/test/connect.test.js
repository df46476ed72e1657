import assert from 'node:assert/strict';
import net from 'node:net';
import test from 'node:test';
import tls from 'node:tls';
import { ArgumentError, CallError, connect } from '../src/index.js';
import { Transport, originOf } from '../src/transport.js';
import { kms, plain, secure, send } from './server.js';
import { ROOT, ROOT_KEY, certificate, document, fingerprint, newKey, statement } from './simulated.js';

const PINS = { root_ca_spki_sha256: fingerprint(ROOT_KEY) };
const OPTIONS = { tdxRootCa: ROOT, timeout: 20_000 };

test('a verified KMS answers calls and requests', async (t) => {
  const at = await kms(t);
  const client = await connect(at.url, PINS, OPTIONS);
  assert.equal(client.attestation.isSignedByRoot, true);
  assert.match(client.attestation.statement.nonce, /^[0-9a-f]{64}$/);
  assert.throws(() => void (client.attestation.statement.sealed = false), TypeError);
  assert.deepEqual({ ...(await client.call('GetMeta')) }, { name: 'kms' });
  const answer = await client.fetch('/echo', { method: 'post', headers: { 'x-a': 'b' }, body: 'text' });
  const { method, headers, body } = await answer.json();
  assert.deepEqual([answer.status, answer.ok, method, headers['x-a'], body], [200, true, 'POST', 'b', 'text']);
  const refused = await client.call('Nothing').catch((error) => error);
  assert.ok(refused instanceof CallError);
  assert.deepEqual([refused.code, refused.status, refused.message], ['call', 404, 'the KMS answers Nothing with 404: no such?method']);
  const nonces = at.seen.requests.filter((request) => request.includes('nonce='));
  await connect(at.url, PINS, OPTIONS);
  assert.equal(new Set([...nonces, at.seen.requests.at(-1)]).size, 2, 'each connection has a nonce of its own');
  client.close();
});

test('wrong pins, and a KMS that proves too little, give no client', async (t) => {
  const good = await kms(t);
  const older = await kms(t, { changes: { time: Math.floor(Date.now() / 1000) - 700 } });
  const replayed = await kms(t, { changes: { nonce: 'ab'.repeat(32) } });
  const elsewhere = await kms(t, { changes: { rpc_spki_sha256: '12'.repeat(32) } });
  for (const [at, pins, options, code] of [
    [good, { root_ca_spki_sha256: '00'.repeat(32) }, OPTIONS, 'pin_mismatch'],
    [good, {}, OPTIONS, 'no_pin'],
    [good, { ...PINS, app_id: '99'.repeat(20) }, OPTIONS, 'pin_mismatch'],
    [good, { ...PINS, apps: 'x' }, OPTIONS, 'bad_pins'],
    [good, undefined, OPTIONS, 'bad_pins'],
    [good, PINS, {}, 'quote'],
    [older, PINS, OPTIONS, 'time'],
    [replayed, PINS, OPTIONS, 'nonce'],
    [elsewhere, PINS, OPTIONS, 'tls_key'],
  ]) {
    await assert.rejects(connect(at.url, pins, options), { code });
  }
});

test('a man in the middle who relays a true attestation is found out', async (t) => {
  const real = await kms(t);
  // It passes everything on, nonce and all, over a connection of its own.
  const relay = await secure(t, newKey(), async (request, response) => {
    const upstream = new Transport(originOf(real.url), { accept: () => {}, timeout: 20_000 });
    const answer = await upstream.request(request.url);
    send(response, answer.status, Buffer.from(await answer.bytes()));
  });
  await assert.rejects(connect(relay.url, PINS, OPTIONS), { code: 'tls_key' });
  assert.equal(relay.seen.requests.length, 1);
  assert.match(relay.seen.requests[0], /^GET \/attestation\.json\?nonce=/);
});

test('after the key has changed no byte of a request is sent', async (t) => {
  const key = newKey();
  const at = await kms(t, { key });
  const client = await connect(at.url, PINS, OPTIONS);
  await client.call('GetMeta');
  await at.close();
  // Another server at the same address. It records every byte that comes after its handshake.
  const other = newKey();
  let received = 0;
  let connections = 0;
  const options = { key: other.export({ type: 'sec1', format: 'pem' }), cert: certificate(other) };
  const impostor = tls.createServer(options, (socket) => {
    socket.on('data', (data) => void (received += data.length));
    socket.on('error', () => {});
  });
  impostor.on('connection', () => void (connections += 1));
  await new Promise((resolve) => impostor.listen(at.port, '127.0.0.1', resolve));
  t.after(() => impostor.close());
  for (let attempt = 0; attempt < 3; attempt++) {
    await assert.rejects(client.call('GetAppKey', { secret: 'value' }), { code: 'tls_key' });
    await assert.rejects(client.fetch('/x', { method: 'POST', body: 'secret' }), { code: 'tls_key' });
  }
  // The connections have ended, so nothing can arrive later.
  while (impostor._connections > 0) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(received, 0);
  assert.equal(connections, 6);
});

test('TLS before version 1.3, in which a key could change, is refused', async (t) => {
  const key = newKey();
  const options = { key: key.export({ type: 'sec1', format: 'pem' }), cert: certificate(key), maxVersion: 'TLSv1.2' };
  const old = tls.createServer(options, (socket) => socket.destroy()).on('tlsClientError', () => {});
  await new Promise((resolve) => old.listen(0, '127.0.0.1', resolve));
  t.after(() => old.close());
  await assert.rejects(connect(`https://127.0.0.1:${old.address().port}`, PINS, OPTIONS), { code: 'unreachable' });
});

test('Node does not ask checkServerIdentity about a chain that it does not verify', async (t) => {
  // Why the key is compared by the agent instead.
  const at = await kms(t);
  let asked = 0;
  const socket = tls.connect({ port: at.port, host: '127.0.0.1', rejectUnauthorized: false, checkServerIdentity: () => void (asked += 1) });
  await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
  socket.destroy();
  assert.equal(asked, 0);
});

test('the request waits for the check of the key', async (t) => {
  const at = await kms(t);
  const order = [];
  at.server.on('secureConnection', (socket) => socket.on('data', () => order.push('data')));
  const transport = new Transport(originOf(at.url), { accept: () => order.push('check'), timeout: 20_000 });
  await transport.request('/prpc/GetMeta');
  assert.equal(order[0], 'check');
  const refusing = new Transport(originOf(at.url), {
    accept: () => {
      throw new ArgumentError('no');
    },
    timeout: 20_000,
  });
  const before = at.seen.requests.length;
  await assert.rejects(refusing.request('/prpc/GetMeta'), { code: 'argument' });
  assert.equal(at.seen.requests.length, before);
});

test('redirects, other servers and encodings are refused', async (t) => {
  const other = await kms(t);
  const at = await kms(t, {
    answer: ({ url }, response) => {
      if (url === '/redirect') return send(response, 307, '', { location: `${other.url}/x` }), true;
      if (url === '/encoded') return send(response, 200, 'x', { 'content-encoding': 'gzip' }), true;
      return false;
    },
  });
  const client = await connect(at.url, PINS, OPTIONS);
  await assert.rejects(client.fetch('/redirect'), { code: 'redirect' });
  await assert.rejects(client.fetch('/encoded'), { code: 'http' });
  for (const path of [`${other.url}/x`, `//127.0.0.1:${other.port}/x`, `/\\127.0.0.1:${other.port}/x`, '', 'x', 7]) {
    await assert.rejects(client.fetch(path), ArgumentError, String(path));
  }
  for (const init of [{ method: 'CONNECT' }, { method: 'GE T' }, { headers: { Host: 'x' } }, { headers: { a: 'b\r\nc: d' } }, { headers: { 'a b': 'c' } }, { body: {} }]) {
    await assert.rejects(client.fetch('/x', init), ArgumentError, JSON.stringify(init));
  }
  for (const method of ['', '../x', 'GetMeta?x', 7, '__proto__']) await assert.rejects(client.call(method), ArgumentError);
  assert.equal(other.seen.requests.length, 0);
  const elsewhere = await kms(t, { answer: (_, response) => (send(response, 302, '', { location: other.url }), true) });
  await assert.rejects(connect(elsewhere.url, PINS, OPTIONS), { code: 'redirect' });
});

test('answers are bounded, and end in time', async (t) => {
  const at = await kms(t, {
    answer: ({ url }, response) => {
      if (url === '/said') return response.writeHead(200, { 'content-length': 2 << 20 }), response.write('x'), true;
      if (url === '/endless') {
        const more = () => response.writable && response.write(Buffer.alloc(65_536), more);
        return response.writeHead(200), more(), true;
      }
      if (url === '/cut') return response.writeHead(200, { 'content-length': 9 }), response.write('x', () => response.destroy()), true;
      if (url === '/twice') return send(response, 200, '{"a":1,"a":2}'), true;
      return url === '/never';
    },
  });
  const client = await connect(at.url, PINS, { ...OPTIONS, timeout: 5000 });
  await assert.rejects(client.fetch('/said'), { code: 'too_large' });
  await assert.rejects(client.fetch('/endless'), { code: 'too_large' });
  await assert.rejects(client.fetch('/cut'), { code: 'unreachable' });
  await assert.rejects((await client.fetch('/twice')).json(), { code: 'http' });
  const asked = new AbortController();
  const pending = client.fetch('/never', { signal: asked.signal });
  at.server.once('request', () => asked.abort(new Error('enough')));
  await assert.rejects(pending, { message: 'enough' });
  await assert.rejects(client.fetch('/never', { signal: AbortSignal.abort(new Error('before')) }), { message: 'before' });
  const hasty = await connect(at.url, PINS, OPTIONS).then(() => new Transport(originOf(at.url), { accept: () => {}, timeout: 50 }));
  await assert.rejects(hasty.request('/never'), { code: 'timeout' });
  const large = await kms(t, { answer: (_, response) => (send(response, 200, Buffer.alloc((1 << 20) + 1)), true) });
  await assert.rejects(connect(large.url, PINS, OPTIONS), { code: 'too_large' });
});

test('a server that does not finish its handshake is left', async (t) => {
  const sockets = [];
  const silent = net.createServer((socket) => sockets.push(socket));
  await new Promise((resolve) => silent.listen(0, '127.0.0.1', resolve));
  t.after(() => silent.close());
  const url = `https://127.0.0.1:${silent.address().port}`;
  await assert.rejects(connect(url, PINS, { ...OPTIONS, timeout: 200 }), { code: 'timeout' });
  const [socket] = sockets;
  socket.resume();
  if (!socket.destroyed && !socket.readableEnded) await new Promise((resolve) => socket.once('close', resolve));
  silent.close();
  await assert.rejects(connect(url, PINS, OPTIONS), { code: 'unreachable' });
  const text = await plain(t, (_, response) => send(response, 200, ''));
  await assert.rejects(connect(text.url.replace('http:', 'https:'), PINS, OPTIONS), { code: 'unreachable' });
});

test('a KMS that makes too many quotes is asked again when it says, within the time-out', async (t) => {
  let refusals = 2;
  const at = await kms(t, {
    answer: ({ url }, response) => url.startsWith('/attestation.json') && refusals-- > 0 && (send(response, 429, '', { 'retry-after': '1' }), true),
  });
  (await connect(at.url, PINS, OPTIONS)).close();
  assert.equal(new Set(at.seen.requests).size, 3, 'each request has a nonce of its own');
  refusals = Infinity;
  for (const [headers, timeout] of [['1', 500], ['99', 20_000], ['0', 20_000], ['x', 20_000]]) {
    const busy = await kms(t, { answer: (_, response) => (send(response, 429, '', { 'retry-after': headers }), true) });
    await assert.rejects(connect(busy.url, PINS, { ...OPTIONS, timeout }), { code: 'http' });
    assert.equal(busy.seen.requests.length, 1);
  }
  const stop = new AbortController();
  const busy = await kms(t, { answer: (_, response) => (send(response, 429, '', { 'retry-after': '9' }), setTimeout(() => stop.abort(new Error('enough')), 50), true) });
  await assert.rejects(connect(busy.url, PINS, { ...OPTIONS, signal: stop.signal }), { message: 'enough' });
});

test('an answer that is no document is told', async (t) => {
  for (const [status, body, code] of [
    [404, '{}', 'http'],
    [429, '', 'http'],
    [200, '{}', 'malformed'],
    [200, '<html>', 'malformed'],
  ]) {
    const at = await kms(t, { answer: (_, response) => (send(response, status, body), true) });
    await assert.rejects(connect(at.url, PINS, OPTIONS), { code });
  }
});

test('addresses and options are checked before anything is sent', async (t) => {
  const at = await kms(t);
  for (const target of [at.url.replace('https', 'http'), `${at.url}/path`, `${at.url}?a`, `${at.url}#a`, at.url.replace('//', '//user:pass@'), 'x', '', 'a/b/c', '../x', 'owner/..', 7]) {
    await assert.rejects(connect(target, PINS, OPTIONS), ArgumentError, String(target));
  }
  for (const options of [{ timeout: 0 }, { timeout: '1' }, { rejectUnauthorized: true }, { nonce: 'x' }, { now: 1 }, { tcbStatuses: ['Any'] }, null, []]) {
    await assert.rejects(connect(at.url, PINS, options), ArgumentError, JSON.stringify(options));
  }
  assert.equal(at.seen.connections, 0);
});

/** A mirror of releases, which redirects as GitHub does. */
const mirror = (t, release) =>
  plain(t, ({ url }, response) => {
    if (url === '/owner/repo/releases/latest/download/cvm-kms-release.json') return send(response, 302, '', { location: '/storage' });
    return url === '/storage' ? send(response, 200, release) : send(response, 404, '');
  });

test('the release of a repository has addresses and pins', async (t) => {
  const at = await kms(t);
  const release = (changes) => JSON.stringify({ version: 1, endpoints: [at.url], pins: PINS, ...changes });
  const { url: base } = await mirror(t, release());
  const client = await connect('owner/repo', { ...OPTIONS, base });
  assert.deepEqual({ ...(await client.call('GetMeta')) }, { name: 'kms' });
  await assert.rejects(connect('owner/other', { ...OPTIONS, base }), { code: 'release' });
  await assert.rejects(connect('owner/repo', { ...OPTIONS, base, pins: { app_id: '99'.repeat(20) } }), { code: 'pin_mismatch' });
  await assert.rejects(connect('owner/repo', { ...OPTIONS, base, pins: { root_ca_spki_sha256: '99'.repeat(32) } }), { code: 'bad_pins' });

  const dead = await kms(t);
  await dead.close();
  const second = await mirror(t, release({ endpoints: [dead.url, at.url] }));
  (await connect('owner/repo', { ...OPTIONS, base: second.url })).close();
  // One that proves too little is no reason to try the next.
  const wrong = await kms(t, { changes: { rpc_spki_sha256: '12'.repeat(32) } });
  const before = at.seen.requests.length;
  const third = await mirror(t, release({ endpoints: [wrong.url, at.url] }));
  await assert.rejects(connect('owner/repo', { ...OPTIONS, base: third.url }), { code: 'tls_key' });
  assert.equal(at.seen.requests.length, before);

  for (const [changes, code] of [
    [{ pins: {} }, 'no_pin'],
    [{ pins: { root: 'x' } }, 'release'],
    [{ pins: undefined }, 'release'],
    [{ version: 2 }, 'release'],
    [{ endpoints: [] }, 'release'],
    [{ endpoints: ['http://127.0.0.1'] }, 'release'],
    [{ endpoints: 'https://127.0.0.1' }, 'release'],
  ]) {
    const bad = await mirror(t, release(changes));
    await assert.rejects(connect('owner/repo', { ...OPTIONS, base: bad.url }), { code }, JSON.stringify(changes));
  }
  for (const text of ['', '[]', `${release()}x`, release().replace('{', '{"version":1,'), 'x'.repeat(2 << 20)]) {
    const bad = await mirror(t, text);
    await assert.rejects(connect('owner/repo', { ...OPTIONS, base: bad.url }), { code: text.length > 1 << 20 ? 'too_large' : 'release' });
  }
  for (const wrongBase of ['http://example.com', 'ftp://127.0.0.1', 'x', 7]) {
    await assert.rejects(connect('owner/repo', { ...OPTIONS, base: wrongBase }), ArgumentError);
  }
});

test('a release is not fetched from where a redirect leaves HTTPS, and the loops of redirects end', async (t) => {
  for (const location of ['http://example.com/x', 'ftp://127.0.0.1/x', '/owner/repo/releases/latest/download/cvm-kms-release.json', 'http://[']) {
    const { url: base } = await plain(t, (_, response) => send(response, 302, '', { location }));
    await assert.rejects(connect('owner/repo', { ...OPTIONS, base }), { code: 'release' }, location);
  }
});

test('a document that was saved is verified without a server', async () => {
  const { verify } = await import('../src/index.js');
  const saved = document(statement({ time: Math.floor(Date.now() / 1000) }));
  assert.equal((await verify(saved, PINS, { tdxRootCa: ROOT })).isSignedByRoot, true);
});
