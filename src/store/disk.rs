//! The steps by which a key directory changes, one method each: a test stops the process at every one.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::StoreError;

/// A commit takes milliseconds: a longer wait means that the other process hangs.
const MAX_WAIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
const PAUSE: Duration = Duration::from_millis(20);

/// The operations that change the file system. All changes of `store` go through it.
pub(super) trait Disk: Send + Sync {
    /// A new file with these permission bits (before umask); an error if there is one.
    fn create(&self, path: &Path, mode: u32) -> Result<fs::File, StoreError>;
    fn write(&self, file: &fs::File, path: &Path, content: &[u8]) -> Result<(), StoreError>;
    /// Content and metadata of an open file, or the entries of an open directory, to stable storage.
    fn sync(&self, file: &fs::File, path: &Path) -> Result<(), StoreError>;
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError>;
    /// A second name for a file.
    fn link(&self, from: &Path, to: &Path) -> Result<(), StoreError>;
    /// Removes a file if there is one.
    fn remove_file(&self, path: &Path) -> Result<(), StoreError>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> Result<(), StoreError>;
    /// A new directory for the owner only.
    fn create_dir(&self, path: &Path) -> Result<(), StoreError>;
    /// The directory and its parents, for the owner only, where they do not exist.
    fn create_dir_all(&self, path: &Path) -> Result<(), StoreError>;
}

/// The real file system.
pub(super) struct OsDisk;

impl Disk for OsDisk {
    fn create(&self, path: &Path, mode: u32) -> Result<fs::File, StoreError> {
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed("create", path))
    }

    fn write(&self, mut file: &fs::File, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        file.write_all(content).map_err(failed("write", path))
    }

    fn sync(&self, file: &fs::File, path: &Path) -> Result<(), StoreError> {
        file.sync_all().map_err(failed("sync", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        fs::rename(from, to).map_err(failed("rename", from))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        fs::hard_link(from, to).map_err(failed("link", from))
    }

    fn remove_file(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map_err(failed("remove", path)),
        }
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StoreError> {
        fs::remove_dir(path).map_err(failed("remove", path))
    }

    fn create_dir(&self, path: &Path) -> Result<(), StoreError> {
        DirBuilder::new().mode(0o700).create(path).map_err(failed("create", path))
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
    }
}

/// An error that names the operation and the path.
pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    move |cause| StoreError::Io { doing, path: path.to_owned(), cause }
}

/// Whether this name exists, even as a dangling link.
pub(super) fn exists(path: &Path) -> Result<bool, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// The directory's advisory lock: one at a time changes it.
pub(super) enum Lock<'a> {
    /// Taken for this change. Ends with it, or with the process.
    Taken(#[expect(dead_code, reason = "holds the lock until dropped")] fs::File),
    /// The process holds the lock already; this orders its threads.
    Turn(#[expect(dead_code, reason = "holds the turn until dropped")] MutexGuard<'a, ()>),
}

impl Lock<'_> {
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        locked(path).map(Lock::Taken)
    }
}

/// Exclusive use of a key directory by this process until this is dropped. Another process gets an error.
#[derive(Debug)]
pub struct Occupancy {
    directory: fs::File,
    turn: Mutex<()>,
}

impl Occupancy {
    /// Takes a directory, which is created with mode 0700 (parents too) if it is missing. Waits a moment for
    /// a process that
    /// is about to end.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        OsDisk.create_dir_all(path)?;
        Ok(Self { directory: locked(path)?, turn: Mutex::new(()) })
    }

    pub(super) fn turn(&self) -> Lock<'_> {
        Lock::Turn(self.turn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Occupancy {
    /// Closing alone would leave the lock with a child process that is about to execute another program.
    fn drop(&mut self) {
        let _ = self.directory.unlock();
    }
}

/// Whether a process uses this key directory exclusively. The lock is held only for this check.
pub fn is_occupied(path: &Path) -> bool {
    let locked = fs::File::open(path).map(|directory| directory.try_lock_shared());
    matches!(locked, Ok(Err(fs::TryLockError::WouldBlock)))
}

fn locked(path: &Path) -> Result<fs::File, StoreError> {
    let directory = fs::File::open(path).map_err(failed("open", path))?;
    let started = Instant::now();
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(fs::TryLockError::WouldBlock) if started.elapsed() < MAX_WAIT => thread::sleep(PAUSE),
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse),
            Err(fs::TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
        }
    }
}
