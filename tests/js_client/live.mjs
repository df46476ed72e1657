// The installed package against a real KMS, which the caller restarts with another TLS key when the file `restart`
// appears. Reads from standard input what the KMS is: its URL, pins, the root of its simulated platform, and where the
// package's own tests are. Writes what was proved before and after the restart. Works in the current directory.
import { execFile } from 'node:child_process';
import { existsSync, realpathSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import { createRequire } from 'node:module';
import { buffer, json } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import { KmsError, connect, verify } from 'cvm-kms';

const asked = await json(process.stdin);
const { url, pins } = asked;
const byRoot = { root_ca_spki_sha256: pins.root_ca_spki_sha256 };
const byMeasurement = { mr_aggregated: pins.mr_aggregated };
const options = { tdxRootCa: Uint8Array.from(Buffer.from(asked.root_ca, 'hex')), timeout: 120_000 };

// The servers of the package's own tests.
const { plain, secure, send } = await import(`${asked.tests}/server.js`);
const { newKey } = await import(`${asked.tests}/simulated.js`);
const ends = [];
const test = { after: (end) => ends.push(end) };

/** The code of the error that something ends in. */
const refusal = async (ends) => {
  try {
    await ends;
    return null;
  } catch (error) {
    if (!(error instanceof KmsError)) throw error;
    return error.code;
  }
};

const proved = ({ statement, measurements, tcb, isSignedByRoot }) => ({
  mr_aggregated: measurements.mr_aggregated,
  app_id: measurements.app_id,
  tcb_status: tcb.status,
  root: statement.root.ca_spki_sha256,
  k256_public_key: statement.root.k256_public_key,
  log_key: statement.log.key,
  signed_by_root: isSignedByRoot,
  fresh: statement.nonce !== null,
  tls_key: statement.rpc_spki_sha256,
});

/** Runs the installed command: its exit code, and the first word that it says of a refusal. */
const command = (...given) =>
  new Promise((resolve) => {
    execFile('node_modules/.bin/cvm-kms', ['verify', ...given], (error, _, err) => resolve([error?.code ?? 0, err.split(':')[0]]));
  });

const out = { installed: realpathSync(createRequire(import.meta.url).resolve('cvm-kms')) };

// A KMS makes three fresh quotes for an address at once, and then one each ten seconds: here are three.
const kms = await connect(url, pins, options);
out.before = proved(kms.attestation);
out.meta = await kms.call('GetMeta');
out.health = await (await kms.fetch('/health')).text();
out.denied = await refusal(kms.call('GetAppKey', { api_version: 1 }));

const middle = await secure(test, newKey(), (request, response) => {
  https.get(`${url}${request.url}`, { rejectUnauthorized: false, agent: false }, async (answer) => send(response, answer.statusCode, await buffer(answer)));
});
out['man in the middle'] = await refusal(connect(middle.url, byRoot, options));
out['sent to the man in the middle'] = middle.seen.requests.map((line) => line.split('?')[0]);

const base = await plain(test, (request, response) => {
  const isAsset = request.url === '/acme/kms/releases/latest/download/cvm-kms-release.json';
  send(response, isAsset ? 200 : 404, JSON.stringify({ version: 1, endpoints: [url], pins: byMeasurement }));
});
out['by repository'] = proved((await connect('acme/kms', { ...options, base: base.url })).attestation);

// A saved document, without a nonce.
const saved = await (await kms.fetch('/attestation.json')).bytes();
writeFileSync('saved.json', saved);
writeFileSync('root.der', options.tdxRootCa);
writeFileSync('pins.json', JSON.stringify(byRoot));
out.saved = proved(await verify(saved, pins, options));
out['saved, another pin'] = await refusal(verify(saved, { ...byRoot, app_id: '00'.repeat(20) }, options));
out["saved, Intel's root"] = await refusal(verify(saved, byRoot));
out.command = await command('saved.json', '--pins', 'pins.json', '--tdx-root-ca', 'root.der');
out['command, another root'] = await command('saved.json', '--pins', 'pins.json');

writeFileSync('restart', '');
while (!existsSync('restarted')) await pause(50);

out['after the restart'] = await refusal(kms.call('GetMeta'));
out['a body after the restart'] = await refusal(kms.fetch('/health', { method: 'POST', body: 'secret' }));
kms.close();
const again = await connect(url, byRoot, options);
out.after = proved(again.attestation);
out['meta after the restart'] = await again.call('GetMeta');
out['wrong pin'] = await refusal(connect(url, { ...byRoot, mr_aggregated: '00'.repeat(32) }, options));
out['command at the URL'] = await command(url, '--pins', 'pins.json', '--tdx-root-ca', 'root.der', '--timeout', '120');
for (const end of ends) await end();
process.stdout.write(JSON.stringify(out));
