//! What is wrong with the policies of domains. It stops nothing outside of them, so it is a warning, which names the domain.

use std::collections::BTreeMap;

use kms_attest::identity::DomainName;
use kms_policy::Policy;
use kms_policy::bundle::Bundled;

use super::policies::{ending, policy_problem};
use super::{Cause, Reason};
use crate::admission::Foundation;

/// The reasons of each domain that has a policy of its own and is not archived.
pub(super) fn of_domains(foundation: &Foundation, now: u64) -> Vec<Reason> {
    let in_use = in_use(foundation);
    let metrics = &foundation.metrics;
    for domain in foundation.domain_policies.keys() {
        let policy = in_use.iter().find(|(name, _)| *name == domain).map(|(_, policy)| policy);
        let is_unusable = policy.is_some_and(|policy| policy_problem(policy).is_some());
        metrics.set_policy_unusable(domain.as_str(), is_unusable);
    }
    in_use.into_iter().flat_map(|(domain, policy)| of_policy(domain, policy, now)).collect()
}

/// The policies of domains that decide about somebody.
pub(super) fn in_use(foundation: &Foundation) -> Vec<(&DomainName, &Policy)> {
    let is_archived =
        |name: &DomainName| foundation.domains.named(name).is_some_and(|domain| domain.archived.is_some());
    let policies = foundation.domain_policies.iter().map(|(name, policy)| (name, &**policy));
    policies.filter(|(name, _)| !is_archived(name)).collect()
}

fn of_policy(domain: &DomainName, policy: &Policy, now: u64) -> Vec<Reason> {
    let of = |cause: Cause, detail: String| Reason {
        cause,
        detail: String::new(),
        domains: BTreeMap::from([(domain.clone(), detail)]),
    };
    let mut reasons = Vec::new();
    if let Some(problem) = policy_problem(policy) {
        reasons.push(of(Cause::DomainPolicyUnavailable, problem));
    }
    let bundled = policy.bundled();
    if bundled.is_some_and(Bundled::is_forked) {
        reasons.push(of(Cause::PolicyFork, "two bundles contradict each other".to_owned()));
    }
    if bundled.is_some_and(Bundled::is_held) {
        reasons.push(of(Cause::PolicyHeld, "a new bundle would deny what is allowed".to_owned()));
    }
    if let Some(detail) = bundled.and_then(|bundled| ending(bundled, now)) {
        reasons.push(of(Cause::PolicyExpires, detail));
    }
    reasons
}
