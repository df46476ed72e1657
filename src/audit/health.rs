//! Whether the audit log accepts records, for probes, metrics and operators. Reading it never blocks.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::AuditError;
use super::disk::Room;
use crate::clock::unix_now;
use crate::metrics::Metrics;

/// Whether the audit log accepts records. While it does not, no key is released.
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
    /// Whether records are accepted.
    pub fn is_writing(self) -> bool {
        self == Self::Writing
    }
}

/// Why the audit log accepts no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// No space is left, or the file must not grow.
    DiskFull,
    /// The system refuses to write for another reason.
    Write,
    /// The system does not confirm that written data is on the disk.
    Sync,
    /// A write or a sync has taken more than two seconds.
    Stalled,
    /// Another program removed, replaced, shortened or wrote to the file.
    FileChanged,
    /// The clock is behind what is known to be past.
    ClockBehind,
    /// The records differ from those that were signed: an older log was restored, or the log was changed.
    NotAsSigned,
    /// The records of an older version are being verified, before they are sealed.
    Importing,
    /// They do not hold.
    NotImported,
    /// The tree over the records is being built.
    BuildingTree,
    /// The tree over the records cannot be used.
    Tree,
    /// The writer has ended.
    Ended,
}

impl FailureReason {
    /// A stable name for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::Write => "write_failed",
            Self::Sync => "sync_failed",
            Self::Stalled => "stalled",
            Self::FileChanged => "file_changed",
            Self::ClockBehind => "clock_behind",
            Self::NotAsSigned => "not_as_signed",
            Self::Importing => "importing",
            Self::NotImported => "not_imported",
            Self::BuildingTree => "building_tree",
            Self::Tree => "tree_failed",
            Self::Ended => "ended",
        }
    }
}

impl FailureReason {
    /// The message in place of a receipt in this state.
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
            Self::Importing => "the audit log of an older version is being imported",
            Self::NotImported => {
                "the audit log of an older version does not hold: the process log says where; restart this \
                 KMS afterwards"
            }
            Self::BuildingTree => "the tree over the audit log is being built",
            Self::Tree => "the tree over the audit log cannot be used",
            Self::Ended => "the audit writer has ended",
        })
    }
}

/// The disk space of the audit log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Free bytes on its disk.
    pub free: u64,
    /// Whether free space is so low that an operator should act.
    pub is_low: bool,
    /// Space reserved for the log.
    pub reserve: Reserve,
}

/// The state of the reserved space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing is reserved: `core.audit.reserve` is 0, or the file system does not support it.
    #[default]
    None,
    /// It is available.
    Held,
    /// The disk was full, and the log has used it.
    Spent,
}

/// Less free space than this is low, unless the whole disk is small.
const LITTLE: u64 = 512 << 20;
/// On a small disk, free space below this fraction (one part in so many) is low.
const LITTLE_PART: u64 = 10;
/// If fewer files than this can still be created, the disk counts as full.
const FEW_FILES: u64 = 64;

impl Space {
    /// The space of the log on a disk with this much free.
    pub(super) fn of(room: Room, reserve: Reserve, reserve_size: u64) -> Self {
        let Room { free, total, files } = room;
        let is_little = free < LITTLE.min(total / LITTLE_PART).max(8 * reserve_size);
        let is_low = is_little || files.is_some_and(|files| files < FEW_FILES) || reserve == Reserve::Spent;
        Self { free, is_low, reserve }
    }

    /// The free space, in words for operators, if it is low.
    pub fn shortage(self) -> Option<String> {
        self.is_low.then(|| match self.reserve {
            Reserve::Spent => format!("{} MiB are left, and the reserve is spent", self.free >> 20),
            Reserve::None | Reserve::Held => format!("{} MiB are left", self.free >> 20),
        })
    }
}

/// The state that the writer publishes.
#[derive(Debug)]
pub(super) struct Status {
    /// A write that takes longer than this counts as failed.
    max_write_time: Duration,
    told: Mutex<Told>,
    /// Where syncs and requests to witnesses are counted, once it is known.
    metrics: OnceLock<Arc<Metrics>>,
}

