//! Metrics of signed policy bundles, by domain.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{Metrics, counters, register};

/// The bundle in force of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleMeasured {
    /// Its serial; 0 without a bundle.
    pub serial: u64,
    /// Seconds until it expires, negative afterwards; `None` without a bundle.
    pub expires_in: Option<i64>,
    /// Whether a bundle came that contradicts what was known.
    pub is_forked: bool,
}

#[derive(Debug)]
pub(super) struct BundleMetrics {
    serial: IntGaugeVec,
    expires_in: GaugeVec,
    forked: IntGaugeVec,
    fetches: IntCounterVec,
    refused: IntCounterVec,
}

impl BundleMetrics {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            serial: {
                let opts = Opts::new(
                    "cvm_kms_policy_bundle_serial",
                    "Serial of the policy bundle in force by domain; 0 without one.",
                );
                register(r, IntGaugeVec::new(opts, &["domain"])?)?
            },
            expires_in: {
                let opts = Opts::new(
                    "cvm_kms_policy_bundle_expires_seconds",
                    "Time until the policy bundle in force expires by domain, negative afterwards; NaN without one.",
                );
                register(r, GaugeVec::new(opts, &["domain"])?)?
            },
            forked: {
                let opts = Opts::new(
                    "cvm_kms_policy_forked",
                    "1 while policy bundles of a domain contradict each other.",
                );
                register(r, IntGaugeVec::new(opts, &["domain"])?)?
            },
            fetches: counters(
                r,
                "cvm_kms_policy_bundle_fetches_total",
                "Requests to sources of policy bundles by result: new, unchanged, failed.",
                &["domain", "result"],
            )?,
            refused: counters(
                r,
                "cvm_kms_policy_bundles_refused_total",
                "Policy bundles that were refused, by code.",
                &["domain", "code"],
            )?,
        })
    }
}

impl Metrics {
    /// Sets the gauges of a domain's policy bundle.
    pub fn set_policy_bundle(&self, domain: &str, state: BundleMeasured) {
        let BundleMetrics { serial, expires_in, forked, .. } = &self.bundles;
        let BundleMeasured { serial: number, expires_in: left, is_forked } = state;
        serial.with_label_values(&[domain]).set(i64::try_from(number).unwrap_or(i64::MAX));
        expires_in.with_label_values(&[domain]).set(left.map_or(f64::NAN, |left| left as f64));
        forked.with_label_values(&[domain]).set(is_forked.into());
    }

    /// Counts a request to a source: `new`, `unchanged` or `failed`.
    pub fn policy_bundle_fetched(&self, domain: &str, result: &'static str) {
        self.bundles.fetches.with_label_values(&[domain, result]).inc();
    }

    /// Counts a bundle that was refused, by its stable code.
    pub fn policy_bundle_refused(&self, domain: &str, code: &'static str) {
        self.bundles.refused.with_label_values(&[domain, code]).inc();
    }
}
