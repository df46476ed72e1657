//! Drain: load balancers send requests elsewhere, while requests that still arrive are served.

mod fleet;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::fleet::Fleet;
pub use self::fleet::SharedDrains;
use super::Reach;
use crate::clock::unix_now;
use crate::state::DrainRecord;
use crate::state::shared::{NodeId, Unshared};

/// Whether an operator drains this KMS, or a rollout does. That of an operator ends with the process where there are no other nodes: a
/// KMS that an operator starts is meant to serve. In a fleet any node can drain any other, and a drain lasts until it is ended.
#[derive(Debug, Default)]
pub struct Drain {
    drains: Mutex<Drains>,
    /// What is shared with other nodes.
    fleet: Option<Fleet>,
}

#[derive(Debug, Default)]
struct Drains {
    /// Without other nodes.
    by_operator: Option<Draining>,
    by_rollout: Option<Draining>,
    /// The nodes of the fleet that operators drain.
    nodes: Nodes,
    /// What is being ended on all nodes: what this node has of it is not written there again.
    ending: Vec<Arc<fleet::End>>,
}

type Nodes = BTreeMap<NodeId, DrainRecord>;

/// A drain in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// Who started it.
    pub by: String,
    /// Unix seconds.
    pub since: u64,
}

/// What became of a request to drain a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Who drained it already.
    pub already: Option<String>,
    /// Whether the other nodes know it.
    pub reach: Reach,
}

/// What became of a request to end a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It is over.
    Done,
    /// There was none.
    WasNone,
}

/// Why a drain, or its end, failed wholly or in part.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// It is not in the shared state, so nothing happens anywhere.
    #[error("{}", .0.after("nothing was changed"))]
    NotShared(#[from] Unshared),
    /// There are no other nodes.
    #[error("this KMS has no other nodes; nothing was changed")]
    Alone,
    /// A later drain of the node stays.
    #[error("the drain is not over: an operator drained the node again meanwhile")]
    Overtaken,
    /// In force, but only until this process ends, if the database does not have it.
    #[error(
        "this node drains now, but drains.json of the key directory, which keeps that over restarts, cannot be written: {0}"
    )]
    NotKept(#[source] io::Error),
    /// Over, but the disk does not say so.
    #[error(
        "the drain is over, but drains.json of the key directory cannot be written, so it may be back after a restart until this \
         node reads the shared state: {0}"
    )]
    EndNotKept(#[source] io::Error),
}

impl Drain {
    fn lock(&self) -> MutexGuard<'_, Drains> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drains a node, or this one. That of this one is in force at once; that of another node must be in the shared state first.
    ///
    /// # Errors
    /// [`DrainError`]; after [`DrainError::NotKept`] it is in force nevertheless.
    pub async fn begin(&self, node: Option<NodeId>, by: &str) -> Result<Begun, DrainError> {
        match (&self.fleet, node) {
            (None, None) => Ok(self.begin_alone(by)),
            (None, Some(_)) => Err(DrainError::Alone),
            (Some(fleet), Some(node)) if node != fleet.own() => self.begin_elsewhere(fleet, node, by).await,
            (Some(fleet), _) => self.begin_here(fleet, by).await,
        }
    }

    fn begin_alone(&self, by: &str) -> Begun {
        let mut drains = self.lock();
        let already = drains.by_operator.as_ref().map(|drain| drain.by.clone());
        drains.by_operator.get_or_insert_with(|| Draining { by: by.to_owned(), since: unix_now() });
        Begun { already, reach: Reach::ThisMachine }
    }

    /// Ends the drain of a node, or of this one. In a fleet the end must be in the shared state first. That of a rollout ends with its
    /// step.
    ///
    /// # Errors
    /// [`DrainError`]; after [`DrainError::EndNotKept`] it is over nevertheless.
    pub async fn end(&self, node: Option<NodeId>, by: &str) -> Result<Ended, DrainError> {
        let is_over = match (&self.fleet, node) {
            (None, None) => self.lock().by_operator.take().is_some(),
            (None, Some(_)) => return Err(DrainError::Alone),
            (Some(fleet), node) => self.end_everywhere(fleet, node.unwrap_or(fleet.own()), by).await?,
        };
        Ok(if is_over { Ended::Done } else { Ended::WasNone })
    }

    /// Starts that of a rollout; `None` ends it.
    pub fn of_rollout(&self, by: Option<String>) {
        let mut drains = self.lock();
        drains.by_rollout = match (by, drains.by_rollout.take()) {
            (Some(_), Some(before)) => Some(before),
            (by, _) => by.map(|by| Draining { by, since: unix_now() }),
        };
    }

    /// Whether a rollout drains this KMS.
    pub fn is_of_rollout(&self) -> bool {
        self.lock().by_rollout.is_some()
    }

    /// The drain in progress.
    pub fn current(&self) -> Option<Draining> {
        let drains = self.lock();
        let own = self.fleet.as_ref().and_then(|fleet| drains.nodes.get(&fleet.own()));
        let in_fleet = own.map(|record| Draining { by: record.by.clone(), since: record.since });
        in_fleet.or_else(|| drains.by_operator.as_ref().or(drains.by_rollout.as_ref()).cloned())
    }

    /// The nodes of the fleet that operators drain.
    pub fn nodes(&self) -> Vec<DrainRecord> {
        self.lock().nodes.values().cloned().collect()
    }
}