#[derive(Debug)]
struct Told {
    health: Health,
    /// When a witness first said that the log has contradicted itself. Only an operator can reset it.
    contradicted: Option<u64>,
    /// Whether too few witnesses have cosigned the newest tree sent to them.
    lacks_witnesses: bool,
    /// The start of an operation that the disk can delay: a write, or a check of the file.
    under_way: Option<Instant>,
    space: Space,
    /// Bytes at the end of files that were not records, since the start.
    damaged: u64,
    /// The number of the last acknowledged record.
    acknowledged: u64,
    /// Up to which record an import is, and of how many.
    imported: Option<(u64, u64)>,
}

impl Status {
    pub(super) fn new(max_write_time: Duration) -> Self {
        let told = Told {
            health: Health::Writing,
            contradicted: None,
            lacks_witnesses: false,
            under_way: None,
            space: Space::default(),
            damaged: 0,
            acknowledged: 0,
            imported: None,
        };
        Self { max_write_time, told: Mutex::new(told), metrics: OnceLock::new() }
    }

    /// Counts syncs and requests to witnesses there from now on.
    pub(super) fn report_to(&self, metrics: Arc<Metrics>) {
        // The metrics of a process are made once.
        let _ = self.metrics.set(metrics);
    }

    pub(super) fn metrics(&self) -> Option<&Metrics> {
        self.metrics.get().map(|metrics| &**metrics)
    }

    pub(super) fn health(&self) -> Health {
        let told = self.told();
        if let Some(since) = told.contradicted {
            return Health::Failing { since, reason: FailureReason::NotAsSigned };
        }
        match (told.health, told.under_way.map(|began| began.elapsed())) {
            (Health::Writing, Some(elapsed)) if elapsed > self.max_write_time => Health::Failing {
                since: unix_now().saturating_sub(elapsed.as_secs()),
                reason: FailureReason::Stalled,
            },
            (health, _) => health,
        }
    }

    /// Marks the start of an operation that the disk can delay.
    pub(super) fn begins(&self) {
        self.told().under_way = Some(Instant::now());
    }

    /// Marks its end, whatever the result.
    pub(super) fn rests(&self) {
        self.told().under_way = None;
    }

    /// Marks the records as on the disk.
    pub(super) fn succeeded(&self) {
        let mut told = self.told();
        (told.health, told.under_way) = (Health::Writing, None);
    }

    /// Marks them as not on the disk, or as unknown. The time of the first failure stays.
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

    /// Records whether too few witnesses have cosigned the tree sent to them last.
    pub(super) fn set_lacks_witnesses(&self, lacks: bool) {
        self.told().lacks_witnesses = lacks;
    }

    pub(super) fn lacks_witnesses(&self) -> bool {
        self.told().lacks_witnesses
    }

    /// Counts bytes at the end of a file that are not records.
    pub(super) fn damaged(&self, bytes: u64) {
        self.told().damaged += bytes;
    }

    pub(super) fn damaged_bytes(&self) -> u64 {
        self.told().damaged
    }

    /// Records that every record up to this number is on the disk.
    pub(super) fn acknowledges(&self, seq: u64) {
        self.told().acknowledged = seq;
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.told().acknowledged
    }

    /// An import is at this record, of so many; `None`: there is no import.
    pub(super) fn imports(&self, progress: Option<(u64, u64)>) {
        self.told().imported = progress;
    }

    pub(super) fn imported(&self) -> Option<(u64, u64)> {
        self.told().imported
    }

    pub(super) fn space(&self) -> Space {
        self.told().space
    }

    /// Whether free space is low now and was not before.
    pub(super) fn set_space(&self, space: Space) -> bool {
        let before = std::mem::replace(&mut self.told().space, space);
        space.is_low && !before.is_low
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(2);

    #[test]
    fn a_write_that_does_not_end_counts_as_a_failure() {
        let status = Status::new(MAX);
        status.begins();
        assert!(status.health().is_writing());
        status.told().under_way = Instant::now().checked_sub(MAX * 2);
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
        let status = Status::new(MAX);
        status.failed(FailureReason::Sync);
        let Health::Failing { since, .. } = status.health() else { panic!("it failed") };
        status.failed(FailureReason::DiskFull);
        assert_eq!(status.health(), Health::Failing { since, reason: FailureReason::DiskFull });
        status.succeeded();
        assert!(status.health().is_writing());
    }
}
