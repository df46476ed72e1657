// The verifier of the console against the vectors of the ledger: `node proof.mjs <proof.js> <ledger.json>`.

import { readFileSync } from 'node:fs';

const [module, vectors] = process.argv.slice(2);
const proof = await import(`data:text/javascript;base64,${readFileSync(module).toString('base64')}`);
const given = JSON.parse(readFileSync(vectors, 'utf8'));
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'));
const told = { cases: 0, wrong: [] };

/** Compares whether `accepts` is true (a ProofError is a refusal) with what the vector expects. */
async function expect(name, expected, accepts) {
  if (expected === 'either') return;
  let accepted;
  try {
    accepted = await accepts();
  } catch (error) {
    if (!(error instanceof proof.ProofError)) throw error;
    accepted = false;
  }
  told.cases += 1;
  if (accepted !== (expected === 'accept')) told.wrong.push(`${name}: ${accepted}`);
}

for (const { index, data, hash } of given.leaf_hashes.filter((leaf) => leaf.data !== undefined)) {
  await expect(`leaf ${index}`, 'accept', async () => proof.hexOf(await proof.leafHash(bytes(data))) === hash);
}
for (const { left, right, hash } of given.node_hashes) {
  await expect(`node ${hash}`, 'accept', async () => proof.hexOf(await proof.nodeHash(bytes(left), bytes(right))) === hash);
}
for (const { name, expect: expected, ...one } of given.inclusion) {
  await expect(`inclusion ${name}`, expected, () => proof.isIncluded(bytes(one.leaf_hash), BigInt(one.index), BigInt(one.size), one.proof.map(bytes), bytes(one.root)));
}
for (const { name, expect: expected, ...one } of given.consistency) {
  await expect(`consistency ${name}`, expected, () => proof.isConsistent(BigInt(one.old_size), bytes(one.old_root), BigInt(one.new_size), bytes(one.new_root), one.proof.map(bytes)));
}
for (const { name, expect: expected, note, note_hex: inHex, keys, origin } of given.checkpoints) {
  await expect(`checkpoint ${name}`, expected, async () => {
    const text = note ?? new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes(inHex));
    const checkpoint = proof.parseCheckpoint(text);
    if (checkpoint.origin !== origin) return false;
    let signed = false;
    for (const vkey of keys) {
      const key = await proof.parseKey(vkey);
      const isThere = checkpoint.signatures.some((line) => line.name === key.name && line.id === key.id);
      const state = await proof.isSigned(checkpoint, key);
      if (isThere && !state.signed) return false;
      signed ||= state.signed && key.type === 1;
    }
    return signed;
  });
}
for (const { name, expect: expected, note, log, witness, timestamp } of given.cosignatures) {
  await expect(`cosignature ${name}`, expected, async () => {
    const checkpoint = proof.parseCheckpoint(note);
    if (!(await proof.isSigned(checkpoint, await proof.parseKey(log))).signed) return false;
    const { signed, time } = await proof.isSigned(checkpoint, await proof.parseKey(witness));
    return signed && (timestamp === undefined || String(time) === timestamp);
  });
}
for (const { name, expect: expected, text, log, leaf_hash: leaf } of given.tlog_proofs) {
  await expect(`proof file ${name}`, expected, async () => {
    const file = proof.parseProofFile(text);
    const checkpoint = proof.parseCheckpoint(file.checkpoint);
    const { signed } = await proof.isSigned(checkpoint, await proof.parseKey(log));
    return signed && proof.isIncluded(bytes(leaf), file.index, checkpoint.size, file.proof, checkpoint.root);
  });
}

// Proofs made from tiles lead to the same roots. The tiles are made here from the leaves of the vectors.
const leaves = given.leaf_hashes.filter(({ index }, place) => index === place).map(({ hash }) => bytes(hash));
for (const { size, root } of given.roots.filter(({ size }) => size > 0 && size <= leaves.length)) {
  const tiles = async (path) => {
    if (path !== `tile/0/000.p/${size}`) throw new Error(`no tile ${path} in a tree of ${size}`);
    return Uint8Array.from(Buffer.concat(leaves.slice(0, size)));
  };
  for (let index = 0; index < size; index += 1) {
    await expect(`tiles ${index} of ${size}`, 'accept', async () => {
      const made = await proof.proofFromTiles(BigInt(index), BigInt(size), tiles);
      return proof.isIncluded(leaves[index], BigInt(index), BigInt(size), made, bytes(root));
    });
  }
  for (const old of given.roots.filter((one) => one.size <= size)) {
    await expect(`tiles ${old.size} to ${size}`, 'accept', async () => {
      const made = await proof.consistencyFromTiles(BigInt(old.size), BigInt(size), tiles);
      return proof.isConsistent(BigInt(old.size), bytes(old.root), BigInt(size), bytes(root), made);
    });
  }
}
for (const { level, index, width, path, expect: expected } of given.tile_paths.filter((one) => one.level !== undefined)) {
  const size = (BigInt(index) * 256n + BigInt(width)) << (8n * BigInt(level));
  await expect(`path ${path}`, expected, () => proof.tilePath(level, BigInt(index), size) === path);
}

// A record, and the same with a character changed.
const entry = '{"seq":7,"salt":"x","event":"app_key_released"}';
const seal = (await proof.sha256(new TextEncoder().encode(entry)));
const line = `${entry.slice(0, -1)},"hash":"${proof.hexOf(seal)}"}\n`;
await expect('record', 'accept', async () => (await proof.entryOf(line)).fits);
await expect('changed record', 'refuse', async () => (await proof.entryOf(line.replace('"seq":7', '"seq":8'))).fits);

for (const { vkey, expect: expected } of given.vkeys) {
  await expect(`key ${vkey}`, expected, async () => Boolean(await proof.parseKey(vkey)));
}

console.log(JSON.stringify(told));
