//! Closed files that were moved away: `kms audit archive` says so in a file beside the log, and the writer records it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::directory;
use super::event::Event;

/// Longest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// A closed file that is elsewhere now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFile {
    /// The number of the last record in it.
    pub last: u64,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of it, hex.
    pub sha256: String,
}

fn name(path: &Path) -> PathBuf {
    path.with_extension("archived")
}

/// Says that a file of the log at `path` is about to be moved away. On the disk when this returns.
///
/// # Errors
/// The file beside the log cannot be written.
pub fn append_archived(path: &Path, archived: &ArchivedFile) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(name(path))?;
    writeln!(file, "{}", serde_json::to_string(archived)?)?;
    file.sync_data()?;
    File::open(directory(path))?.sync_data()
}

/// What was moved away and is not recorded yet. A line that is cut short is of an archive that did not happen.
pub(super) fn unrecorded(path: &Path) -> Vec<Event> {
    let mut text = String::new();
    let read = File::open(name(path)).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    let archived = text.lines().filter_map(|line| serde_json::from_str::<ArchivedFile>(line).ok());
    archived
        .map(|ArchivedFile { last, bytes, sha256 }| Event::SegmentArchived { last, bytes, sha256 })
        .collect()
}

/// It is recorded.
pub(super) fn forget(path: &Path) -> io::Result<()> {
    fs::remove_file(name(path))
}
