// An issuer of access tokens: npm `oidc-provider` on a free port. Prints its URL and a token of each algorithm as one line
// of JSON, and serves until its input ends.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const kinds = { RS256: ['rsa', { modulusLength: 2048 }], ES256: ['ec', { namedCurve: 'P-256' }], EdDSA: ['ed25519', {}] };
const keys = Object.entries(kinds).map(([alg, [kind, options]]) => {
  const { privateKey } = generateKeyPairSync(kind, options);
  return { ...privateKey.export({ format: 'jwk' }), kid: alg, alg, use: 'sig' };
});

const server = createServer((request, response) => provider.callback()(request, response));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;
const algorithm = (name) => ({
  audience: 'kms',
  scope: 'kms',
  accessTokenFormat: 'jwt',
  accessTokenTTL: 300,
  jwt: { sign: { alg: name, kid: name } },
});
const provider = new Provider(issuer, {
  jwks: { keys },
  ttl: { ClientCredentials: 300 },
  clients: [
    { client_id: 'operator', client_secret: 'a secret of this test', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] },
  ],
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => algorithm(new URL(resource).pathname.slice(1)),
    },
  },
  extraTokenClaims: () => ({ groups: ['kms-owners'] }),
});

const tokens = {};
for (const name of Object.keys(kinds)) {
  const response = await fetch(`${issuer}/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${btoa('operator:' + encodeURIComponent('a secret of this test'))}` },
    body: new URLSearchParams({ grant_type: 'client_credentials', scope: 'kms', resource: `https://kms.example/${name}` }),
  });
  tokens[name] = (await response.json()).access_token;
}
console.log(JSON.stringify({ issuer, tokens }));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
