//! Freezes: what an operator has stopped, whoever the policy allows. Kept over restarts.
//!
//! A freeze counts in memory before it is on the disk, whatever the disk does, and is on the disk before it is answered. An unfreeze is in the
//! audit log before it is on the disk, and on the disk before it counts. Whenever the process stops, what was answered
//! holds, and what was not has erred on the side of the freeze.

mod file;
mod scope;

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use kms_attest::identity::BootInfo;
use tokio::sync::Mutex;

use self::file::FreezeFile;
pub use self::{
    file::FreezeFileError,
    scope::{Scope, ScopeError},
};
use crate::{
    audit::{Audit, AuditError, Event},
    metrics::Metrics,
};

/// The code of a refusal by a freeze.
pub(super) const FROZEN: &str = "frozen";
/// Most freezes at a time.
pub const MOST_FREEZES: usize = 1000;
/// The longest reason in bytes.
pub const LONGEST_REASON: usize = 500;

/// Who changed something over the admin listener, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// `token`, `user <name>` or `anyone`.
    pub by: String,
    /// The address that the request came from.
    pub remote: IpAddr,
}

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

impl Freeze {
    fn is_live(&self, now: u64) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// Proof that an identity was not frozen a moment ago: what a permit is made with.
#[derive(Debug)]
pub struct NotFrozen(());

/// Why a freeze or an unfreeze is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The list is full.
    #[error("{MOST_FREEZES} freezes are in force, which is the most; nothing was changed")]
    Full,
    /// In force, but only until this process ends.
    #[error("it is frozen now, but the file that keeps freezes over restarts cannot be written: {0}")]
    NotKept(#[source] std::io::Error),
    /// In force and kept, but not in the audit log.
    #[error("it is frozen now and over restarts, but the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// An unfreeze that is not in the audit log does not happen.
    #[error("it is still frozen: the audit log does not take the record: {0}")]
    ThawNotRecorded(#[source] AuditError),
    /// An unfreeze that cannot be kept does not happen.
    #[error("it is still frozen: the file that keeps freezes over restarts cannot be written: {0}")]
    ThawNotKept(#[source] std::io::Error),
}

/// Whether an unfreeze changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thaw {
    /// It was frozen.
    Done,
    /// It was not.
    WasNotFrozen,
}

type Entries = HashMap<Scope, Arc<Freeze>>;

/// All freezes of this KMS.
#[derive(Debug)]
pub struct Freezes {
    current: ArcSwap<Entries>,
    /// One change at a time, from reading the old state to answering.
    file: Arc<Mutex<FreezeFile>>,
    metrics: Arc<Metrics>,
}

impl Freezes {
    /// Reads what is frozen; no file means nothing is.
    ///
    /// # Errors
    /// [`FreezeFileError`]: what is frozen is not known, so nothing may be served.
    pub fn open(path: PathBuf, metrics: Arc<Metrics>) -> Result<Self, FreezeFileError> {
        let file = FreezeFile::new(path);
        let entries: Entries =
            file.read()?.into_iter().map(|freeze| (freeze.scope, Arc::new(freeze))).collect();
        let freezes =
            Self { current: ArcSwap::from_pointee(entries), file: Arc::new(Mutex::new(file)), metrics };
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
        FreezeFile::new(path).read().map(drop)
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
        let now = unix_now();
        let frozen =
            Scope::all_of(identity).find_map(|scope| current.get(&scope).filter(|it| it.is_live(now)));
        match frozen {
            None => Ok(NotFrozen(())),
            Some(freeze) => Err(Arc::clone(freeze)),
        }
    }

    /// The freeze of the whole KMS, if it is in force.
    pub fn of_kms(&self) -> Option<Arc<Freeze>> {
        self.current.load().get(&Scope::Kms).filter(|freeze| freeze.is_live(unix_now())).map(Arc::clone)
    }

    /// What is frozen now, the oldest first.
    pub fn list(&self) -> Vec<Arc<Freeze>> {
        let now = unix_now();
        let mut live: Vec<_> =
            self.current.load().values().filter(|freeze| freeze.is_live(now)).map(Arc::clone).collect();
        live.sort_by_key(|freeze| (freeze.since, freeze.scope));
        live
    }

    /// Freezes, in place of an earlier freeze of the same scope. It counts at once, whatever the disk does; when this
    /// returns without an error, it is also kept and recorded.
    ///
    /// # Errors
    /// [`FreezeError`]; all but [`FreezeError::Full`] say that it is frozen nevertheless.
    pub async fn freeze(&self, freeze: Freeze, audit: &Audit) -> Result<(), FreezeError> {
        let freeze = Arc::new(freeze);
        self.insert(&freeze)?;
        tracing::warn!(what = %freeze.scope, by = freeze.author.by, reason = freeze.reason, "FROZEN");
        let file = Arc::clone(&self.file).lock_owned().await;
        // An unfreeze that had the turn before us has taken it back: this is the later of the two.
        self.insert(&freeze)?;
        let event = Event::Frozen {
            scope: freeze.scope.name(),
            value: hex::encode(freeze.scope.value()),
            reason: freeze.reason.clone(),
            expires_at: freeze.expires_at,
            by: freeze.author.by.clone(),
            remote: freeze.author.remote,
        };
        let _turn = file::write(file, self.live()).await.map_err(FreezeError::NotKept)?;
        let _ = audit.record(event).await.map_err(FreezeError::NotRecorded)?;
        Ok(())
    }

    fn insert(&self, freeze: &Arc<Freeze>) -> Result<(), FreezeError> {
        let mut is_full = false;
        self.current.rcu(|current| {
            let mut entries = live(current);
            is_full = entries.len() >= MOST_FREEZES && !entries.contains_key(&freeze.scope);
            if !is_full {
                entries.insert(freeze.scope, Arc::clone(freeze));
            }
            entries
        });
        self.count();
        if is_full { Err(FreezeError::Full) } else { Ok(()) }
    }

    /// Takes a freeze back.
    ///
    /// # Errors
    /// [`FreezeError`]; it stays frozen then.
    pub async fn unfreeze(
        &self,
        scope: Scope,
        author: Author,
        reason: String,
        audit: &Audit,
    ) -> Result<Thaw, FreezeError> {
        let file = Arc::clone(&self.file).lock_owned().await;
        let mut entries = self.live();
        if entries.remove(&scope).is_none() {
            return Ok(Thaw::WasNotFrozen);
        }
        let event = Event::Unfrozen {
            scope: scope.name(),
            value: hex::encode(scope.value()),
            reason,
            by: author.by.clone(),
            remote: author.remote,
        };
        let _ = audit.record(event).await.map_err(FreezeError::ThawNotRecorded)?;
        let _turn = file::write(file, entries).await.map_err(FreezeError::ThawNotKept)?;
        tracing::warn!(what = %scope, by = author.by, "no longer frozen");
        self.current.rcu(|current| {
            let mut entries = live(current);
            entries.remove(&scope);
            entries
        });
        self.count();
        Ok(Thaw::Done)
    }

    /// Shows in the metrics what is in force; called now and then, for freezes that end by themselves.
    pub fn count(&self) {
        let live = self.list();
        for name in Scope::NAMES {
            let count = live.iter().filter(|freeze| freeze.scope.name() == name).count();
            self.metrics.set_frozen(name, count);
        }
    }

    fn live(&self) -> Entries {
        live(&self.current.load())
    }
}

/// What is in force: what has ended is forgotten with the next change.
fn live(entries: &Entries) -> Entries {
    let now = unix_now();
    let live = entries.iter().filter(|(_, freeze)| freeze.is_live(now));
    live.map(|(scope, freeze)| (*scope, Arc::clone(freeze))).collect()
}

/// Unix seconds; a clock before 1970 ends no freeze.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
