// HTTPS to one origin. The TLS key of the server is compared on each connection before a byte of a request is
// written: the agent hands a socket to Node's HTTP only after that. Certificates are not judged, because a KMS
// has one of its own root, and because Node does not call `checkServerIdentity` for such a chain.
import { createHash } from 'node:crypto';
import https from 'node:https';
import { isIP } from 'node:net';
import tls from 'node:tls';
import { ArgumentError, AttestationError, ConnectionError, KmsError, argument, printable } from './errors.js';
import { JsonError, parse, textOf } from './json.js';
import { MAX_BYTES } from './statement.js';
import { ChainError, publicKeyInfo } from './x509.js';

export const DEFAULT_TIMEOUT = 30_000;

const FORBIDDEN_HEADERS = ['connection', 'content-length', 'expect', 'host', 'te', 'trailer', 'transfer-encoding', 'upgrade'];

/** SHA-256 of the SubjectPublicKeyInfo of the certificate that a server has proved to own. */
function keyOf(socket) {
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) throw new AttestationError('tls_key', 'the server has no certificate');
  try {
    return createHash('sha256').update(publicKeyInfo(new Uint8Array(certificate.raw))).digest('hex');
  } catch (error) {
    if (error instanceof ChainError) throw new AttestationError('tls_key', `the server's certificate: ${error.message}`);
    throw error;
  }
}

/** Connects, and gives a socket to its caller after the server's key was accepted. */
class CheckedAgent extends https.Agent {
  #accept;

  /** @param {(spkiSha256: string) => void} accept throws unless the key is accepted */
  constructor(accept) {
    // Without kept connections and sessions, each request makes a whole handshake with a proof of the key.
    super({ keepAlive: false, maxCachedSessions: 0, maxSockets: 16 });
    this.#accept = accept;
  }

  createConnection({ host, port, until }, callback) {
    const socket = tls.connect({
      host,
      port,
      servername: isIP(host) === 0 ? host : undefined,
      // The key is judged below, not the chain.
      rejectUnauthorized: false,
      // Every KMS has it, and it has no renegotiation, in which the key could change.
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['http/1.1'],
    });
    const end = (error) => {
      until.removeEventListener('abort', abort);
      socket.off('close', closed);
      if (error !== undefined) socket.destroy();
      callback(error ?? null, error === undefined ? socket : undefined);
    };
    // Node knows the socket only after the callback, so it cannot end a handshake that takes too long. It keeps
    // `signal` from agents.
    const abort = () => end(new Error('aborted'));
    const closed = () => end(new Error('connection closed during the TLS handshake'));
    until.addEventListener('abort', abort, { once: true });
    socket.once('close', closed);
    socket.on('error', (error) => socket.secureConnecting && end(error));
    socket.once('secureConnect', () => {
      try {
        this.#accept(keyOf(socket));
      } catch (error) {
        return end(error);
      }
      return end();
    });
    // Nothing is returned: Node waits for the callback.
    return undefined;
  }
}

/** An answer, which was read to its end. */
export class KmsResponse {
  #body;

  constructor(status, headers, body) {
    this.status = status;
    this.headers = Object.freeze(Object.assign(Object.create(null), headers));
    this.#body = body;
  }

  get ok() {
    return this.status >= 200 && this.status < 300;
  }

