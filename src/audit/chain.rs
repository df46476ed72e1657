//! The chain of records (`kms_ledger::chain`), and what a record says about the clock.

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) use kms_ledger::chain::{Link, LinkProblem, MAX_LINE, Salt, content, is_salted, number};

/// The event by which an operator says that the dates of the records before it are wrong.
pub(super) const CLOCK_FLOOR_LOWERED: &str = "clock_floor_lowered";

/// What a record says about the clock.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stamp {
    time: String,
    event: String,
}

impl Stamp {
    /// The time and type of a record; empty where the record has none.
    pub(super) fn of(record: &[u8]) -> Self {
        serde_json::from_slice(record).unwrap_or_default()
    }

    /// The newest date, after that of the records before: an operator can have said that theirs were wrong.
    pub(super) fn newest_after(&self, newest: u64) -> u64 {
        let time = OffsetDateTime::parse(&self.time, &Rfc3339).ok();
        let unix = time.and_then(|time| u64::try_from(time.unix_timestamp()).ok()).unwrap_or(0);
        if self.event == CLOCK_FLOOR_LOWERED { unix } else { unix.max(newest) }
    }
}
