//! Whether this KMS can release keys now, and if not, why. `/readyz`, gRPC health, `GetMeta`, the metrics and
//! the log report what is decided here.

mod cause;
mod domains;
mod policies;
mod probe;
mod reasons;
mod report;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_attest::identity::DomainName;
use tokio::sync::watch;

pub use self::cause::{Cause, Effect};
pub(in crate::api) use self::policies::policy_problem;
use self::probe::probe;
pub use self::reasons::collateral_left;
pub(super) use self::reasons::reasons;
pub use self::report::{Reason, Report};
use super::epochs::LostEpochs;
use super::recovery::RecoveryService;
use crate::admission::Foundation;
use crate::metrics::Metrics;

/// How often the state is checked when no one requests it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The state of this KMS, shared by all that report it.
#[derive(Debug)]
pub struct Readiness {
    /// `None` while onboarding.
    foundation: Option<Arc<Foundation>>,
    recovery: Option<Arc<RecoveryService>>,
    lost: Option<Arc<LostEpochs>>,
    metrics: Arc<Metrics>,
    current: watch::Sender<Report>,
    /// Since when each report said that it is ready.
    ready_since: Mutex<Option<Instant>>,
}

impl Readiness {
    /// For a KMS without keys.
    pub fn onboarding(metrics: Arc<Metrics>) -> Self {
        Self::new(None, None, None, metrics)
    }

    /// For a KMS with keys.
    pub fn serving(
        foundation: Arc<Foundation>,
        recovery: Arc<RecoveryService>,
        lost: Arc<LostEpochs>,
    ) -> Self {
        let metrics = Arc::clone(&foundation.metrics);
        Self::new(Some(foundation), Some(recovery), Some(lost), metrics)
    }

    fn new(
        foundation: Option<Arc<Foundation>>,
        recovery: Option<Arc<RecoveryService>>,
        lost: Option<Arc<LostEpochs>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (current, ready_since) = (watch::Sender::default(), Mutex::default());
        Self { foundation, recovery, lost, metrics, current, ready_since }
    }

    /// Whether this is the phase without keys.
    pub fn is_onboarding(&self) -> bool {
        self.foundation.is_none()
    }

    /// The current state, from memory and without waiting.
    pub fn report(&self) -> Report {
        let mut reasons = match &self.foundation {
            None => vec![plain(Cause::NoKeys)],
            Some(foundation) => reasons(foundation),
        };
        let advice = self.recovery.as_ref().and_then(|recovery| recovery.standing().sentence());
        reasons.extend(advice.map(|detail| Reason::new(Cause::Recovery, detail)));
        let lost = self.lost.as_ref().and_then(|lost| lost.sentence());
        reasons.extend(lost.map(|detail| Reason::new(Cause::EpochsLost, detail)));
        let report = Report::new(reasons);
        self.metrics.set_ready(report.is_ready());
        self.note_ready(report.is_ready(), Instant::now());
        for cause in Cause::ALL {
            let applies = report.reasons.iter().any(|reason| reason.cause == cause);
            self.metrics.set_not_ready(cause.name(), applies);
        }
        self.current.send_if_modified(|known| {
            let is_news = !known.has_causes_of(&report);
            if is_news {
                tell(known, &report);
                known.clone_from(&report);
            }
            is_news
        });
        report
    }

    fn note_ready(&self, is_ready: bool, now: Instant) {
        let mut since = self.ready_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = is_ready.then(|| since.unwrap_or(now));
    }

    /// How long it has been ready without a gap in what was reported; `None` if it is not.
    pub fn ready_for(&self) -> Option<Duration> {
        let since = self.ready_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed())
    }

    /// Notifies when the causes change.
    pub fn watch(&self) -> watch::Receiver<Report> {
        self.current.subscribe()
    }

    /// Checks the state periodically, until dropped.
    pub async fn refresh_loop(&self) {
        let Some(foundation) = &self.foundation else { return };
        let look = async {
            let mut tick = tokio::time::interval(LOOK_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                self.report();
            }
        };
        tokio::join!(look, probe(foundation));
    }
}

fn plain(cause: Cause) -> Reason {
    Reason::new(cause, String::new())
}

