// gRPC-web with the client of npm, from a page of another site: read by listed origins, blocked for others.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { assert, given, open, scenario } from './browser.mjs';

const client = readFileSync(createRequire(import.meta.url).resolve('grpc-web'), 'utf8');

/** Runs in the page: messages are bytes, so that no generated code is needed. */
async function inPage({ client, url, form }) {
  const module = { exports: {} };
  new Function('module', 'exports', client).call(globalThis, module, module.exports);
  const grpc = module.exports;
  class Bytes {
    constructor(bytes) { this.bytes = bytes; }
  }
  const method = (name) => new grpc.MethodDescriptor(
    `/kms.KMS/${name}`, grpc.MethodType.UNARY, Bytes, Bytes, (message) => message.bytes, (bytes) => new Bytes(bytes),
  );
  const base = new grpc.GrpcWebClientBase({ format: form });
  const call = (name) => base.unaryCall(`${url}/kms.KMS/${name}`, new Bytes(new Uint8Array()), {}, method(name));
  try {
    const meta = await call('GetMeta');
    const refused = await call('GetKmsKey').then(() => null, (error) => error);
    return {
      meta: [...meta.bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(''),
      refused: [refused.code, refused.message],
      denial_id: refused.metadata?.['x-denial-id'] ?? '',
    };
  } catch (error) {
    return `blocked: ${error.message}`;
  }
}

async function byFetch({ url }) {
  const message = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' };
  try {
    return (await (await fetch(`${url}/prpc/GetMeta`, message)).json()).k256_pubkey;
  } catch (error) {
    return `blocked: ${error.message}`;
  }
}

await scenario(async (browser) => {
  const site = createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<!doctype html><title>x</title>'));
  await new Promise((done) => site.listen(given.port, '127.0.0.1', done));
  try {
    const result = {};
    const of = async (origin) => {
      const { page } = await open(browser, { url: `${origin}:${given.port}/`, expected: /./ });
      const seen = { json: await page.evaluate(byFetch, { url: given.url }) };
      for (const form of ['binary', 'text']) seen[form] = await page.evaluate(inPage, { client, url: given.url, form });
      return seen;
    };
    Object.assign(result, await of(given.listed));
    const unlisted = await of(given.other);
    result.unlisted = Object.fromEntries(
      Object.entries(unlisted).map(([form, seen]) => [form, String(seen).startsWith('blocked') ? 'blocked' : seen]),
    );
    assert(result.binary && result.text, 'both forms were tried');
    return result;
  } finally {
    site.close();
  }
});
