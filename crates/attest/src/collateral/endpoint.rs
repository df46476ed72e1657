//! One configured collateral service and its recent results: services that failed recently are tried last.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{FetchFailure, Pccs, ServiceFailure};

/// Pause after the first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Upper bound of the pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A service with its counters.
pub(super) struct Endpoint {
    pub(super) index: usize,
    pub(super) pccs: Pccs,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    failures_in_a_row: u32,
    paused_until: Option<Instant>,
    fetches: u64,
    failures: u64,
    last_success: Option<u64>,
    last_failure: Option<FetchFailure>,
}

/// Counters of a configured service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointStats {
    /// Position in the configuration, from 0.
    pub index: usize,
    /// Attempts to fetch from it.
    pub fetches: u64,
    /// Attempts that gave nothing usable.
    pub failures: u64,
    /// Time of the last usable response, Unix seconds.
    pub last_success: Option<u64>,
    /// Whether it failed recently and is tried after the others.
    pub paused: bool,
    /// Whether its last response was not usable. That it does not know a platform is a usable response.
    pub is_failing: bool,
}

impl Endpoint {
    pub(super) fn new(index: usize, pccs: Pccs) -> Self {
        Self { index, pccs, record: Mutex::default() }
    }

    /// The end of the pause after a failure; `None` if the service is not paused.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.record().paused_until.filter(|until| *until > Instant::now())
    }

    pub(super) fn succeeded(&self, now: u64) {
        let mut record = self.record();
        record.fetches += 1;
        record.failures_in_a_row = 0;
        record.paused_until = None;
        record.last_success = Some(now);
        record.last_failure = None;
    }

    pub(super) fn failed(&self, failure: &FetchFailure) {
        let mut record = self.record();
        record.fetches += 1;
        record.failures += 1;
        record.last_failure = Some(failure.clone());
        if failure.is_unknown_platform() {
            return;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << record.failures_in_a_row.min(16));
        record.failures_in_a_row = record.failures_in_a_row.saturating_add(1);
        record.paused_until = Some(Instant::now() + pause.min(MAX_PAUSE));
    }

    /// The failure of the last attempt, if it failed.
    pub(super) fn last_failure(&self) -> Option<ServiceFailure> {
        let failure = self.record().last_failure.clone()?;
        Some(ServiceFailure { url: self.pccs.base().to_owned(), failure })
    }

    pub(super) fn stats(&self) -> EndpointStats {
        let paused = self.paused_until().is_some();
        let record = self.record();
        EndpointStats {
            index: self.index,
            fetches: record.fetches,
            failures: record.failures,
            last_success: record.last_success,
            paused,
            is_failing: record.failures_in_a_row > 0,
        }
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
