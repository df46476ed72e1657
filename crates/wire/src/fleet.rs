//! What the nodes of a fleet say of themselves, and how that is shown: bodies of `/api/v1/fleet`. A field that is unknown is ignored
//! and one that is missing has its default, so nodes and tools of different versions read each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The body of `GET /api/v1/fleet`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FleetView {
    /// Whether this node shares its state: `core.state = "postgres"`.
    pub shared: bool,
    /// Milliseconds since what this node knows was true; absent without a view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view_age_ms: Option<u64>,
    /// Why this node is stale; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
    /// Why the shared state is not believed; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<AlarmShown>,
    /// What nodes say of themselves that must not be, such as two sets of root keys.
    #[serde(default)]
    pub alarms: Vec<FleetAlarm>,
    /// What is wrong with the fleet as a whole, and may be only for a moment.
    pub warnings: Vec<String>,
    /// All nodes that are known, by name.
    pub nodes: Vec<NodeShown>,
}

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AlarmShown {
    /// A stable code: `rolled_back`.
    pub code: String,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// Something that must not be in a fleet, as one of its nodes sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FleetAlarm {
    /// A stable code: `fleet_roots`, `fleet_domains`, `fleet_policies`, `fleet_ledger`, `fleet_cloned` or `fleet_clock`.
    pub kind: String,
    /// The ids of the nodes that it is about, hex.
    pub nodes: Vec<String>,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub remedy: String,
    /// Since when the node that answers knows it, Unix seconds.
    pub since: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeShown {
    /// Its id, hex.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Whether it is the node that answers.
    pub this: bool,
    /// Whether it has answered a challenge of this node within `max_view_age`.
    pub answers: bool,
    /// The operator's drain, which lasts until it is ended; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<DrainShown>,
    /// The number of the shared state that it has; absent before it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<u64>,
    /// How far its clock is ahead of the clock of the node that answers; absent for that node, and before it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew: Option<Skew>,
    /// When it last wrote that it is there, Unix seconds by its own clock; absent if it is of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<u64>,
    /// Whether it has the root keys of the node that answers, by their canary fingerprints; absent if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_equal: Option<bool>,
    /// The seconds since the node that answers first read what it last said of itself; absent if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_age: Option<u64>,
    /// What it last said of itself; absent if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
}

/// The drain of a node by an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DrainShown {
    /// The operator.
    pub by: String,
    /// Unix seconds.
    pub since: u64,
    /// Whether the other nodes know it.
    pub shared: bool,
}

/// Bounds of the difference of two clocks in milliseconds, from the time between a challenge and its answer. Negative if the other
/// clock is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Skew {
    /// The other clock is at least this much ahead.
    pub min_ms: i64,
    /// And at most this much.
    pub max_ms: i64,
}

impl Skew {
    /// The milliseconds by which the clocks differ at least, in either direction.
    pub fn at_least(self) -> u64 {
        match (self.min_ms > 0, self.max_ms < 0) {
            (true, _) => self.min_ms.unsigned_abs(),
            (false, true) => self.max_ms.unsigned_abs(),
            (false, false) => 0,
        }
    }
}

/// What a node says of itself every few seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeStatus {
    /// The version of this report: a higher one has more fields.
    pub format: u32,
    /// The version of its program.
    pub version: String,
    /// Different after each start of its process.
    pub boot_id: String,
    /// When its process started, Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// Its clock, Unix seconds.
    pub time: u64,
    /// The same in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Whether it is ready.
    pub ready: bool,
    /// For how many seconds it has been ready without a gap; absent if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_for: Option<u64>,
    /// Why it is not, or will not be: the codes of `/readyz`.
    pub reasons: Vec<String>,
    /// How old what it knows of the shared state is, in milliseconds; absent without a view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view_age_ms: Option<u64>,
    /// Whether an operator or a rollout drains it.
    pub draining: bool,
    /// The measurement of this KMS itself, hex; absent without evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mr_aggregated: Option<String>,
    /// The OS image that it runs, hex; absent without evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_image_hash: Option<String>,
    /// How many records its log has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_size: Option<u64>,
    /// The root of the tree of these records, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_root: Option<String>,
    /// The signed checkpoint of its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// SHA-256 of the rules in force, hex, by domain; of the first domains, where there are many.
    pub policies: BTreeMap<String, String>,
    /// SHA-256 over the rules of all domains, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies_sha256: Option<String>,
    /// The serial of the signed bundle in force, by domain; of the first domains, where there are many.
    pub bundle_serials: BTreeMap<String, u64>,
    /// SHA-256 of what decides which domain's keys an app gets, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domains_sha256: Option<String>,
    /// The newest epoch that apps get keys of.
    pub root_epoch: u32,
    /// The states of all root epochs, from 0.
    pub root_epochs: Vec<String>,
    /// The canary fingerprint of the newest root epoch that apps get keys of, hex: equal only where the root keys are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// The canary fingerprints of all root epochs, from 0; empty where the keys are destroyed.
    pub canaries: Vec<String>,
    /// When the first of its collateral expires, Unix seconds; absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collateral_expires: Option<u64>,
}

impl NodeStatus {
    /// The version of the reports that this version of the program writes.
    pub const FORMAT: u32 = 3;
    /// Nodes with reports of lower versions do not know that operators drain them through other nodes.
    pub const READS_DRAINS: u32 = 3;
    /// The most domains that a report lists.
    pub const MAX_DOMAINS: usize = 128;

    /// Whether the root keys are equal in each epoch of which both have them; `None` if there is no such epoch.
    pub fn has_roots_of(&self, other: &Self) -> Option<bool> {
        let pairs = self.canaries.iter().zip(&other.canaries);
        let mut both = pairs.filter(|(one, other)| !one.is_empty() && !other.is_empty()).peekable();
        both.peek()?;
        Some(both.all(|(one, other)| one == other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_older_and_of_newer_nodes_are_read() {
        let older = r#"{"version":"0.6.0","boot_id":"b","time":5,"ready":true,"reasons":[],"root_epoch":0,"root_epochs":["active"]}"#;
        let status: NodeStatus = serde_json::from_str(older).expect("a report");
        assert_eq!((status.format, status.ready, status.canary), (0, true, None));
        let newer = older.replacen('{', r#"{"format":9,"unheard_of":{"a":[1]},"#, 1);
        let status: NodeStatus = serde_json::from_str(&newer).expect("a report");
        assert_eq!((status.format, status.time), (9, 5));
    }

    #[test]
    fn root_keys_are_compared_epoch_by_epoch_where_both_have_them() {
        let with = |canaries: &[&str]| NodeStatus {
            canaries: canaries.iter().map(|canary| (*canary).to_owned()).collect(),
            ..NodeStatus::default()
        };
        for (one, other, same) in [
            (&["a", "b"][..], &["a", "b"][..], Some(true)),
            (&["a", "b"], &["a"], Some(true)),
            (&["", "b"], &["a", "b"], Some(true)),
            (&["a", "b"], &["a", "c"], Some(false)),
            (&["a"], &["c", "b"], Some(false)),
            (&["", "b"], &["a", ""], None),
            (&[], &["a"], None),
        ] {
            assert_eq!(with(one).has_roots_of(&with(other)), same, "{one:?} {other:?}");
        }
    }

    #[test]
    fn clocks_differ_only_by_what_the_bounds_show() {
        for (min_ms, max_ms, least) in [(-5, 900, 0), (0, 3, 0), (40, 900, 40), (-900, -40, 40)] {
            assert_eq!(Skew { min_ms, max_ms }.at_least(), least);
        }
    }
}
