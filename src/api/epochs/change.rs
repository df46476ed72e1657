//! Changes of the epochs of the root keys. Each is checked, passes the gate of owners, is checked again, recorded, and made.

use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Deserialize;

use super::shown::Epochs;
use super::{EpochService, number, refused};
use crate::api::Caller;
use crate::audit::{Event, Receipt};
use crate::clock::{rfc3339, unix};
use crate::control::{Accepted, Approved, Author, EpochAction, FollowedEpoch, FollowedState};
use crate::error::{Code, Error, Result};
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{EpochChange, EpochError, EpochInfo, EpochState};
use crate::lifecycle::{LifecycleError, Ready};
use crate::request;

/// The most replicas that an activation leaves out.
pub(super) const MAX_EXCEPT: usize = 1000;

/// A body without content: `{}`, or nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EpochBody {}

/// The body of `POST /api/v1/epochs/accept`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptBody {
    /// What is accepted: `lost_epochs`, the key directory is older than the audit log and nothing newer exists, or
    /// `app_epochs`, the epochs chosen for apps are complete after a restore.
    what: Accepted,
}

/// The body of `POST /api/v1/epochs/{id}/activate`, which may be empty.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivateEpochBody {
    /// From when on apps that follow get keys of it, Unix seconds; at once if it is absent. A time that has passed, here or
    /// when it is approved, is refused. With several KMSs it must be the same at all of them.
    #[serde(default)]
    at: Option<u64>,
    /// The ids of replicas, as `/api/v1/replicas` shows them, that do not have it and are left out: they are gone, or will not
    /// serve again before they have it.
    #[serde(default)]
    except: Vec<String>,
}

impl EpochService {
    /// Makes new root keys, of which no app gets keys yet.
    ///
    /// # Errors
    /// Too many epochs; `approval_needed`, `other_domain`; a disk or an audit log that does not take it.
    pub async fn prepare(self: &Arc<Self>, caller: &Caller, _: EpochBody) -> Result<Epochs> {
        let new = self.ready.new_epoch().map_err(refused)?;
        self.pass(caller, EpochAction::Prepare { epoch: new.number().0 }).await
    }

    /// Puts a prepared epoch in force.
    ///
    /// # Errors
    /// `epoch_refused`; `replicas_lack_epoch`; otherwise as [`EpochService::prepare`].
    pub async fn activate(
        self: &Arc<Self>,
        caller: &Caller,
        epoch: &str,
        body: ActivateEpochBody,
    ) -> Result<Epochs> {
        let ActivateEpochBody { at, except } = body;
        let except = left_out(except)?;
        let info = self.info(number(epoch)?)?;
        let action =
            EpochAction::Activate { epoch: info.epoch.0, fingerprint: fingerprint(&info), at, except };
        self.pass(caller, action).await
    }

    /// Lets nobody get keys of an epoch any more.
    ///
    /// # Errors
    /// As [`EpochService::activate`].
    pub async fn retire(self: &Arc<Self>, caller: &Caller, epoch: &str, _: EpochBody) -> Result<Epochs> {
        let info = self.info(number(epoch)?)?;
        let action = EpochAction::Retire { epoch: info.epoch.0, fingerprint: fingerprint(&info) };
        self.pass(caller, action).await
    }

    /// Overwrites the keys of a retired epoch.
    ///
    /// # Errors
    /// As [`EpochService::activate`].
    pub async fn destroy(self: &Arc<Self>, caller: &Caller, epoch: &str, _: EpochBody) -> Result<Epochs> {
        let info = self.info(number(epoch)?)?;
        let action = EpochAction::Destroy { epoch: info.epoch.0, fingerprint: fingerprint(&info) };
        self.pass(caller, action).await
    }

    /// Accepts a state of epochs that this KMS warns of.
    ///
    /// # Errors
    /// `epoch_refused`: there is nothing to accept; otherwise as [`EpochService::prepare`].
    pub async fn accept(self: &Arc<Self>, caller: &Caller, body: AcceptBody) -> Result<Epochs> {
        let AcceptBody { what } = body;
        self.pass(caller, EpochAction::Accept { what, seen: self.acceptable(what)? }).await
    }

