//! The two-person rule: changes that an owner requests, and that a second owner approves.
//!
//! A request is in the audit log and on the disk before it is acknowledged. An approval is in both before the change is made,
//! and a change that was approved is made at most once: if the process stops in between, it is not made again.

mod action;
mod approved;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use arc_swap::ArcSwap;
use kms_attest::state_file::Replaced;
use kms_wire::role::Role;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

pub use self::action::{
    Accepted, Action, ActivateBundle, ActivatePolicy, CreateRecoverySet, EpochAction, FollowedEpoch,
    FollowedState, ForgetNode, InviteReplica, LowerClockFloor, MoveApp, OwnerCredential, RepairFleet,
    ReplaceHtpasswd, RestoreDomain, SeenFreeze, StartRollout, Unfreeze,
};
pub use self::approved::{Approved, Consent, EachApproved, OwnerChange};
use super::{Author, Changer};
use crate::audit::{Audit, AuditError, Event};
use crate::clock::{MAX_BEHIND, unix_now};
use crate::config::OwnerRule;
use crate::operator::{Credentials, Operator, Person};
use crate::state::{self, ApprovalFile};

/// The most requests that wait.
const MAX_WAITING: usize = 32;
/// The most of one owner.
const MAX_OF_ONE: usize = 8;
/// The most with a document, which can be long.
const MAX_DOCUMENTS: usize = 2;
/// How many requests that ended are shown.
const MAX_ENDED: usize = 64;
/// The longest result in bytes.
const MAX_RESULT: usize = 1000;

/// A request, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// 16 hex digits.
    pub id: String,
    /// What will be done. A document is not kept after the end of the request.
    pub action: Action,
    /// [`Action::sha256`]
    pub sha256: String,
    /// [`Action::detail`]
    pub detail: String,
    /// The owner who requested it.
    pub requester: Person,
    /// The same for the audit log.
    pub requested_by: String,
    /// From where.
    pub remote: IpAddr,
    /// Unix seconds.
    pub requested_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
    /// What became of it.
    pub state: State,
    /// When this process made or read it. While the clock is behind the newest record, only this clock goes on.
    #[serde(skip)]
    begun: Option<Instant>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum State {
    /// It waits for a second owner.
    Waiting,
    /// It was approved, and the change is being made.
    Approved {
        /// The second owner.
        by: String,
    },
    /// The change was made.
    Done {
        /// The second owner.
        by: String,
        /// What happened.
        result: String,
    },
    /// The change failed, or nothing is known about it.
    Failed {
        /// The second owner.
        by: String,
        /// Why.
        result: String,
    },
    /// An owner rejected it, or its requester took it back.
    Rejected {
        /// Who.
        by: String,
    },
    /// It cannot be approved any more.
    Expired {
        /// Why.
        result: String,
    },
}

/// Why a request, an approval or a rejection failed.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// The credential is no longer valid.
    #[error("nothing was changed: the credential that asks for it does not count any more")]
    NotLive,
    /// The credential is not of an owner.
    #[error("nothing was changed: only owners take part in approvals")]
    NotOwner,
    /// Too many requests wait.
    #[error("{MAX_WAITING} requests wait for approval, which is the most; approve or reject some")]
    Full,
    /// Too many requests of this owner wait.
    #[error("{MAX_OF_ONE} requests of yours wait for approval, which is the most; reject some")]
    FullOfOne,
    /// Too many requests with documents wait.
    #[error(
        "{MAX_DOCUMENTS} requests with a document wait for approval, which is the most; approve or reject one"
    )]
    FullOfDocuments,
    /// No request has this id.
    #[error("there is no request {0}")]
    Unknown(String),
    /// It does not wait.
    #[error("request {id} does not wait any more: {state}")]
    Ended {
        /// The request.
        id: String,
        /// Its state, in words.
        state: String,
    },
    /// The approver is the requester.
    #[error("another owner than the one who requested it must approve it")]
    SamePerson,
    /// The approver has seen another payload.
    #[error("the request has the SHA-256 {actual}, not the one that you approve; nothing was changed")]
    OtherPayload {
        /// Of the request.
        actual: String,
    },
    /// The audit log could not be written.
    #[error("nothing was changed: the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// The file could not be written.
    #[error("nothing was changed: the file of approvals cannot be written: {0}")]
    NotKept(#[source] io::Error),
    /// It is so, and the disk does not say that it stays so.
    #[error(
        "the request was changed, but the directory of the file of approvals cannot be synced, so it may be as before if the \
         machine stops: {0}"
    )]
    Unsynced(#[source] io::Error),
    /// No random numbers for an id.
    #[error("the system random number generator failed")]
    NoRandomNumbers,
}

