//! How a rollout of an OS image over the nodes of a fleet is shown: bodies of `/api/v1/rollout`.

use serde::{Deserialize, Serialize};

/// The body of `GET /api/v1/rollout`, and the response to each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RolloutView {
    /// Whether this node shares its state: `core.state = "postgres"`.
    pub shared: bool,
    /// The rollout that goes on, or else the last one; null without one.
    pub rollout: Option<RolloutShown>,
    /// Why there is nothing to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What may stop it later, as this node sees it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What a driver does next.
    pub next: Next,
}

/// A rollout. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RolloutShown {
    /// 16 hex digits.
    pub id: String,
    /// The hash of the OS image, hex.
    pub image: String,
    /// The measurement that each node must have, hex, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_aggregated: Option<String>,
    /// `planned`, `running`, `paused`, `done` or `cancelled`.
    pub state: String,
    /// Why it is paused, or who cancelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is paused because a node failed.
    pub failed: bool,
    /// What is waited for, or why nothing is begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// How many other nodes must serve whenever one is taken out of service.
    pub min_serving: u32,
    /// How many nodes serve now, as far as this node knows.
    pub serving: u32,
    /// Seconds.
    pub drain_for: u64,
    /// Seconds.
    pub healthy_for: u64,
    /// Seconds.
    pub node_timeout: u64,
    /// Whether nothing is begun without a driver; otherwise people replace the nodes, and the nodes see it.
    pub driven: bool,
    /// When it was started.
    pub started_at: String,
    /// The operator.
    pub by: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Whose credential the driver has that acts now; absent if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The nodes in their order.
    pub nodes: Vec<NodeProgress>,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeProgress {
    /// Its name.
    pub name: String,
    /// The id of the node that bears it, hex.
    pub id: String,
    /// `waiting`, `draining`, `replacing`, `booting`, `checking`, `healthy`, `done`, `failed` or `skipped`.
    pub step: String,
    /// Since when.
    pub since: String,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often it was begun.
    pub attempt: u32,
    /// How often it was not healthy any more before it was done.
    pub gaps: u32,
}

/// What a driver does next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Next {
    /// Nothing: there is no rollout, or it is over.
    End,
    /// Ask again in a few seconds.
    Wait,
    /// Ask again; an operator must speak first.
    Paused,
    /// Replace this node: say first that the program starts.
    Replace {
        /// Its name.
        node: String,
        /// Its id, hex.
        id: String,
        /// To be said with each report.
        attempt: u32,
    },
    /// Ask again; the program of this node runs.
    Replacing {
        /// Its name.
        node: String,
        /// Which run.
        attempt: u32,
    },
    /// What a later version says.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Other,
}
