//! A drill: officers bring their shares to a KMS with keys, which puts them together as a restore does, compares, and forgets.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kms_recovery::{Combiner, Progress, Share};
use schemars::JsonSchema;
use serde::Serialize;

use super::{RecoveryService, not_recorded};
use crate::api::ceremony::{Attempts, CeremonyStatus, Deadline, Purpose, refused};
use crate::api::{Caller, Transport};
use crate::audit::Event;
use crate::clock::{rfc3339, unix_now};
use crate::control::{Author, CurrentSet, Drill};
use crate::error::{Code, Error, Result};
use crate::request;

/// How long officers have.
const LASTS: Duration = Duration::from_secs(60 * 60);

/// A drill that is open. Dropping it overwrites all shares.
#[derive(Debug)]
pub(super) struct Drilling {
    set: Arc<CurrentSet>,
    combiner: Combiner,
    ends: Deadline,
    /// Tells it from later ones.
    began: Instant,
}

/// The answer of `GET /recovery` of a KMS with keys, which anyone may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DrillStatus {
    /// The drill that is open. `None` if there is none.
    pub ceremony: Option<CeremonyStatus>,
    /// How the last one ended.
    pub drill: Option<DrillResult>,
    /// Epochs whose root keys no drill proves, as the set does not have them. Absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_proved: Vec<u32>,
}

/// How a drill ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DrillResult {
    /// The set.
    pub set: String,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// Who brought a share; empty on the main listener.
    pub officers: Vec<String>,
    /// Whether the shares gave the root keys.
    pub ok: bool,
    /// Why not; absent on the main listener.
    pub reason: Option<String>,
}

/// The answer to a share that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DrillAccepted {
    /// Whose it is.
    pub officer: String,
    /// Its index.
    pub index: u8,
    /// How far the drill is now.
    #[serde(flatten)]
    pub status: DrillStatus,
}

impl Drilling {
    fn status(&self) -> CeremonyStatus {
        CeremonyStatus::of(Purpose::Drill, &self.combiner, self.ends)
    }

    fn set(&self) -> String {
        self.set.manifest.manifest().set.to_string()
    }

    fn officers(&self) -> Vec<String> {
        self.combiner.officers().map(|(_, name)| name.to_string()).collect()
    }
}

impl From<&Drill> for DrillResult {
    fn from(drill: &Drill) -> Self {
        Self {
            set: drill.set.clone(),
            at: rfc3339(drill.at),
            officers: drill.officers.clone(),
            ok: drill.failure.is_none(),
            reason: drill.failure.clone(),
        }
    }
}

