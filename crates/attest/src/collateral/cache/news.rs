//! Collateral that was refused because it is older than what was seen, or not what was written: for the log of the operators.

use std::collections::HashSet;

/// Different refusals that are told during the life of a process. Each is told once.
const MAX_TOLD: usize = 64;

/// Where collateral came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A collateral service.
    Service,
    /// The disk.
    Disk,
}

impl Source {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Disk => "disk",
        }
    }
}

/// A refusal. It names no service and no path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RefusedSet {
    /// Where the collateral came from.
    pub source: Source,
    /// Why it was refused.
    pub reason: String,
}

/// Refusals that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct News {
    told: HashSet<RefusedSet>,
    fresh: Vec<RefusedSet>,
}

impl News {
    /// What was noted since the last call.
    pub(super) fn take(&mut self) -> Vec<RefusedSet> {
        std::mem::take(&mut self.fresh)
    }

    /// Notes a refusal, the first time.
    pub(super) fn refuse(&mut self, source: Source, reason: &impl ToString) {
        let refused = RefusedSet { source, reason: reason.to_string() };
        if self.told.len() < MAX_TOLD && self.told.insert(refused.clone()) {
            self.fresh.push(refused);
        }
    }
}
