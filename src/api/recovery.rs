//! Recovery sets: made by owners, proved in drills by officers who need not be operators.

mod drill;
mod sets;
mod view;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;

pub use self::drill::{DrillAccepted, DrillResult, DrillStatus};
pub use self::sets::{CreateSet, MAX_CREATE, MadeFile, MadeSet};
pub use self::view::{RecoveryShown, RetiredShown, SetShown};
use super::approvals::ApprovalGate;
use crate::address::bucket;
use crate::admission::Foundation;
use crate::clock::{rfc3339, unix_now};
use crate::control::{DRILL_DAYS, RecoverySets, Standing};
use crate::error::{Code, Error, Result};
use crate::lifecycle::Ready;
use crate::metrics::RecoveryState;

/// How many wrong shares one address may send in a drill.
const MAX_WRONG: u32 = 20;
/// How many addresses with wrong shares are remembered; then all are forgotten.
const MAX_ADDRESSES: usize = 4096;
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
    checks: Semaphore,
    wrong: Mutex<BTreeMap<IpAddr, u32>>,
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
            checks: Semaphore::new(MAX_CHECKS),
            wrong: Mutex::default(),
        }
    }

    /// What an operator should do about recovery.
    pub fn standing(&self) -> Standing {
        self.sets.state().standing(&self.ready.recovery_epochs(), unix_now())
    }

    /// When the set was last proved, and what is to be done, as a sentence.
    pub fn reminder(&self) -> String {
        let advice = self.standing().sentence();
        match (self.sets.state().last_proved(), advice) {
            (_, Some(advice)) => advice,
            (Some(proved), None) => {
                let due = proved.saturating_add(DRILL_DAYS * 24 * 60 * 60);
                format!(
                    "the recovery set was last proved at {}; the next drill is due by {}",
                    rfc3339(proved),
                    rfc3339(due)
                )
            }
            (None, None) => "there is no recovery set yet: make one with kmsctl recovery create".to_owned(),
        }
    }

    /// The same for the metrics.
    pub fn measured(&self) -> Option<RecoveryState> {
        let (state, now) = (self.sets.state(), unix_now());
        let set = state.current()?.manifest.manifest();
        let own = self.ready.recovery_epochs();
        Some(RecoveryState {
            age: now.saturating_sub(set.created_at),
            since_proved: now.saturating_sub(state.last_proved()?),
            covers_all: state.not_covered(&own).is_empty(),
            is_current: state.out_of_date(&own).is_empty(),
        })
    }

    /// Refuses an address that sent too many wrong shares.
    fn expect_few_wrong(&self, remote: IpAddr) -> Result<()> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        match wrong.get(&bucket(remote)) {
            Some(count) if *count >= MAX_WRONG => {
                let text = "too many wrong shares came from this address; an owner can start another drill";
                Err(Error::new(Code::TooManyRequests, text).because("too_many_wrong_shares"))
            }
            _ => Ok(()),
        }
    }

    fn count_wrong(&self, remote: IpAddr) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= MAX_ADDRESSES {
            wrong.clear();
        }
        let count = wrong.entry(bucket(remote)).or_default();
        *count = count.saturating_add(1);
    }
}

/// Only the log says what the disk or the audit log said.
fn not_recorded(error: crate::audit::AuditError) -> Error {
    Error::unavailable("nothing was changed: the audit log does not take the record", error)
        .because("audit_unavailable")
}
