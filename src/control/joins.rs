//! Invitations of replicas: a token, used by one machine, once, within minutes. It opens the handover of root keys to a machine
//! that evidence and policy allow, and nothing else.
//!
//! An invitation is bound to the attested key of the machine that uses it first, and it is used up, on the disk or in the shared
//! state, before the keys leave.

mod error;
mod fleet;
mod record;
mod steps;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use kms_client::source::JoinToken;
use tokio::sync::{Mutex, Semaphore};

pub use self::error::JoinError;
pub use self::fleet::SharedJoins;
use self::record::{Turn, open, prune, step};
use self::steps::COMPARED;
use super::{Author, Store};
use crate::audit::{Audit, Event, Receipt};
use crate::clock::unix_now;
use crate::domain::Domain;
use crate::operator::named::{NoRandomNumbers, Secret, SecretHash};
use crate::request;
use crate::state::{
    self, JoinFile, JoinFileError, JoinRecord, JoinStage, SourceUrl, fitting_in_join, is_join_label,
};

/// The longest time for which an invitation is valid, in seconds.
pub const MAX_VALID: u64 = 15 * 60;
/// The most invitations that wait for their replicas.
const MAX_OPEN: usize = 32;
/// How long the reports of a replica are accepted after it has the keys, in seconds.
pub const REPORTS: u64 = 60 * 60;
/// How many callers at once wait for invitations that another node may just have made.
const LOOKING: usize = 8;

/// An invitation to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJoin {
    /// The name in the certificate of the replica.
    pub domain: Domain,
    /// What people call it.
    pub label: Option<JoinLabel>,
    /// How it reaches this KMS, where that is not as CVMs do.
    pub source_url: Option<SourceUrl>,
    /// For how many seconds it is valid, at most [`MAX_VALID`].
    pub valid_for: u64,
}

/// What people call an invitation: up to 100 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinLabel(String);