/// Whether a change may be made now.
#[derive(Debug)]
pub enum Gate<A> {
    /// Now, with this proof.
    Go(Approved<A>),
    /// After a second owner has approved this request.
    Wait(Arc<Approval>),
}

type Requests = Vec<Arc<Approval>>;

/// All requests, oldest first.
#[derive(Debug)]
pub struct Approvals {
    rule: OwnerRule,
    credentials: Option<Arc<Credentials>>,
    /// 1 if the issuer of access tokens may have owners.
    outside_owners: usize,
    audit: Arc<Audit>,
    current: ArcSwap<Requests>,
    /// One change at a time.
    file: Mutex<Arc<ApprovalFile>>,
}

impl Approvals {
    /// Reads what waits. If the file cannot be used, nothing waits: owners request it again.
    pub fn open(
        rule: OwnerRule,
        file: ApprovalFile,
        credentials: Option<Arc<Credentials>>,
        outside_owners: usize,
        audit: Arc<Audit>,
    ) -> Self {
        let kept = file.read().unwrap_or_else(|error| {
            tracing::error!(%error, "no request waits for a second owner: owners have to make theirs again");
            Vec::new()
        });
        let kept: Requests = kept.into_iter().map(loaded).map(Arc::new).collect();
        Self {
            rule,
            credentials,
            outside_owners,
            audit,
            current: ArcSwap::from_pointee(kept),
            file: Mutex::new(Arc::new(file)),
        }
    }

    /// Whether changes need two owners.
    pub fn needs_two(&self) -> bool {
        matches!(self.rule, OwnerRule::TwoOwners { .. })
    }

    /// All requests that are known, oldest first, as they are now.
    pub fn list(&self) -> Vec<Arc<Approval>> {
        let now = self.now();
        self.current.load().iter().map(|approval| self.as_of(approval, now)).collect()
    }

    /// Lets a change pass, or makes a request for a second owner.
    ///
    /// # Errors
    /// [`ApprovalError`]; nothing was changed then, except for [`ApprovalError::Unsynced`], after which the request waits.
    pub async fn gate<A: Into<Action> + Clone>(
        &self,
        action: A,
        changer: Changer,
    ) -> Result<Gate<A>, ApprovalError> {
        let Changer { operator, author, .. } = changer;
        let OwnerRule::TwoOwners { lifetime } = self.rule else {
            return Ok(Gate::Go(Approved::new(action, operator, author, Consent::OneIsEnough)));
        };
        let file = self.file.lock().await;
        let (credentials, requester) = self.owner(&operator)?;
        let described: Action = action.clone().into();
        if described.is_own_of(&requester) {
            return Ok(Gate::Go(Approved::new(action, operator, author, Consent::Own)));
        }
        if described.adds_owner() && credentials.count_owners() + self.outside_owners < 2 {
            let event = Event::ApprovalWaived {
                action: described.name(),
                detail: described.detail(),
                by: author.by.clone(),
                remote: author.remote,
            };
            let _ = self.audit.record(event).await.map_err(ApprovalError::NotRecorded)?;
            return Ok(Gate::Go(Approved::new(action, operator, author, Consent::FewerThanTwo)));
        }
        let requests = self.swept();
        let waiting = || requests.iter().filter(|other| other.state == State::Waiting);
        let of_same = || waiting().filter(|other| other.requester == requester);
        if let Some(same) = of_same().find(|other| other.action == described) {
            return Ok(Gate::Wait(Arc::clone(same)));
        }
        let has_document = |approval: &&Arc<Approval>| approval.action.document().is_some();
        if waiting().count() >= MAX_WAITING {
            return Err(ApprovalError::Full);
        }
        if of_same().count() >= MAX_OF_ONE {
            return Err(ApprovalError::FullOfOne);
        }
        if described.document().is_some() && waiting().filter(has_document).count() >= MAX_DOCUMENTS {
            return Err(ApprovalError::FullOfDocuments);
        }
        let now = self.now();
        let approval = Arc::new(Approval {
            id: id()?,
            sha256: described.sha256(),
            detail: described.detail(),
            action: described,
            requester,
            requested_by: author.by.clone(),
            remote: author.remote,
            requested_at: now,
            expires_at: now.saturating_add(lifetime.as_secs()),
            state: State::Waiting,
            begun: Some(Instant::now()),
        });
        let event = Event::ApprovalRequested {
            id: approval.id.clone(),
            action: approval.action.name(),
            detail: approval.detail.clone(),
            sha256: approval.sha256.clone(),
            expires_at: approval.expires_at,
            by: author.by,
            remote: author.remote,
        };
        let _ = self.audit.record(event).await.map_err(ApprovalError::NotRecorded)?;
        let requests = requests.into_iter().chain([Arc::clone(&approval)]).collect();
        let replaced = self.put(&file, requests).await.map_err(|error| self.not_kept(&approval, error))?;
        tracing::warn!(
            id = approval.id,
            what = approval.detail,
            by = approval.requested_by,
            "waits for a second owner"
        );
        replaced.safely().map_err(ApprovalError::Unsynced)?;
        Ok(Gate::Wait(approval))
    }

