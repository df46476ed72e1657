//! Freezes: an operator stops releases to a target, whatever the policy allows. They survive restarts.
//!
//! A freeze is in force in memory before it is written, even if the disk fails, and is on the disk before the
//! call returns. An unfreeze is in the audit log before it is on the disk, and on the disk before it takes
//! effect. So whenever the process stops, acknowledged changes hold, and what was not acknowledged is still
//! frozen.
//!
//! An expired freeze is not in force, but is kept for a while: the host controls the clock, so the expiry may
//! be wrong.

mod error;
mod fleet;
mod held;
mod recent;
mod records;
mod scope;
mod unfreeze;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex};

use arc_swap::ArcSwap;
use kms_attest::identity::{DomainName, Identity};
use tokio::sync::Mutex;

pub use self::error::FreezeError;
use self::fleet::Lift;
pub use self::fleet::SharedFreezes;
use self::held::{Held, MachineTime, Sharing, TellTime};
use self::recent::Recent;
pub use self::recent::RecentApps;
use self::records::{Kept, frozen, records};
pub use self::scope::{Scope, ScopeError};
use super::{Author, Domains, Reach, Store};
use crate::audit::{Audit, Event};
use crate::metrics::Metrics;
use crate::state::shared::{DatabaseError, Stale, Unshared, View};
use crate::state::{self, FreezeFile, FreezeFileError, Written};

/// The most freezes, including expired ones, which are removed first. One of the whole KMS may come on top.
pub const MAX_FREEZES: usize = 1000;
/// When so many are in force, only owners add further ones: operators cannot use up all the room.
pub const SHARE_OF_OPERATORS: usize = 900;
/// The most freezes of a fleet, as [`MAX_FREEZES`]: nodes that freeze at once may exceed that.
const MAX_SHARED: usize = 4 * MAX_FREEZES;
/// The longest reason in bytes.
pub const MAX_REASON: usize = 500;

/// One freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// The target.
    pub scope: Scope,
    /// For operators only; never empty.
    pub reason: String,
    /// When it began, Unix seconds.
    pub since: u64,
    /// When it expires, Unix seconds; `None` if never.
    pub expires_at: Option<u64>,
    /// Who set it.
    pub author: Author,
}

/// Proof that an identity was just checked against the freezes; a permit needs one.
#[derive(Debug)]
pub struct NotFrozen(());

/// Why nothing is released to an identity.
#[derive(Debug, Clone)]
pub enum Stopped {
    /// This freeze applies to it.
    Frozen(Arc<Freeze>),
    /// Whether one does is not known, because other nodes may have set one.
    Stale(Stale),
}

/// What happens to a freeze of the same scope that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// The new freeze must not end sooner, so that an operator cannot shorten another one's freeze by accident.
    MayBeExtended,
    /// It is replaced, whatever its end.
    IsReplaced,
}

/// How many freezes may be in force when one is added. The freeze of the whole KMS needs no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// [`MAX_FREEZES`].
    OfOwners,
    /// [`SHARE_OF_OPERATORS`].
    OfOperators,
}

impl Room {
    fn most(self) -> usize {
        match self {
            Self::OfOwners => MAX_FREEZES,
            Self::OfOperators => SHARE_OF_OPERATORS,
        }
    }

    fn exhausted(self) -> FreezeError {
        match self {
            Self::OfOwners => FreezeError::Full,
            Self::OfOperators => FreezeError::ShareFull,
        }
    }
}

/// Whether an unfreeze changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfrozen {
    /// It was frozen.
    Done,
    /// It was not.
    WasNotFrozen,
}

type Entries = HashMap<Scope, Arc<Held>>;

/// All freezes of this KMS.
#[derive(Debug)]
pub struct Freezes {
    current: ArcSwap<Entries>,
    /// Serializes changes, from reading the old state to the response.
    file: Arc<Mutex<FreezeFile>>,
    time: Arc<dyn TellTime>,
    metrics: Arc<Metrics>,
    recent: Recent,
    /// Records name the domain of an app.
    domains: Arc<Domains>,
    store: Store,
    /// Whether the file is that of a node of a fleet.
    was_shared: bool,
    /// The freezes that are being ended on all nodes.
    lifts: StdMutex<Vec<Arc<Lift>>>,
}

impl Freeze {
    /// Whether it would end before `other`.
    pub fn ends_before(&self, other: &Self) -> bool {
        match (self.expires_at, other.expires_at) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(own), Some(other)) => own < other,
        }
    }
}

impl Freezes {
    /// Reads the freezes; a missing file means there are none.
    ///
    /// # Errors
    /// [`FreezeFileError`]: the freezes are unknown, so nothing may be served.
    pub fn open(
        path: PathBuf,
        metrics: Arc<Metrics>,
        domains: Arc<Domains>,
    ) -> Result<Self, FreezeFileError> {
        Self::open_at(path, metrics, domains, Arc::new(MachineTime))
    }

