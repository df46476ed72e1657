//! Metrics by domain. The metrics without one stay as they are; their sums also have what belongs to no domain.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{Metrics, counters, register};

/// The domains that a KMS has had since its start bound the labels: names in requests are never one.
#[derive(Debug)]
pub(super) struct DomainMetrics {
    releases: IntCounterVec,
    denials: IntCounterVec,
    policy_answers: IntCounterVec,
    policy_unusable: IntGaugeVec,
}

impl DomainMetrics {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            releases: counters(
                r,
                "cvm_kms_releases_by_domain_total",
                "App keys and certificates that were recorded as released, by domain and method.",
                &["domain", "method"],
            )?,
            denials: counters(
                r,
                "cvm_kms_denials_by_domain_total",
                "Decisions against a caller whose evidence verified, by its domain and code.",
                &["domain", "code"],
            )?,
            policy_answers: counters(
                r,
                "cvm_kms_policy_answers_by_domain_total",
                "Requests to the policy that decides in a domain, by result.",
                &["domain", "answer"],
            )?,
            policy_unusable: {
                let opts = Opts::new(
                    "cvm_kms_domain_policy_unavailable",
                    "1 while the policy of a domain's own cannot decide, so that nothing is released in the domain.",
                );
                register(r, IntGaugeVec::new(opts, &["domain"])?)?
            },
        })
    }
}

impl Metrics {
    /// Counts a release to an app of a domain, by the name of the method.
    pub fn released_in(&self, domain: &str, method: &'static str) {
        self.domains.releases.with_label_values(&[domain, method]).inc();
    }

    /// Counts a denial of a caller that is in a domain, beside [`Metrics::denied`].
    pub fn denied_in(&self, domain: &str, code: &'static str) {
        self.domains.denials.with_label_values(&[domain, code]).inc();
    }

    /// Counts a decision of the policy of a domain, beside [`Metrics::policy_answer`].
    pub fn policy_answer_in(&self, domain: &str, answer: &'static str) {
        self.domains.policy_answers.with_label_values(&[domain, answer]).inc();
    }

    /// Sets whether the policy of a domain's own cannot decide.
    pub fn set_policy_unusable(&self, domain: &str, is_unusable: bool) {
        self.domains.policy_unusable.with_label_values(&[domain]).set(is_unusable.into());
    }
}
