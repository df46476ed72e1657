//! Collateral, and what Intel's early TCB set says.

use std::time::Duration;

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Metrics, counter, counters, gauge, raise, register, seconds};

/// The state of the collateral cache at the time of a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CollateralState {
    /// Cached entries.
    pub entries: u64,
    /// Age of the oldest entry.
    pub oldest_age: Duration,
    /// Time until the first entry expires.
    pub expires_in: Duration,
    /// Fetches so far.
    pub fetches: u64,
    /// Failed fetches so far.
    pub failures: u64,
    /// Responses that were refused because they are older than an earlier one, by kind.
    pub refused_as_older: [(&'static str, u64); 4],
    /// How often the lowest accepted numbers could not be saved.
    pub floors_unsaved: u64,
    /// How often collateral could not be kept on the disk.
    pub unsaved: u64,
    /// Kept files that were not used at the start.
    pub refused_files: u64,
}

/// What Intel's early TCB set says about recently seen platforms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcbForecastState {
    /// Kinds of platforms that it rates worse.
    pub falling_behind: u64,
    /// Unix seconds of the first TCB recovery behind that.
    pub recovery: Option<u64>,
    /// Models whose early set is newer than the standard one.
    pub newer: u64,
    /// Models whose early set is the standard one.
    pub same: u64,
    /// Models whose early set is not available.
    pub unavailable: u64,
}

#[derive(Debug)]
pub(super) struct CollateralMetrics {
    entries: IntGauge,
    age: Gauge,
    expiry: Gauge,
    fetches: IntCounter,
    failures: IntCounter,
    rollbacks: IntCounterVec,
    floors_unsaved: IntCounter,
    unsaved: IntCounter,
    refused_files: IntGauge,
    tcb_falling_behind: IntGauge,
    tcb_recovery: IntGauge,
    early_tcb_sets: IntGaugeVec,
}

impl CollateralMetrics {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            tcb_falling_behind: gauge(
                r,
                "cvm_kms_tcb_falling_behind",
                "Kinds of platform seen recently that Intel's early TCB set judges worse than the standard one.",
            )?,
            tcb_recovery: gauge(
                r,
                "cvm_kms_tcb_recovery_timestamp_seconds",
                "Date of the TCB recovery behind it, Unix time; 0 without one.",
            )?,
            early_tcb_sets: {
                let opts = Opts::new(
                    "cvm_kms_early_tcb_sets",
                    "Platform models seen recently by what their early TCB set is: newer, same or unavailable.",
                );
                register(r, IntGaugeVec::new(opts, &["state"])?)?
            },
            entries: gauge(r, "cvm_kms_collateral_entries", "Platforms whose collateral is cached.")?,
            age: seconds(r, "cvm_kms_collateral_age_seconds", "Age of the oldest cached collateral.")?,
            expiry: seconds(
                r,
                "cvm_kms_collateral_expires_seconds",
                "Time until the first cached collateral expires.",
            )?,
            fetches: counter(r, "cvm_kms_collateral_fetches_total", "Fetches of collateral.")?,
            failures: counter(r, "cvm_kms_collateral_failures_total", "Fetches of collateral that failed.")?,
            rollbacks: counters(
                r,
                "cvm_kms_collateral_rollbacks_total",
                "Collateral refused because it is older than what was seen, or than the minimum, by kind.",
                &["kind"],
            )?,
            unsaved: counter(
                r,
                "cvm_kms_collateral_unsaved_total",
                "Times that collateral could not be kept on the disk.",
            )?,
            refused_files: gauge(
                r,
                "cvm_kms_collateral_files_refused",
                "Files of kept collateral that were not used at the start.",
            )?,
            floors_unsaved: counter(
                r,
                "cvm_kms_collateral_floors_unsaved_total",
                "Times that the lowest collateral numbers could not be saved.",
            )?,
        })
    }
}

impl Metrics {
    /// Sets the gauges of Intel's early TCB set.
    pub fn set_tcb_forecast(&self, state: TcbForecastState) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.collateral.tcb_falling_behind.set(number(state.falling_behind));
        self.collateral.tcb_recovery.set(number(state.recovery.unwrap_or(0)));
        for (name, count) in
            [("newer", state.newer), ("same", state.same), ("unavailable", state.unavailable)]
        {
            self.collateral.early_tcb_sets.with_label_values(&[name]).set(number(count));
        }
    }

    /// Sets the gauges of the collateral cache.
    pub fn set_collateral(&self, state: CollateralState) {
        self.collateral.entries.set(i64::try_from(state.entries).unwrap_or(i64::MAX));
        self.collateral.age.set(state.oldest_age.as_secs_f64());
        self.collateral.expiry.set(state.expires_in.as_secs_f64());
        raise(&self.collateral.fetches, state.fetches);
        raise(&self.collateral.failures, state.failures);
        for (kind, refused) in state.refused_as_older {
            raise(&self.collateral.rollbacks.with_label_values(&[kind]), refused);
        }
        raise(&self.collateral.floors_unsaved, state.floors_unsaved);
        raise(&self.collateral.unsaved, state.unsaved);
        self.collateral.refused_files.set(i64::try_from(state.refused_files).unwrap_or(i64::MAX));
    }
}
