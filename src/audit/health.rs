//! Whether the audit log takes records, for probes, metrics and operators: a look that waits for nothing.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::AuditError;
use super::disk::Room;
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
    /// The clock is behind what is known to be past.
    ClockBehind,
    /// The records are not those that were signed: an older log was brought back, or it was changed.
    NotAsSigned,
    /// The tree over the records is being built.
    BuildingTree,
    /// The tree over the records cannot be used.
    Tree,
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
            Self::NotAsSigned => "not_as_signed",
            Self::BuildingTree => "building_tree",
            Self::Tree => "tree_failed",
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
            Self::ClockBehind => "the clock is behind what is known to be past",
            Self::NotAsSigned => {
                "the audit log is not the one that was signed: an older one was brought back, or it was changed"
            }
            Self::BuildingTree => "the tree over the audit log is being built",
            Self::Tree => "the tree over the audit log cannot be used",
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

/// Less than this is little, unless the whole disk is small.
const LITTLE: u64 = 512 << 20;
/// Of a small disk, less than one part in this many is little.
const LITTLE_PART: u64 = 10;
/// Fewer files than this can still be made on the disk: as good as full.
const FEW_FILES: u64 = 64;

impl Space {
    /// What an operator is told of a disk with this much left.
    pub(super) fn of(room: Room, reserve: Reserve, reserve_size: u64) -> Self {
        let Room { free, total, files } = room;
        let is_little = free < LITTLE.min(total / LITTLE_PART).max(8 * reserve_size);
        let is_low = is_little || files.is_some_and(|files| files < FEW_FILES) || reserve == Reserve::Spent;
        Self { free, is_low, reserve }
    }

    /// What is left where it is little, in words for operators.
    pub fn shortage(self) -> Option<String> {
        self.is_low.then(|| match self.reserve {
            Reserve::Spent => format!("{} MiB are left, and the reserve is spent", self.free >> 20),
            Reserve::None | Reserve::Held => format!("{} MiB are left", self.free >> 20),
        })
    }
}

/// What the writer tells about itself.
#[derive(Debug)]
pub(super) struct Status(Mutex<Told>);

#[derive(Debug)]
struct Told {
    health: Health,
    /// Since when a witness says that the log has contradicted itself. Only an operator ends that.
    contradicted: Option<u64>,
    /// Whether too few witnesses have cosigned the newest tree that was shown to them.
    lacks_witnesses: bool,
    /// When what the disk can hold up began: a write, or a look at the file.
    under_way: Option<Instant>,
    space: Space,
    /// Bytes at the end of files that were no records, since the start.
    damaged: u64,
    /// The number of the last acknowledged record.
    acknowledged: u64,
}

impl Status {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Told {
            health: Health::Writing,
            contradicted: None,
            lacks_witnesses: false,
            under_way: None,
            space: Space::default(),
            damaged: 0,
            acknowledged: 0,
        }))
    }

    pub(super) fn health(&self) -> Health {
        let told = self.told();
        if let Some(since) = told.contradicted {
            return Health::Failing { since, reason: FailureReason::NotAsSigned };
        }
        match (told.health, told.under_way.map(|began| began.elapsed())) {
            (Health::Writing, Some(elapsed)) if elapsed > MAX_WRITE_TIME => Health::Failing {
                since: unix_now().saturating_sub(elapsed.as_secs()),
                reason: FailureReason::Stalled,
            },
            (health, _) => health,
        }
    }

    /// Something that the disk can hold up begins.
    pub(super) fn begins(&self) {
        self.told().under_way = Some(Instant::now());
    }

    /// It has ended, however it did.
    pub(super) fn rests(&self) {
        self.told().under_way = None;
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

    /// A witness says that the log has contradicted itself.
    pub(super) fn contradicted(&self) {
        self.told().contradicted.get_or_insert_with(unix_now);
    }

    /// Whether too few witnesses have cosigned what was shown to them last.
    pub(super) fn set_lacks_witnesses(&self, lacks: bool) {
        self.told().lacks_witnesses = lacks;
    }

    pub(super) fn lacks_witnesses(&self) -> bool {
        self.told().lacks_witnesses
    }

    /// So many bytes at the end of a file are no records.
    pub(super) fn damaged(&self, bytes: u64) {
        self.told().damaged += bytes;
    }

    pub(super) fn damaged_bytes(&self) -> u64 {
        self.told().damaged
    }

    /// Every record up to this number is on the disk.
    pub(super) fn acknowledges(&self, seq: u64) {
        self.told().acknowledged = seq;
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.told().acknowledged
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
    fn little_is_half_a_gibibyte_or_a_tenth_of_a_small_disk() {
        const MIB: u64 = 1 << 20;
        for (free, total, files, reserve, low) in [
            (511 * MIB, 1 << 40, None, Reserve::Held, true),
            (512 * MIB, 1 << 40, None, Reserve::Held, false),
            (512 * MIB, 1 << 40, Some(64), Reserve::Held, false),
            (512 * MIB, 1 << 40, Some(63), Reserve::Held, true),
            (512 * MIB, 1 << 40, None, Reserve::Spent, true),
            (9 * MIB, 100 * MIB, None, Reserve::None, true),
            (10 * MIB, 100 * MIB, None, Reserve::None, false),
            (0, 100 * MIB, None, Reserve::None, true),
            (0, 0, None, Reserve::None, false),
        ] {
            let size = if reserve == Reserve::None { 0 } else { MIB };
            let space = Space::of(Room { free, total, files }, reserve, size);
            assert_eq!(space.is_low, low, "{free} of {total}, {files:?}, {reserve:?}");
        }
        let large =
            Space::of(Room { free: 900 * MIB, total: 1 << 40, files: None }, Reserve::Held, 128 * MIB);
        assert!(large.is_low, "less than eight reserves");
        assert_eq!(large.shortage().as_deref(), Some("900 MiB are left"));
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
