//! The action `self-test`: what a release depends on, checked now.

use kms_attest::identity::{AppId, DomainName};

use super::Ended;
use crate::admission::Foundation;
use crate::api::readiness::{self, Cause};
use crate::clock::unix_now;
use crate::keys::epoch::{AppEpoch, KeyEpochs};
use crate::lifecycle::Ready;

/// Checks everything, and names all that fails.
pub(super) async fn run(foundation: &Foundation, ready: &Ready) -> Ended {
    let Foundation { attester, policy, self_authorization, .. } = foundation;
    let mut problems = Vec::new();
    // A key for an app that cannot exist: the root keys, the derivation and the signature are exercised.
    match self_authorization.fresh().await {
        Ok(own) => {
            let epochs = KeyEpochs { root: ready.current_epoch(unix_now()), app: AppEpoch::FIRST };
            if ready.env_public_key(&own, &DomainName::DEFAULT, &AppId([0; 20]), epochs).is_err() {
                problems.push("keys cannot be derived".to_owned());
            }
        }
        Err(refusal) => problems.push(format!("this KMS has no self-authorization: {refusal}")),
    }
    if self_authorization.is_enforced()
        && let Err(error) = attester.attest(ready.rpc_report_data()).await
    {
        problems.push(format!("the attester gives no evidence; {}", error.advice()));
    }
    if let Err(error) = policy.info().await {
        problems.push(format!("policy: {error}"));
    }
    // Without details, which may name hosts: the problems are recorded.
    let reasons = readiness::reasons(foundation).into_iter().map(|reason| reason.cause);
    problems.extend(reasons.filter(|cause| *cause != Cause::Draining).map(|cause| cause.text().to_owned()));
    problems.extend(readiness::policy_problem(policy));
    problems.dedup();
    match problems.is_empty() {
        true => Ok("keys, attestation, policy, collateral and audit log are as they should be".to_owned()),
        false => Err(problems.join("; ")),
    }
}
