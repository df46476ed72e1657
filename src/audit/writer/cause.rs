//! Why the log goes on in another file, or why nothing is written.

/// Why the log goes on in another file, or why nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The file is large enough.
    Size,
    /// The file is old enough.
    Age,
    /// The file ends with bytes that are not records.
    DamagedEnd,
    /// A sync failed, of the file or of its directory.
    SyncFailed,
    /// A write failed.
    WriteFailed,
    /// The disk is full.
    DiskFull,
    /// The file has lost its name.
    FileGone,
    /// Another file has the name.
    FileReplaced,
    /// The file is shorter than what was written.
    FileTruncated,
    /// The file is longer than what was written.
    FileWrittenByOthers,
    /// The clock is behind that of earlier records.
    ClockBehind,
    /// The records of a version without a ledger do not verify.
    NotImported,
    /// The tree is not as its checkpoint was signed.
    NotAsSigned,
    /// The tree cannot be read or written.
    TreeFailed,
}

impl Cause {
    /// The stable code, which records of the log contain.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Age => "age",
            Self::DamagedEnd => "damaged_end",
            Self::SyncFailed => "sync_failed",
            Self::WriteFailed => "write_failed",
            Self::DiskFull => "disk_full",
            Self::FileGone => "file_gone",
            Self::FileReplaced => "file_replaced",
            Self::FileTruncated => "file_truncated",
            Self::FileWrittenByOthers => "file_written_by_others",
            Self::ClockBehind => "clock_behind",
            Self::NotImported => "not_imported",
            Self::NotAsSigned => "not_as_signed",
            Self::TreeFailed => "tree_failed",
        }
    }

    /// Whether bytes after the last record are of our own writes, which were never acknowledged.
    pub(super) fn leaves_unacknowledged(self) -> bool {
        match self {
            Self::SyncFailed | Self::WriteFailed | Self::DiskFull => true,
            Self::Size
            | Self::Age
            | Self::DamagedEnd
            | Self::FileGone
            | Self::FileReplaced
            | Self::FileTruncated
            | Self::FileWrittenByOthers
            | Self::ClockBehind
            | Self::NotImported
            | Self::NotAsSigned
            | Self::TreeFailed => false,
        }
    }
}
