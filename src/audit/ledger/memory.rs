//! The newest signed checkpoint on the disk, which the log must continue even if older files are restored.
//!
//! There are two copies. Readers find one in the directory of the tree. The other is beside the name of the
//! node, so that restoring a backup without the tree does not make the node forget what it has signed under
//! that name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::note::Note;

use super::super::segments;

/// The file of the newest signed checkpoint, in the directory of the tree.
const IN_TREE: &str = "checkpoint";

/// Maximum length of a checkpoint, bytes: two names and three lines.
const MAX_CHECKPOINT: usize = 4096;

/// Both files.
pub(super) struct Memory {
    beside_node: Kept,
    in_tree: Kept,
}

impl Memory {
    /// Opens the files of the log at `path`, or creates them.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            beside_node: Kept::open(&segments::checkpoint_name(path))?,
            in_tree: Kept::open(&segments::tree_name(path).join(IN_TREE))?,
        })
    }

    /// The checkpoints in the files; empty if both are lost.
    pub(super) fn read(&self) -> io::Result<Vec<Checkpoint>> {
        Ok([self.beside_node.read()?, self.in_tree.read()?].into_iter().flatten().collect())
    }

    /// Whether there is a checkpoint beside the name of the node.
    pub(super) fn is_beside_node(&self) -> bool {
        self.beside_node.length > 0
    }

    /// Saves a checkpoint before it is published.
    pub(super) fn write(&mut self, checkpoint: &str) -> io::Result<()> {
        self.beside_node.write(checkpoint)?;
        self.in_tree.write(checkpoint)
    }

    /// Syncs the copy beside the name of the node.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.beside_node.file.sync_data()
    }

    /// The copy beside the name of the node.
    pub(super) fn file(&self) -> io::Result<File> {
        self.beside_node.file.try_clone()
    }
}

/// A file that is written in place and not synced each time. The records are on the disk before a checkpoint
/// is signed, so an older checkpoint is consistent with them.
struct Kept {
    file: File,
    length: u64,
}

impl Kept {
    fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self { length: file.metadata()?.len(), file })
    }

    /// `None` if it is missing, or incomplete after a crash.
    fn read(&self) -> io::Result<Option<Checkpoint>> {
        let length = self.length.min(MAX_CHECKPOINT as u64);
        let mut text = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut text, 0)?;
        let checkpoint = parsed(&text);
        if checkpoint.is_none() && length > 0 {
            tracing::error!("a file with the newest signed checkpoint of the audit log cannot be read");
        }
        Ok(checkpoint)
    }

    fn write(&mut self, checkpoint: &str) -> io::Result<()> {
        self.file.write_all_at(checkpoint.as_bytes(), 0)?;
        let length = checkpoint.len() as u64;
        if length < self.length {
            self.file.set_len(length)?;
        }
        self.length = length;
        Ok(())
    }
}

/// The checkpoint in a note of this log.
pub(super) fn parsed(note: &[u8]) -> Option<Checkpoint> {
    Note::parse(note).ok().and_then(|note| note.text().parse().ok())
}
