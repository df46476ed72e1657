// The proof that one entry is in the log, computed and verified in this browser from the checkpoint and the tiles.

import { get, useTask } from '../api.js';
import { number } from '../format.js';
import { link } from '../router.js';
import { Button, Card, Chain, Code, Failure, Field, Note, Whole, html, useEffect, useState } from '../ui.js';
import { ProofError, hexOf, isAble, isIncluded, isSigned, parseCheckpoint, parseKey, proofFromTiles, tilePath, toBase64 } from '../proof.js';
import { save } from './common.js';
import { check, tile } from './release_proof.js';

const HASH = 32n;
const WIDTH = 256n;

/** Steps as `Chain` takes them, and the proof file. Throws what a call throws. */
async function prove(index, logKey) {
  const steps = [];
  const note = await get('/log/checkpoint', { accept: 'text/plain' });
  const checkpoint = parseCheckpoint(note);
  const { signed } = await isSigned(checkpoint, await parseKey(logKey));
  steps.push(check('Checkpoint', signed, `signed by the key of the log, over ${number(Number(checkpoint.size))} entries`, 'the signature of the log is missing or wrong'));
  if (index >= checkpoint.size) {
    steps.push(check('Entry', false, '', `the log has ${number(Number(checkpoint.size))} entries; the first has the number 0`));
    return { steps };
  }
  const leaves = await tile(tilePath(0, index / WIDTH, checkpoint.size));
  const at = Number((index % WIDTH) * HASH);
  const leaf = leaves.slice(at, at + Number(HASH));
  steps.push(check('Entry', true, `its hash is ${hexOf(leaf)}`));
  const proof = await proofFromTiles(index, checkpoint.size, tile);
  const included = await isIncluded(leaf, index, checkpoint.size, proof, checkpoint.root);
  steps.push(check('Path', included, `${number(proof.length)} hashes lead from the entry to the root of the checkpoint`, 'the hashes do not lead to the root of the checkpoint'));
  const file = `c2sp.org/tlog-proof@v1\nindex ${index}\n${proof.map((hash) => `${toBase64(hash)}\n`).join('')}\n${note}`;
  return { steps, file, leaf: hexOf(leaf), isProved: signed && included };
}

/** The card: a number, the steps of the proof, the file. The number is part of the place. */
export function Proof({ size, logKey, number: given, navigate }) {
  const [typed, setTyped] = useState(given ?? '');
  const [problem, setProblem] = useState('');
  const [proved, setProved] = useState(null);
  const task = useTask(async (text) => {
    setProved(null);
    try {
      if (!logKey) throw new ProofError('the log has not signed a checkpoint yet');
      setProved(await prove(BigInt(text), logKey));
    } catch (error) {
      if (!(error instanceof ProofError)) throw error;
      setProved({ steps: [check('Log', false, '', error.message)] });
    }
  });
  useEffect(() => {
    setTyped(given ?? '');
    if (given && /^\d{1,18}$/.test(given) && isAble()) task.run(given);
  }, [given]);
  const submit = (event) => {
    event.preventDefault();
    const text = typed.trim().replaceAll(',', '');
    if (!/^\d{1,18}$/.test(text)) return void setProblem('Type the number of an entry, from 0.');
    setProblem('');
    if (text === given) task.run(text);
    else navigate(link('ledger', text));
  };
  if (!isAble()) return html`<${Card} title="Proof of one entry"><${Note} title="This browser cannot verify here">It needs a page with TLS, or one from this machine. <code>kmsctl audit verify</code> does the same.<//><//>`;
  return html`<${Card} title="Proof of one entry"><div class="stack">
    <form class="line aligned" onSubmit=${submit} novalidate>
      <${Field} label="Number of the entry" error=${problem} hint=${size > 0 ? `From 0 to ${number(size - 1)}.` : 'The log is empty.'}>${(props) => html`<input ...${props} inputmode="numeric" autocomplete="off" value=${typed} onInput=${(event) => setTyped(event.target.value)} />`}<//>
      <${Button} type="submit" kind="primary" busy=${task.busy}>Prove it<//>
    </form>
    <div class="stack" aria-live="polite">
      <${Failure} error=${task.error} />
      ${proved?.isProved && html`<${Note} kind="good" title=${`Entry ${number(Number(given))} is in the log`}>Your browser has computed it from the tiles, and verified the signature by the log's key. The key came from the KMS.<//>`}
      ${proved && html`<${Chain} steps=${proved.steps} />`}
      ${proved?.leaf && html`<${Whole} value=${proved.leaf} name="hash of the entry" />`}
      ${proved?.file && html`<details><summary>Proof file</summary><${Code} text=${proved.file} name="proof file" /></details>
        <div><${Button} onClick=${() => save(`entry-${given}.tlog-proof`, proved.file)}>Download the proof<//></div>`}
    </div></div><//>`;
}
