//! Closed files that were moved away: `kms audit archive` leaves a note for each beside the log, and the
//! writer records it.
//!
//! `audit.<number>.archived` is about the closed file of that number. Each note is a separate file, so that
//! the writer removes what it has recorded and nothing that was added in between.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kms_attest::small_file::small_file;
use kms_attest::state_file;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::segments;

/// Maximum length of a note, bytes.
const MAX_NOTE: u64 = 4096;

/// Maximum number of notes recorded at once.
const MAX_NOTES: usize = 256;

/// A closed file that was moved away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFile {
    /// The number of the last record in it.
    pub last: u64,
    /// Its length, bytes.
    pub bytes: u64,
    /// SHA-256 of it, hex.
    pub sha256: String,
}

/// Says that a file of the log at `path` is about to be moved away. On the disk when this returns.
///
/// # Errors
/// The note beside the log cannot be written.
pub fn note_archived(path: &Path, archived: &ArchivedFile) -> io::Result<()> {
    let note = segments::archived_name(path, archived.last);
    state_file::replace(&note, format!("{}\n", serde_json::to_string(archived)?).as_bytes())
}

/// A note that is not recorded yet.
pub(super) struct Note {
    file: PathBuf,
    archived: ArchivedFile,
}

impl Note {
    fn read(file: PathBuf) -> Option<Self> {
        let text = small_file(&file, MAX_NOTE).ok()?;
        Some(Self { archived: kms_attest::json::from_utf8(&text).ok()?, file })
    }

    pub(super) fn event(&self) -> Event {
        let ArchivedFile { last, bytes, sha256 } = self.archived.clone();
        Event::SegmentArchived { last, bytes, sha256 }
    }

    /// Removes a recorded note.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.file)
    }
}

/// The files that were moved away and are not recorded yet.
pub(super) fn unrecorded(path: &Path) -> Vec<Note> {
    let notes = segments::archived_notes(path).unwrap_or_default();
    notes.into_iter().filter_map(Note::read).take(MAX_NOTES).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_root_notes_the_user_of_the_log_can_read() {
        let directory = tempfile::tempdir().unwrap();
        // Only root may do this; for others, all files are their own.
        let _ = std::os::unix::fs::chown(directory.path(), Some(4242), Some(4243));
        let path = directory.path().join("audit.jsonl");
        note_archived(&path, &ArchivedFile { last: 7, bytes: 1, sha256: "00".repeat(32) }).unwrap();
        let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
        assert_eq!(owner(&segments::archived_name(&path, 7)), owner(directory.path()));
    }

    #[test]
    fn a_file_that_is_moved_away_while_others_are_recorded_is_not_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let archived = |last| ArchivedFile { last, bytes: 1, sha256: "00".repeat(32) };
        for last in [10, 9] {
            note_archived(&path, &archived(last)).unwrap();
        }
        fs::write(directory.path().join("audit.7.archived"), "{\"last\":7").unwrap();
        let notes = unrecorded(&path);
        note_archived(&path, &archived(20)).unwrap();
        notes.iter().for_each(|note| note.remove().unwrap());
        let lasts = |notes: Vec<Note>| notes.iter().map(|note| note.archived.last).collect::<Vec<_>>();
        assert_eq!(lasts(notes), [9, 10]);
        assert_eq!(lasts(unrecorded(&path)), [20]);
    }
}
