//! The steps of an invited replica, from its first call until it serves.

use std::net::IpAddr;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use kms_client::source::JoinToken;
use kms_wire::join::JoinReport;

use super::super::Store;
use super::error::JoinError;
use super::record::{open, step};
use super::{Bound, Claimed, Joins, REPORTS, Shown, find};
use crate::audit::Event;
use crate::operator::named::SecretHash;
use crate::state::{JoinRecord, JoinStage, fitting_in_join};

/// How many tokens are compared at once, and how long others wait.
pub(super) const COMPARED: usize = 2;

const PATIENCE: Duration = Duration::from_secs(5);

/// A refusal for the same reason is noted again after so many seconds.
const REFUSED_AGAIN: u64 = 3;

impl Joins {
    /// Compares a token. One of an unknown invitation is wrong: ids are no secret.
    ///
    /// # Errors
    /// [`JoinError::Wrong`], or it could not be compared now.
    pub async fn compare(&self, token: &JoinToken, remote: IpAddr) -> Result<Shown, JoinError> {
        let record = match self.get(token.id()) {
            Some(record) => record,
            None => self.made_elsewhere(token.id()).await?,
        };
        let hash: SecretHash = record.hash.parse().map_err(|_| JoinError::Wrong)?;
        let waiting = tokio::time::timeout(PATIENCE, Arc::clone(&self.compared).acquire_owned());
        let slot = waiting.await.ok().and_then(Result::ok).ok_or(JoinError::Busy)?;
        let secret = zeroize::Zeroizing::new(token.secret().to_owned());
        let is_right = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            hash.is_of(&secret)
        });
        match is_right.await {
            Ok(true) => Ok(Shown { id: record.id, remote }),
            Ok(false) => Err(JoinError::Wrong),
            Err(_) => Err(JoinError::Busy),
        }
    }

    /// An invitation that was unknown here a moment ago. Only the caller waits for the shared state.
    async fn made_elsewhere(&self, id: &str) -> Result<JoinRecord, JoinError> {
        let Store::Shared(shared) = &self.store else { return Err(JoinError::Wrong) };
        shared.view().check().map_err(|_| JoinError::NotSeen)?;
        let _looks = self.looking.try_acquire().map_err(|_| JoinError::Busy)?;
        match shared.view().reaches_now(PATIENCE).await {
            true => self.get(id).ok_or(JoinError::Wrong),
            false => Err(JoinError::NotSeen),
        }
    }

    /// A machine has shown the token.
    ///
    /// # Errors
    /// [`JoinError`]: the invitation is not valid.
    pub async fn begin(self: &Arc<Self>, shown: &Shown) -> Result<(), JoinError> {
        let record = self.get(&shown.id).ok_or(JoinError::Wrong)?;
        if let Err(dead) = open(&record, &self.turn()) {
            // Its owner has shown it to somebody who is late, or to more than one.
            self.audit.note_of_strangers(Event::ReplicaRefused {
                invitation: record.id,
                domain: record.domain,
                code: dead.code().to_owned(),
                denial_id: None,
                remote: shown.remote,
            });
            return Err(dead);
        }
        if record.step(JoinStage::Started).is_some() {
            return Ok(());
        }
        let id = shown.id.clone();
        self.change("", move |records, turn| {
            let record = find(records, &id)?;
            open(record, turn)?;
            Ok(step(record, JoinStage::Started, turn.now))
        })
        .await?;
        self.progress(shown, &record.domain, JoinStage::Started);
        Ok(())
    }

    /// Binds the invitation to a machine, by SHA-256 of its attested public key.
    ///
    /// # Errors
    /// [`JoinError::UsedByAnother`], or the invitation is no longer valid.
    pub async fn bind(self: &Arc<Self>, shown: Shown, key: [u8; 32]) -> Result<Bound, JoinError> {
        let key = hex::encode(key);
        let (id, wanted) = (shown.id.clone(), key.clone());
        let before = self.get(&id).ok_or(JoinError::Wrong)?;
        // A second machine is noted once.
        let outcome = Arc::new(StdMutex::new(None));
        let told = Arc::clone(&outcome);
        self.change("", move |records, turn| {
            let record = find(records, &id)?;
            open(record, turn)?;
            let (is_ours, is_new) = match &record.key {
                None => {
                    record.key = Some(wanted.clone());
                    (true, step(record, JoinStage::Attested, turn.now))
                }
                Some(bound) if *bound == wanted => (true, false),
                Some(_) => (false, step(record, JoinStage::UsedByAnother, turn.now)),
            };
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some((is_ours, is_new));
            Ok(is_new)
        })
        .await?;
        let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        match outcome {
            Some((true, is_new)) => {
                if is_new {
                    self.progress(&shown, &before.domain, JoinStage::Attested);
                }
                Ok(Bound { shown, key })
            }
            Some((false, is_new)) => {
                if is_new {
                    self.audit.note(Event::ReplicaRefused {
                        invitation: before.id,
                        domain: before.domain,
                        code: JoinError::UsedByAnother.code().to_owned(),
                        denial_id: None,
                        remote: shown.remote,
                    });
                }
                Err(JoinError::UsedByAnother)
            }
            None => Err(JoinError::Wrong),
        }
    }

    /// Uses the invitation up, before the keys leave.
    ///
    /// # Errors
    /// [`JoinError`]: no keys may leave.
    pub async fn claim(self: &Arc<Self>, bound: Bound) -> Result<Claimed, JoinError> {
        let (id, key) = (bound.shown.id.clone(), bound.key.clone());
        let used = self.change("", move |records, turn| {
            let record = find(records, &id)?;
            open(record, turn)?;
            if record.key.as_ref() != Some(&key) {
                return Err(JoinError::UsedByAnother);
            }
            step(record, JoinStage::Allowed, turn.now);
            step(record, JoinStage::Keys, turn.now);
            Ok(true)
        });
        let used = used.await;
        let domain = self.get(&bound.shown.id).map(|record| record.domain).unwrap_or_default();
        let claimed = Claimed { bound, domain };
        if let Err(error) = used {
            if matches!(error, JoinError::Unsynced(_)) {
                // If the machine stops, it may be open again: nothing leaves, so it is open here too.
                self.give_back(claimed).await;
            }
            return Err(error);
        }
        self.progress(&claimed.bound.shown, &claimed.domain, JoinStage::Allowed);
        Ok(claimed)
    }

    /// The keys are about to leave.
    pub fn handed_over(&self, claimed: &Claimed) {
        self.progress(&claimed.bound.shown, &claimed.domain, JoinStage::Keys);
    }

    /// No keys have left after all: the same machine may try again.
    pub async fn give_back(self: &Arc<Self>, claimed: Claimed) -> Shown {
        let Claimed { bound: Bound { shown, key }, .. } = claimed;
        let id = shown.id.clone();
        let given = self.change("", move |records, _| {
            let record = find(records, &id)?;
            if record.key.as_ref() != Some(&key) {
                return Ok(false);
            }
            let before = record.steps.len();
            record.steps.retain(|step| step.stage != JoinStage::Keys);
            Ok(record.steps.len() < before)
        });
        match given.await {
            Ok(()) | Err(JoinError::Unsynced(_)) => {}
            Err(error) => {
                tracing::warn!(invitation = shown.id, %error, "an invitation stays used up, though no keys were sent");
            }
        }
        shown
    }

    /// Notes that the machine was refused, for this reason and with this denial.
    pub async fn refused(self: &Arc<Self>, shown: &Shown, code: &str, denial: Option<&str>) {
        let (id, reason) = (shown.id.clone(), (fitting_in_join(code), denial.map(fitting_in_join)));
        let Some(before) = self.get(&id) else { return };
        let now = self.now();
        let is_again = before.step(JoinStage::Refused).is_some_and(|last| {
            last.code.as_deref() == Some(code) && now < last.at.saturating_add(REFUSED_AGAIN)
        });
        if is_again {
            return;
        }
        let (code, denial_id) = reason.clone();
        let noted = self.change("", move |records, turn| {
            let record = find(records, &id)?;
            record.steps.retain(|step| step.stage != JoinStage::Refused);
            step(record, JoinStage::Refused, turn.now);
            if let Some(last) = record.steps.last_mut() {
                (last.code, last.denial) = (Some(reason.0.clone()), reason.1.clone());
            }
            Ok(true)
        });
        if let Err(error) = noted.await {
            tracing::warn!(invitation = shown.id, %error, "the refusal of an invited replica is not noted");
        }
        let (invitation, domain, remote) = (before.id, before.domain, shown.remote);
        self.audit.note(Event::ReplicaRefused { invitation, domain, code, denial_id, remote });
    }

    /// The machine that got the keys says what became of them.
    ///
    /// # Errors
    /// [`JoinError`]: it got none, or it is another one, or it is too late.
    pub async fn report(
        self: &Arc<Self>,
        shown: &Shown,
        key: [u8; 32],
        report: JoinReport,
    ) -> Result<(), JoinError> {
        let stage = JoinStage::from(report);
        let (id, key) = (shown.id.clone(), hex::encode(key));
        let before = self.get(&id).ok_or(JoinError::Wrong)?;
        let is_new = before.step(stage).is_none();
        self.change("", move |records, turn| {
            let record = find(records, &id)?;
            if record.key.as_ref() != Some(&key) {
                return Err(JoinError::UsedByAnother);
            }
            let Some(keys) = record.step(JoinStage::Keys) else { return Err(JoinError::NoKeys) };
            if turn.now > keys.at.saturating_add(REPORTS) {
                return Err(JoinError::Late);
            }
            // A replica that serves has committed, even if that was not heard.
            let committed = step(record, JoinStage::Committed, turn.now);
            let serving = report == JoinReport::Serving && step(record, JoinStage::Serving, turn.now);
            Ok(committed || serving)
        })
        .await?;
        if is_new {
            self.progress(shown, &before.domain, stage);
        }
        Ok(())
    }

    fn progress(&self, shown: &Shown, domain: &str, stage: JoinStage) {
        let (invitation, domain) = (shown.id.clone(), domain.to_owned());
        self.audit.note(Event::ReplicaProgress {
            invitation,
            domain,
            stage: stage.name(),
            remote: shown.remote,
        });
    }
}
