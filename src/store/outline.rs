//! How a key directory looks from outside: enough to know that nothing in it has changed since it was read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::commit::COMMIT;
use super::disk::failed;
use super::file::File;
use super::{KeyDirectory, StoreError};

/// How the files of a key directory look. As long as it is the same, so is what [`KeyDirectory::state`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline(Vec<Option<Mark>>);

/// What changes with each change of a file or of its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    inode: u64,
    mode: u32,
    changed: (i64, i64),
}

impl KeyDirectory {
    /// How the directory looks now; no file is opened.
    pub fn outline(&self) -> Result<Outline, StoreError> {
        // Files of others come and go in it: of the directory itself only the mode counts.
        let mut marks = vec![mark(&self.path)?.map(|own| Mark { changed: (0, 0), ..own })];
        for file in File::ALL {
            marks.push(mark(&self.path.join(file.name()))?);
        }
        for file in File::ROOT_KEYS {
            marks.push(mark(&self.path.join(COMMIT).join(file.name()))?);
        }
        Ok(Outline(marks))
    }
}

fn mark(path: &Path) -> Result<Option<Mark>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(Mark {
            inode: metadata.ino(),
            mode: metadata.mode(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}