    /// What an owner would accept now.
    fn acceptable(&self, what: Accepted) -> Result<Vec<String>> {
        match what {
            Accepted::LostEpochs => match self.lost.lost() {
                lost if lost.is_empty() => {
                    Err(outdated("the key directory lacks nothing that the audit log says".to_owned()))
                }
                lost => Ok(lost),
            },
            Accepted::AppEpochs => Ok(vec![hex::encode(self.foundation.app_epochs.digest())]),
        }
    }

    /// Checks a change before a second owner is asked, and makes it once it may be made.
    pub(super) async fn pass(self: &Arc<Self>, caller: &Caller, action: EpochAction) -> Result<Epochs> {
        self.check(&action, SystemTime::now()).await?;
        let approved = self.gate.pass(caller, action).await?;
        self.make_approved(approved).await?;
        self.list().await
    }

    /// Makes a change. It ends even if the caller disconnects; what it did is a sentence.
    ///
    /// # Errors
    /// It is refused by now; a disk or an audit log that does not take it.
    pub async fn make_approved(self: &Arc<Self>, approved: Approved<EpochAction>) -> Result<String> {
        let service = Arc::clone(self);
        let made = request::spawn(async move {
            let _turn = service.turn.lock().await;
            service.make(approved.action(), approved.author()).await
        });
        made.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    /// Whether a change could be made now.
    async fn check(&self, action: &EpochAction, now: SystemTime) -> Result<()> {
        let foresee = |change| self.ready.foresee_epochs(change, now).map(drop).map_err(refused);
        match action {
            EpochAction::Prepare { epoch } => {
                let new = self.ready.new_epoch().map_err(refused)?;
                match new.number().0 == *epoch {
                    true => Ok(()),
                    false => Err(outdated(format!("epoch {epoch} was made meanwhile"))),
                }
            }
            EpochAction::Activate { epoch, fingerprint, at, except } => {
                self.expect(*epoch, fingerprint)?;
                foresee(EpochChange::Activate { epoch: RootEpoch(*epoch), at: from(*at, now)? })?;
                self.expect_replicas(*epoch, except).await
            }
            EpochAction::Retire { epoch, fingerprint } => {
                self.expect(*epoch, fingerprint)?;
                foresee(EpochChange::Retire(RootEpoch(*epoch)))
            }
            EpochAction::Destroy { epoch, fingerprint } => {
                self.expect(*epoch, fingerprint)?;
                foresee(EpochChange::Destroy(RootEpoch(*epoch)))
            }
            EpochAction::Accept { what, seen } => match self.acceptable(*what)? == *seen {
                true => Ok(()),
                false => Err(outdated("it is not any more what the owners saw".to_owned())),
            },
            EpochAction::Follow { epochs, except, .. } => {
                for FollowedEpoch { epoch, fingerprint, to } in epochs {
                    self.expect(*epoch, fingerprint)?;
                    if let FollowedState::ActiveFrom(at) = to {
                        foresee(EpochChange::Activate { epoch: RootEpoch(*epoch), at: *at })?;
                    }
                }
                expect_current(&self.ready.epochs(), epochs, unix(now)).map_err(refused)?;
                // Replicas that have an epoch have those before it.
                match epochs.iter().rfind(|followed| followed.to != FollowedState::Retired) {
                    Some(newest) => self.expect_replicas(newest.epoch, except).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Checks that an epoch has the keys that the owners have seen.
    fn expect(&self, epoch: u32, seen: &str) -> Result<()> {
        match fingerprint(&self.info(epoch)?) == *seen {
            true => Ok(()),
            false => Err(outdated(format!("epoch {epoch} has other keys than those that were approved"))),
        }
    }

    async fn make(&self, action: &EpochAction, author: &Author) -> Result<String> {
        let now = SystemTime::now();
        self.check(action, now).await?;
        let (by, remote) = (author.by.clone(), author.remote);
        match action {
            EpochAction::Prepare { epoch } => {
                let new = self.ready.new_epoch().map_err(refused)?;
                let event = Event::EpochPrepared {
                    epoch: *epoch,
                    ca_pubkey: hex::encode(new.public().ca_spki),
                    k256_pubkey: hex::encode(new.public().k256),
                    by,
                    remote,
                };
                let prepare = move |ready: &Ready, recorded| ready.prepare_epoch(&new, recorded, now);
                self.recorded(*epoch, event, author, prepare).await?;
                Ok(format!("epoch {epoch} is made; replicas receive it with kmsctl epoch fetch"))
            }
            EpochAction::Activate { epoch, at, except, .. } => {
                let (number, at) = (RootEpoch(*epoch), from(*at, now)?);
                let event = Event::EpochActivated { epoch: *epoch, at, except: except.clone(), by, remote };
                let activate = move |ready: &Ready, recorded| ready.activate_epoch(number, at, recorded, now);
                self.recorded(*epoch, event, author, activate).await?;
                Ok(format!("epoch {epoch} is in force from {} on", rfc3339(at)))
            }
            EpochAction::Retire { epoch, .. } => {
                let number = RootEpoch(*epoch);
                let event = Event::EpochRetired { epoch: *epoch, by, remote };
                let retire = move |ready: &Ready, recorded| ready.retire_epoch(number, recorded, now);
                self.recorded(*epoch, event, author, retire).await?;
                Ok(format!("epoch {epoch} is retired: nobody gets its keys any more"))
            }
            EpochAction::Destroy { epoch, .. } => {
                let number = RootEpoch(*epoch);
                let event = Event::EpochDestroyed { epoch: *epoch, by, remote };
                let destroy = move |ready: &Ready, recorded| ready.destroy_epoch(number, recorded, now);
                self.recorded(*epoch, event, author, destroy).await?;
                Ok(format!("the keys of epoch {epoch} are overwritten"))
            }
            EpochAction::Accept { what, seen } => {
                let (name, seen) = (what.name(), seen.clone());
                let event = Event::EpochStateAccepted { what: name, seen, by, remote };
                let _: Receipt = self.foundation.audit.record(event).await.map_err(unrecorded)?;
                if *what == Accepted::LostEpochs {
                    self.lost.accept();
                }
                tracing::warn!(what = name, by = author.by, "an owner accepted a state of epochs");
                Ok("it is accepted".to_owned())
            }
            EpochAction::Follow { source, epochs, .. } => {
                // What is in force first, so that there is a current epoch at any time.
                let active = |followed: &&FollowedEpoch| followed.to != FollowedState::Retired;
                let retired = epochs.iter().filter(|followed| !active(followed));
                for FollowedEpoch { epoch, to, .. } in epochs.iter().filter(active).chain(retired) {
                    let (number, info) = (RootEpoch(*epoch), self.info(*epoch)?);
                    let (state, active_from) = match to {
                        FollowedState::ActiveFrom(at) if *at > unix(now) => (EpochState::Prepared, Some(*at)),
                        FollowedState::ActiveFrom(at) => (EpochState::Active, Some(*at)),
                        FollowedState::Retired => (EpochState::Retired, info.times.activate_at),
                    };
                    let event = Event::EpochReceived {
                        epoch: *epoch,
                        state: state.name(),
                        active_from,
                        ca_pubkey: hex::encode(info.ca_spki),
                        k256_pubkey: hex::encode(info.k256_public),
                        source: source.clone(),
                        by: by.clone(),
                        remote,
                    };
                    let to = *to;
                    let follow = move |ready: &Ready, recorded| match to {
                        FollowedState::ActiveFrom(at) => ready.activate_epoch(number, at, recorded, now),
                        FollowedState::Retired => ready.retire_epoch(number, recorded, now),
                    };
                    self.recorded(*epoch, event, author, follow).await?;
                }
                Ok(format!("{} epochs have the states that they have at {source}", epochs.len()))
            }
        }
    }

    /// Records a change, then makes it.
    async fn recorded(
        &self,
        epoch: u32,
        event: Event,
        author: &Author,
        change: impl FnOnce(&Ready, Receipt) -> std::result::Result<Vec<EpochInfo>, LifecycleError>
        + Send
        + 'static,
    ) -> Result<()> {
        let kind = event.event_type().name();
        let recorded = self.foundation.audit.record(event).await.map_err(unrecorded)?;
        let ready = Arc::clone(&self.ready);
        let made = tokio::task::spawn_blocking(move || change(&ready, recorded)).await;
        let made = match made {
            Ok(made) => made.map(drop).map_err(|error| failed(epoch, error)),
            Err(error) => Err(Error::internal("the change ended in a panic", error)),
        };
        if let Err(error) = &made {
            self.foundation.audit.note(Event::EpochChangeFailed {
                epoch,
                change: kind,
                reason: error.message().to_owned(),
                by: author.by.clone(),
                remote: author.remote,
            });
        }
        self.count();
        if made.is_ok() {
            tracing::warn!(epoch, change = kind, by = author.by, "the epochs of the root keys have changed");
        }
        made
    }
}

/// From when on an epoch is in force: not earlier than it is decided, so that no answer of before was wrong. Another time than
/// was asked for would not be that of the other KMSs.
fn from(at: Option<u64>, now: SystemTime) -> Result<u64> {
    match at {
        Some(at) if at < unix(now) => Err(outdated(format!(
            "the time {} has passed; ask for one that is ahead at all KMSs, and leave time for approvals",
            rfc3339(at)
        ))),
        at => Ok(at.unwrap_or_else(|| unix(now))),
    }
}

/// The ids of replicas that are left out, each once.
pub(super) fn left_out(mut except: Vec<String>) -> Result<Vec<String>> {
    if except.len() > MAX_EXCEPT {
        return Err(Error::invalid(format!("except has more than {MAX_EXCEPT} replicas")));
    }
    except.sort();
    except.dedup();
    Ok(except)
}

/// Checks that the current epoch is not among those that are retired once all that is followed is in force.
fn expect_current(
    known: &[EpochInfo],
    followed: &[FollowedEpoch],
    now: u64,
) -> std::result::Result<(), EpochError> {
    let to = |info: &EpochInfo| followed.iter().find(|to| to.epoch == info.epoch.0).map(|to| to.to);
    let is_in_force = |info: &&EpochInfo| match to(info) {
        Some(FollowedState::ActiveFrom(at)) => at <= now,
        Some(FollowedState::Retired) => false,
        None => info.state == EpochState::Active,
    };
    let current = known.iter().rfind(is_in_force).map(|info| info.epoch);
    let is_ended = |info: &&EpochInfo| to(info) == Some(FollowedState::Retired);
    for info in known.iter().filter(is_ended) {
        match info.state {
            EpochState::Retired | EpochState::Destroyed => return Err(EpochError::IsRetired(info.epoch)),
            EpochState::Active if current.is_none_or(|current| current < info.epoch) => {
                return Err(EpochError::IsCurrent(info.epoch));
            }
            EpochState::Active | EpochState::Prepared => {}
        }
    }
    Ok(())
}

/// SHA-256 of the public secp256k1 key, hex.
pub(super) fn fingerprint(info: &EpochInfo) -> String {
    hex::encode(info.k256_fingerprint)
}

pub(super) fn unrecorded(error: crate::audit::AuditError) -> Error {
    Error::unavailable("the audit log does not take the record; nothing was changed", error)
        .because("audit_unavailable")
}

fn outdated(text: String) -> Error {
    Error::new(Code::Conflict, format!("{text}; nothing was changed")).because("epoch_refused")
}

pub(super) fn failed(epoch: u32, error: LifecycleError) -> Error {
    let text = match &error {
        LifecycleError::NotOverwritten(_) => {
            format!(
                "epoch {epoch} is destroyed, but its old bytes are not overwritten yet: the next start does it"
            )
        }
        LifecycleError::Store(_)
        | LifecycleError::Broken { .. }
        | LifecycleError::NoDomain
        | LifecycleError::Domain(_)
        | LifecycleError::Ca(_)
        | LifecycleError::Epoch(_) => {
            format!("the key directory does not take the change of epoch {epoch}; nothing was changed")
        }
    };
    Error::new(Code::Unavailable, text).because("keys_not_saved").caused_by(error)
}
