//! `/api/v1/operations`: what goes on for longer than a request. It is read where it is: from the invitations of replicas and from the
//! rollout.

use std::sync::Arc;

pub use kms_wire::operation::{Operation, OperationList};

use super::joins::JoinService;
use super::rollout::RolloutService;
use crate::error::{Error, Result};

/// Shows what goes on.
#[derive(Debug)]
pub struct OperationService {
    joins: Arc<JoinService>,
    rollout: Arc<RolloutService>,
}

impl OperationService {
    /// Over the parts that have operations.
    pub fn new(joins: Arc<JoinService>, rollout: Arc<RolloutService>) -> Self {
        Self { joins, rollout }
    }

    /// All that are known, newest first.
    pub fn list(&self) -> OperationList {
        let (rollout, problem) = self.rollout.operation();
        let mut operations: Vec<_> =
            self.joins.list().joins.into_iter().map(Operation::from).chain(rollout).collect();
        operations.sort_by(|one, other| other.started_at.cmp(&one.started_at));
        OperationList { operations, problem }
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none with this id.
    pub fn show(&self, id: &str) -> Result<Operation> {
        let (rollout, problem) = self.rollout.operation();
        if let Some(rollout) = rollout.filter(|rollout| rollout.id == id) {
            return Ok(rollout);
        }
        self.joins.show(id).map(Operation::from).map_err(|_| {
            let id: String = id.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
            let why = problem.map(|problem| format!("; {problem}")).unwrap_or_default();
            Error::invalid(format!("there is no operation {id}; it may be forgotten{why}"))
                .because("operation_unknown")
        })
    }
}
