// What to do about a refusal, by the code that the KMS sends with it (`X-Error-Code`), or that the page gives itself.

const ADVICE = {
  // This page.
  no_answer: 'Make sure that this KMS still runs and can be reached, then try again.',
  too_slow: 'Make sure that this KMS still runs and can be reached, then try again.',
  not_saved: 'See the check of the key directory.',
  // The listener.
  foreign_page: 'Open this page under the address of the KMS itself.',
  too_many_requests: 'Wait a little, then try again.',
  // This KMS.
  already_onboarded: 'Keys exist. Go on with Finish; the keys that exist are never replaced.',
  kms_not_allowed: 'Allow the values of step 1 in the policy of this KMS, then try again. Nothing was stored.',
  policy_unavailable: 'See the check of the authorization; nothing is decided while it does not answer.',
  attester_unavailable: 'See the check of the attester, and the log of the guest agent.',
  audit_unavailable: 'Make room for the audit log and make it writable. Nothing was stored.',
  keys_not_saved: 'See the check of the key directory. Nothing was stored.',
  manifest_wrong: 'Choose the file recovery-SET.json as the KMS made it. Nothing has changed.',
  clock_behind: 'Set the clock of this machine. Nothing has changed.',
  restore_open: 'Officers are restoring this KMS: let them end, or cancel the restore. Nothing was stored.',
  not_ready: 'Wait until the other attempts have ended, then try again.',
  // The source of a replica.
  source_unreachable: 'Make sure that the URL is right, that the KMS there serves, and that this machine can reach it.',
  source_has_no_keys: 'Give the URL of a KMS that serves, or finish the setup of that one first.',
  source_not_attested: 'Give the URL of a KMS that serves, with core.attest_rpc_cert = true, and without a proxy in front that '
    + 'ends TLS.',
  source_not_verified: 'Collateral for the source is missing now: see the check of the collateral service, then try again.',
  source_not_genuine: 'Do not take keys from it: it cannot prove what it runs.',
  source_not_allowed: 'Allow the source in the policy of this KMS: its mrAggregated, OS image hash and device. Nothing was stored.',
  source_denies: 'Allow the values of step 1 in the policy that refused, which is that of the source, then try again. If the '
    + 'source hands keys over on its admin listener only, give that URL and a token. If it does so by invitation only, have one of its '
    + 'owners invite this KMS (kmsctl replica invite). Nothing was stored.',
  source_invitation_over: 'The invitation is used up, expired, cancelled, unknown to the source, or was used by another machine or an earlier '
    + 'run of this one: have one of the owners of the source make a new one (kmsctl replica invite). Nothing was stored.',
  source_token_needed: 'This is the admin listener of the source: give a token of one of its operators, or with an invitation the '
    + 'URL of its main listener.',
  source_token_refused: 'The source does not accept this token, or does not see the certificate of this KMS: give a token of one '
    + 'of its operators, and the URL of the source itself, without a proxy in between.',
  source_ambiguous: 'Use the address of one KMS: several that are unrelated seem to answer there.',
  source_unavailable: 'The source cannot answer now. Look into its log, then try again.',
  source_keys_unusable: 'Do not use this source: what it handed over are not the keys of its certificate.',
};

/** What to do, or that trying again is safe. */
export function adviceFor(code) {
  return ADVICE[code] ?? 'Nothing was stored: correct it and try again.';
}
