//! Watches what no record can report: a log that cannot be written, and refusals that are too many to be recorded. It
//! touches no disk, because one that does not answer is what it reports.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch::Receiver;

use super::Shared;
use super::storm::Storm;
use crate::audit::{FailureReason, Health, Progress};
use crate::config::DenialStorm;
use crate::event_type::Condition;
use crate::metrics::Metrics;

/// How often it checks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) struct Watcher {
    progress: Progress,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    /// The zero of the storm's time, which a change of the system's clock does not move.
    begin: Instant,
    /// The refusals that are counted already.
    refusals: u64,
    storm: Storm,
    /// What counts as a storm, where an owner may change it.
    settings: Receiver<DenialStorm>,
}

impl Watcher {
    pub(super) fn new(
        mut settings: Receiver<DenialStorm>,
        progress: Progress,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (begin, refusals) = (Instant::now(), metrics.refusals());
        let storm = Storm::new(*settings.borrow_and_update());
        Self { progress, shared, begin, refusals, metrics, storm, settings }
    }

    /// Watches until dropped.
    pub(super) async fn run(mut self) {
        loop {
            self.count_refusals(Instant::now());
            self.look();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn count_refusals(&mut self, now: Instant) {
        if self.settings.has_changed().unwrap_or(false) {
            self.storm.change(*self.settings.borrow_and_update());
        }
        let refusals = self.metrics.refusals();
        let new = refusals.saturating_sub(self.refusals);
        let now = now.saturating_duration_since(self.begin).as_secs();
        self.refusals = refusals;
        if new > 0 {
            self.storm.count(new, now);
        }
        self.storm.pass(now);
        self.shared.is_in_storm.store(self.storm.is_raging(), Ordering::Relaxed);
    }

    fn look(&self) {
        let now = Instant::now();
        let failure = match self.progress.health() {
            Health::Writing => None,
            Health::Failing { reason, .. } => condition(reason).map(|condition| (condition, reason)),
        };
        for condition in [Condition::AuditLogUnavailable, Condition::LedgerContradicted] {
            let reason = failure.and_then(|(found, reason)| (found == condition).then_some(reason));
            let sentence = reason.map(|reason| format!("{reason}; no key is released meanwhile"));
            self.shared.look(condition, sentence, now);
        }
        let shortage = self.progress.space().shortage();
        let sentence = shortage.map(|left| format!("little disk space is left for the audit log: {left}"));
        self.shared.look(Condition::DiskNearlyFull, sentence, now);
        let sentence =
            self.progress.lacks_witnesses().then(|| "too few witnesses cosign the audit log".to_owned());
        self.shared.look(Condition::WitnessesLost, sentence, now);
        self.shared.look(Condition::DenialStorm, self.storm.sentence(), now);
    }
}

/// The condition for a log that cannot be written. A wrong clock is reported with the causes that stop
/// releases, and building the tree ends by itself.
fn condition(reason: FailureReason) -> Option<Condition> {
    match reason {
        FailureReason::DiskFull
        | FailureReason::Write
        | FailureReason::Sync
        | FailureReason::Stalled
        | FailureReason::FileChanged
        | FailureReason::Tree
        | FailureReason::NotImported
        | FailureReason::Ended => Some(Condition::AuditLogUnavailable),
        FailureReason::NotAsSigned => Some(Condition::LedgerContradicted),
        FailureReason::ClockBehind | FailureReason::Importing | FailureReason::BuildingTree => None,
    }
}
