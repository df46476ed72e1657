//! What the parts of this KMS say now.

use kms_attest::collateral::{CacheStats, CollateralCache};
use kms_policy::Policy;
use kms_policy::bundle::Bundled;

use super::cause::Cause;
use super::domains;
use super::policies::ending;
use super::report::Reason;
use crate::admission::{Foundation, Missing, SelfDenialCode, SelfRefusal};
use crate::audit::{FailureReason, Health};
use crate::clock::{CLOCK_REMEDY, rfc3339, unix_now};
use crate::config::WhenStale;
use crate::state::shared::{Standing, View};

/// Collateral is reported when less time than this is left, in seconds.
const COLLATERAL_LEFT: u64 = 24 * 60 * 60;

/// The same where no service is asked: somebody has to bring a file.
const COLLATERAL_LEFT_OFFLINE: u64 = 7 * COLLATERAL_LEFT;

/// What stops the release of keys now, or will soon.
pub(in super::super) fn reasons(foundation: &Foundation) -> Vec<Reason> {
    let Foundation { self_authorization, policy, freezes, drain, verifier, audit, .. } = foundation;
    let mut reasons = Vec::new();
    if let Some(frozen) = freezes.of_kms() {
        let detail = format!("by {}: {}", frozen.author.by, frozen.reason);
        reasons.push(Reason::new(Cause::Frozen, detail));
    }
    if let Some(view) = freezes.view() {
        reasons.extend(of_view(view));
    }
    if let Err(behind) = verifier.cache().clock().check() {
        reasons.push(Reason::new(Cause::Clock, format!("{behind}. {CLOCK_REMEDY}")));
    }
    if let Err(refusal) = self_authorization.last_outcome() {
        reasons.push(of_self_authorization(refusal));
    }
    if let Some(detail) = policy.last_error().filter(|_| !self_authorization.is_enforced()) {
        let cause = match **policy {
            Policy::Allowlist(_) | Policy::Bundled(_) => Cause::AllowlistUnusable,
            Policy::AllowAll(_) | Policy::Webhook(_) | Policy::Ethereum(_) => Cause::PolicyUnavailable,
        };
        reasons.push(Reason::new(cause, detail));
    }
    reasons.extend(policy.bundled().into_iter().flat_map(|bundled| of_bundle(bundled, unix_now())));
    reasons.extend(domains::of_domains(foundation, unix_now()));
    reasons.extend(of_collateral(verifier.cache()));
    if let Health::Failing { since, reason } = audit.health() {
        let cause = match reason {
            FailureReason::ClockBehind => Cause::Clock,
            FailureReason::DiskFull
            | FailureReason::Write
            | FailureReason::Sync
            | FailureReason::Stalled
            | FailureReason::FileChanged
            | FailureReason::NotAsSigned
            | FailureReason::Importing
            | FailureReason::NotImported
            | FailureReason::BuildingTree
            | FailureReason::Tree
            | FailureReason::Ended => Cause::AuditLogUnavailable,
        };
        let progress = audit.imported().map(|(record, of)| format!(" (record {record} of {of})"));
        let detail = format!("{reason}{}, since Unix time {since}", progress.unwrap_or_default());
        reasons.push(Reason::new(cause, detail));
    }
    if let Some(draining) = drain.current() {
        let detail = format!("by {} since {}", draining.by, rfc3339(draining.since));
        reasons.push(Reason::new(Cause::Draining, detail));
    }
    if let Some(detail) = audit.space().shortage() {
        reasons.push(Reason::new(Cause::DiskNearlyFull, detail));
    }
    reasons
}

/// What is wrong with the view of the state that the nodes share.
fn of_view(view: &View) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(alarm) = view.alarm() {
        let detail = format!("{alarm}. {}", alarm.remedy());
        reasons.push(Reason::new(Cause::StateRolledBack, detail));
    }
    for split in view.splits() {
        let detail = format!("{}. {}", split.text, split.kind.remedy());
        reasons.push(Reason::new(Cause::Fleet(split.kind), detail));
    }
    if let Standing::Stale(stale) = view.standing() {
        let cause = match view.when_stale() {
            WhenStale::Refuse => Cause::StateStale,
            WhenStale::Warn => Cause::StateNotFresh,
        };
        reasons.push(Reason::new(cause, stale.with_remedy()));
    }
    reasons
}

