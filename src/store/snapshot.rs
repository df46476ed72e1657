//! A snapshot of a key directory's file metadata, to tell whether it has changed since it was read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::commit::COMMIT;
use super::disk::failed;
use super::file::File;
use super::{KeyDirectory, StoreError};

/// File metadata of a key directory. While it is unchanged, [`KeyDirectory::state`] is too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySnapshot(Vec<Option<FileStat>>);

/// Metadata that changes with each change of a file or of its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStat {
    inode: u64,
    mode: u32,
    changed: (i64, i64),
}

impl KeyDirectory {
    /// The current metadata; no file is opened.
    pub fn snapshot(&self) -> Result<DirectorySnapshot, StoreError> {
        // Other files come and go in the directory, so only its own mode counts.
        let mut stats = vec![stat(&self.path)?.map(|own| FileStat { changed: (0, 0), ..own })];
        for file in File::ALL {
            stats.push(stat(&self.path.join(file.name()))?);
        }
        for file in File::ROOT_KEYS {
            stats.push(stat(&self.path.join(COMMIT).join(file.name()))?);
        }
        stats.push(stat(&self.path.join(super::keyring::OLD))?);
        Ok(DirectorySnapshot(stats))
    }
}

fn stat(path: &Path) -> Result<Option<FileStat>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(FileStat {
            inode: metadata.ino(),
            mode: metadata.mode(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}
