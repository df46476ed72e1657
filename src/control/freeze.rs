//! Freezes: what an operator has stopped, whoever the policy allows. Kept over restarts.
//!
//! A freeze counts in memory before it is on the disk, whatever the disk does, and is on the disk before it is answered. An
//! unfreeze is in the audit log before it is on the disk, and on the disk before it counts. Whenever the process stops, what
//! was answered holds, and what was not answered is still frozen.
//!
//! A freeze that has ended does not count, but is kept for a while: the host controls the clock, so an expiry may be wrong.

mod held;
mod recent;
mod scope;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kms_attest::identity::BootInfo;
use tokio::sync::Mutex;

use self::held::{Held, MachineTime, TellTime};
use self::recent::Recent;
pub use self::recent::RecentApps;
pub use self::scope::{Scope, ScopeError};
use super::Author;
use crate::audit::{Audit, AuditError, Event};
use crate::metrics::Metrics;
use crate::state::{self, FreezeFile, FreezeFileError, FreezeRecord, Written};

/// Most freezes at a time, those that have ended and are still kept included: they give way.
pub const MAX_FREEZES: usize = 1000;
/// The longest reason in bytes.
pub const MAX_REASON: usize = 500;

/// One freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// What is frozen.
    pub scope: Scope,
    /// For operators only; never empty.
    pub reason: String,
    /// Unix seconds.
    pub since: u64,
    /// Unix seconds at which it ends by itself.
    pub expires_at: Option<u64>,
    /// Who did it.
    pub author: Author,
}

/// Proof that an identity was not frozen a moment ago: what a permit is made with.
#[derive(Debug)]
pub struct NotFrozen(());

/// Why a freeze or an unfreeze is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// It would end before the freeze that is in force.
    #[error(
        "it is frozen already until {}, by {} ({}); nothing was changed. To let it end earlier, ask for replace",
        end(earlier), earlier.author.by, earlier.reason
    )]
    Shortens {
        /// The one in force.
        earlier: Arc<Freeze>,
    },
    /// The list is full.
    #[error("{MAX_FREEZES} freezes are in force, which is the most; nothing was changed")]
    Full,
    /// In force, but only until this process ends.
    #[error("it is frozen now, but the file that keeps freezes over restarts cannot be written: {0}")]
    NotKept(#[source] std::io::Error),
    /// In force and kept, but not in the audit log.
    #[error("it is frozen now and over restarts, but the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// In force, but only until this process ends, and not in the audit log.
    #[error(
        "it is frozen now, but the file that keeps freezes over restarts cannot be written: {kept}; and the audit log \
         does not take the record: {recorded}"
    )]
    NeitherKeptNorRecorded {
        /// Why it is not kept.
        #[source]
        kept: std::io::Error,
        /// Why it is not recorded.
        recorded: AuditError,
    },
    /// An unfreeze that is not in the audit log does not happen.
    #[error("it is still frozen: the audit log does not take the record: {0}")]
    ThawNotRecorded(#[source] AuditError),
    /// An unfreeze that cannot be kept does not happen.
    #[error("it is still frozen: the file that keeps freezes over restarts cannot be written: {0}")]
    ThawNotKept(#[source] std::io::Error),
}

fn end(freeze: &Freeze) -> String {
    freeze.expires_at.map_or("it is taken back".to_owned(), |end| format!("{end} (Unix seconds)"))
}

/// What becomes of a freeze of the same scope that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// It is replaced if it does not last longer: what somebody else has stopped is not made to end earlier by accident.
    MayBeExtended,
    /// It is replaced, whatever its end.
    IsReplaced,
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
    /// One change at a time, from reading the old state to answering.
    file: Arc<Mutex<FreezeFile>>,
    time: Arc<dyn TellTime>,
    metrics: Arc<Metrics>,
    recent: Recent,
}

impl Freeze {
    /// Whether it would end before `other` does.
    pub fn ends_before(&self, other: &Self) -> bool {
        match (self.expires_at, other.expires_at) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(own), Some(other)) => own < other,
        }
    }
}

impl Freezes {
    /// Reads what is frozen; no file means nothing is.
    ///
    /// # Errors
    /// [`FreezeFileError`]: what is frozen is not known, so nothing may be served.
    pub fn open(path: PathBuf, metrics: Arc<Metrics>) -> Result<Self, FreezeFileError> {
        Self::open_at(path, metrics, Arc::new(MachineTime))
    }

    fn open_at(
        path: PathBuf,
        metrics: Arc<Metrics>,
        time: Arc<dyn TellTime>,
    ) -> Result<Self, FreezeFileError> {
        let file = FreezeFile::new(path);
        let now = time.now();
        let held = |freeze: Freeze| (freeze.scope, Arc::new(Held::new(freeze, now)));
        let entries: Entries = frozen(&file)?.into_iter().map(held).collect();
        let current = ArcSwap::from_pointee(entries);
        let freezes =
            Self { current, file: Arc::new(Mutex::new(file)), time, metrics, recent: Recent::new() };
        for freeze in freezes.list() {
            tracing::warn!(what = %freeze.scope, reason = freeze.reason, "FROZEN: nothing is released to it");
        }
        freezes.count();
        Ok(freezes)
    }

