//! The rollout in the state that nodes share.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Current, DOCUMENT, Rollouts};
use crate::audit::Audit;
use crate::control::adopted::{AdoptedChange, note_adopted};
use crate::state::rollout;
use crate::state::shared::{AdoptError, Arrival, Document, Provenance};

/// The rollout, as the shared state sees it. It is kept in memory only: where no other node is, nothing is rolled out.
#[derive(Debug)]
pub struct SharedRollout {
    rollouts: Arc<Rollouts>,
    audit: Arc<Audit>,
}

impl SharedRollout {
    /// What other nodes change is recorded in `audit`.
    pub fn new(rollouts: Arc<Rollouts>, audit: Arc<Audit>) -> Self {
        Self { rollouts, audit }
    }

    /// Records what changed as a whole: steps are in the log of the node that the driver called.
    fn record(&self, before: &Current, after: &Current, from: &Provenance) {
        let whole = |current: &Current| match current {
            Current::Known(rollout) => Some((rollout.id.clone(), rollout.state.name())),
            Current::None | Current::Unreadable(_) => None,
        };
        let (before, after) = (whole(before), whole(after));
        let changed = after.as_ref().filter(|_| before != after);
        note_adopted(&self.audit, DOCUMENT, from, changed.as_slice(), |(id, state)| {
            AdoptedChange::of(format!("the rollout {id}, which is {state},"), from)
        });
    }
}

impl Document for SharedRollout {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        match (there, &*self.rollouts.current()) {
            (None, Current::Known(rollout)) => rollout::content(rollout).map(Some),
            (Some(_), _) | (None, Current::None | Current::Unreadable(_)) => Ok(None),
        }
    }

    fn has_news(&self) -> bool {
        false
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            // A document of a later version must not make the nodes stale that are still to be replaced.
            let after = match rollout::parse(body) {
                Ok(rollout) => Current::Known(Box::new(rollout)),
                Err(problem) => {
                    tracing::warn!(problem, "the rollout in the shared state cannot be read here");
                    Current::Unreadable(problem)
                }
            };
            let before = self.rollouts.current();
            if !matches!(from.arrival, Arrival::Own | Arrival::Joined) {
                self.record(&before, &after, from);
            }
            self.rollouts.put(after);
            Ok(())
        })
    }
}
