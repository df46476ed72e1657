import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import * as index from '../src/index.js';
import * as offline from '../src/verify.js';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

test('the declarations compile', () => {
  const compiler = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin/tsc');
  const options = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext', '--lib', 'es2022,dom', '--types', ''];
  try {
    execFileSync(process.execPath, [compiler, ...options, at('types.ts')], { cwd: at('..'), encoding: 'utf8' });
  } catch (error) {
    assert.fail(error.stdout);
  }
});

test('every export is declared', async () => {
  const { readFileSync } = await import('node:fs');
  const declared = (file) => [...readFileSync(at(`../src/${file}`), 'utf8').matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name);
  const ofVerify = declared('verify.d.ts');
  for (const name of [...ofVerify, ...declared('index.d.ts')]) {
    assert.ok(name in index || name === 'KmsResponse', `index: ${name}`);
  }
  for (const name of ofVerify) assert.ok(name in offline, `verify: ${name}`);
  for (const name of Object.keys(offline)) assert.ok(ofVerify.includes(name), name);
  const all = new Set([...ofVerify, ...declared('index.d.ts')]);
  for (const name of Object.keys(index)) assert.ok(all.has(name), name);
});
