// @phala/dstack-sdk: checks signatures over env keys and encrypts environments, {checks, environments} to {signers, blobs}.

import { text } from 'node:stream/consumers';
import { encryptEnvVars } from '@phala/dstack-sdk/encrypt-env-vars';
import {
  verifyEnvEncryptPublicKey,
  verifyEnvEncryptPublicKeyLegacy,
} from '@phala/dstack-sdk/verify-env-encrypt-public-key';

const bytes = (hex) => new Uint8Array(Buffer.from(hex, 'hex'));

function signer({ public_key: key, signature, app_id: app, timestamp, max_age: maxAgeSeconds }) {
  if (timestamp === null) return verifyEnvEncryptPublicKeyLegacy(bytes(key), bytes(signature), app);
  const options = maxAgeSeconds === null ? undefined : { maxAgeSeconds };
  return verifyEnvEncryptPublicKey(bytes(key), bytes(signature), app, BigInt(timestamp), options);
}

// The package logs the reason of a refusal to the console.
console.error = () => {};
const { checks, environments } = JSON.parse(await text(process.stdin));
const blobs = [];
for (const { env, public_key: key } of environments) blobs.push([await encryptEnvVars(env, key)]);
process.stdout.write(JSON.stringify({ signers: checks.map(signer), blobs }));