    /// Approves a request; `sha256` is that of the payload that the approver has seen. The change is to be made at once, and
    /// [`Approvals::finish`] called after it.
    ///
    /// # Errors
    /// [`ApprovalError`]; nothing was changed then.
    pub async fn approve(
        &self,
        id: &str,
        sha256: Option<&str>,
        changer: Changer,
    ) -> Result<Approved<Action>, ApprovalError> {
        let Changer { operator, author, .. } = changer;
        let file = self.file.lock().await;
        let (credentials, approver) = self.owner(&operator)?;
        let requests = self.swept();
        let approval = waiting(&requests, id)?;
        if credentials.may_be_same(&approver, &approval.requester) {
            return Err(ApprovalError::SamePerson);
        }
        if sha256.is_some_and(|seen| !seen.eq_ignore_ascii_case(&approval.sha256)) {
            return Err(ApprovalError::OtherPayload { actual: approval.sha256.clone() });
        }
        let event = Event::ApprovalApproved {
            id: approval.id.clone(),
            action: approval.action.name(),
            detail: approval.detail.clone(),
            sha256: approval.sha256.clone(),
            requested_by: approval.requested_by.clone(),
            by: author.by.clone(),
            remote: author.remote,
        };
        let _ = self.audit.record(event).await.map_err(ApprovalError::NotRecorded)?;
        // The record can take a while, and a revocation does not wait for it.
        self.owner(&operator)?;
        let approved = State::Approved { by: author.by.clone() };
        let changed = with_state(&requests, &approval.id, approved);
        let replaced = self.put(&file, changed).await.map_err(|error| self.not_kept(approval, error))?;
        if let Err(error) = replaced.safely() {
            // If the machine stops, the request waits again: a change that is made now could be made twice.
            let result =
                "the file of approvals cannot be synced, so nothing was changed: request it again".to_owned();
            let failed = with_state(&requests, &approval.id, State::Failed { by: author.by, result });
            self.current.store(Arc::new(failed.clone()));
            if let Err(error) = self.put(&file, failed).await {
                tracing::error!(%error, "the file of approvals cannot be written");
            }
            return Err(self.not_kept(approval, error));
        }
        let author =
            Author { by: format!("{} with {}", approval.requested_by, author.by), remote: author.remote };
        let approved = Approved::new(approval.action.clone(), operator, author, Consent::Second);
        Ok(approved.requested_by(approval.requester.clone()))
    }

    /// Says how an approved change ended.
    pub async fn finish(&self, id: &str, outcome: Result<String, String>) -> Option<Arc<Approval>> {
        let file = self.file.lock().await;
        let requests = self.swept();
        let approval = requests.iter().find(|approval| approval.id == id)?;
        let State::Approved { by } = &approval.state else { return None };
        let (by, action, id) = (by.clone(), approval.action.name(), id.to_owned());
        let (state, event) = match outcome.map(short).map_err(short) {
            Ok(result) => {
                let event = Event::ApprovalDone { id: id.clone(), action, result: result.clone() };
                (State::Done { by, result }, event)
            }
            Err(result) => {
                let event = Event::ApprovalFailed { id: id.clone(), action, reason: result.clone() };
                (State::Failed { by, result }, event)
            }
        };
        if let Err(error) = self.audit.record(event).await {
            tracing::error!(%error, id, "the end of an approved change could not be written to the audit log");
        }
        let kept = self.put(&file, with_state(&requests, &id, state)).await;
        if let Err(error) = kept.and_then(Replaced::safely) {
            tracing::error!(%error, id, "the end of an approved change could not be written to the file of approvals");
        }
        self.find(&id)
    }