    /// Whether [`Freezes::open`] would take the file that is there.
    ///
    /// # Errors
    /// [`FreezeFileError`].
    pub fn inspect(path: PathBuf) -> Result<(), FreezeFileError> {
        frozen(&FreezeFile::new(path)).map(drop)
    }

    /// Proof that `identity` is not frozen at this moment.
    ///
    /// # Errors
    /// The freeze that it is in.
    pub fn check(&self, identity: &BootInfo) -> Result<NotFrozen, Arc<Freeze>> {
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

    /// The freeze of the whole KMS, if it is in force.
    pub fn of_kms(&self) -> Option<Arc<Freeze>> {
        self.of(Scope::Kms)
    }

    /// The freeze of exactly this, if it is in force.
    pub fn of(&self, scope: Scope) -> Option<Arc<Freeze>> {
        let current = self.current.load();
        let held = current.get(&scope).filter(|held| held.is_live(self.time.now()))?;
        Some(Arc::clone(&held.freeze))
    }

    /// Remembers that an app got keys or a certificate.
    pub fn note_release(&self, identity: &BootInfo) {
        self.recent.note(&identity.app_id, self.time.now().steady);
    }

    /// How many apps got keys or certificates in the last day.
    pub fn recent_apps(&self) -> RecentApps {
        self.recent.count(self.time.now().steady)
    }

    /// What is frozen now, the oldest first.
    pub fn list(&self) -> Vec<Arc<Freeze>> {
        let now = self.time.now();
        let current = self.current.load();
        let live = current.values().filter(|held| held.is_live(now));
        let mut live: Vec<_> = live.map(|held| Arc::clone(&held.freeze)).collect();
        live.sort_by_key(|freeze| (freeze.since, freeze.scope));
        live
    }

    /// Freezes, in place of an earlier freeze of the same scope. It counts at once, whatever the disk does; when this
    /// returns without an error, it is also kept and recorded. Neither is left out because the other fails.
    ///
    /// # Errors
    /// [`FreezeError`]; all but [`FreezeError::Full`] and [`FreezeError::Shortens`] say that it is frozen nevertheless.
    pub async fn freeze(&self, freeze: Freeze, earlier: Earlier, audit: &Audit) -> Result<(), FreezeError> {
        let held = Arc::new(Held::new(freeze, self.time.now()));
        let freeze = &held.freeze;
        self.insert(&held, earlier)?;
        let file = Arc::clone(&self.file).lock_owned().await;
        // An unfreeze that had the turn before us has taken it back: this is the later of the two. A freeze that came
        // between and lasts longer stays.
        self.insert(&held, earlier)?;
        let event = Event::Frozen {
            scope: freeze.scope.name(),
            value: hex::encode(freeze.scope.value()),
            reason: freeze.reason.clone(),
            expires_at: freeze.expires_at,
            by: freeze.author.by.clone(),
            remote: freeze.author.remote,
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

    /// One step: no other freeze comes between the look at the earlier one and the change.
    fn insert(&self, new: &Arc<Held>, earlier: Earlier) -> Result<(), FreezeError> {
        let now = self.time.now();
        let mut outcome = Ok(());
        self.current.rcu(|current| match held::with(current, new, earlier, now) {
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

    /// Takes a freeze back; also one that has ended, which no clock brings back then.
    ///
    /// # Errors
    /// [`FreezeError`]; it stays frozen then.
    pub async fn unfreeze(
        &self,
        scope: Scope,
        author: Author,
        reason: String,
        audit: &Audit,
    ) -> Result<Unfrozen, FreezeError> {
        let file = Arc::clone(&self.file).lock_owned().await;
        let mut entries = self.kept();
        let thaw = match entries.remove(&scope) {
            None => return Ok(Unfrozen::WasNotFrozen),
            Some(held) if held.is_live(self.time.now()) => Unfrozen::Done,
            Some(_) => Unfrozen::WasNotFrozen,
        };
        let event = Event::Unfrozen {
            scope: scope.name(),
            value: hex::encode(scope.value()),
            reason,
            by: author.by.clone(),
            remote: author.remote,
        };
        let _ = audit.record(event).await.map_err(FreezeError::ThawNotRecorded)?;
        let Written { outcome, turn: _turn } = state::write(file, records(&entries)).await;
        outcome.map_err(FreezeError::ThawNotKept)?;
        tracing::warn!(what = %scope, by = author.by, "no longer frozen");
        self.current.rcu(|current| {
            let mut entries = Entries::clone(current);
            entries.remove(&scope);
            entries
        });
        self.count();
        Ok(thaw)
    }

    /// Shows in the metrics what is in force; called now and then, for freezes that end by themselves.
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

/// What the file keeps.
fn frozen(file: &FreezeFile) -> Result<Vec<Freeze>, FreezeFileError> {
    let records = file.read()?;
    if records.len() > MAX_FREEZES {
        let found = records.len();
        return Err(FreezeFileError::Damaged(format!(
            "at most {MAX_FREEZES} entries are allowed, got {found}"
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
