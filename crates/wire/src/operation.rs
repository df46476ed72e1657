//! What goes on for longer than a request, in one shape for people and programs that wait for its end: bodies of `/api/v1/operations`.

use serde::{Deserialize, Serialize};

/// The body of `GET /api/v1/operations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OperationList {
    /// All that go on, and those that ended recently, newest first.
    pub operations: Vec<Operation>,
    /// Why one that there is cannot be shown; absent if all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Something that goes on. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What it is: `replica_join` or `rollout`.
    pub kind: String,
    /// What it is about, for people.
    pub title: String,
    /// Of `replica_join` the stage that was reached last; of `rollout` `running`, `paused`, `done` or `cancelled`.
    pub state: String,
    /// Whether nothing can happen any more.
    pub over: bool,
    /// Whether it has come to its end.
    pub succeeded: bool,
    /// When it began.
    pub started_at: String,
    /// What happened, oldest first; of `rollout` where each node is that was begun.
    pub stages: Vec<OperationStage>,
    /// What is waited for; absent if that is not known or nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What to do now, for people; absent while there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Where the whole of it is.
    pub href: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OperationStage {
    /// The stage of the invitation, or the step of the node.
    pub stage: String,
    /// When; of a stage that happens more than once the latest time.
    pub at: String,
    /// The name of the node, of `rollout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why a node failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `refused`: the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Of `refused`: the id of the denial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denial_id: Option<String>,
}
