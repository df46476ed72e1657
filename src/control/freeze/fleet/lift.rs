//! Freezes that are being ended on all nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::held::Sharing;
use super::super::{Entries, Freeze, Freezes, Scope};

/// A freeze that is being ended on all nodes: what this node has of it is not written there again, unless it is frozen again meanwhile.
#[derive(Debug)]
pub(in super::super) struct Lift {
    pub(super) scope: Scope,
    /// The freeze that replaces it.
    pub(super) by: Option<Freeze>,
    /// By a later freeze, which must not be ended with it.
    pub(super) overtaken: AtomicBool,
}

/// Notes that a freeze came later than these.
pub(super) fn overtake(lifts: &[Arc<Lift>]) {
    lifts.iter().for_each(|lift| lift.overtaken.store(true, Ordering::Release));
}

impl Lift {
    pub(super) fn is_overtaken(&self) -> bool {
        self.overtaken.load(Ordering::Acquire)
    }
}

/// Ends a freeze until it is dropped.
pub(in super::super) struct Lifting<'a> {
    pub(super) freezes: &'a Freezes,
    pub(super) lift: Arc<Lift>,
}

impl<'a> Lifting<'a> {
    pub(in super::super) fn begin(freezes: &'a Freezes, scope: Scope) -> Self {
        Self::begin_replacing(freezes, scope, None)
    }

    pub(super) fn begin_replacing(freezes: &'a Freezes, scope: Scope, by: Option<Freeze>) -> Self {
        let lift = Arc::new(Lift { scope, by, overtaken: AtomicBool::new(false) });
        freezes.lifts().push(Arc::clone(&lift));
        Self { freezes, lift }
    }

    /// Ends what only this node has of it: whether there was something.
    ///
    /// # Errors
    /// It was frozen again here meanwhile, and this is in force.
    pub(super) fn take(&self) -> Result<bool, Arc<Freeze>> {
        let scope = self.lift.scope;
        let mut was_here = false;
        self.freezes.current.rcu(|current| {
            // What is in the shared state now, another operator froze after this end.
            let is_own = current.get(&scope).is_some_and(|held| held.sharing == Sharing::Unshared);
            was_here = is_own && !self.lift.is_overtaken();
            let mut entries = Entries::clone(current);
            if was_here {
                entries.remove(&scope);
            }
            entries
        });
        self.freezes.count();
        match self.freezes.of(scope) {
            Some(again) if self.lift.is_overtaken() => Err(again),
            Some(_) | None => Ok(was_here),
        }
    }
}

impl Drop for Lifting<'_> {
    fn drop(&mut self) {
        self.freezes.lifts().retain(|lift| !Arc::ptr_eq(lift, &self.lift));
    }
}
