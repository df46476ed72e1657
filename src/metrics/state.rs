//! Metrics of the state that the nodes of a fleet share.

use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Metrics, counters, gauge, register, seconds};

#[derive(Debug)]
pub(super) struct StateMetrics {
    view_age: Gauge,
    rounds: IntCounterVec,
    alarm: IntGauge,
    peers: IntGauge,
    rollout_nodes: IntGaugeVec,
    rollout_failed: IntGauge,
}

impl StateMetrics {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            view_age: seconds(
                r,
                "cvm_kms_state_view_age_seconds",
                "Age of what this node knows of the state that the nodes share; NaN without a view, or with core.state = files.",
            )?,
            rounds: counters(
                r,
                "cvm_kms_state_rounds_total",
                "Looks at the shared state by outcome: fresh, unanswered, unreachable, alarm.",
                &["outcome"],
            )?,
            alarm: gauge(r, "cvm_kms_state_rolled_back", "1 while the shared state is not believed.")?,
            peers: gauge(
                r,
                "cvm_kms_state_peers",
                "Other nodes that answered within core.postgres.max_view_age.",
            )?,
            rollout_nodes: register(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "cvm_kms_rollout_nodes",
                        "Nodes of the last rollout by step, as this node knows it.",
                    ),
                    &["step"],
                )?,
            )?,
            rollout_failed: gauge(
                r,
                "cvm_kms_rollout_paused_by_failure",
                "1 while a rollout is paused because a node failed.",
            )?,
        })
    }
}

impl Metrics {
    /// Sets the age of the view of the shared state, in seconds; NaN without one.
    pub fn set_state_view_age(&self, age: f64) {
        self.state.view_age.set(age);
    }

    /// Counts a look at the shared state.
    pub fn state_round(&self, outcome: &'static str) {
        self.state.rounds.with_label_values(&[outcome]).inc();
    }

    /// Sets whether the shared state is not believed.
    pub fn set_state_alarm(&self, is_on: bool) {
        self.state.alarm.set(is_on.into());
    }

    /// Sets how many other nodes answered recently.
    pub fn set_state_peers(&self, peers: usize) {
        self.state.peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
    }

    /// Sets how many nodes of the last rollout are in each step, and whether it is paused because one failed.
    pub fn set_rollout<'a>(&self, steps: impl IntoIterator<Item = (&'a str, usize)>, is_failed: bool) {
        for (step, nodes) in steps {
            let nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
            self.state.rollout_nodes.with_label_values(&[step]).set(nodes);
        }
        self.state.rollout_failed.set(is_failed.into());
    }
}
