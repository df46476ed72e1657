//! Freezes: an operator stops releases to a target, whatever the policy allows. They survive restarts.
//!
//! A freeze is in force in memory before it is written, even if the disk fails, and is on the disk before the
//! call returns. An unfreeze is in the audit log before it is on the disk, and on the disk before it takes
//! effect. So whenever the process stops, acknowledged changes hold, and what was not acknowledged is still
//! frozen.
//!
//! An expired freeze is not in force, but is kept for a while: the host controls the clock, so the expiry may
//! be wrong.

mod fleet;
mod held;
mod recent;
mod scope;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use kms_attest::identity::{DomainName, Identity};
use tokio::sync::Mutex;

pub use self::fleet::SharedFreezes;
use self::fleet::{Lift, Lifting};
use self::held::{Held, MachineTime, Sharing, TellTime};
use self::recent::Recent;
pub use self::recent::RecentApps;
pub use self::scope::{Scope, ScopeError};
use super::approvals::{Approved, SeenFreeze, Unfreeze};
use super::{Author, Domains, Reach, Store};
use crate::audit::{Audit, AuditError, Event};
use crate::metrics::Metrics;
use crate::state::shared::{DatabaseError, Stale, Unshared, View};
use crate::state::{self, FreezeContent, FreezeFile, FreezeFileError, FreezeRecord, KeptIn, Written};

/// The most freezes, including expired ones, which are removed first. One of the whole KMS may come on top.
pub const MAX_FREEZES: usize = 1000;
/// When so many are in force, only owners add further ones: operators cannot use up all the room.
pub const SHARE_OF_OPERATORS: usize = 900;
/// The most freezes of a fleet, as [`MAX_FREEZES`]: nodes that freeze at once may exceed that.
const MAX_SHARED: usize = 4 * MAX_FREEZES;
/// How long an unfreeze waits to learn what other nodes have frozen.
const LEARN_TIME: Duration = Duration::from_secs(5);
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

/// Why a freeze or an unfreeze failed, wholly or in part.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// It would end before the freeze that is in force.
    #[error(
        "it is frozen already until {}, by {} ({}); nothing was changed. To let it end earlier, set replace",
        end(earlier), earlier.author.by, earlier.reason
    )]
    Shortens {
        /// The one in force.
        earlier: Arc<Freeze>,
    },
    /// As [`FreezeError::Shortens`], and other nodes may have ended the one in force here, which is kept.
    #[error(
        "it is frozen already until {}, by {} ({}), which stays; whether the other nodes have that freeze is not known now ({why}), \
         and they get it as soon as possible",
        end(earlier), earlier.author.by, earlier.reason
    )]
    ShortensHere {
        /// The one in force.
        earlier: Arc<Freeze>,
        /// Why it is not known.
        why: Unshared,
    },
    /// Too many freezes are in force.
    #[error("{MAX_FREEZES} freezes are in force, the maximum; nothing was changed")]
    Full,
    /// Too many freezes are in force to add one without the role owner.
    #[error(
        "{SHARE_OF_OPERATORS} freezes are in force: only an owner can add more. The whole KMS can still be frozen; \
         nothing was changed"
    )]
    ShareFull,
    /// In force, but only until this process ends.
    #[error("it is frozen now, but the file that keeps freezes over restarts cannot be written: {0}")]
    NotKept(#[source] std::io::Error),
    /// In force and saved, but not in the audit log.
    #[error("it is frozen now and after a restart, but the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// In force, but only until this process ends, and not in the audit log.
    #[error(
        "it is frozen now, but the file that keeps freezes over restarts cannot be written: {kept}; and the audit log \
         does not take the record: {recorded}"
    )]
    NeitherKeptNorRecorded {
        /// Why it is not saved.
        #[source]
        kept: std::io::Error,
        /// Why it is not recorded.
        recorded: AuditError,
    },
    /// Another freeze than the one whose end was approved.
    #[error(
        "it is still frozen: not the freeze whose end was approved is in force, but one by {} ({})",
        current.author.by, current.reason
    )]
    Changed {
        /// The one in force.
        current: Arc<Freeze>,
    },
    /// The scope is not one.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// An unfreeze that cannot be recorded does not happen.
    #[error("it is still frozen: the audit log does not take the record: {0}")]
    UnfreezeNotRecorded(#[source] AuditError),
    /// An unfreeze that cannot be saved does not happen.
    #[error("it is still frozen: the file that keeps freezes over restarts cannot be written: {0}")]
    UnfreezeNotKept(#[source] std::io::Error),
    /// It is no longer frozen, and the disk does not say that it stays so.
    #[error(
        "it is no longer frozen, but the directory of the file that keeps freezes cannot be synced, so the freeze may be back if \
         the machine stops: {0}"
    )]
    UnfreezeUnsynced(#[source] std::io::Error),
    /// It is no longer frozen on any node, but the disk does not say so.
    #[error(
        "it is no longer frozen, but the file that keeps freezes over restarts cannot be written, so the freeze may be back after \
         a restart: {0}"
    )]
    UnfreezeLeftOnDisk(#[source] std::io::Error),
    /// Another operator froze it while it was being unfrozen.
    #[error(
        "it is still frozen: it was frozen again meanwhile; in force is the freeze by {} ({})",
        current.author.by, current.reason
    )]
    FrozenAgain {
        /// The one in force.
        current: Arc<Freeze>,
    },
    /// Whether other nodes have frozen it is not known.
    #[error(
        "it is not frozen on this node, and whether it is on another one is not known now: the shared state was not read in time. \
         Nothing was changed: try again, or ask another node"
    )]
    NotSeen,
    /// An unfreeze that is not in the state of the fleet does not happen.
    #[error("{}", .0.after("it is still frozen"))]
    UnfreezeNotShared(#[from] Unshared),
}

