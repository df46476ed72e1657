//! Where the parts of `control` keep what operators change.

use std::sync::Arc;

use crate::state::shared::{Shared, Unshared, View};

/// Where what operators change is kept, beside a file of this machine.
#[derive(Debug, Clone)]
pub enum Store {
    /// Nowhere else.
    File,
    /// In the database that the nodes of a fleet share.
    Shared(Arc<Shared>),
}

/// How far a change that is in force here has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// There are no other nodes.
    ThisMachine,
    /// It is in the state that the nodes share.
    Fleet,
    /// It is not there yet, and is written as soon as possible.
    NotYet(Unshared),
}

impl Store {
    /// How old what this node knows of the others is; `None` without others.
    pub fn view(&self) -> Option<&View> {
        match self {
            Self::File => None,
            Self::Shared(shared) => Some(shared.view()),
        }
    }
}
