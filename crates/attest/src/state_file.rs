//! A small state file: read whole, replaced atomically by a rename. A lock file beside it keeps two processes
//! from overwriting each other's changes.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::small_file::small_file;

/// A change takes milliseconds, so a longer wait means that the other process hangs.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(2);
/// The number of the user root.
const ROOT: u32 = 0;
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
        let file = open_lock(path)?;
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

fn open_lock(path: &Path) -> io::Result<File> {
    let lock = lock_name(path);
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    loop {
        // Only a file that was made here gets an owner: an existing one may be a link to one of root's.
        match options.clone().create_new(true).open(&lock) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let made = made?;
                give_to_owner_of(directory(path), &made)?;
                return Ok(made);
            }
        }
        match options.open(&lock) {
            // It was removed in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !lock.is_symlink() => {}
            opened => return opened,
        }
    }
}

/// Gives a file or directory that root has just made to the owner of the directory in which it is. Otherwise a command that root
/// runs by hand would leave files that a service with a user of its own cannot read.
fn give_to_owner_of(directory: &Path, made: &File) -> io::Result<()> {
    let owner = fs::metadata(directory)?;
    if made.metadata()?.uid() != ROOT || owner.uid() == ROOT {
        return Ok(());
    }
    match fchown(made, Some(owner.uid()), Some(owner.gid())) {
        // Root of a container without that right, which is the service itself.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        given => given,
    }
}

fn lock_name(path: &Path) -> PathBuf {
    suffixed(path, ".lock")
}

/// The file beside the one at `path` with this after its name.
pub fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// The directory of a file.
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn make_directory(path: &Path) -> io::Result<()> {
    let made = directory(path);
    if made.is_dir() {
        return Ok(());
    }
    let above = directory(made);
    make_directory(made)?;
    // Without an error if another process makes it now.
    DirBuilder::new().recursive(true).mode(0o700).create(made)?;
    let handle = File::open(made)?;
    let (opened, named) = (handle.metadata()?, fs::symlink_metadata(made)?);
    // Unless somebody has put another one in its place.
    match named.is_dir() && (opened.dev(), opened.ino()) == (named.dev(), named.ino()) {
        true => give_to_owner_of(above, &handle),
        false => Ok(()),
    }
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

/// A file that was replaced: the next start of the program reads the new one.
#[derive(Debug)]
#[must_use = "what is in memory must be what the next start reads"]
pub enum Replaced {
    /// The new one is on the disk.
    Safely,
    /// The directory could not be synced, for this reason: if the machine stops now, the old file may be back.
    Unsynced(io::Error),
}

impl Replaced {
    /// For callers that keep nothing in memory.
    ///
    /// # Errors
    /// Why the directory could not be synced.
    pub fn safely(self) -> io::Result<()> {
        match self {
            Self::Safely => Ok(()),
            Self::Unsynced(error) => Err(error),
        }
    }
}

/// How the directory at a path is synced, after a file in it was replaced.
type SyncDirectory = fn(&Path) -> io::Result<()>;

/// Waits until the disk has the names of the files in the directory at `path`.
///
/// # Errors
/// Errors of the system.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A file that one program replaces as a whole, and has in its memory too.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
    sync: SyncDirectory,
}

impl From<PathBuf> for StateFile {
    /// The file at a path, which need not exist.
    fn from(path: PathBuf) -> Self {
        Self { path, sync: sync_directory }
    }
}

impl StateFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`read`].
    ///
    /// # Errors
    /// [`StateFileError`]
    pub fn read(&self, limit: u64) -> Result<Option<Vec<u8>>, StateFileError> {
        read(&self.path, limit)
    }

    /// As [`replace`], and tells a file that was not replaced from one that may not survive a stop of the machine.
    ///
    /// # Errors
    /// Errors of the system. The old file is then unchanged.
    pub fn replace(&self, content: &[u8]) -> io::Result<Replaced> {
        replace_and_tell(&self.path, content, self.sync)
    }

    /// The same file in a directory that is synced like this, for tests of a disk that fails.
    #[must_use]
    pub fn synced_by(self, sync: fn(&Path) -> io::Result<()>) -> Self {
        Self { sync, ..self }
    }
}

/// Replaces the file at `path` with one that contains `content` and only its owner can read. After a crash it
/// is the old or the new file. Creates the directory if it is missing. What root makes in the directory of another user is that
/// user's.
///
/// # Errors
/// Errors of the system. The old file is then unchanged, unless only the last sync failed: where memory must agree with the
/// disk, use [`StateFile`].
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_and_tell(path, content, sync_directory)?.safely()
}

fn replace_and_tell(path: &Path, content: &[u8], sync: SyncDirectory) -> io::Result<Replaced> {
    make_directory(path)?;
    let new = suffixed(path, ".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    give_to_owner_of(directory(path), &file)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(sync(directory(path)).map_or_else(Replaced::Unsynced, |()| Replaced::Safely))
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

    #[test]
    fn a_file_that_was_replaced_is_told_from_one_that_was_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let fails = |_: &Path| Err(io::Error::other("no sync"));
        let file = StateFile::from(path.clone());
        assert!(file.replace(b"1").unwrap().safely().is_ok());
        let file = file.synced_by(fails);
        let unsynced = file.replace(b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2", "a start reads the new one");
        assert_eq!(unsynced.safely().unwrap_err().to_string(), "no sync");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(file.replace(b"3").is_err(), "a directory is in its place");
    }

    #[test]
    fn a_file_that_differs_in_its_extension_only_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("audit.json.new");
        fs::write(&other, "of a log").unwrap();
        replace(&directory.path().join("audit.node"), b"{}").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "of a log");
    }

    #[test]
    fn what_root_writes_for_another_user_is_that_users() {
        let place = tempfile::tempdir().unwrap();
        let owned = place.path().join("keys");
        fs::create_dir(&owned).unwrap();
        // Only root may do this; for others, all files are their own.
        let _ = std::os::unix::fs::chown(&owned, Some(4242), Some(4243));
        let owner = fs::metadata(&owned).unwrap();
        let path = owned.join("some").join("collateral").join("state.json");
        drop(Lock::take(&path).unwrap());
        for content in [b"{}", b"[]"] {
            replace(&path, content).unwrap();
            let deeper = path.parent().unwrap();
            for made in [&path, &lock_name(&path), deeper, deeper.parent().unwrap()] as [&Path; 4] {
                let found = fs::metadata(made).unwrap();
                assert_eq!((found.uid(), found.gid()), (owner.uid(), owner.gid()), "{}", made.display());
            }
        }
        // A link in the place of the lock does not give its target away.
        let target = place.path().join("root's");
        fs::write(&target, "").unwrap();
        let before = fs::metadata(&target).unwrap().uid();
        std::os::unix::fs::symlink(&target, lock_name(&owned.join("linked"))).unwrap();
        drop(Lock::take(&owned.join("linked")).unwrap());
        assert_eq!(fs::metadata(&target).unwrap().uid(), before);
    }
}