    fn open_at(
        path: PathBuf,
        metrics: Arc<Metrics>,
        domains: Arc<Domains>,
        time: Arc<dyn TellTime>,
    ) -> Result<Self, FreezeFileError> {
        let file = FreezeFile::new(path);
        let now = time.now();
        let Kept { freezes, was_shared } = frozen(&file)?;
        let held = |(freeze, sharing): (Freeze, Sharing)| {
            (freeze.scope, Arc::new(Held::new(freeze, now).with(sharing)))
        };
        let entries: Entries = freezes.into_iter().map(held).collect();
        let current = ArcSwap::from_pointee(entries);
        let freezes = Self {
            current,
            file: Arc::new(Mutex::new(file)),
            time,
            metrics,
            recent: Recent::new(),
            domains,
            store: Store::File,
            was_shared,
            lifts: StdMutex::default(),
        };
        for freeze in freezes.list() {
            tracing::warn!(what = %freeze.scope, reason = freeze.reason, "FROZEN: nothing is released to it");
        }
        freezes.count();
        Ok(freezes)
    }

    /// Whether [`Freezes::open`] would accept the existing file.
    ///
    /// # Errors
    /// [`FreezeFileError`].
    pub fn inspect(path: PathBuf) -> Result<(), FreezeFileError> {
        frozen(&FreezeFile::new(path)).map(drop)
    }

    /// How old what this node knows of the freezes of others is; `None` without others.
    pub fn view(&self) -> Option<&View> {
        self.store.view()
    }

