//! The file system operations of the audit writer, one method each, so that a test can make any of them fail.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

pub(super) use kms_attest::state_file::directory;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Brings the content of a file to stable storage.
pub(super) type Syncer = Box<dyn Fn(&File) -> io::Result<()> + Send>;

/// The file system operations that change an audit log.
pub(super) trait Disk: Send {
    /// Opens a file for reading and appending, readable by its owner only; creates it if it is missing.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Creates a file for reading and appending, readable by its owner only.
    fn create(&self, path: &Path) -> io::Result<File>;
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    /// Brings the content of a file, or the entries of a directory, to stable storage.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// The same, for use on another thread.
    fn syncer(&self) -> Syncer;
    fn cut(&self, file: &File, length: u64) -> io::Result<()>;
    /// Creates a file of this size with allocated space.
    fn allocate(&self, path: &Path, length: u64) -> io::Result<()>;
    /// The free space of the file system with the file.
    fn room(&self, path: &Path) -> io::Result<Room>;
}

/// The free space of a file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Free bytes for this process.
    pub(super) free: u64,
    /// Bytes in total.
    pub(super) total: u64,
    /// Number of files that can still be created; `None` on file systems that do not count them.
    pub(super) files: Option<u64>,
}

/// The real file system.
pub(super) struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory(path))?;
        match appending().open(path) {
            Ok(file) => {
                if file.metadata()?.is_file() {
                    file.set_permissions(Permissions::from_mode(0o600))?;
                }
                Ok(file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(path),
            Err(error) => Err(error),
        }
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        appending().create_new(true).open(path)
    }

    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn syncer(&self) -> Syncer {
        Box::new(File::sync_data)
    }

    fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn allocate(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, length)?;
        Ok(())
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        let found = statvfs(directory(path))?;
        Ok(Room {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
            files: (found.f_files > 0).then_some(found.f_favail),
        })
    }
}

fn appending() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    options
}

/// The identity of a file: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

/// The metadata of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) identity: Identity,
    pub(super) size: u64,
    /// A regular file: it can be watched, truncated and replaced.
    pub(super) is_file: bool,
}

impl Seen {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            identity: Identity(metadata.dev(), metadata.ino()),
            size: metadata.len(),
            is_file: metadata.is_file(),
        }
    }

    /// The file with this name; `None` if there is none.
    pub(super) fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
