//! What the steps of an invitation mean.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{JoinError, REPORTS};
use crate::state::{JoinRecord, JoinStage, MAX_JOINS, StepRecord};

/// How long one that is over is kept, in seconds.
const KEPT: u64 = 7 * 24 * 60 * 60;

/// The times of one change.
pub(super) struct Turn {
    /// Unix seconds.
    pub(super) now: u64,
    /// The ends that no clock can move.
    pub(super) ends: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Turn {
    fn has_ended(&self, record: &JoinRecord) -> bool {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        record.expires_at <= self.now || ends.get(&record.id).is_some_and(|end| *end <= Instant::now())
    }
}

/// Checks that a replica can use an invitation.
pub(super) fn open(record: &JoinRecord, turn: &Turn) -> Result<(), JoinError> {
    let has = |stage| record.step(stage).is_some();
    match () {
        () if has(JoinStage::Keys) => Err(JoinError::Used),
        () if has(JoinStage::Cancelled) => Err(JoinError::Cancelled),
        () if has(JoinStage::Expired) || turn.has_ended(record) => Err(JoinError::Expired),
        () => Ok(()),
    }
}

/// Adds a step, unless its stage was reached before.
pub(super) fn step(record: &mut JoinRecord, stage: JoinStage, at: u64) -> bool {
    let is_new = record.step(stage).is_none();
    if is_new {
        record.steps.push(StepRecord { stage, at, code: None, denial: None });
    }
    is_new
}

/// Forgets what has been over for long, and the oldest of those that are over if there are too many.
pub(super) fn prune(records: &mut Vec<JoinRecord>, turn: &Turn) {
    let last = |record: &JoinRecord| record.steps.last().map_or(record.created_at, |step| step.at);
    let is_over = |record: &JoinRecord| match record.step(JoinStage::Keys) {
        Some(keys) => record.step(JoinStage::Serving).is_some() || turn.now > keys.at.saturating_add(REPORTS),
        None => open(record, turn).is_err(),
    };
    records.retain(|record| !is_over(record) || turn.now <= last(record).saturating_add(KEPT));
    while records.len() > MAX_JOINS {
        let oldest = records
            .iter()
            .enumerate()
            .filter(|(_, record)| is_over(record))
            .min_by_key(|(_, record)| last(record))
            .or_else(|| records.iter().enumerate().min_by_key(|(_, record)| record.created_at));
        let Some((oldest, _)) = oldest else { return };
        records.remove(oldest);
    }
}