    /// Proof that `identity` is not frozen now, on no node of the fleet.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn check(&self, identity: &Identity) -> Result<NotFrozen, Stopped> {
        self.here(identity).map_err(Stopped::Frozen)?;
        match self.view().map(View::check) {
            Some(Err(stale)) => Err(Stopped::Stale(stale)),
            Some(Ok(())) | None => Ok(NotFrozen(())),
        }
    }

    /// Checks `identity` against the freezes that are known here.
    fn here(&self, identity: &Identity) -> Result<(), Arc<Freeze>> {
        let current = self.current.load();
        if current.is_empty() {
            return Ok(());
        }
        let now = self.time.now();
        let frozen =
            Scope::all_of(identity).find_map(|scope| current.get(&scope).filter(|it| it.is_live(now)));
        match frozen {
            None => Ok(()),
            Some(held) => Err(Arc::clone(&held.freeze)),
        }
    }

    /// The freeze of the whole KMS, if one is in force.
    pub fn of_kms(&self) -> Option<Arc<Freeze>> {
        self.of(Scope::Kms)
    }

    /// The freeze of exactly this scope, if one is in force.
    pub fn of(&self, scope: Scope) -> Option<Arc<Freeze>> {
        let current = self.current.load();
        let held = current.get(&scope).filter(|held| held.is_live(self.time.now()))?;
        Some(Arc::clone(&held.freeze))
    }

    /// Whether the freeze of exactly this scope is in the state that the nodes of a fleet share; `None` without one, and without
    /// other nodes.
    pub fn is_shared(&self, scope: Scope) -> Option<bool> {
        self.view()?;
        Some(self.current.load().get(&scope)?.sharing == Sharing::Settled)
    }

    /// Notes that an app of a domain received keys or a certificate by a method.
    pub fn note_release(&self, identity: &Identity, domain: &DomainName, method: &'static str) {
        self.metrics.released_in(domain.as_str(), method);
        self.recent.note(identity.app_id, self.time.now().steady);
    }

    /// How many apps received keys or certificates in the last day.
    pub fn recent_apps(&self) -> RecentApps {
        self.recent.count(self.time.now().steady)
    }

    /// The freezes in force, oldest first.
    pub fn list(&self) -> Vec<Arc<Freeze>> {
        let now = self.time.now();
        let current = self.current.load();
        let live = current.values().filter(|held| held.is_live(now));
        let mut live: Vec<_> = live.map(|held| Arc::clone(&held.freeze)).collect();
        live.sort_by_key(|freeze| (freeze.since, freeze.scope));
        live
    }

    /// Adds a freeze, or replaces one of the same scope. It is in force at once, whatever the disk does; when
    /// this returns without an error, it is also saved and recorded. Each of the two is attempted even if the
    /// other fails.
    ///
    /// # Errors
    /// [`FreezeError`]. After all but [`FreezeError::Full`], [`FreezeError::ShareFull`], [`FreezeError::Shortens`],
    /// [`FreezeError::ShortensHere`] and [`FreezeError::UnfreezeNotShared`] the freeze is in force nevertheless.
    pub async fn freeze(
        &self,
        freeze: Freeze,
        mut earlier: Earlier,
        room: Room,
        audit: &Audit,
    ) -> Result<Reach, FreezeError> {
        let sharing = match self.store {
            Store::File => Sharing::Settled,
            Store::Shared(_) => Sharing::Unshared,
        };
        let held = Arc::new(Held::new(freeze, self.time.now()).with(sharing));
        let freeze = &held.freeze;
        let is_shared = match &self.store {
            Store::Shared(shared)
                if self.of(freeze.scope).is_some_and(|current| freeze.ends_before(&current)) =>
            {
                let shared = Arc::clone(shared);
                match std::mem::replace(&mut earlier, Earlier::MayBeExtended) {
                    Earlier::IsReplaced => self.shorten_everywhere(&shared, freeze).await?,
                    Earlier::MayBeExtended => self.freeze_again(&shared, freeze).await?,
                }
            }
            Store::Shared(_) | Store::File => false,
        };
        if !is_shared {
            self.insert(&held, earlier, room)?;
        }
        let file = Arc::clone(&self.file).lock_owned().await;
        if !is_shared {
            // Inserts it again: an unfreeze may have run before this change had the file, and this is the later
            // of the two. A freeze that came in between and lasts longer stays.
            self.insert(&held, earlier, room)?;
        }
        let event = Event::Frozen {
            scope: freeze.scope.name(),
            value: hex::encode(freeze.scope.value()),
            reason: freeze.reason.clone(),
            expires_at: freeze.expires_at,
            by: freeze.author.by.clone(),
            remote: freeze.author.remote,
            domain: self.domain_of(freeze.scope),
        };
        let Written { outcome: kept, turn } = state::write(file, records(&self.kept(), &self.store)).await;
        tracing::warn!(what = %freeze.scope, by = freeze.author.by, reason = freeze.reason, "FROZEN");
        let recorded = audit.record(event).await;
        // The shared state is adopted with the file.
        drop(turn);
        let reach = if is_shared { Reach::Fleet } else { self.share(freeze.scope).await };
        match (kept, recorded) {
            (Ok(()), Ok(_)) => Ok(reach),
            (Err(kept), Ok(_)) => Err(FreezeError::NotKept(kept)),
            (Ok(()), Err(recorded)) => Err(FreezeError::NotRecorded(recorded)),
            (Err(kept), Err(recorded)) => Err(FreezeError::NeitherKeptNorRecorded { kept, recorded }),
        }
    }

    /// Compares and inserts in one step, so that no other freeze comes in between. An unfreeze that has begun is the earlier of the two.
    fn insert(&self, new: &Arc<Held>, earlier: Earlier, room: Room) -> Result<(), FreezeError> {
        let now = self.time.now();
        // What is refused ends no unfreeze.
        held::with(&self.current.load(), new, earlier, room, now)?;
        self.overtake_lifts(new.freeze.scope);
        let mut outcome = Ok(());
        self.current.rcu(|current| match held::with(current, new, earlier, room, now) {
            Ok(entries) => {
                outcome = Ok(());
                Arc::new(entries)
            }
            Err(full) => {
                outcome = Err(full);
                Arc::clone(current)
            }
        });
        self.count();
        outcome
    }

    /// The freeze of exactly this scope, in force or expired.
    pub fn kept_of(&self, scope: Scope) -> Option<Arc<Freeze>> {
        Some(Arc::clone(&self.kept().get(&scope)?.freeze))
    }

    /// Updates the metrics; called periodically, because freezes expire by themselves.
    pub fn count(&self) {
        let live = self.list();
        for name in Scope::NAMES {
            let count = live.iter().filter(|freeze| freeze.scope.name() == name).count();
            self.metrics.set_frozen(name, count);
        }
    }

    fn kept(&self) -> Entries {
        held::kept(&self.current.load(), self.time.now())
    }
}

/// Why an unfreeze was not made, for the log; `None` if it was, or if that is not known.
fn because(error: &FreezeError) -> Option<String> {
    match error {
        FreezeError::UnfreezeLeftOnDisk(_)
        | FreezeError::UnfreezeNotShared(Unshared::Database(DatabaseError::Unconfirmed)) => None,
        FreezeError::UnfreezeNotKept(_) => Some("the file that keeps freezes cannot be written".to_owned()),
        FreezeError::UnfreezeNotShared(unshared) => Some(unshared.to_string()),
        FreezeError::Changed { .. } | FreezeError::FrozenAgain { .. } => {
            Some("another operator froze it again".to_owned())
        }
        FreezeError::Shortens { .. }
        | FreezeError::ShortensHere { .. }
        | FreezeError::Full
        | FreezeError::ShareFull
        | FreezeError::NotKept(_)
        | FreezeError::NotRecorded(_)
        | FreezeError::NeitherKeptNorRecorded { .. }
        | FreezeError::Scope(_)
        | FreezeError::UnfreezeNotRecorded(_)
        | FreezeError::UnfreezeUnsynced(_)
        | FreezeError::NotSeen => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
