//! A small state file: read whole, replaced atomically by a rename. A lock file beside it keeps two processes
//! from overwriting each other's changes.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::small_file::small_file;

/// A change takes milliseconds, so a longer wait means that the other process hangs.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// The exclusive right among all processes on this machine to change a state file, until dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    /// Closing alone would leave the lock with a child process that is about to execute another program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// Waits up to two seconds for the lock of the file at `path`. The lock is a separate file that stays,
    /// because the state file itself is replaced by each change. Creates the directory if it is missing.
    ///
    /// # Errors
    /// Errors of the system; [`io::ErrorKind::WouldBlock`] if another process holds the lock all the time.
    pub fn take(path: &Path) -> io::Result<Self> {
        Self::take_within(path, MAX_LOCK_WAIT)
    }

    fn take_within(path: &Path, wait: Duration) -> io::Result<Self> {
        make_directory(path)?;
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock_name(path))?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if began.elapsed() < wait => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds the lock"));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

fn lock_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    path.with_file_name(name)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory(path))
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The system cannot read the file.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// Larger than any file that this program writes.
    #[error("it is too large")]
    TooLarge,
}

/// The content of the file at `path`, at most `limit` bytes; `None` if there is no file.
///
/// # Errors
/// [`StateFileError`]; anything but a regular file is unreadable.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StateFileError> {
    match small_file(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            io::ErrorKind::FileTooLarge => Err(StateFileError::TooLarge),
            _ => Err(StateFileError::Unreadable(error)),
        },
    }
}

/// Replaces the file at `path` with one that contains `content` and only its owner can read. After a crash it
/// is the old or the new file. Creates the directory if it is missing.
///
/// # Errors
/// Errors of the system. The old file is then unchanged, unless only the last sync failed.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    make_directory(path)?;
    let new = path.with_extension("json.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_the_lock_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("state.json");
        let held = Lock::take(&path).unwrap();
        let refused = Lock::take_within(&path, Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        replace(&path, b"{}").unwrap();
        assert!(
            Lock::take_within(&path, Duration::ZERO).is_err(),
            "a change of the file does not end the lock"
        );
        drop(held);
        assert!(Lock::take_within(&path, Duration::ZERO).is_ok());
    }
}
