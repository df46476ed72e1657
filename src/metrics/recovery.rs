//! Metrics of recovery.

use prometheus::{Gauge, IntGauge, Registry};

use super::{Metrics, gauge, seconds};

/// The current recovery set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryState {
    /// Seconds since it was made.
    pub age: u64,
    /// Seconds since a drill gave the root keys; `None` if none did.
    pub since_proved: Option<u64>,
    /// Whether it has the root keys of every epoch.
    pub covers_all: bool,
    /// Whether it has every epoch in its present state.
    pub is_current: bool,
}

#[derive(Debug)]
pub(super) struct RecoveryMetrics {
    set: IntGauge,
    covers_all: IntGauge,
    is_current: IntGauge,
    proved: IntGauge,
    age: Gauge,
    last_drill: Gauge,
}

impl RecoveryMetrics {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            set: gauge(r, "cvm_kms_recovery_set", "Whether a recovery set counts: 1 or 0.")?,
            covers_all: gauge(
                r,
                "cvm_kms_recovery_covers_all_epochs",
                "Whether the recovery set has the root keys of every epoch: 1 or 0.",
            )?,
            is_current: gauge(
                r,
                "cvm_kms_recovery_states_current",
                "Whether the recovery set has its epochs in the states that they have now: 1 or 0.",
            )?,
            proved: gauge(
                r,
                "cvm_kms_recovery_proved",
                "Whether a drill has proved the recovery set: 1 or 0.",
            )?,
            age: seconds(
                r,
                "cvm_kms_recovery_set_age_seconds",
                "Time since the recovery set was made; NaN without one.",
            )?,
            last_drill: seconds(
                r,
                "cvm_kms_recovery_last_drill_seconds",
                "Time since a drill of the recovery set gave the root keys; NaN if none did.",
            )?,
        })
    }
}

impl Metrics {
    /// Sets the gauges of recovery; `None` where no set counts.
    pub fn set_recovery(&self, state: Option<RecoveryState>) {
        let RecoveryMetrics { set, covers_all, is_current, proved, age, last_drill } = &self.recovery;
        set.set(state.is_some().into());
        covers_all.set(state.is_some_and(|state| state.covers_all).into());
        is_current.set(state.is_some_and(|state| state.is_current).into());
        proved.set(state.is_some_and(|state| state.since_proved.is_some()).into());
        age.set(state.map_or(f64::NAN, |state| state.age as f64));
        last_drill.set(state.and_then(|state| state.since_proved).map_or(f64::NAN, |seconds| seconds as f64));
    }
}
