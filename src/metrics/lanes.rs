//! Metrics of the lanes in which the costly work of requests waits, by domain.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{Metrics, counter, counters, register};

/// A lane as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneState {
    /// The name of its domain, or of the lane of callers of whom none is known.
    pub domain: String,
    /// What waits in it.
    pub waiting: u64,
}

type Look = Box<dyn Fn() -> Option<Vec<LaneState>> + Send + Sync>;

/// The domains that a KMS has had since its start bound the labels: a claim to be in another has no lane.
pub(super) struct LaneMetrics {
    look: Mutex<Option<Look>>,
    waiting: IntGaugeVec,
    shed: IntCounterVec,
    false_claims: IntCounter,
}

impl fmt::Debug for LaneMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneMetrics").finish_non_exhaustive()
    }
}

impl LaneMetrics {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let waiting = Opts::new("cvm_kms_lane_waiting", "Costly requests that wait for a turn, by domain.");
        Ok(Self {
            look: Mutex::default(),
            waiting: register(r, IntGaugeVec::new(waiting, &["domain"])?)?,
            shed: counters(
                r,
                "cvm_kms_lane_shed_total",
                "Costly requests that were turned away because too many waited, by domain.",
                &["domain"],
            )?,
            false_claims: counter(
                r,
                "cvm_kms_false_domain_claims_total",
                "Requests whose evidence named an app of a domain and did not verify.",
            )?,
        })
    }
}

impl Metrics {
    /// Shows these lanes until `look` returns `None`.
    pub fn watch_lanes(&self, look: impl Fn() -> Option<Vec<LaneState>> + Send + Sync + 'static) {
        *self.lanes.look.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(look));
    }

    /// Counts a request that was turned away because too many waited in its lane.
    pub fn shed_in_lane(&self, domain: &str) {
        self.lanes.shed.with_label_values(&[domain]).inc();
    }

    /// Counts a request whose evidence named an app of a domain and did not verify.
    pub fn false_claim(&self) {
        self.lanes.false_claims.inc();
    }

    pub(super) fn look_at_lanes(&self) {
        let mut look = self.lanes.look.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = look.as_ref().and_then(|look| look());
        // A lane in which nothing is left is not shown.
        self.lanes.waiting.reset();
        match seen {
            None => *look = None,
            Some(lanes) => {
                for LaneState { domain, waiting } in lanes {
                    let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
                    self.lanes.waiting.with_label_values(&[&domain]).set(waiting);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn lanes_are_shown_while_there_is_something_in_them() {
        let metrics = Metrics::new([]);
        let owner = Arc::new(Mutex::new(vec![LaneState { domain: "prod".to_owned(), waiting: 3 }]));
        let weak = Arc::downgrade(&owner);
        metrics.watch_lanes(move || Some(weak.upgrade()?.lock().unwrap().clone()));
        metrics.shed_in_lane("prod");
        let shows = |line: &str| metrics.render().lines().any(|shown| shown == line);
        assert!(shows(r#"cvm_kms_lane_waiting{domain="prod"} 3"#));
        assert!(shows(r#"cvm_kms_lane_shed_total{domain="prod"} 1"#));
        owner.lock().unwrap().clear();
        assert!(!metrics.render().contains("cvm_kms_lane_waiting{"));
        drop(owner);
        assert!(!metrics.render().contains("cvm_kms_lane_waiting{"));
        assert!(metrics.lanes.look.lock().unwrap().is_none());
    }
}
