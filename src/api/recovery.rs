//! Recovery sets: made by owners, proved in drills by officers who need not be operators.

mod drill;
mod sets;
mod view;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;

pub use self::drill::{DrillAccepted, DrillResult, DrillStatus};
pub use self::sets::{CreateSet, MAX_CREATE, MadeFile, MadeSet};
pub use self::view::{RecoveryShown, RetiredShown, SetShown};
use super::approval_gate::ApprovalGate;
use super::ceremony::Attempts;
use crate::admission::Foundation;
use crate::clock::{rfc3339, unix_now};
use crate::control::{RecoverySets, Standing};
use crate::error::{Code, Error, Result};
use crate::lifecycle::Ready;
use crate::metrics::RecoveryState;

/// How many shares are checked at the same time; further ones are refused.
const MAX_CHECKS: usize = 4;

/// What a KMS with keys does about recovery.
#[derive(Debug)]
pub struct RecoveryService {
    foundation: Arc<Foundation>,
    ready: Arc<Ready>,
    sets: Arc<RecoverySets>,
    gate: ApprovalGate,
    /// One set is made at a time.
    making: Semaphore,
    /// The last set that this process made, with its officers' files: encrypted, so that they may wait here.
    made: ArcSwapOption<MadeSet>,
    /// The lock is never held across a wait.
    drill: Mutex<Option<drill::Drilling>>,
    /// With a place for each share that is checked.
    checks: Arc<Semaphore>,
    /// One drill is started at a time.
    starting: Semaphore,
    wrong: Mutex<Attempts>,
}

impl RecoveryService {
    /// The service of a KMS with keys.
    pub fn new(
        foundation: Arc<Foundation>,
        ready: Arc<Ready>,
        sets: Arc<RecoverySets>,
        gate: ApprovalGate,
    ) -> Self {
        Self {
            foundation,
            ready,
            sets,
            gate,
            making: Semaphore::new(1),
            made: ArcSwapOption::empty(),
            drill: Mutex::default(),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            starting: Semaphore::new(1),
            wrong: Mutex::default(),
        }
    }

    /// What an operator should do about recovery.
    pub fn standing(&self) -> Standing {
        let choices = self.foundation.choices_digest();
        self.sets.state().standing_with(&self.ready.recovery_epochs(), &choices, unix_now())
    }

    /// When the set was last proved, and what is to be done, as a sentence.
    pub fn reminder(&self) -> String {
        if let Some(advice) = self.standing().sentence() {
            return advice;
        }
        let state = self.sets.state();
        match (state.last_proved(), state.drill_due()) {
            (Some(proved), Some(due)) => format!(
                "the recovery set was last proved at {}; the next drill is due by {}",
                rfc3339(proved),
                rfc3339(due)
            ),
            (None, Some(due)) => {
                format!("no drill has proved the new recovery set yet; the first is due by {}", rfc3339(due))
            }
            (_, None) => "there is no recovery set yet: make one with kmsctl recovery create".to_owned(),
        }
    }

    /// The same for the metrics.
    pub fn measured(&self) -> Option<RecoveryState> {
        let (state, now) = (self.sets.state(), unix_now());
        let set = state.current()?.manifest.manifest();
        let own = self.ready.recovery_epochs();
        Some(RecoveryState {
            age: now.saturating_sub(set.created_at),
            since_proved: state.last_proved().map(|proved| now.saturating_sub(proved)),
            covers_all: state.not_covered(&own).is_empty(),
            is_current: state.out_of_date(&own).is_empty()
                && !state.choices_changed(&self.foundation.choices_digest()),
        })
    }

    /// Refuses an address that has sent too many wrong shares recently.
    fn expect_few_wrong(&self, remote: IpAddr) -> Result<()> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.may_send(remote, Instant::now()) {
            return Ok(());
        }
        let text = "too many wrong shares came from this address; try again in a few seconds, or let an owner start another drill";
        Err(Error::new(Code::TooManyRequests, text).because("too_many_wrong_shares"))
    }

    fn count_wrong(&self, remote: IpAddr) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.count(remote, Instant::now());
    }
}

/// Only the log says what the disk or the audit log said.
fn not_recorded(error: crate::audit::AuditError) -> Error {
    Error::unavailable("nothing was changed: the audit log does not take the record", error)
        .because("audit_unavailable")
}
