//! The document of a rollout that the nodes of a fleet share: the plan, how far each node has come, and which driver acts. While a
//! rollout goes on, nodes of two versions read it: what a later version adds is not read.

use kms_wire::join::is_hex;
use serde::{Deserialize, Serialize};

/// The most bytes of the document.
pub const MAX_ROLLOUT: usize = 512 << 10;
/// The most nodes of a rollout.
pub const MAX_ROLLOUT_NODES: usize = 128;
/// The most bytes of a name of a node, and of an operator.
const MAX_NAME: usize = 256;
/// The most bytes of a reason.
pub const MAX_ROLLOUT_REASON: usize = 400;
/// The longest of all times, in seconds.
const MAX_SECONDS: u64 = 30 * 86_400;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// A rollout of an OS image over the nodes of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    version: u32,
    /// 16 hex digits.
    pub id: String,
    /// The OS image that each node shall run.
    #[serde(with = "hex::serde")]
    pub image: [u8; 32],
    /// What each node shall measure, if that was said: `mr_aggregated`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_aggregated: Option<Measurement>,
    /// How many other nodes must serve whenever one is taken out of service.
    pub min_serving: u32,
    /// How long a node is drained before it is replaced, in seconds.
    pub drain_for: u64,
    /// How long a node must be healthy without a gap, in seconds.
    pub healthy_for: u64,
    /// How long a node may take from its drain to the end, in seconds.
    pub node_timeout: u64,
    /// Whether nothing is begun without a driver, whose program replaces nodes. Otherwise people do, and the nodes go on by themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub driven: bool,
    /// Unix seconds.
    pub started_at: u64,
    /// The operator.
    pub by: String,
    /// How it stands as a whole.
    pub state: RolloutState,
    /// The nodes in their order.
    pub nodes: Vec<RolloutNode>,
    /// The driver that may act; none if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<RolloutLease>,
}

/// SHA-256 of all that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement(#[serde(with = "hex::serde")] pub [u8; 32]);

/// What is put into a new rollout.
#[derive(Debug, Clone)]
pub struct NewRollout {
    /// See [`Rollout`], as the others.
    pub id: String,
    /// The OS image.
    pub image: [u8; 32],
    /// The measurement.
    pub mr_aggregated: Option<Measurement>,
    /// Other nodes that must serve.
    pub min_serving: u32,
    /// Seconds.
    pub drain_for: u64,
    /// Seconds.
    pub healthy_for: u64,
    /// Seconds.
    pub node_timeout: u64,
    /// Whether a driver is needed.
    pub driven: bool,
    /// Unix seconds.
    pub started_at: u64,
    /// The operator.
    pub by: String,
    /// The nodes in their order.
    pub nodes: Vec<RolloutNode>,
}

#[cfg(test)]
impl NewRollout {
    /// A rollout for tests, without nodes: change what matters to the test.
    pub(crate) fn example() -> Self {
        Self {
            id: "0123456789abcdef".to_owned(),
            image: [1; 32],
            mr_aggregated: None,
            min_serving: 1,
            drain_for: 1,
            healthy_for: 1,
            node_timeout: 9,
            driven: false,
            started_at: 1,
            by: "zoe".to_owned(),
            nodes: Vec::new(),
        }
    }
}

impl From<NewRollout> for Rollout {
    fn from(new: NewRollout) -> Self {
        Self {
            version: VERSION,
            id: new.id,
            image: new.image,
            mr_aggregated: new.mr_aggregated,
            min_serving: new.min_serving,
            drain_for: new.drain_for,
            healthy_for: new.healthy_for,
            node_timeout: new.node_timeout,
            driven: new.driven,
            started_at: new.started_at,
            by: new.by,
            state: RolloutState::Running,
            nodes: new.nodes,
            lease: None,
        }
    }
}

/// How a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum RolloutState {
    /// A driver may go on.
    Running,
    /// Nothing is begun.
    Paused {
        /// Who or what paused it.
        reason: String,
        /// Whether a node failed; otherwise an operator paused it.
        failed: bool,
        /// Unix seconds.
        since: u64,
    },
    /// Every node is done or skipped.
    Done {
        /// Unix seconds.
        at: u64,
    },
    /// An operator ended it.
    Cancelled {
        /// The operator.
        by: String,
        /// Unix seconds.
        at: u64,
    },
}

/// One node of a rollout. It is known by its name: the VM that replaces it may have another id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutNode {
    /// `core.postgres.node_name`.
    pub name: String,
    /// The id of the node that bears the name now, hex; empty before it is known.
    pub id: String,
    /// The boot id that it had before it was replaced; empty if it never said one.
    pub boot_id: String,
    /// How far it is.
    pub step: RolloutStep,
    /// Since when, Unix seconds.
    pub since: u64,
    /// When it was begun, Unix seconds; 0 before.
    #[serde(default)]
    pub began: u64,
    /// How often it was begun.
    #[serde(default)]
    pub attempt: u32,
    /// What is known of the program that replaces it.
    #[serde(default)]
    pub hook: RolloutHook,
    /// How often it was not healthy any more before it was done.
    #[serde(default)]
    pub gaps: u32,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum RolloutStep {
    /// Nothing has happened.
    Waiting,
    /// It is asked to let load balancers send requests elsewhere.
    Draining,
    /// It is to be replaced.
    Replacing,
    /// It was replaced, and has not come back.
    Booting,
    /// It has come back, and is not healthy yet.
    Checking,
    /// It is healthy, but not for long enough.
    Healthy,
    /// It is what it should be.
    Done,
    /// It is not, and the rollout has paused.
    Failed {
        /// Why.
        reason: String,
    },
    /// It is left as it is.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// What is known of the program that replaces a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutHook {
    /// None was started, or people replace the node.
    #[default]
    None,
    /// The driver that has the lease runs it.
    Running,
    /// It ended well.
    Succeeded,
    /// The driver that ran it is gone.
    Unknown,
}

