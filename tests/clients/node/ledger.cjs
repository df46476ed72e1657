// @sigstore/verify on proofs of releases: its own checks of a checkpoint's signature and of an inclusion proof.
'use strict';

const crypto = require('node:crypto');
const path = require('node:path');
const { json } = require('node:stream/consumers');

// It exports them to nobody, and has no key format for Ed25519 notes.
const tlog = path.join(path.dirname(require.resolve('@sigstore/verify')), 'tlog');
const { verifyCheckpoint } = require(path.join(tlog, 'checkpoint.js'));
const { verifyMerkleInclusion } = require(path.join(tlog, 'merkle.js'));

/** DER in front of the 32 bytes of an Ed25519 key (RFC 8410). */
const SPKI = Buffer.from('302a300506032b6570032100', 'hex');

/** A verifier key of C2SP `signed-note` as a log of Rekor's kind. */
function log(key) {
  const [name, id, ...rest] = key.split('+');
  const raw = Buffer.from(rest.join('+'), 'base64').subarray(1);
  const publicKey = crypto.createPublicKey({ key: Buffer.concat([SPKI, raw]), format: 'der', type: 'spki' });
  return { logID: Buffer.from(id, 'hex'), baseURL: name, publicKey };
}

function holds(check) {
  try {
    check();
    return true;
  } catch (error) {
    if (error.name !== 'VerificationError') {
      throw error;
    }
    return false;
  }
}

function verdict({ proof, entry, log_key: key }) {
  const separator = proof.indexOf('\n\n');
  const lines = proof.slice(0, separator).split('\n').filter((line) => !line.startsWith('extra '));
  const [, index, ...hashes] = lines;
  const shown = {
    canonicalizedBody: Buffer.from(entry, 'hex'),
    inclusionProof: {
      logIndex: index.replace('index ', ''),
      hashes: hashes.map((hash) => Buffer.from(hash, 'base64')),
      checkpoint: { envelope: proof.slice(separator + 2) },
    },
  };
  let checkpoint;
  const isSigned = holds(() => {
    checkpoint = verifyCheckpoint(shown, [log(key)]);
  });
  const isIncluded = isSigned && holds(() => verifyMerkleInclusion(shown, checkpoint));
  return { log: isSigned, inclusion: isIncluded, ok: isSigned && isIncluded };
}

json(process.stdin).then((cases) => process.stdout.write(JSON.stringify(cases.map(verdict))));
