//! Drain: load balancers send requests elsewhere, while requests that still arrive are served.

use std::sync::{Mutex, PoisonError};

use super::Author;
use crate::clock::unix_now;

/// Whether an operator drains this KMS. It is not kept over a restart: a KMS that an operator starts is meant to
/// serve.
#[derive(Debug, Default)]
pub struct Drain(Mutex<Option<Draining>>);

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
        let mut draining = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = draining.is_none();
        if begins {
            *draining = Some(Draining { author, since: unix_now() });
        }
        begins
    }

    /// Ends it; `false` if there was none.
    pub fn end(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    /// The drain in progress.
    pub fn current(&self) -> Option<Draining> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
