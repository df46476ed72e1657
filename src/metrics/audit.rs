//! The audit log: its records, its disk, and its syncs.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use super::stages::{BUCKETS, Durations, Series};
use super::{Metrics, counter, gauge, register};

#[derive(Debug)]
pub(super) struct AuditMetrics {
    records: IntCounter,
    failures: IntCounter,
    writable: IntGauge,
    free: IntGauge,
    space_low: IntGauge,
    damaged: IntGauge,
    sync: Series,
}

impl AuditMetrics {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            records: counter(r, "cvm_kms_audit_records_total", "Releases recorded in the audit log.")?,
            writable: gauge(
                r,
                "cvm_kms_audit_writable",
                "1 while the audit log can be written, 0 while it cannot and no key is released.",
            )?,
            free: gauge(r, "cvm_kms_audit_free_bytes", "Free bytes on the disk of the audit log.")?,
            space_low: gauge(
                r,
                "cvm_kms_audit_space_low",
                "1 while the disk of the audit log is nearly full, or its reserve is spent.",
            )?,
            damaged: gauge(
                r,
                "cvm_kms_audit_damaged_bytes",
                "Bytes at the end of audit files that were found since the start and are not records.",
            )?,
            failures: counter(
                r,
                "cvm_kms_audit_failures_total",
                "Releases that could not be recorded, and so did not happen.",
            )?,
            sync: {
                let help = "Time of a sync of audit records to the disk, with their signed tree.";
                let opts = HistogramOpts::new("cvm_kms_ledger_sync_seconds", help);
                Series::new(register(r, Histogram::with_opts(opts.buckets(BUCKETS.to_vec()))?)?)
            },
        })
    }
}

impl Metrics {
    /// Counts a release that is recorded.
    pub fn audit_recorded(&self) {
        self.audit.records.inc();
    }

    /// Counts a release that could not be recorded.
    pub fn audit_failed(&self) {
        self.audit.failures.inc();
    }

    /// Sets whether the audit log can be written.
    pub fn set_audit_writable(&self, is_writable: bool) {
        self.audit.writable.set(i64::from(is_writable));
    }

    /// Sets the free space for the audit log, and whether it is low.
    pub fn set_audit_space(&self, free: u64, is_low: bool) {
        self.audit.free.set(i64::try_from(free).unwrap_or(i64::MAX));
        self.audit.space_low.set(i64::from(is_low));
    }

    /// Sets how many bytes of audit files are not records.
    pub fn set_audit_damaged(&self, bytes: u64) {
        self.audit.damaged.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts a sync of the audit log and its tree to the disk.
    pub fn ledger_synced(&self, took: Duration) {
        self.audit.sync.observe(took);
    }

    /// How long a sync of the audit log takes.
    pub fn ledger_syncs(&self) -> Durations {
        self.audit.sync.durations()
    }
}
