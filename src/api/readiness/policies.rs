//! What is wrong with a policy: of this KMS, and of a domain.

use kms_policy::Policy;
use kms_policy::bundle::{Bundled, Expiry};

use super::cause::Cause;
use crate::clock::rfc3339;

/// Why the policy cannot decide, in words that a record may have: a backend's own words may name hosts.
pub(in crate::api) fn policy_problem(policy: &Policy) -> Option<String> {
    let problem = policy.last_error()?;
    Some(match policy {
        Policy::Allowlist(_) | Policy::Bundled(_) => problem,
        Policy::AllowAll(_) | Policy::Webhook(_) | Policy::Ethereum(_) => {
            Cause::PolicyUnavailable.text().to_owned()
        }
    })
}

/// A text if the bundle in force expires soon, or has expired.
pub(super) fn ending(bundled: &Bundled, now: u64) -> Option<String> {
    let in_force = bundled.bundle()?;
    let header = in_force.bundle.header();
    let word = match bundled.expiry(now)? {
        Expiry::Far => return None,
        Expiry::Soon => "expires",
        Expiry::Expired => "has expired",
    };
    let (name, serial, end) = (header.name(), header.serial(), rfc3339(header.expires()));
    Some(format!("bundle {name} with serial {serial} {word} at {end}"))
}
