//! The key directory: which keys a node has, and the one commit that gives it keys.

mod commit;
#[cfg(test)]
mod crash_tests;
mod disk;
mod file;
mod fingerprints;
mod keyring;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

pub use self::commit::NewKeys;
use self::disk::{Disk, Lock, OsDisk};
pub use self::disk::{Occupancy, is_occupied};
pub use self::file::{Derived, Permissions};
pub use self::keyring::{Swept, check_keyring_file};
pub use self::snapshot::DirectorySnapshot;
pub use self::state::{State, Stored};

/// A directory that holds, or will hold, the keys of this node.
pub struct KeyDirectory {
    path: PathBuf,
    permissions: Permissions,
    disk: Box<dyn Disk>,
    /// Exclusive use of the directory by this process, where it was requested.
    occupancy: Option<Arc<Occupancy>>,
}

impl KeyDirectory {
    /// Opens a directory, made with mode 0700 (parents too) if there is none, and finishes or undoes a commit that was
    /// interrupted.
    pub fn open(path: &Path, permissions: Permissions) -> Result<Self, StoreError> {
        KeyDirectory::open_on(Box::new(OsDisk), path, permissions, None)
    }

    /// As [`KeyDirectory::open`], in the process that occupies the directory.
    pub fn open_occupied(
        path: &Path,
        permissions: Permissions,
        occupancy: Arc<Occupancy>,
    ) -> Result<Self, StoreError> {
        KeyDirectory::open_on(Box::new(OsDisk), path, permissions, Some(occupancy))
    }

    /// The lock under which the directory is changed.
    fn lock(&self) -> Result<Lock<'_>, StoreError> {
        match &self.occupancy {
            Some(occupancy) => Ok(occupancy.turn()),
            None => Lock::take(&self.path),
        }
    }

    fn open_on(
        disk: Box<dyn Disk>,
        path: &Path,
        permissions: Permissions,
        occupancy: Option<Arc<Occupancy>>,
    ) -> Result<Self, StoreError> {
        disk.create_dir_all(path)?;
        let directory = KeyDirectory { path: path.to_owned(), permissions, disk, occupancy };
        match directory.recover() {
            // `state` reports two sets of root keys, which the operator has to resolve.
            Ok(()) | Err(StoreError::TwoSets(_)) => {}
            Err(error) => return Err(error),
        }
        directory.warn();
        Ok(directory)
    }

    /// The state of a directory, read without changing it: a missing directory is empty, an interrupted commit stays.
    pub fn inspect(path: &Path, permissions: Permissions) -> Result<State, StoreError> {
        if !disk::exists(path)? {
            return Ok(State::Empty);
        }
        let directory =
            KeyDirectory { path: path.to_owned(), permissions, disk: Box::new(OsDisk), occupancy: None };
        directory.warn();
        directory.state()
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for KeyDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyDirectory").field(&self.path).finish()
    }
}

/// The name of a path in a log: the file's name, or the key directory, without its location.
fn place(path: &Path) -> String {
    match path.file_name().and_then(|name| name.to_str()).filter(|name| file::is_ours(name)) {
        Some(name) => format!("{name} in the key directory"),
        None => "the key directory".to_owned(),
    }
}

/// Why the key directory cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {cause}", place(path))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it was refused.
        cause: io::Error,
    },
    /// A symbolic link, directory or device where a file belongs.
    #[error("{0} is not a regular file")]
    NotAFile(&'static str),
    /// A file larger than such a file can be.
    #[error("{file} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// The most it may have.
        limit: u64,
    },
    /// A private key that others may read or write.
    #[error("{file} has mode {mode:04o}, others may use the key: run chmod 600 on it")]
    LoosePermissions {
        /// The file.
        file: &'static str,
        /// Its permission bits.
        mode: u32,
    },
    /// A key directory in which others may make and remove files.
    #[error("the key directory has mode {mode:04o}, others may replace the keys: run chmod go-w on it")]
    LooseDirectory {
        /// Its permission bits.
        mode: u32,
    },
    /// Another process holds the directory's lock for longer than a commit takes.
    #[error("the key directory is in use by another process")]
    InUse,
    /// A commit was asked for where there is a root key.
    #[error("the key directory already holds {0}; root keys are never overwritten")]
    HoldsRootKey(&'static str),
    /// There is no root key, but a file that only exists beside root keys.
    #[error(
        "all root keys are missing although {0} is there: restore keyring.json, or root-ca.key and root-k256.key, from a \
         backup; if no app has ever used these keys, move {0} away to start with new keys"
    )]
    LostRootKeys(&'static str),
    /// A commit was interrupted, and meanwhile other root keys have appeared.
    #[error(".commit/{0} differs from {0}: there are two sets of root keys, move the wrong one away")]
    TwoSets(&'static str),
}
