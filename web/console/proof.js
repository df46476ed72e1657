// Verification of the audit log in the browser: Merkle tree (RFC 6962, RFC 9162), checkpoints, proof files and tiles (C2SP).
//
// Nothing here trusts the KMS. What is given comes from it, so all of it is read strictly.

const encoder = new TextEncoder();
const MAX_PROOF_HASHES = 63;
const HEADER = 'c2sp.org/tlog-proof@v1\n';
const TILE_WIDTH = 256n;

/** Why something does not verify. */
export class ProofError extends Error {}

const fail = (message) => { throw new ProofError(message); };

export const hexOf = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');

/** Bytes of padded base64 in its one form. */
export function fromBase64(text) {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) fail('not padded base64');
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  if (toBase64(bytes) !== text) fail('not base64 in its one form');
  return bytes;
}

export const toBase64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export const equal = (left, right) => left.length === right.length && left.every((byte, index) => byte === right[index]);

/** Whether this browser has the functions that verification needs. They exist only on pages with TLS or from this machine. */
export const isAble = () => Boolean(globalThis.crypto?.subtle);

export async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
}

/** SHA-256(00 ‖ entry). */
export const leafHash = (entry) => sha256(joined([0], entry));
/** SHA-256(01 ‖ left ‖ right). */
export const nodeHash = (left, right) => sha256(joined([1], left, right));

function hashOf(text) {
  const bytes = fromBase64(text);
  return bytes.length === 32 ? bytes : fail('a hash must have 32 bytes');
}

function decimal(text, what) {
  if (!/^(0|[1-9][0-9]{0,18})$/.test(text)) fail(`${what} is not a number`);
  const value = BigInt(text);
  return value < 2n ** 63n ? value : fail(`${what} is too large`);
}

/** The entry of a record: its line without its own hash. The hash has to be that of the entry. */
export async function entryOf(line) {
  const match = /^(.*),"hash":"([0-9a-f]{64})"\}\n?$/s.exec(line);
  if (!match) fail('this is not a record of the log');
  const entry = encoder.encode(`${match[1]}}`);
  return { entry, fits: hexOf(await sha256(entry)) === match[2] };
}

/** A signed note: its text and its signature lines. */
export function parseNote(note) {
  // eslint-disable-next-line no-control-regex
  if (note.length > 1_000_000 || /[\0-\x09\x0b-\x1f]/.test(note)) fail('the checkpoint is not a signed note');
  const blank = note.lastIndexOf('\n\n');
  if (blank < 0 || !note.endsWith('\n') || blank + 2 >= note.length) fail('the checkpoint has no signature');
  const lines = note.slice(blank + 2, -1).split('\n');
  if (lines.length > 100) fail('the checkpoint has too many signatures');
  const signatures = lines.map((line) => {
    const match = /^\u2014 ([^\s+]+) ([A-Za-z0-9+/=]+)$/.exec(line) ?? fail('a signature line is malformed');
    const bytes = fromBase64(match[2]);
    if (bytes.length < 5) fail('a signature line is too short');
    return { name: match[1], id: hexOf(bytes.slice(0, 4)), signature: bytes.slice(4) };
  });
  return { text: note.slice(0, blank + 1), signatures };
}

/** A checkpoint: `{ origin, size, root, text, signatures }`. Its signatures are not verified by this. */
export function parseCheckpoint(note) {
  const { text, signatures } = parseNote(note);
  const [origin, size, root, ...rest] = text.slice(0, -1).split('\n');
  if (!origin || root === undefined || rest.some((line) => line === '')) fail('the checkpoint lacks a line');
  return { origin, size: decimal(size, 'the size of the tree'), root: hashOf(root), text, signatures };
}

