// Servers for tests: a KMS that proves itself on the simulated platform, on loopback.
import http from 'node:http';
import https from 'node:https';
import { certificate, document, fingerprint, newKey, statement } from './simulated.js';

const now = () => Math.floor(Date.now() / 1000);

/** Listens on a free port, and counts what arrives. */
async function listening(server, test, scheme) {
  const seen = { connections: 0, requests: [], bytes: 0 };
  server.on(scheme === 'https' ? 'secureConnection' : 'connection', () => void (seen.connections += 1));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => {
    server.closeAllConnections?.();
    return new Promise((resolve) => server.close(resolve));
  };
  test.after(close);
  const { port } = server.address();
  return { url: `${scheme}://127.0.0.1:${port}`, port, seen, server, close };
}

/** An HTTPS server with this key. */
export async function secure(test, key, answer) {
  const options = { key: key.export({ type: 'sec1', format: 'pem' }), cert: certificate(key) };
  const server = https.createServer(options);
  const at = await listening(server, test, 'https');
  server.on('request', (request, response) => {
    at.seen.requests.push(`${request.method} ${request.url}`);
    answer(request, response);
  });
  return at;
}

export async function plain(test, answer) {
  const server = http.createServer();
  const at = await listening(server, test, 'http');
  server.on('request', (request, response) => {
    at.seen.requests.push(`${request.method} ${request.url}`);
    answer(request, response);
  });
  return at;
}

export const send = (response, status, body, headers = {}) => {
  response.writeHead(status, headers);
  response.end(body);
};

/** A KMS: `changes` alter its statement, `answer` has first say about a request. */
export function kms(test, { key = newKey(), changes = {}, answer = () => false } = {}) {
  return secure(test, key, async (request, response) => {
    if (answer(request, response)) return;
    const url = new URL(request.url, 'https://kms');
    if (url.pathname === '/attestation.json') {
      const nonce = url.searchParams.get('nonce');
      return send(response, 200, document(statement({ time: now(), nonce, rpc_spki_sha256: fingerprint(key), ...changes })));
    }
    if (url.pathname === '/prpc/GetMeta') return send(response, 200, '{"name":"kms"}');
    let body = '';
    for await (const chunk of request) body += chunk;
    if (url.pathname === '/echo') {
      return send(response, 200, JSON.stringify({ method: request.method, headers: request.headers, body }));
    }
    send(response, 404, '{"error":"no such\\nmethod"}');
  });
}
