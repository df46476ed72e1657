//! The conditions for notifications besides events: what stops the release of keys, or will soon.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::process::Process;
use super::serving::Serving;
use crate::api::readiness::{Cause, Reason, Report, collateral_left};
use crate::audit::Audit;
use crate::event_type::Condition;
use crate::metrics::TcbForecastState;
use crate::notify::Notifier;
use crate::state::shared::SplitKind;

/// How often conditions are checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Checks the conditions until dropped.
pub(super) fn look_loop(
    process: &Process,
    serving: &Serving,
    forecast: Option<watch::Receiver<TcbForecastState>>,
) -> impl Future<Output = ()> + Send + use<> {
    let (notifier, foundation) = (Arc::clone(&process.notifier), process.foundation());
    let (readiness, rollouts) = (Arc::clone(&serving.readiness), process.rollouts.clone());
    async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            name_origin(&notifier, &foundation.audit);
            look_at_causes(&notifier, &readiness.report());
            let left = collateral_left(foundation.verifier.cache());
            let sentence = left.map(|left| {
                format!("collateral expires in {} minutes and no service has given newer one", left / 60)
            });
            notifier.look(Condition::CollateralExpires, sentence);
            let behind = forecast.as_ref().map_or(0, |forecast| forecast.borrow().falling_behind);
            let sentence = (behind > 0).then(|| {
                format!(
                    "Intel's early TCB set judges {behind} kinds of platform worse: the standard one follows"
                )
            });
            notifier.look(Condition::PlatformOutdatedSoon, sentence);
            let failure = rollouts.as_ref().and_then(|rollouts| rollouts.failure());
            let sentence = failure.map(|failure| format!("the rollout has paused: {failure}"));
            notifier.look(Condition::RolloutPaused, sentence);
        }
    }
}

fn name_origin(notifier: &Notifier, audit: &Audit) {
    if let Some(head) = audit.head()
        && let Some((origin, _)) = head.key.split_once('+')
    {
        notifier.name_origin(origin);
    }
}

/// Reports causes, and the domains that they are about, without their details, which may name hosts.
fn look_at_causes(notifier: &Notifier, report: &Report) {
    for cause in Cause::ALL {
        let Some(condition) = condition(cause) else { continue };
        let reason = report.reasons().iter().find(|reason| reason.cause == cause);
        notifier.look(condition, reason.map(Reason::sentence));
    }
}

/// `None` for causes that are events, and for those that the notifier checks itself.
fn condition(cause: Cause) -> Option<Condition> {
    match cause {
        Cause::NoKeys
        | Cause::Frozen
        | Cause::Draining
        | Cause::AuditLogUnavailable
        | Cause::DiskNearlyFull => None,
        Cause::PolicyUnavailable => Some(Condition::PolicyUnavailable),
        Cause::AllowlistUnusable => Some(Condition::AllowlistUnusable),
        Cause::KmsNotAllowed => Some(Condition::KmsNotAllowed),
        Cause::OwnEvidenceUnavailable => Some(Condition::OwnEvidenceUnavailable),
        Cause::OwnEvidenceRefused => Some(Condition::OwnEvidenceRefused),
        Cause::CollateralUnavailable => Some(Condition::CollateralUnavailable),
        Cause::CollateralNotRefreshed => Some(Condition::CollateralNotRefreshed),
        Cause::Clock => Some(Condition::Clock),
        Cause::PolicyExpires => Some(Condition::PolicyExpires),
        Cause::PolicyFork => Some(Condition::PolicyFork),
        Cause::StateStale => Some(Condition::StateStale),
        Cause::StateNotFresh => Some(Condition::StateNotFresh),
        Cause::StateRolledBack => Some(Condition::StateRolledBack),
        Cause::Fleet(SplitKind::Roots) => Some(Condition::FleetRoots),
        Cause::Fleet(SplitKind::Domains) => Some(Condition::FleetDomains),
        Cause::Fleet(SplitKind::Policies) => Some(Condition::FleetPolicies),
        Cause::Fleet(SplitKind::Ledger) => Some(Condition::FleetLedger),
        Cause::Fleet(SplitKind::Cloned) => Some(Condition::FleetCloned),
        Cause::Fleet(SplitKind::Clock) => Some(Condition::FleetClock),
        Cause::PolicyHeld => Some(Condition::PolicyHeld),
        Cause::DomainPolicyUnavailable => Some(Condition::DomainPolicyUnavailable),
        Cause::EpochsLost => Some(Condition::EpochsLost),
        Cause::Recovery => Some(Condition::Recovery),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_has_the_name_of_its_cause() {
        for cause in Cause::ALL {
            if let Some(condition) = condition(cause) {
                assert_eq!(condition.name(), cause.name());
            }
        }
    }
}