  /** A copy of the body. */
  async bytes() {
    return Uint8Array.from(this.#body);
  }

  /** The body, which must be UTF-8. */
  async text() {
    return this.#read((text) => text);
  }

  /** The body, which must be JSON without repeated keys. Its objects have no prototype. */
  async json() {
    return this.#read(parse);
  }

  #read(read) {
    try {
      return read(textOf(this.#body));
    } catch (error) {
      if (error instanceof JsonError) throw new ConnectionError('http', `the answer is not as expected: ${error.message}`, { cause: error });
      throw error;
    }
  }
}

/** Reads an answer of at most `MAX_BYTES`. */
export function readBody(answer) {
  return new Promise((resolve, reject) => {
    const tooLarge = () => new ConnectionError('too_large', `the answer must have at most ${MAX_BYTES} bytes`);
    const fail = (error) => {
      reject(error);
      answer.destroy();
    };
    if (Number(answer.headers['content-length']) > MAX_BYTES) return fail(tooLarge());
    const chunks = [];
    let length = 0;
    answer.on('data', (chunk) => {
      length += chunk.length;
      if (length > MAX_BYTES) return fail(tooLarge());
      chunks.push(chunk);
    });
    answer.on('end', () => (answer.complete ? resolve(new Uint8Array(Buffer.concat(chunks))) : reject(new Error('answer is cut off'))));
    answer.on('error', reject);
    answer.on('aborted', () => reject(new Error('answer is cut off')));
  });
}

/** What went wrong on a connection, as an error of this package. */
export function connectionError(error, address) {
  if (error instanceof KmsError) return error;
  // Node refuses a header before it sends anything.
  if (error instanceof TypeError) return new ArgumentError(printable(error.message), { cause: error });
  const kind = /^HPE_|^ERR_HTTP/.test(error.code ?? '') ? 'http' : 'unreachable';
  return new ConnectionError(kind, `no answer of ${address}: ${printable(String(error.reason ?? (error.message || error.code)))}`, { cause: error });
}

/**
 * Does one exchange within `timeout` milliseconds.
 *
 * @param {(signal: AbortSignal) => Promise<T>} exchange
 * @template T
 */
export async function within(timeout, signal, address, exchange) {
  const deadline = new AbortController();
  const abort = () => deadline.abort(signal.reason);
  if (signal?.aborted) throw signal.reason;
  signal?.addEventListener('abort', abort, { once: true });
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    deadline.abort();
  }, timeout);
  try {
    return await exchange(deadline.signal);
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    if (isLate) throw new ConnectionError('timeout', `no answer of ${address} within ${timeout} ms`, { cause: error });
    throw connectionError(error, address);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', abort);
  }
}

/** The origin of an `https:` URL that names nothing else. */
export function originOf(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    argument('the address of a KMS must be a URL such as https://kms.example.com:8000');
  }
  if (url.protocol !== 'https:') argument('the URL of a KMS must begin with https://');
  if (url.username !== '' || url.password !== '') argument('the URL of a KMS must not have a user name');
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '') argument('the URL of a KMS must have no path');
  return url;
}

/** Requests to one origin, on connections whose key was accepted. */
export class Transport {
  #origin;
  #agent;
  #timeout;

  /**
   * @param {URL} origin
   * @param {{accept: (spkiSha256: string) => void, timeout: number}} options
   */
  constructor(origin, { accept, timeout }) {
    this.#origin = origin;
    this.#agent = new CheckedAgent(accept);
    this.#timeout = timeout;
  }

  get address() {
    return this.#origin.host;
  }

  /** Sends a request to `path` of the origin. Redirects are refused. */
  async request(path, { method = 'GET', headers = {}, body, signal } = {}) {
    const url = this.#url(path);
    if (typeof method !== 'string' || !/^[A-Za-z]+$/.test(method) || /^(connect|trace)$/i.test(method)) argument('the method cannot be sent');
    for (const name of Object.keys(headers)) {
      if (FORBIDDEN_HEADERS.includes(name.toLowerCase())) argument(`the header ${printable(name)} cannot be set`);
    }
    if (body !== undefined && typeof body !== 'string' && !(body instanceof Uint8Array)) argument('the body must be a text or bytes');
    return within(this.#timeout, signal, this.address, async (until) => {
      const answer = await new Promise((resolve, reject) => {
        const request = https.request(url, { agent: this.#agent, method: method.toUpperCase(), headers, signal: until, until }, resolve);
        request.on('error', reject);
        request.end(body);
      });
      const { statusCode, headers: received } = answer;
      if (statusCode >= 300 && statusCode < 400) {
        answer.destroy();
        throw new ConnectionError('redirect', `${this.address} redirects to another place, which is refused: the pins are for this one`);
      }
      if (received['content-encoding'] !== undefined) {
        answer.destroy();
        throw new ConnectionError('http', `the answer of ${this.address} is encoded, which was not asked for`);
      }
      return new KmsResponse(statusCode, received, await readBody(answer));
    });
  }

  #url(path) {
    if (typeof path !== 'string' || !path.startsWith('/')) argument('the path of a request must begin with /');
    const url = new URL(path, this.#origin);
    return url.origin === this.#origin.origin ? url : argument('the path of a request must not name another server');
  }

  close() {
    this.#agent.destroy();
  }
}