/** A verifier key `name+id+base64`, of Ed25519 only: type 1 signs for a log, type 4 cosigns. */
export async function parseKey(vkey) {
  const match = /^([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/.exec(vkey) ?? fail('this is not a verifier key');
  const [, name, id, encoded] = match;
  const bytes = fromBase64(encoded);
  const digest = await sha256(joined(encoder.encode(`${name}\n`), bytes));
  if (hexOf(digest.slice(0, 4)) !== id) fail('the id of the key does not fit the key');
  if (![1, 4].includes(bytes[0])) fail('this kind of key cannot be verified in a browser');
  if (bytes.length !== 33) fail('the key has a wrong length');
  return { name, id, type: bytes[0], key: bytes.slice(1) };
}

async function isSignedBy(key, message, signature) {
  if (signature.length !== 64) return false;
  const imported = await crypto.subtle.importKey('raw', key, { name: 'Ed25519' }, false, ['verify']);
  return crypto.subtle.verify({ name: 'Ed25519' }, imported, signature, message);
}

/**
 * Whether a key has signed a checkpoint: `{ signed, time }`, where `time` is that of a cosignature. Every line of the key has to hold.
 */
export async function isSigned(checkpoint, key) {
  const lines = checkpoint.signatures.filter(({ name, id }) => name === key.name && id === key.id);
  let time = null;
  for (const { signature } of lines) {
    if (key.type === 1) {
      if (!await isSignedBy(key.key, encoder.encode(checkpoint.text), signature)) return { signed: false, time: null };
    } else {
      if (signature.length !== 72) return { signed: false, time: null };
      time = new DataView(signature.buffer, signature.byteOffset, 8).getBigUint64(0);
      const message = encoder.encode(`cosignature/v1\ntime ${time}\n${checkpoint.text}`);
      if (time === 0n || time >= 2n ** 63n || !await isSignedBy(key.key, message, signature.slice(8))) return { signed: false, time: null };
    }
  }
  return { signed: lines.length > 0, time };
}

/** The root to which an inclusion proof leads from a leaf hash (RFC 9162, section 2.1.3.2). */
export async function rootFromProof(leaf, index, size, proof) {
  if (index < 0n || index >= size) fail(`leaf ${index} is not in a tree of ${size}`);
  if (proof.length > MAX_PROOF_HASHES) fail('the proof is too long');
  let [path, last, hash] = [index, size - 1n, leaf];
  for (const beside of proof) {
    if (last === 0n) fail('the proof is too long');
    if (path % 2n === 1n || path === last) {
      hash = await nodeHash(beside, hash);
      while (path % 2n === 0n && path !== 0n) {
        path /= 2n;
        last /= 2n;
      }
    } else {
      hash = await nodeHash(hash, beside);
    }
    path /= 2n;
    last /= 2n;
  }
  return last === 0n ? hash : fail('the proof is too short');
}

/** Whether a leaf is in the tree of a root. */
export async function isIncluded(leaf, index, size, proof, root) {
  return equal(await rootFromProof(leaf, index, size, proof), root);
}

/** Whether the tree of `newSize` begins with the tree of `oldSize` (RFC 9162, section 2.1.4.2). */
export async function isConsistent(oldSize, oldRoot, newSize, newRoot, proof) {
  const empty = await sha256(new Uint8Array());
  if (oldSize > newSize || proof.length > MAX_PROOF_HASHES) return false;
  if ((oldSize === 0n && !equal(oldRoot, empty)) || (newSize === 0n && !equal(newRoot, empty))) return false;
  if (oldSize === newSize) return proof.length === 0 && equal(oldRoot, newRoot);
  if (oldSize === 0n) return proof.length === 0;
  if (proof.length === 0) return false;
  const isPower = (oldSize & (oldSize - 1n)) === 0n;
  const [first, ...rest] = isPower ? [oldRoot, ...proof] : proof;
  let [path, last] = [oldSize - 1n, newSize - 1n];
  while (path % 2n === 1n) {
    path /= 2n;
    last /= 2n;
  }
  let [oldHash, newHash] = [first, first];
  for (const beside of rest) {
    if (last === 0n) return false;
    if (path % 2n === 1n || path === last) {
      oldHash = await nodeHash(beside, oldHash);
      newHash = await nodeHash(beside, newHash);
      while (path % 2n === 0n && path !== 0n) {
        path /= 2n;
        last /= 2n;
      }
    } else {
      newHash = await nodeHash(newHash, beside);
    }
    path /= 2n;
    last /= 2n;
  }
  return last === 0n && equal(oldHash, oldRoot) && equal(newHash, newRoot);
}

/** A proof file (C2SP `tlog-proof`): `{ index, proof, checkpoint }`; the checkpoint is a text. */
export function parseProofFile(file) {
  if (!file.startsWith(HEADER)) fail('this is not a proof file');
  const blank = file.indexOf('\n\n');
  if (blank < 0) fail('the proof file has no checkpoint');
  const lines = file.slice(HEADER.length, blank).split('\n');
  if (lines[0].startsWith('extra ')) fromBase64(lines.shift().slice(6));
  const index = /^index (.+)$/.exec(lines.shift() ?? '') ?? fail('the proof file has no index');
  if (lines.length > MAX_PROOF_HASHES) fail('the proof is too long');
  return { index: decimal(index[1], 'the index'), proof: lines.map(hashOf), checkpoint: file.slice(blank + 2) };
}

/** The path of a tile of hashes in a tree of `size`: `tile/<level>/<number>[.p/<width>]`; null if the tree has nothing there. */
export function tilePath(level, number, size) {
  const available = (size >> (8n * BigInt(level))) - number * TILE_WIDTH;
  if (available <= 0n) return null;
  const groups = [];
  let rest = number;
  do {
    groups.unshift(String(rest % 1000n).padStart(3, '0'));
    rest /= 1000n;
  } while (rest > 0n);
  const name = groups.map((group, index) => (index < groups.length - 1 ? `x${group}` : group)).join('/');
  return `tile/${level}/${name}${available < TILE_WIDTH ? `.p/${available}` : ''}`;
}

/** The full subtrees that leaves `from..to` consist of, from the left. */
function* subtrees(from, to) {
  let at = from;
  while (at < to) {
    let level = 0n;
    while (at + (1n << (level + 1n)) <= to && at % (1n << (level + 1n)) === 0n) level += 1n;
    yield { level, index: at >> level };
    at += 1n << level;
  }
}

/** Reads hashes of a tree from its tiles; `fetchTile(path)` gives the bytes of one. */
function reader(size, fetchTile) {
  const tiles = new Map();
  const tile = (level, number) => {
    const path = tilePath(level, number, size) ?? fail('the tree has no such tile');
    if (!tiles.has(path)) {
      tiles.set(path, fetchTile(path).then((bytes) => {
        const width = Number(path.split('.p/')[1] ?? 256);
        return bytes.length === width * 32 ? bytes : fail(`${path} has a wrong length`);
      }));
    }
    return tiles.get(path);
  };
  const node = async (level, index) => {
    const within = level % 8n;
    const first = index << within;
    const bytes = await tile(level / 8n, first / TILE_WIDTH);
    const hash = (at, height) => (height === 0n
      ? bytes.slice(Number(at % TILE_WIDTH) * 32, Number(at % TILE_WIDTH) * 32 + 32)
      : Promise.all([hash(at, height - 1n), hash(at + (1n << (height - 1n)), height - 1n)]).then(([left, right]) => nodeHash(left, right)));
    return hash(first, within);
  };
  return async (from, to) => {
    const hashes = await Promise.all([...subtrees(from, to)].map(({ level, index }) => node(level, index)));
    let root = hashes.pop();
    while (hashes.length > 0) root = await nodeHash(hashes.pop(), root);
    return root;
  };
}

function half(from, to) {
  let size = 1n;
  while (size * 2n < to - from) size *= 2n;
  return size;
}

/** An inclusion proof from the tiles of a tree of `size` (RFC 6962, section 2.1.1). */
export async function proofFromTiles(index, size, fetchTile) {
  if (index >= size) fail(`leaf ${index} is not in a tree of ${size}`);
  const rootOf = reader(size, fetchTile);
  const proof = [];
  let [from, to] = [0n, size];
  while (to - from > 1n) {
    const middle = from + half(from, to);
    if (index < middle) {
      proof.unshift(rootOf(middle, to));
      to = middle;
    } else {
      proof.unshift(rootOf(from, middle));
      from = middle;
    }
  }
  return Promise.all(proof);
}

/** A consistency proof from the tiles of a tree of `newSize` (RFC 6962, section 2.1.2). */
export async function consistencyFromTiles(oldSize, newSize, fetchTile) {
  if (oldSize > newSize) fail('the tree shrank');
  if (oldSize === 0n) return [];
  const rootOf = reader(newSize, fetchTile);
  const proof = [];
  let [from, to] = [0n, newSize];
  while (to > oldSize) {
    const middle = from + half(from, to);
    if (oldSize <= middle) {
      proof.unshift(rootOf(middle, to));
      to = middle;
    } else {
      proof.unshift(rootOf(from, middle));
      from = middle;
    }
  }
  if (from > 0n) proof.unshift(rootOf(from, to));
  return Promise.all(proof);
}