/// The right of one driver to act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutLease {
    /// Random, 32 hex digits.
    pub driver: String,
    /// The operator whose credential it has.
    pub by: String,
    /// Grows with each renewal.
    pub serial: u64,
    /// How long it is in force after a renewal, in seconds.
    pub ttl: u64,
}

impl RolloutStep {
    /// The stable name, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Draining => "draining",
            Self::Replacing => "replacing",
            Self::Booting => "booting",
            Self::Checking => "checking",
            Self::Healthy => "healthy",
            Self::Done => "done",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// All names, in the order of the steps.
    pub const NAMES: [&'static str; 9] =
        ["waiting", "draining", "replacing", "booting", "checking", "healthy", "done", "failed", "skipped"];

    /// Whether a step is being done with the node. While it is, no step begins with another node.
    pub fn is_in_work(&self) -> bool {
        match self {
            Self::Draining | Self::Replacing | Self::Booting | Self::Checking | Self::Healthy => true,
            Self::Waiting | Self::Done | Self::Failed { .. } | Self::Skipped { .. } => false,
        }
    }

    /// Whether load balancers shall send requests elsewhere.
    pub fn drains(&self) -> bool {
        matches!(self, Self::Draining | Self::Replacing | Self::Booting)
    }

    /// Why it ended, if it did not end well.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed { reason } | Self::Skipped { reason } => Some(reason),
            Self::Waiting
            | Self::Draining
            | Self::Replacing
            | Self::Booting
            | Self::Checking
            | Self::Healthy
            | Self::Done => None,
        }
    }
}

impl RolloutState {
    /// The stable name, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused { .. } => "paused",
            Self::Done { .. } => "done",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether there is nothing more to do.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Cancelled { .. })
    }
}

/// Reads a document.
///
/// # Errors
/// It is not one, or beyond a bound.
pub fn parse(body: &[u8]) -> Result<Rollout, String> {
    if body.len() > MAX_ROLLOUT {
        return Err(format!("a rollout has at most {MAX_ROLLOUT} bytes"));
    }
    let rollout: Rollout = kms_attest::json::from_utf8(body)
        .map_err(|error| error.to_string().chars().take(MAX_ROLLOUT_REASON).collect::<String>())?;
    if rollout.version != VERSION {
        return Err(format!("version {} is unknown", rollout.version));
    }
    rollout.check()?;
    Ok(rollout)
}

/// The bytes of a document, which [`parse`] can read.
///
/// # Errors
/// It is beyond a bound.
pub fn content(rollout: &Rollout) -> Result<Vec<u8>, String> {
    rollout.check()?;
    let body = serde_json::to_vec(rollout).map_err(|error| error.to_string())?;
    match body.len() > MAX_ROLLOUT {
        true => Err(format!("a rollout has at most {MAX_ROLLOUT} bytes")),
        false => Ok(body),
    }
}

/// Whether a text may be the name of a node in a rollout: it is shown, and given to programs.
pub fn is_node_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

impl Rollout {
    fn check(&self) -> Result<(), String> {
        let bounded = |what: &str, text: &str, most: usize| match text.len() <= most {
            true => Ok(()),
            false => Err(format!("{what} has more than {most} bytes")),
        };
        if !is_hex(&self.id, 16) {
            return Err("the id must have 16 hex digits".to_owned());
        }
        if self.nodes.is_empty() || self.nodes.len() > MAX_ROLLOUT_NODES {
            return Err(format!("a rollout has 1 to {MAX_ROLLOUT_NODES} nodes"));
        }
        if [self.drain_for, self.healthy_for, self.node_timeout].iter().any(|time| *time > MAX_SECONDS) {
            return Err(format!("a time is longer than {MAX_SECONDS} s"));
        }
        bounded("the operator", &self.by, MAX_NAME)?;
        match &self.state {
            RolloutState::Paused { reason, .. } => bounded("a reason", reason, MAX_ROLLOUT_REASON)?,
            RolloutState::Cancelled { by, .. } => bounded("the operator", by, MAX_NAME)?,
            RolloutState::Running | RolloutState::Done { .. } => {}
        }
        if let Some(RolloutLease { driver, by, ttl, .. }) = &self.lease {
            bounded("the operator", by, MAX_NAME)?;
            if !is_hex(driver, 32) || *ttl > MAX_SECONDS {
                return Err("the lease names no driver".to_owned());
            }
        }
        let mut names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("a node is named twice".to_owned());
        }
        for node in &self.nodes {
            if !is_node_name(&node.name) {
                return Err("a node's name is not allowed".to_owned());
            }
            bounded("an id", &node.id, MAX_NAME)?;
            bounded("a boot id", &node.boot_id, MAX_NAME)?;
            bounded("a reason", node.step.reason().unwrap_or_default(), MAX_ROLLOUT_REASON)?;
        }
        if self.nodes.iter().filter(|node| node.step.is_in_work()).count() > 1 {
            return Err("two nodes are worked on at once".to_owned());
        }
        Ok(())
    }
}
