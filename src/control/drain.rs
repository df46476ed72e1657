//! Drain: load balancers send requests elsewhere, while requests that still arrive are served.

use std::sync::{Mutex, PoisonError};

use super::Author;
use crate::clock::unix_now;

/// Whether an operator drains this KMS. It is not kept over a restart: a KMS that an operator starts is meant to
/// serve.
#[derive(Debug, Default)]
pub struct Drain(Mutex<Drains>);

#[derive(Debug, Default)]
struct Drains {
    by_operator: Option<Draining>,
    by_rollout: Option<Draining>,
}

/// A drain in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// Who started it.
    pub author: Author,
    /// Unix seconds.
    pub since: u64,
}

impl Drain {
    /// Starts it; `false` if it was in progress already.
    pub fn begin(&self, author: Author) -> bool {
        let mut drains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = drains.by_operator.is_none();
        if begins {
            drains.by_operator = Some(Draining { author, since: unix_now() });
        }
        begins
    }

    /// Ends it; `false` if there was none. That of a rollout ends with its step.
    pub fn end(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_operator.take().is_some()
    }

    /// Starts that of a rollout; `None` ends it.
    pub fn of_rollout(&self, author: Option<Author>) {
        let mut drains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drains.by_rollout = match (author, drains.by_rollout.take()) {
            (Some(_), Some(before)) => Some(before),
            (author, _) => author.map(|author| Draining { author, since: unix_now() }),
        };
    }

    /// Whether a rollout drains this KMS.
    pub fn is_of_rollout(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_rollout.is_some()
    }

    /// The drain in progress.
    pub fn current(&self) -> Option<Draining> {
        let drains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drains.by_operator.as_ref().or(drains.by_rollout.as_ref()).cloned()
    }
}