impl JoinLabel {
    /// Reads a label; `None` if it is empty.
    ///
    /// # Errors
    /// [`JoinError::Label`].
    pub fn parse(text: &str) -> Result<Option<Self>, JoinError> {
        match text.trim() {
            "" => Ok(None),
            text if is_join_label(text) => Ok(Some(Self(text.to_owned()))),
            _ => Err(JoinError::Label),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A new invitation. The token is shown once and not stored.
#[derive(Debug)]
pub struct InvitedReplica {
    /// The invitation.
    pub record: JoinRecord,
    /// Its token.
    pub token: JoinToken,
}

/// Proof that a caller has shown the token of an invitation. It does not show that the invitation is valid.
#[derive(Debug)]
pub struct Shown {
    id: String,
    remote: IpAddr,
}

/// Proof that an invitation is bound to the attested key of the caller.
#[derive(Debug)]
pub struct Bound {
    shown: Shown,
    key: String,
}

impl Bound {
    /// The invitation.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }
}

/// Proof that an invitation is used up by the caller: it may get the keys.
#[derive(Debug)]
pub struct Claimed {
    bound: Bound,
    domain: String,
}

/// The invitations of a KMS.
#[derive(Debug)]
pub struct Joins {
    current: ArcSwap<Vec<JoinRecord>>,
    /// The ends of those that this process has seen, which no clock can move.
    ends: Arc<StdMutex<BTreeMap<String, Instant>>>,
    /// One change at a time.
    file: Arc<Mutex<JoinFile>>,
    store: Store,
    audit: Arc<Audit>,
    compared: Arc<Semaphore>,
    looking: Semaphore,
}

impl Joins {
    /// Reads the invitations; a missing file means there are none.
    ///
    /// # Errors
    /// [`JoinFileError`]
    pub fn open(path: PathBuf, audit: Arc<Audit>) -> Result<Self, JoinFileError> {
        let file = JoinFile::new(path);
        let records = file.read()?;
        let joins = Self {
            current: ArcSwap::default(),
            ends: Arc::default(),
            file: Arc::new(Mutex::new(file)),
            store: Store::File,
            audit,
            compared: Arc::new(Semaphore::new(COMPARED)),
            looking: Semaphore::new(LOOKING),
        };
        joins.put(records);
        Ok(joins)
    }

    /// Whether [`Joins::open`] would accept the existing file.
    ///
    /// # Errors
    /// [`JoinFileError`]
    pub fn inspect(path: PathBuf) -> Result<(), JoinFileError> {
        JoinFile::new(path).read().map(drop)
    }

    /// All that are known, oldest first.
    pub fn list(&self) -> Arc<Vec<JoinRecord>> {
        self.current.load_full()
    }

    /// The one with this id.
    pub fn get(&self, id: &str) -> Option<JoinRecord> {
        self.current.load().iter().find(|record| record.id == id).cloned()
    }

    /// The time by which invitations end, Unix seconds.
    pub fn now(&self) -> u64 {
        unix_now().max(self.audit.floor().newest())
    }

    /// Makes an invitation.
    ///
    /// # Errors
    /// [`JoinError`]; there is none then.
    pub async fn invite(
        self: &Arc<Self>,
        new: NewJoin,
        author: &Author,
    ) -> Result<InvitedReplica, JoinError> {
        if !(1..=MAX_VALID).contains(&new.valid_for) {
            return Err(JoinError::Validity);
        }
        let made = tokio::task::spawn_blocking(|| {
            let secret = Secret::generate()?;
            let mut id = [0; 8];
            SystemRandom::new().fill(&mut id).map_err(|_| NoRandomNumbers)?;
            Ok::<_, NoRandomNumbers>((hex::encode(id), SecretHash::of(&secret)?, secret))
        });
        let (id, hash, secret) =
            made.await.map_err(|_| JoinError::Random(NoRandomNumbers))?.map_err(JoinError::Random)?;
        let token = JoinToken::of(&id, secret.password()).expect("hex digits");
        let now = self.now();
        let record = JoinRecord {
            id,
            domain: new.domain.as_str().to_owned(),
            label: new.label.map(|label| label.0),
            source_url: new.source_url,
            hash: hash.as_str().to_owned(),
            created_at: now,
            created_by: fitting_in_join(&author.by),
            expires_at: now + new.valid_for,
            key: None,
            steps: Vec::new(),
        };
        let turn = self.turn();
        if self.current.load().iter().filter(|it| open(it, &turn).is_ok()).count() >= MAX_OPEN {
            return Err(JoinError::Full);
        }
        let event = Event::ReplicaInvited {
            invitation: record.id.clone(),
            domain: record.domain.clone(),
            label: record.label.clone(),
            expires_at: record.expires_at,
            by: author.by.clone(),
            remote: author.remote,
        };
        let _: Receipt = self.audit.record(event).await.map_err(JoinError::NotRecorded)?;
        let made = record.clone();
        let changed = self
            .change(&author.by, move |records, turn| {
                if records.iter().filter(|it| open(it, turn).is_ok()).count() >= MAX_OPEN {
                    return Err(JoinError::Full);
                }
                records.push(made.clone());
                Ok(true)
            })
            .await;
        let changed = match changed {
            // It is valid, and nobody else has its token.
            Err(JoinError::Unsynced(error)) => {
                tracing::error!(%error, invitation = record.id, "the invitation of a replica may be lost if the machine stops");
                Ok(())
            }
            changed => changed,
        };
        if let Err(error) = changed {
            // The last record in the log must be true.
            self.audit.note(Event::InvitationEnded {
                invitation: record.id,
                domain: record.domain,
                reason: "cancelled",
                by: None,
                remote: None,
            });
            return Err(error);
        }
        tracing::warn!(
            invitation = record.id,
            domain = record.domain,
            by = author.by,
            "a replica was invited"
        );
        Ok(InvitedReplica { record, token })
    }

    /// Ends an invitation that nobody got keys by.
    ///
    /// # Errors
    /// [`JoinError`]; nothing has changed then, except for [`JoinError::Unsynced`].
    pub async fn cancel(self: &Arc<Self>, id: &str, author: &Author) -> Result<JoinRecord, JoinError> {
        let wanted = id.to_owned();
        let changed = self.change(&author.by, move |records, turn| {
            let record = find(records, &wanted)?;
            open(record, turn)?;
            step(record, JoinStage::Cancelled, turn.now);
            Ok(true)
        });
        let unsynced = match changed.await {
            Err(JoinError::Unsynced(error)) => Err(JoinError::Unsynced(error)),
            changed => Ok(changed?),
        };
        let record = self.get(id).ok_or_else(|| JoinError::Unknown(id.to_owned()))?;
        self.audit.note(Event::InvitationEnded {
            invitation: record.id.clone(),
            domain: record.domain.clone(),
            reason: "cancelled",
            by: Some(author.by.clone()),
            remote: Some(author.remote),
        });
        unsynced.map(|()| record)
    }

    /// Ends the invitations whose time is over.
    pub async fn expire(self: &Arc<Self>) {
        let turn = self.turn();
        let is_over = |record: &JoinRecord, turn: &Turn| {
            matches!(open(record, turn), Err(JoinError::Expired)) && record.step(JoinStage::Expired).is_none()
        };
        if !self.current.load().iter().any(|record| is_over(record, &turn)) {
            return;
        }
        let ended = Arc::new(StdMutex::new(Vec::new()));
        let told = Arc::clone(&ended);
        let outcome = self.change("", move |records, turn| {
            let mut ended = Vec::new();
            for record in records.iter_mut().filter(|record| is_over(record, turn)) {
                step(record, JoinStage::Expired, turn.now);
                ended.push((record.id.clone(), record.domain.clone()));
            }
            let is_changed = !ended.is_empty();
            *told.lock().unwrap_or_else(PoisonError::into_inner) = ended;
            Ok(is_changed)
        });
        match outcome.await {
            // If the machine stops, the next start marks them again.
            Ok(()) | Err(JoinError::Unsynced(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "invitations that have expired are not marked so yet; none of them is valid");
                return;
            }
        }
        for (invitation, domain) in ended.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let (by, remote) = (None, None);
            self.audit.note(Event::InvitationEnded { invitation, domain, reason: "expired", by, remote });
        }
    }

    /// The times of one change.
    fn turn(&self) -> Turn {
        Turn { now: self.now(), ends: Arc::clone(&self.ends) }
    }

    /// Makes a change and keeps it, where it is kept first; `edit` says whether it changed anything, and may be called again.
    /// It is made as a whole even if the caller does not wait for it any more.
    async fn change(
        self: &Arc<Self>,
        by: &str,
        edit: impl FnMut(&mut Vec<JoinRecord>, &Turn) -> Result<bool, JoinError> + Send + 'static,
    ) -> Result<(), JoinError> {
        let (joins, by) = (Arc::clone(self), by.to_owned());
        let changed = request::spawn(async move { joins.changed(&by, edit).await });
        changed
            .await
            .unwrap_or_else(|_| Err(JoinError::NotKept(io::Error::other("the change ended in a panic"))))
    }

    async fn changed(
        &self,
        by: &str,
        mut edit: impl FnMut(&mut Vec<JoinRecord>, &Turn) -> Result<bool, JoinError> + Send + 'static,
    ) -> Result<(), JoinError> {
        match &self.store {
            // It is adopted from there.
            Store::Shared(shared) => self.change_everywhere(shared, by, edit, self.turn()).await,
            Store::File => {
                let file = self.file.lock().await;
                let times = self.turn();
                let mut records = Vec::clone(&self.current.load());
                if !edit(&mut records, &times)? {
                    return Ok(());
                }
                prune(&mut records, &times);
                let (writer, kept) = (file.clone(), records.clone());
                let replaced = state::written(move || writer.replace(&kept)).await;
                let replaced = replaced.map_err(JoinError::NotKept)?;
                self.put(records);
                replaced.safely().map_err(JoinError::Unsynced)
            }
        }
    }

    /// Puts records in force.
    fn put(&self, records: Vec<JoinRecord>) {
        let (now, wall) = (Instant::now(), self.now());
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|id, _| records.iter().any(|record| record.id == *id));
        for record in &records {
            let left = record.expires_at.saturating_sub(wall).min(MAX_VALID);
            ends.entry(record.id.clone()).or_insert(now + Duration::from_secs(left));
        }
        drop(ends);
        self.current.store(Arc::new(records));
    }
}

fn find<'a>(records: &'a mut [JoinRecord], id: &str) -> Result<&'a mut JoinRecord, JoinError> {
    records.iter_mut().find(|record| record.id == id).ok_or_else(|| JoinError::Unknown(id.to_owned()))
}

#[cfg(test)]
mod tests;