fn end(freeze: &Freeze) -> String {
    freeze.expires_at.map_or("it is taken back".to_owned(), |end| format!("{end} (Unix seconds)"))
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
    async fn lift(
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
    fn domain_of(&self, scope: Scope) -> Option<String> {
        match scope {
            Scope::App(app) => self.domains.recorded(&app),
            Scope::Kms | Scope::Instance(_) | Scope::Device(_) | Scope::OsImage(_) => None,
        }
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
        other => Some(other.to_string()),
    }
}

/// What the file has.
struct Kept {
    freezes: Vec<(Freeze, Sharing)>,
    was_shared: bool,
}

/// Parses the entries of the file.
fn frozen(file: &FreezeFile) -> Result<Kept, FreezeFileError> {
    let FreezeContent { shared, frozen, .. } = file.read()?;
    let found = frozen.iter().filter(|record| record.scope != Scope::Kms.name()).count();
    // Beside those of the fleet, what this node could not share.
    let most = if shared { 2 * MAX_SHARED } else { MAX_FREEZES };
    if found > most {
        return Err(FreezeFileError::Damaged(format!(
            "at most {most} entries beside that of the KMS are allowed, got {found}"
        )));
    }
    let freezes = frozen.into_iter().map(|record| {
        let sharing = if record.unshared { Sharing::Unshared } else { Sharing::Settled };
        Ok((Freeze::try_from(record).map_err(FreezeFileError::Damaged)?, sharing))
    });
    Ok(Kept { freezes: freezes.collect::<Result<_, _>>()?, was_shared: shared })
}

/// The content of the file.
fn records(entries: &Entries, store: &Store) -> (Vec<FreezeRecord>, KeptIn) {
    let (kept_in, marks) = match store {
        Store::File => (KeptIn::ThisMachine, false),
        Store::Shared(_) => (KeptIn::Fleet, true),
    };
    let record = |held: &Arc<Held>| FreezeRecord {
        unshared: marks && held.sharing == Sharing::Unshared,
        ..FreezeRecord::from(&*held.freeze)
    };
    (entries.values().map(record).collect(), kept_in)
}

impl From<&Freeze> for FreezeRecord {
    fn from(freeze: &Freeze) -> Self {
        Self {
            scope: freeze.scope.name().to_owned(),
            value: freeze.scope.value().to_vec(),
            reason: freeze.reason.clone(),
            since: freeze.since,
            expires_at: freeze.expires_at,
            by: freeze.author.by.clone(),
            remote: freeze.author.remote,
            unshared: false,
        }
    }
}

impl TryFrom<FreezeRecord> for Freeze {
    type Error = String;

    fn try_from(record: FreezeRecord) -> Result<Self, String> {
        if record.reason.len() > MAX_REASON {
            return Err(format!("a reason must be at most {MAX_REASON} bytes, got {}", record.reason.len()));
        }
        Ok(Self {
            scope: Scope::parse(&record.scope, &record.value).map_err(|error| error.to_string())?,
            reason: record.reason,
            since: record.since,
            expires_at: record.expires_at,
            author: Author { by: record.by, remote: record.remote },
        })
    }
}

#[cfg(test)]
mod tests;
