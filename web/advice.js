// What to do about a refusal, by the KMS's own words.

const ADVICE = [
  [/already been (bootstrapped|onboarded)/, 'Keys exist. Go on with Finish; the keys that exist are never replaced.'],
  [/aggregated MR not allowed|OS image is not allowed|on this device|boot denied/i,
    'Allow the values of step 1 in the policy that refused, then try again. Nothing was stored.'],
  [/TCB status|advisory/i, 'Update the platform, or allow this TCB status and its advisories in the policy.'],
  [/does not contain attestation/,
    'The source onboards itself, runs with core.attest_rpc_cert = false, or has a proxy in front that ends TLS.'],
  [/attester|attestation/i, 'See the check of the attester, and the log of the guest agent.'],
  [/collateral/i, 'See the check of the collateral service.'],
  [/authorization back end|auth check/, 'See the check of the authorization; nothing is decided while it is silent.'],
  [/connection failed|error sending request|no connection within/,
    'Make sure that the URL is right, that the KMS there serves, and that it can be reached from this machine.'],
  [/recorded|store keys|key directory/, 'See the check of the key directory. Nothing was stored.'],
  [/page of another site/, 'Open this page under the address of the KMS itself.'],
  [/does not answer|no answer/, 'Make sure that this KMS still runs and can be reached, then try again.'],
];

/** What to do, or that trying again is safe. */
export function adviceFor(reason) {
  const known = ADVICE.find(([words]) => words.test(reason));
  return known ? known[1] : 'Nothing was stored: correct it and try again.';
}
