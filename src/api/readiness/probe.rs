//! Asks otherwise idle policies whether they respond.

use std::time::Duration;

use futures_util::future::join_all;
use kms_attest::identity::DomainName;
use kms_policy::Policy;

use super::domains;
use crate::admission::Foundation;

/// How often a policy is asked for its description, where it is not asked about this KMS.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Asks otherwise idle policies for their description, to learn whether they respond. Each at its own pace, so that one that
/// hangs delays no other.
pub(super) async fn probe(foundation: &Foundation) {
    // That of the KMS is asked about the KMS itself otherwise.
    let own = (!foundation.self_authorization.is_enforced()).then_some(&*foundation.policy);
    let of_domains = foundation.domain_policies.keys();
    let own = own.into_iter().map(|policy| probe_policy(foundation, None, policy));
    let of_domains =
        of_domains.map(|domain| probe_policy(foundation, Some(domain), foundation.policy_of(domain)));
    join_all(own.chain(of_domains)).await;
}

async fn probe_policy(foundation: &Foundation, domain: Option<&DomainName>, policy: &Policy) {
    let mut tick = tokio::time::interval(PROBE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let is_used = |domain| domains::in_use(foundation).iter().any(|(name, _)| *name == domain);
        if domain.is_none_or(is_used) {
            // The result is in `last_error`.
            let _ = policy.info().await;
        }
    }
}