    /// Rejects a request, or takes it back.
    ///
    /// # Errors
    /// [`ApprovalError`]; it still waits then, except for [`ApprovalError::Unsynced`].
    pub async fn reject(&self, id: &str, changer: Changer) -> Result<Arc<Approval>, ApprovalError> {
        let Changer { operator, author, .. } = changer;
        let file = self.file.lock().await;
        self.owner(&operator)?;
        let requests = self.swept();
        let approval = waiting(&requests, id)?;
        let event = Event::ApprovalRejected {
            id: approval.id.clone(),
            action: approval.action.name(),
            requested_by: approval.requested_by.clone(),
            by: author.by.clone(),
            remote: author.remote,
        };
        let _ = self.audit.record(event).await.map_err(ApprovalError::NotRecorded)?;
        let changed = with_state(&requests, id, State::Rejected { by: author.by });
        let replaced = self.put(&file, changed).await.map_err(ApprovalError::NotKept)?;
        replaced.safely().map_err(ApprovalError::Unsynced)?;
        self.find(id).ok_or_else(|| ApprovalError::Unknown(id.to_owned()))
    }

    /// Whether `operator` is the owner who made this request.
    pub fn is_requester(&self, approval: &Approval, operator: &Operator) -> bool {
        self.owner(operator).is_ok_and(|(_, person)| person == approval.requester)
    }

    /// The request with this id, as it is now.
    pub fn find(&self, id: &str) -> Option<Arc<Approval>> {
        let now = self.now();
        self.current
            .load()
            .iter()
            .find(|approval| approval.id == id)
            .map(|approval| self.as_of(approval, now))
    }

    /// Ends what has expired; called from time to time.
    pub async fn expire(&self) {
        let file = self.file.lock().await;
        let before = self.current.load_full();
        let requests = self.swept();
        if *before != requests
            && let Err(error) = self.put(&file, requests).await.and_then(Replaced::safely)
        {
            tracing::error!(%error, "the file of approvals cannot be written");
        }
    }

    /// The requests without those that have expired, which are recorded, and without the oldest that have ended.
    fn swept(&self) -> Requests {
        let now = self.now();
        let before = self.current.load_full();
        let mut requests = Requests::with_capacity(before.len());
        for old in before.iter() {
            let new = self.as_of(old, now);
            if let (State::Waiting, State::Expired { result }) = (&old.state, &new.state) {
                let (id, action, reason) = (new.id.clone(), new.action.name(), result.clone());
                self.audit.note(Event::ApprovalExpired { id, action, reason });
            }
            requests.push(new);
        }
        let ended = requests.iter().filter(|approval| approval.state.has_ended()).count();
        let mut surplus = ended.saturating_sub(MAX_ENDED);
        requests.retain(|approval| {
            let is_surplus = surplus > 0 && approval.state.has_ended();
            surplus -= usize::from(is_surplus);
            !is_surplus
        });
        self.current.store(Arc::new(requests.clone()));
        requests
    }

    /// The request as it is at `now`.
    fn as_of(&self, approval: &Arc<Approval>, now: u64) -> Arc<Approval> {
        let why = match &approval.state {
            State::Waiting if now >= approval.expires_at => "no second owner approved it in time",
            State::Waiting if approval.has_waited_too_long() => "no second owner approved it in time",
            State::Waiting if now.saturating_add(MAX_BEHIND) < approval.requested_at => {
                "it is dated in the future: the clock was ahead then, or is behind now"
            }
            State::Waiting if !self.is_owner(&approval.requester) => {
                "the credential that requested it is not an owner's any more"
            }
            State::Waiting
            | State::Approved { .. }
            | State::Done { .. }
            | State::Failed { .. }
            | State::Rejected { .. }
            | State::Expired { .. } => return Arc::clone(approval),
        };
        Arc::new(approval.with(State::Expired { result: why.to_owned() }))
    }

