//! Changes of the fleet: its nodes, its replicas and its rollouts.

use serde::{Deserialize, Serialize};

use crate::state::rollout::Rollout;

/// Removes what a node of the fleet said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetNode {
    /// Its id, hex.
    pub node: String,
    /// What people call it.
    pub name: String,
}

/// Starts a rollout of an OS image over the nodes of the fleet, one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    /// The hash of the OS image, hex.
    pub image: String,
    /// What each node must measure, hex, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_aggregated: Option<String>,
    /// The names of the nodes in their order.
    pub nodes: Vec<String>,
    /// How many other nodes must serve whenever one is taken out of service.
    pub min_serving: u32,
    /// How long a node is drained before it is replaced, in seconds.
    pub drain_for: u64,
    /// How long a node must be healthy without a gap, in seconds.
    pub healthy_for: u64,
    /// How long a node may take, in seconds.
    pub node_timeout: u64,
    /// Whether a program of the operators replaces the nodes.
    pub driven: bool,
}

impl StartRollout {
    /// What was started.
    pub fn of(rollout: &Rollout) -> Self {
        Self {
            image: hex::encode(rollout.image),
            mr_aggregated: rollout.mr_aggregated.map(|measured| hex::encode(measured.0)),
            nodes: rollout.nodes.iter().map(|node| node.name.clone()).collect(),
            min_serving: rollout.min_serving,
            drain_for: rollout.drain_for,
            healthy_for: rollout.healthy_for,
            node_timeout: rollout.node_timeout,
            driven: rollout.driven,
        }
    }
}

/// Makes an invitation by which one more KMS may get the root keys, if evidence and policy allow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteReplica {
    /// The name in its certificate.
    pub domain: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How it reaches this KMS, where that is not as CVMs do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    /// For how many seconds it is valid, from its approval on.
    pub valid_for: u64,
}

/// Writes the state of this node over whatever the nodes of its fleet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairFleet {
    /// The number of the newest state that this node knows: with a newer one by then, nothing is written.
    pub state: u64,
}
