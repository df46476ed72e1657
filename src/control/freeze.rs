//! Freezes: an operator stops releases to a target, whatever the policy allows. They survive restarts.
//!
//! A freeze is in force in memory before it is written, even if the disk fails, and is on the disk before the
//! call returns. An unfreeze is in the audit log before it is on the disk, and on the disk before it takes
//! effect. So whenever the process stops, acknowledged changes hold, and what was not acknowledged is still
//! frozen.
//!
//! An expired freeze is not in force, but is kept for a while: the host controls the clock, so the expiry may
//! be wrong.

mod held;
mod recent;
mod scope;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kms_attest::identity::{DomainName, Identity};
use tokio::sync::Mutex;

use self::held::{Held, MachineTime, TellTime};
use self::recent::Recent;
pub use self::recent::RecentApps;
pub use self::scope::{Scope, ScopeError};
use super::approvals::{Approved, SeenFreeze, Unfreeze};
use super::{Author, Domains};
use crate::audit::{Audit, AuditError, Event};
use crate::metrics::Metrics;
use crate::state::{self, FreezeFile, FreezeFileError, FreezeRecord, Written};

/// The most freezes, including expired ones, which are removed first. One of the whole KMS may come on top.
pub const MAX_FREEZES: usize = 1000;
/// When so many are in force, only owners add further ones: operators cannot use up all the room.
pub const SHARE_OF_OPERATORS: usize = 900;
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
        let held = |freeze: Freeze| (freeze.scope, Arc::new(Held::new(freeze, now)));
        let entries: Entries = frozen(&file)?.into_iter().map(held).collect();
        let current = ArcSwap::from_pointee(entries);
        let freezes =
            Self { current, file: Arc::new(Mutex::new(file)), time, metrics, recent: Recent::new(), domains };
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

    /// Proof that `identity` is not frozen now.
    ///
    /// # Errors
    /// The freeze that applies to it.
    pub fn check(&self, identity: &Identity) -> Result<NotFrozen, Arc<Freeze>> {
        let current = self.current.load();
        if current.is_empty() {
            return Ok(NotFrozen(()));
        }
        let now = self.time.now();
        let frozen =
            Scope::all_of(identity).find_map(|scope| current.get(&scope).filter(|it| it.is_live(now)));
        match frozen {
            None => Ok(NotFrozen(())),
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
    /// [`FreezeError`]. After all but [`FreezeError::Full`], [`FreezeError::ShareFull`] and [`FreezeError::Shortens`]
    /// the freeze is in force nevertheless.
    pub async fn freeze(
        &self,
        freeze: Freeze,
        earlier: Earlier,
        room: Room,
        audit: &Audit,
    ) -> Result<(), FreezeError> {
        let held = Arc::new(Held::new(freeze, self.time.now()));
        let freeze = &held.freeze;
        self.insert(&held, earlier, room)?;
        let file = Arc::clone(&self.file).lock_owned().await;
        // Inserts it again: an unfreeze may have run before this change had the file, and this is the later
        // of the two. A freeze that came in between and lasts longer stays.
        self.insert(&held, earlier, room)?;
        let event = Event::Frozen {
            scope: freeze.scope.name(),
            value: hex::encode(freeze.scope.value()),
            reason: freeze.reason.clone(),
            expires_at: freeze.expires_at,
            by: freeze.author.by.clone(),
            remote: freeze.author.remote,
            domain: self.domain_of(freeze.scope),
        };
        let Written { outcome: kept, turn: _turn } = state::write(file, records(&self.kept())).await;
        tracing::warn!(what = %freeze.scope, by = freeze.author.by, reason = freeze.reason, "FROZEN");
        let recorded = audit.record(event).await;
        match (kept, recorded) {
            (Ok(()), Ok(_)) => Ok(()),
            (Err(kept), Ok(_)) => Err(FreezeError::NotKept(kept)),
            (Ok(()), Err(recorded)) => Err(FreezeError::NotRecorded(recorded)),
            (Err(kept), Err(recorded)) => Err(FreezeError::NeitherKeptNorRecorded { kept, recorded }),
        }
    }

    /// Compares and inserts in one step, so that no other freeze comes in between.
    fn insert(&self, new: &Arc<Held>, earlier: Earlier, room: Room) -> Result<(), FreezeError> {
        let now = self.time.now();
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
    /// [`FreezeError`]; the freeze then stays.
    pub async fn unfreeze(
        &self,
        approved: &Approved<Unfreeze>,
        audit: &Audit,
    ) -> Result<Unfrozen, FreezeError> {
        let Unfreeze { reason, freeze, .. } = approved.action();
        let scope = approved.action().scope()?;
        self.lift(scope, freeze.as_ref(), approved.author().clone(), reason.clone(), audit).await
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
        let file = Arc::clone(&self.file).lock_owned().await;
        let mut entries = self.kept();
        let thaw = match entries.remove(&scope) {
            None => return Ok(Unfrozen::WasNotFrozen),
            Some(held) if seen.is_some_and(|seen| *seen != SeenFreeze::from(&*held.freeze)) => {
                return Err(FreezeError::Changed { current: Arc::clone(&held.freeze) });
            }
            Some(held) if held.is_live(self.time.now()) => Unfrozen::Done,
            Some(_) => Unfrozen::WasNotFrozen,
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
        let Written { outcome, turn: _turn } = state::write(file, records(&entries)).await;
        outcome.map_err(FreezeError::UnfreezeNotKept)?;
        tracing::warn!(what = %scope, by = author.by, "no longer frozen");
        self.current.rcu(|current| {
            let mut entries = Entries::clone(current);
            entries.remove(&scope);
            entries
        });
        self.count();
        Ok(thaw)
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

/// Parses the entries of the file.
fn frozen(file: &FreezeFile) -> Result<Vec<Freeze>, FreezeFileError> {
    let records = file.read()?;
    let found = records.iter().filter(|record| record.scope != Scope::Kms.name()).count();
    if found > MAX_FREEZES {
        return Err(FreezeFileError::Damaged(format!(
            "at most {MAX_FREEZES} entries beside that of the KMS are allowed, got {found}"
        )));
    }
    records.into_iter().map(|record| Freeze::try_from(record).map_err(FreezeFileError::Damaged)).collect()
}

fn records(entries: &Entries) -> Vec<FreezeRecord> {
    entries.values().map(|held| FreezeRecord::from(&*held.freeze)).collect()
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
