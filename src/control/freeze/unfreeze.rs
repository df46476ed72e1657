//! Ends freezes.

use std::sync::Arc;
use std::time::Duration;

use super::super::approvals::{Approved, SeenFreeze, Unfreeze};
use super::super::{Author, Store};
use super::error::FreezeError;
use super::fleet::Lifting;
use super::records::records;
use super::scope::Scope;
use super::{Entries, Freezes, Unfrozen, because};
use crate::audit::{Audit, Event};
use crate::state::{self, Written};

/// How long an unfreeze waits to learn what other nodes have frozen.
const LEARN_TIME: Duration = Duration::from_secs(5);

impl Freezes {
    /// Removes a freeze, even an expired one, so that no change of the clock revives it.
    ///
    /// # Errors
    /// [`FreezeError`]; the freeze then stays, except for [`FreezeError::UnfreezeUnsynced`] and
    /// [`FreezeError::UnfreezeLeftOnDisk`].
    pub async fn unfreeze(
        &self,
        approved: &Approved<Unfreeze>,
        audit: &Audit,
    ) -> Result<Unfrozen, FreezeError> {
        let Unfreeze { reason, freeze, .. } = approved.action();
        let scope = approved.action().scope()?;
        self.lift(scope, freeze.as_ref(), approved.author().clone(), reason.clone(), audit).await
    }

    /// Waits until this node knows whether another one has frozen `scope`, unless that is in force here.
    ///
    /// # Errors
    /// [`FreezeError::NotSeen`].
    pub async fn learn(&self, scope: Scope) -> Result<(), FreezeError> {
        let Some(view) = self.view() else { return Ok(()) };
        let is_known = self.of(scope).is_some() || view.reaches_now(LEARN_TIME).await;
        if is_known || self.of(scope).is_some() { Ok(()) } else { Err(FreezeError::NotSeen) }
    }

    /// Removes the freeze of `scope`; only the one that was `seen`, if one was.
    pub(super) async fn lift(
        &self,
        scope: Scope,
        seen: Option<&SeenFreeze>,
        author: Author,
        reason: String,
        audit: &Audit,
    ) -> Result<Unfrozen, FreezeError> {
        self.learn(scope).await?;
        let file = Arc::clone(&self.file).lock_owned().await;
        let mut entries = self.kept();
        let seen = seen.cloned();
        let thaw = match entries.remove(&scope) {
            None => return Ok(Unfrozen::WasNotFrozen),
            Some(held) if seen.as_ref().is_some_and(|seen| *seen != SeenFreeze::from(&*held.freeze)) => {
                return Err(FreezeError::Changed { current: Arc::clone(&held.freeze) });
            }
            Some(held) if held.is_live(self.time.now()) => Unfrozen::Done,
            Some(_) => Unfrozen::WasNotFrozen,
        };
        // A freeze from now on is the later of the two.
        let shared = match &self.store {
            Store::File => None,
            Store::Shared(shared) => Some((Arc::clone(shared), Lifting::begin(self, scope))),
        };
        let event = Event::Unfrozen {
            scope: scope.name(),
            value: hex::encode(scope.value()),
            reason,
            by: author.by.clone(),
            remote: author.remote,
            domain: self.domain_of(scope),
        };
        let _ = audit.record(event).await.map_err(FreezeError::UnfreezeNotRecorded)?;
        if let Some((shared, lifting)) = shared {
            // The shared state is adopted with the file.
            drop(file);
            let lifted = self.lift_everywhere(&shared, lifting, seen, &author).await;
            let was_there =
                lifted.inspect_err(|error| self.note_failure(scope, because(error), &author, audit))?;
            if !was_there {
                self.note_failure(scope, Some("it had ended already".to_owned()), &author, audit);
                return Ok(Unfrozen::WasNotFrozen);
            }
            tracing::warn!(what = %scope, by = author.by, "no longer frozen, on all nodes");
            return Ok(thaw);
        }
        let Written { outcome, turn: _turn } =
            state::write_and_tell(file, records(&entries, &self.store)).await;
        let replaced = outcome.map_err(FreezeError::UnfreezeNotKept);
        let replaced =
            replaced.inspect_err(|error| self.note_failure(scope, because(error), &author, audit))?;
        tracing::warn!(what = %scope, by = author.by, "no longer frozen");
        self.current.rcu(|current| {
            let mut entries = Entries::clone(current);
            entries.remove(&scope);
            entries
        });
        self.count();
        replaced.safely().map_err(FreezeError::UnfreezeUnsynced)?;
        Ok(thaw)
    }

    /// Notes that an unfreeze that is in the log was not made: the log must not say last what is not so.
    fn note_failure(&self, scope: Scope, reason: Option<String>, author: &Author, audit: &Audit) {
        let Some(reason) = reason else { return };
        audit.note(Event::UnfreezeFailed {
            scope: scope.name(),
            value: hex::encode(scope.value()),
            reason,
            by: author.by.clone(),
            remote: author.remote,
            domain: self.domain_of(scope),
        });
    }

    /// The domain of a target as records name it; a machine or an OS image has none.
    pub(super) fn domain_of(&self, scope: Scope) -> Option<String> {
        match scope {
            Scope::App(app) => self.domains.recorded(&app),
            Scope::Kms | Scope::Instance(_) | Scope::Device(_) | Scope::OsImage(_) => None,
        }
    }
}
