//! Whether the audit log takes records, for probes, metrics and operators: a look that waits for nothing.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::AuditError;
use crate::clock::unix_now;

/// A write that is under way for longer than this counts as one that fails.
pub(super) const MAX_WRITE_TIME: Duration = Duration::from_secs(2);

/// Whether the audit log takes records. While it does not, no key is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The last record is on the disk.
    Writing,
    /// Records are refused.
    Failing {
        /// Unix seconds of the first failure.
        since: u64,
        /// What failed.
        reason: FailureReason,
    },
}

impl Health {
    /// Whether records are taken.
    pub fn is_writing(self) -> bool {
        self == Self::Writing
    }
}

/// Why the audit log takes no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// No space is left, or the file may not grow.
    DiskFull,
    /// The system refuses to write for another reason.
    Write,
    /// The system does not confirm that what was written is on the disk.
    Sync,
    /// A write or its confirmation is under way for more than two seconds.
    Stalled,
    /// The file was removed, replaced, shortened or written to by somebody else.
    FileChanged,
    /// The clock is behind the last record.
    ClockBehind,
    /// The writer has ended.
    Ended,
}

impl FailureReason {
    /// A stable name, for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::Write => "write_failed",
            Self::Sync => "sync_failed",
            Self::Stalled => "stalled",
            Self::FileChanged => "file_changed",
            Self::ClockBehind => "clock_behind",
            Self::Ended => "ended",
        }
    }
}

impl FailureReason {
    /// What a record gets instead of a receipt meanwhile.
    pub(super) fn error(self) -> AuditError {
        AuditError::Write(io::Error::other(self.to_string()))
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiskFull => "the disk of the audit log is full",
            Self::Write => "the audit log cannot be written",
            Self::Sync => "the disk does not confirm the audit log",
            Self::Stalled => "the disk of the audit log does not answer",
            Self::FileChanged => "the audit file was removed, replaced or changed by somebody else",
            Self::ClockBehind => "the clock is behind the last audit record",
            Self::Ended => "the audit writer has ended",
        })
    }
}

/// The space that the audit log has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that are free on its disk.
    pub free: u64,
    /// Whether that is so little that an operator should look.
    pub is_low: bool,
    /// Space that is kept for the log alone.
    pub reserve: Reserve,
}

/// Space that is kept for the log alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reserve {
    /// There is none: `core.audit.reserve` is 0, or the file system has no such thing.
    #[default]
    None,
    /// It is there.
    Held,
    /// The disk was full, and the log has taken it.
    Spent,
}

impl Space {
    /// Below which free space is low: eight reserves, or a twentieth of the disk, but at most 10 GiB.
    pub(super) fn low_below(reserve: u64, total: u64) -> u64 {
        (8 * reserve).max((total / 20).min(10 << 30))
    }
}

/// What the writer tells about itself.
#[derive(Debug)]
pub(super) struct Status(Mutex<Told>);

#[derive(Debug)]
struct Told {
    health: Health,
    /// When the write that is under way began.
    under_way: Option<Instant>,
    space: Space,
}

impl Status {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Told { health: Health::Writing, under_way: None, space: Space::default() }))
    }

    pub(super) fn health(&self) -> Health {
        let told = self.told();
        match (told.health, told.under_way.map(|began| began.elapsed())) {
            (Health::Writing, Some(elapsed)) if elapsed > MAX_WRITE_TIME => Health::Failing {
                since: unix_now().saturating_sub(elapsed.as_secs()),
                reason: FailureReason::Stalled,
            },
            (health, _) => health,
        }
    }

    /// A write begins.
    pub(super) fn begins(&self) {
        self.told().under_way = Some(Instant::now());
    }

    /// It is on the disk.
    pub(super) fn succeeded(&self) {
        let mut told = self.told();
        (told.health, told.under_way) = (Health::Writing, None);
    }

    /// It is not, or not known to be. The time of the first failure stays.
    pub(super) fn failed(&self, reason: FailureReason) {
        let mut told = self.told();
        let since = match told.health {
            Health::Failing { since, .. } => since,
            Health::Writing => unix_now(),
        };
        (told.health, told.under_way) = (Health::Failing { since, reason }, None);
    }

    pub(super) fn space(&self) -> Space {
        self.told().space
    }

    /// Whether it is low now and was not before.
    pub(super) fn set_space(&self, space: Space) -> bool {
        let before = std::mem::replace(&mut self.told().space, space);
        space.is_low && !before.is_low
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_does_not_end_counts_as_a_failure() {
        let status = Status::new();
        status.begins();
        assert!(status.health().is_writing());
        status.told().under_way = Instant::now().checked_sub(MAX_WRITE_TIME * 2);
        assert!(matches!(status.health(), Health::Failing { reason: FailureReason::Stalled, .. }));
        status.succeeded();
        assert!(status.health().is_writing());
    }

    #[test]
    fn a_failure_lasts_from_the_first_to_the_next_success() {
        let status = Status::new();
        status.failed(FailureReason::Sync);
        let Health::Failing { since, .. } = status.health() else { panic!("it failed") };
        status.failed(FailureReason::DiskFull);
        assert_eq!(status.health(), Health::Failing { since, reason: FailureReason::DiskFull });
        status.succeeded();
        assert!(status.health().is_writing());
    }
}