impl RecoveryService {
    fn drilling<T>(&self, look: impl FnOnce(&mut Option<Drilling>) -> T) -> T {
        look(&mut self.drill.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How far a drill is, for anyone: names of officers only while it is open.
    pub fn public_status(&self) -> DrillStatus {
        let DrillStatus { ceremony, drill, not_proved } = self.drill_status();
        let unnamed = |drill| DrillResult { officers: Vec::new(), reason: None, ..drill };
        DrillStatus { ceremony, drill: drill.map(unnamed), not_proved }
    }

    /// How far a drill is, for operators. It tells no secret.
    pub fn drill_status(&self) -> DrillStatus {
        let ceremony = self.drilling(|drill| drill.as_ref().map(Drilling::status));
        let state = self.sets.state();
        let drill = state.drills().last().map(DrillResult::from);
        // Without a set there is no drill that could prove anything.
        let not_proved = match state.current() {
            Some(_) => state.not_covered(&self.ready.recovery_epochs()),
            None => Vec::new(),
        };
        DrillStatus { ceremony, drill, not_proved }
    }

    /// Opens a drill of the current set, for an hour.
    ///
    /// # Errors
    /// `no_recovery_set`; `drill_open`; `other_domain`; the audit log does not take it.
    pub async fn start_drill(self: Arc<Self>, caller: &Caller) -> Result<DrillStatus> {
        caller.expect_whole_kms()?;
        let author = caller.author();
        // A task of its own: what is recorded as open is open, even if the client disconnects.
        let opened = request::spawn(async move { self.open_drill(author).await });
        opened.await.map_err(|error| Error::internal("the drill ended in a panic", error))?
    }

    async fn open_drill(self: Arc<Self>, author: Author) -> Result<DrillStatus> {
        let state = self.sets.state();
        let Some(set) = state.current().cloned() else {
            let text = "there is no recovery set to prove; make one with kmsctl recovery create";
            return Err(Error::new(Code::Conflict, text).because("no_recovery_set"));
        };
        let _turn = self.starting.try_acquire().map_err(|_| drill_is_open())?;
        if self.drilling(|drill| drill.is_some()) {
            return Err(drill_is_open());
        }
        let event = Event::RecoveryDrillStarted {
            set: set.manifest.manifest().set.to_string(),
            ends_at: unix_now().saturating_add(LASTS.as_secs()),
            by: author.by,
            remote: author.remote,
        };
        self.foundation.audit.record(event).await.map(drop).map_err(not_recorded)?;
        let (ends, began) = (Deadline::after(LASTS), Instant::now());
        let combiner = Combiner::new(set.manifest.clone());
        let drilling = Drilling { set, combiner, ends, began };
        self.drilling(|drill| match drill {
            Some(_) => Err(drill_is_open()),
            None => {
                *drill = Some(drilling);
                Ok(())
            }
        })?;
        // An owner forgives everybody.
        *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Attempts::default();
        // Forgets the shares at the end, although nobody asks.
        let service = Arc::downgrade(&self);
        tokio::spawn(async move {
            tokio::time::sleep(ends.left()).await;
            if let Some(service) = service.upgrade() {
                service.end(Some(began), "not enough shares came in time").await;
            }
        });
        tracing::info!("a drill is open: officers may send their shares");
        Ok(self.drill_status())
    }

    /// Ends the drill, and forgets its shares. Without one it changes nothing.
    ///
    /// # Errors
    /// `other_domain`
    pub async fn cancel_drill(self: Arc<Self>, caller: &Caller) -> Result<DrillStatus> {
        caller.expect_whole_kms()?;
        let author = caller.author();
        // As when it is opened.
        let ended = request::spawn(async move {
            self.end(None, &format!("cancelled by {} from {}", author.by, author.remote)).await;
            self.drill_status()
        });
        ended.await.map_err(|error| Error::internal("the end of the drill ended in a panic", error))
    }

    /// Ends the drill, or the one that began then.
    async fn end(&self, began: Option<Instant>, reason: &str) {
        let is_meant = |open: &mut Drilling| began.is_none_or(|began| open.began == began);
        let Some(ended) = self.drilling(|drill| drill.take_if(is_meant)) else { return };
        let (set, officers, reason) = (ended.set(), ended.officers(), reason.to_owned());
        drop(ended);
        let ended = Event::RecoveryDrillCancelled {
            set: set.clone(),
            officers: officers.clone(),
            reason: reason.clone(),
        };
        self.foundation.audit.note(ended);
        self.sets.drilled(Drill { set, at: unix_now(), officers, failure: Some(reason) }).await;
    }

    /// Takes one officer's share. With the last that is needed, the root keys are put together, compared and forgotten, and the
    /// drill is over.
    ///
    /// # Errors
    /// Not over TLS; no drill is open; the share is wrong, and the text names its officer; too many are wrong; the shares do not
    /// give the root keys of this KMS.
    pub async fn take_share(self: Arc<Self>, caller: &Caller, body: &[u8]) -> Result<DrillAccepted> {
        if caller.transport() != Transport::Tls {
            let text = "a share is accepted over TLS only: use kmsctl, which verifies this KMS first";
            return Err(Error::invalid(text).because("tls_needed"));
        }
        self.expect_few_wrong(caller.remote())?;
        let busy = || Error::new(Code::NotReady, "too many shares at once; try again").because("busy");
        let check = Arc::clone(&self.checks).try_acquire_owned().map_err(|_| busy())?;
        let share =
            Share::parse(body).map_err(|error| Error::invalid(error.to_string()).because("share_wrong"))?;
        let set = self.drilling(|drill| drill.as_ref().map(|drill| Arc::clone(&drill.set)));
        let set = set.ok_or_else(none_is_open)?;
        let (officer, index) = (share.officer.to_string(), share.index);
        // Neither under the lock nor among the tasks that wait for the network, because it takes a while.
        let checked = tokio::task::spawn_blocking(move || {
            let _place = check;
            set.manifest.checked(share)
        });
        let checked = checked.await.map_err(|error| Error::internal("the check ended in a panic", error))?;
        let share = checked.map_err(|error| {
            self.count_wrong(caller.remote());
            tracing::warn!(officer, index, remote = %caller.remote(), "a wrong share was refused");
            refused(&error)
        })?;
        let ended = self.drilling(|drill| {
            let open = drill.as_mut().ok_or_else(none_is_open)?;
            let progress = open.combiner.add_checked(share).map_err(|error| refused(&error))?;
            Ok::<_, Error>(if progress == Progress::Complete { drill.take() } else { None })
        })?;
        tracing::info!(officer, index, "the share of an officer is in");
        if let Some(drilling) = ended {
            let service = Arc::clone(&self);
            // A task of its own: the result is recorded even if the client disconnects.
            let proved = request::spawn(async move { service.prove(drilling).await });
            proved.await.map_err(|error| Error::internal("the drill ended in a panic", error))??;
        }
        Ok(DrillAccepted { officer, index, status: self.public_status() })
    }

    async fn prove(&self, drilling: Drilling) -> Result<()> {
        let (set, officers) = (drilling.set(), drilling.officers());
        let epochs = drilling.set.manifest.manifest().epochs.iter().map(|epoch| epoch.epoch).collect();
        let ready = Arc::clone(&self.ready);
        let drilled = tokio::task::spawn_blocking(move || ready.drill(&drilling.combiner)).await;
        let drilled = drilled.map_err(|error| Error::internal("the drill ended in a panic", error))?;
        let failure = drilled.err().map(|error| error.to_string());
        let event = match failure.clone() {
            None => Event::RecoveryDrill { set: set.clone(), officers: officers.clone(), epochs },
            Some(reason) => {
                Event::RecoveryDrillFailed { set: set.clone(), officers: officers.clone(), reason }
            }
        };
        self.foundation.audit.record(event).await.map(drop).map_err(not_recorded)?;
        self.sets.drilled(Drill { set, at: unix_now(), officers, failure: failure.clone() }).await;
        match failure {
            None => {
                tracing::info!("the shares gave the root keys of this KMS; they are forgotten");
                Ok(())
            }
            Some(reason) => {
                tracing::error!(reason, "the shares did not give the root keys of this KMS");
                Err(Error::new(Code::Conflict, format!("the drill failed: {reason}")).because("drill_failed"))
            }
        }
    }
}

fn drill_is_open() -> Error {
    let text = "a drill is open already; cancel it first with kmsctl recovery drill cancel";
    Error::new(Code::Conflict, text).because("drill_open")
}

fn none_is_open() -> Error {
    let text = "no drill is open here: an owner opens one with kmsctl recovery drill start";
    Error::new(Code::Conflict, text).because("no_ceremony")
}