/// Logs each change once.
fn tell(before: &Report, now: &Report) {
    let names = |effect| {
        let name = |reason: &Reason| {
            let domains: Vec<_> = reason.domains.keys().map(DomainName::as_str).collect();
            match domains.is_empty() {
                true => reason.cause.name().to_owned(),
                false => format!("{} (domain {})", reason.cause.name(), domains.join(", ")),
            }
        };
        let names: Vec<_> = now.with(effect).map(name).collect();
        names.join(", ")
    };
    let (reasons, warnings) = (names(Effect::Stops), names(Effect::Warns));
    match (before.is_ready(), now.is_ready()) {
        (_, false) if now.releases() => {
            tracing::warn!(
                "DRAINING: load balancers are told to send requests elsewhere; those that come are served"
            );
        }
        (_, false) => tracing::warn!(reasons, "NOT READY: nothing is released"),
        (false, true) => tracing::info!(warnings, "ready again: keys are released"),
        (true, true) if warnings.is_empty() => tracing::info!("the warnings are over"),
        (true, true) => tracing::warn!(warnings, "keys are released, but something needs an operator"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::operator::DomainScope;

    #[test]
    fn every_cause_is_reported_once_under_a_name_of_its_own() {
        let names: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            assert!(!cause.text().is_empty() && !cause.text().contains('/'), "{cause:?}");
        }
    }

    #[test]
    fn a_warning_does_not_stop_anything_and_a_reason_does() {
        let report = |causes: &[Cause]| Report::new(causes.iter().map(|cause| plain(*cause)).collect());
        for (causes, is_ready) in [
            (&[][..], true),
            (&[Cause::DiskNearlyFull][..], true),
            (&[Cause::DiskNearlyFull, Cause::AuditLogUnavailable][..], false),
            (&[Cause::Frozen][..], false),
            (&[Cause::Draining][..], false),
            (&[Cause::EpochsLost][..], false),
        ] {
            assert_eq!(report(causes).is_ready(), is_ready, "{causes:?}");
        }
        let both = report(&[Cause::DiskNearlyFull, Cause::PolicyUnavailable, Cause::Frozen, Cause::Frozen]);
        let codes: Vec<_> = Report::shown(both.not_ready()).into_iter().map(|reason| reason.code).collect();
        assert_eq!(codes, ["frozen", "policy_unavailable"]);
        assert_eq!(both.with(Effect::Warns).count(), 1);
        let draining = report(&[Cause::Draining]);
        assert!(draining.releases() && !report(&[Cause::Draining, Cause::Frozen]).releases());
    }

    #[test]
    fn what_is_wrong_in_domains_is_one_warning_that_names_them_to_those_who_may_know() {
        let [one, two]: [DomainName; 2] = ["team-a", "team-b"].map(|name| name.parse().expect("a name"));
        let of = |cause, domain: &DomainName| Reason {
            domains: BTreeMap::from([(domain.clone(), "unreadable".to_owned())]),
            ..plain(cause)
        };
        let broken = Cause::DomainPolicyUnavailable;
        let first = Report::new(vec![of(broken, &one)]);
        let both = Report::new(vec![of(broken, &two), of(broken, &one)]);
        assert!(both.is_ready() && both.releases() && both.reasons.len() == 1);
        assert!(!first.has_causes_of(&both), "another domain is news");
        let reason = &both.reasons[0];
        assert!(reason.is_of_domains_only());
        assert_eq!(
            reason.detail_for(&DomainScope::WHOLE_KMS),
            "domain team-a: unreadable; domain team-b: unreadable"
        );
        let limited = DomainScope::limited(two.clone(), crate::operator::scope::Others::Some);
        assert_eq!(reason.detail_for(&limited), "domain team-b: unreadable");
        assert!(reason.sentence().ends_with("in that domain (domain team-a, team-b)"));
        let fork = Reason::new(Cause::PolicyFork, "core".to_owned());
        let forks = Report::new(vec![of(Cause::PolicyFork, &two), fork]);
        assert_eq!(forks.reasons[0].detail_for(&DomainScope::WHOLE_KMS), "core; domain team-b: unreadable");
        assert!(forks.reasons[0].sentence().ends_with("(also in the domain team-b)"));
    }

    #[test]
    fn a_kms_without_keys_is_not_ready_and_the_metrics_say_so() {
        let metrics = Arc::new(Metrics::new([]));
        let readiness = Readiness::onboarding(Arc::clone(&metrics));
        let mut watch = readiness.watch();
        assert!(!readiness.report().is_ready());
        assert!(watch.has_changed().expect("a sender"));
        assert!(!watch.borrow_and_update().is_ready());
        readiness.report();
        assert!(!watch.has_changed().expect("a sender"), "the same again is no news");
        let text = metrics.render();
        assert!(text.contains("cvm_kms_ready 0"), "{text}");
        assert!(text.contains("cvm_kms_not_ready{reason=\"no_keys\"} 1"), "{text}");
    }
}