    fn is_owner(&self, person: &Person) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| credentials.is_owner(person))
    }

    /// The person behind a credential that is an owner's now.
    fn owner(&self, operator: &Operator) -> Result<(&Credentials, Person), ApprovalError> {
        let credentials = self.credentials.as_deref().ok_or(ApprovalError::NotOwner)?;
        let person = credentials.person(operator).ok_or(ApprovalError::NotLive)?;
        match operator.role() == Some(Role::Owner) && credentials.is_owner(&person) {
            true => Ok((credentials, person)),
            false => Err(ApprovalError::NotOwner),
        }
    }

    /// Writes the requests, and then puts them in force.
    async fn put(
        &self,
        file: &MutexGuard<'_, Arc<ApprovalFile>>,
        requests: Requests,
    ) -> io::Result<Replaced> {
        let (file, requests) = (Arc::clone(file), Arc::new(requests));
        let written = Arc::clone(&requests);
        let replace = move || file.replace(written.iter().map(|approval| &**approval).collect::<Vec<_>>());
        let replaced = state::written(replace).await?;
        self.current.store(requests);
        Ok(replaced)
    }

    /// Says in the audit log that what it says before did not happen.
    fn not_kept(&self, approval: &Approval, error: io::Error) -> ApprovalError {
        let (id, action) = (approval.id.clone(), approval.action.name());
        let reason = "the file of approvals cannot be written".to_owned();
        self.audit.note(Event::ApprovalFailed { id, action, reason });
        ApprovalError::NotKept(error)
    }

    /// The time, but never earlier than that of the newest audit record.
    fn now(&self) -> u64 {
        unix_now().max(self.audit.floor().newest())
    }
}

impl Approval {
    fn has_waited_too_long(&self) -> bool {
        let lifetime = Duration::from_secs(self.expires_at.saturating_sub(self.requested_at));
        self.begun.is_some_and(|begun| begun.elapsed() >= lifetime)
    }

    fn with(&self, state: State) -> Self {
        let action = if state.has_ended() { self.action.without_document() } else { self.action.clone() };
        Self { state, action, ..self.clone() }
    }
}

impl State {
    fn has_ended(&self) -> bool {
        match self {
            Self::Waiting | Self::Approved { .. } => false,
            Self::Done { .. } | Self::Failed { .. } | Self::Rejected { .. } | Self::Expired { .. } => true,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("it waits"),
            Self::Approved { by } => write!(f, "{by} has approved it"),
            Self::Done { by, .. } => write!(f, "{by} has approved it, and it is done"),
            Self::Failed { by, result } => write!(f, "{by} has approved it, and it failed: {result}"),
            Self::Rejected { by } => write!(f, "{by} has rejected it"),
            Self::Expired { result } => f.write_str(result),
        }
    }
}

/// A request of an earlier process. What was approved is not done again.
fn loaded(approval: Approval) -> Approval {
    let approval = Approval { begun: Some(Instant::now()), ..approval };
    let State::Approved { by } = &approval.state else { return approval };
    let result = "this KMS stopped before the end of the change; the audit log says whether it was made";
    let (by, result) = (by.clone(), result.to_owned());
    approval.with(State::Failed { by, result })
}

fn waiting<'a>(requests: &'a Requests, id: &str) -> Result<&'a Arc<Approval>, ApprovalError> {
    let found = requests.iter().find(|approval| approval.id == id);
    let approval = found.ok_or_else(|| ApprovalError::Unknown(id.to_owned()))?;
    match &approval.state {
        State::Waiting => Ok(approval),
        ended => Err(ApprovalError::Ended { id: id.to_owned(), state: ended.to_string() }),
    }
}

fn with_state(requests: &Requests, id: &str, state: State) -> Requests {
    let mut requests = requests.clone();
    if let Some(approval) = requests.iter_mut().find(|approval| approval.id == id) {
        *approval = Arc::new(approval.with(state));
    }
    requests
}

fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_RESULT));
    text
}

fn id() -> Result<String, ApprovalError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ApprovalError::NoRandomNumbers)?;
    Ok(hex::encode(bytes))
}