/// The seconds until the first cached collateral expires, where less than a day is left, or a week where no service is asked: it
/// should have been replaced before.
pub fn collateral_left(cache: &CollateralCache) -> Option<u64> {
    let expires = cache.stats().entries.iter().map(|entry| entry.expires).min()?;
    let notice = if cache.is_offline() { COLLATERAL_LEFT_OFFLINE } else { COLLATERAL_LEFT };
    Some(expires.saturating_sub(cache.clock().now())).filter(|left| *left < notice)
}

fn of_self_authorization(refusal: SelfRefusal) -> Reason {
    match refusal {
        SelfRefusal::Unknown { missing, detail } => {
            let cause = match missing {
                Missing::Policy => Cause::PolicyUnavailable,
                // The detail says which.
                Missing::Evidence | Missing::OsImage => Cause::OwnEvidenceUnavailable,
                Missing::Collateral => Cause::CollateralUnavailable,
                Missing::Clock => Cause::Clock,
            };
            Reason::new(cause, detail)
        }
        SelfRefusal::Denied(denial) => {
            let cause = match denial.code {
                SelfDenialCode::NotAllowed => Cause::KmsNotAllowed,
                SelfDenialCode::AllowlistUnusable => Cause::AllowlistUnusable,
                SelfDenialCode::EvidenceRefused => Cause::OwnEvidenceRefused,
            };
            // Nobody's measurements were judged, so only the cause says something.
            if denial.code == SelfDenialCode::AllowlistUnusable
                && let Some(problem) = denial.expected
            {
                return Reason::new(cause, problem);
            }
            let mut detail = denial.reason();
            for (what, value) in [("expected", &denial.expected), ("found", &denial.actual)] {
                if let Some(value) = value {
                    detail.push_str(&format!("; {what} {value}"));
                }
            }
            Reason::new(cause, detail)
        }
    }
}

/// What operators must know of the signed bundle in force of the KMS's own policy.
fn of_bundle(bundled: &Bundled, now: u64) -> Vec<Reason> {
    let fork = bundled.is_forked().then(|| {
        Reason::new(Cause::PolicyFork, "core.auth_api.bundle: see kmsctl policy history".to_owned())
    });
    let end = ending(bundled, now).map(|detail| Reason::new(Cause::PolicyExpires, detail));
    let held = bundled.is_held().then(|| {
        Reason::new(Cause::PolicyHeld, "core.auth_api.bundle: see kmsctl policy history".to_owned())
    });
    fork.into_iter().chain(held).chain(end).collect()
}

/// What is wrong with collateral: none is valid, or nothing replaces what is kept.
fn of_collateral(cache: &CollateralCache) -> Option<Reason> {
    let stats = cache.stats();
    if stats.stored.is_loading {
        return None;
    }
    let now = cache.clock().now();
    let ends = || stats.entries.iter().map(|entry| entry.expires).filter(|end| *end > now);
    let (Some(first), Some(last)) = (ends().min(), ends().max()) else {
        let none_comes = stats.endpoints.iter().all(|endpoint| endpoint.paused);
        let is_gone = none_comes || !stats.entries.is_empty();
        let offline =
            if cache.is_offline() { "core.attestation.offline: import newer collateral. " } else { "" };
        let detail = || format!("{offline}{}", of_expired(&stats)).trim_end().to_owned();
        return is_gone.then(|| Reason::new(Cause::CollateralUnavailable, detail()));
    };
    let kept = format!(
        "the collateral of {} models is used; the first expires at {}, the last at {}",
        ends().count(),
        rfc3339(first),
        rfc3339(last)
    );
    let detail = if cache.is_offline() {
        collateral_left(cache)?;
        format!("core.attestation.offline: {kept}. Import newer collateral")
    } else if stats.endpoints.iter().all(|endpoint| endpoint.is_failing) {
        format!("no collateral service gives a usable answer: {kept}")
    } else {
        return None;
    };
    Some(Reason::new(Cause::CollateralNotRefreshed, detail))
}

/// What is known of collateral that has expired.
fn of_expired(stats: &CacheStats) -> String {
    let Some((model, end)) = stats.expired.iter().max_by_key(|(_, end)| *end) else { return String::new() };
    format!(
        "the collateral of {} models has expired, the last ({} of the {} CA) at {}",
        stats.expired.len(),
        hex::encode(model.fmspc),
        model.ca.as_str(),
        rfc3339(*end)
    )
}
