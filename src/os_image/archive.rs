//! Unpacks an image archive, and checks that it is the requested image.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use flate2::bufread::MultiGzDecoder;
use kms_attest::platform::manifest::{self, Manifest, ManifestError};
use kms_attest::platform::tdx::image::legacy::METADATA;
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType, PaxExtensions};

/// The most bytes of an unpacked archive, including its headers.
pub(super) const MAX_UNPACKED: u64 = 16 << 30;
pub(super) const MAX_ENTRIES: usize = 4096;
/// The longest path in bytes, and the longest extended header.
const MAX_PATH: u64 = 4096;
const MAX_DEPTH: usize = 32;

/// Why an archive is not the image. The texts are the peer's where it has some; none contains text of the archive.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// Not a gzipped tar archive, or a truncated one.
    #[error("Failed to read image archive entry")]
    Unreadable(#[source] Arc<io::Error>),
    /// Over the limit of entries, bytes or path lengths.
    #[error("image archive is larger than allowed")]
    TooLarge,
    /// Something that is neither a file nor a directory.
    #[error("image archive contains unsupported entry")]
    Unsupported,
    /// A path that leads out of the image, or occurs twice.
    #[error("image archive contains unsafe path")]
    UnsafePath,
    /// A file cannot be written or read.
    #[error("the image cannot be stored")]
    Store(#[source] Arc<io::Error>),
    /// There is no list of files.
    #[error("Failed to read sha256sum.txt")]
    NoManifest(#[source] Arc<io::Error>),
    /// The list is not that of the requested image.
    #[error("os_image_hash does not match sha256(sha256sum.txt)")]
    OtherImage,
    /// The list does not parse.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file is missing or differs from the list.
    #[error("Checksum verification failed")]
    Checksum,
    /// The image has no description.
    #[error("metadata.json not found in the extracted archive")]
    NoMetadata,
    /// Unpacking took too long.
    #[error("Download image timeout")]
    Timeout,
}

impl ArchiveError {
    /// Whether the failure says nothing about the image, so that a retry may succeed.
    pub(super) fn is_unavailable(&self) -> bool {
        match self {
            Self::Store(_) | Self::Timeout => true,
            Self::Unreadable(_)
            | Self::TooLarge
            | Self::Unsupported
            | Self::UnsafePath
            | Self::NoManifest(_)
            | Self::OtherImage
            | Self::Manifest(_)
            | Self::Checksum
            | Self::NoMetadata => false,
        }
    }
}

fn store(error: io::Error) -> ArchiveError {
    ArchiveError::Store(Arc::new(error))
}

/// When to stop; `None` is never.
#[derive(Clone, Copy)]
pub(super) struct Deadline(pub(super) Option<Instant>);

impl Deadline {
    fn is_over(self) -> bool {
        self.0.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// A reader that fails at its limit, or after the deadline.
struct Bounded<R> {
    inner: R,
    left: u64,
    deadline: Deadline,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.deadline.is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

fn unreadable(error: io::Error) -> ArchiveError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => ArchiveError::TooLarge,
        io::ErrorKind::TimedOut => ArchiveError::Timeout,
        _ => ArchiveError::Unreadable(Arc::new(error)),
    }
}

/// Unpacks `archive` below the empty directory `into`: files and directories only, gzip of one or more members.
pub(super) fn unpack(archive: &Path, into: &Path, deadline: Deadline) -> Result<(), ArchiveError> {
    let file = BufReader::new(File::open(archive).map_err(store)?);
    let reader = Bounded { inner: MultiGzDecoder::new(file), left: MAX_UNPACKED, deadline };
    let mut archive = Archive::new(reader);
    let entries = archive.entries().map_err(unreadable)?.raw(true);
    let mut long_name = None;
    for (count, entry) in (1..).zip(entries) {
        let mut entry = entry.map_err(unreadable)?;
        if count > MAX_ENTRIES {
            return Err(ArchiveError::TooLarge);
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let name = extended(&mut entry)?;
                long_name = Some(name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
            }
            EntryType::XHeader => long_name = pax_path(&extended(&mut entry)?)?.or(long_name),
            EntryType::XGlobalHeader => {}
            kind => {
                let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let path = safe_path(&name)?;
                match kind {
                    EntryType::Directory => make_directory(into, &path)?,
                    EntryType::Regular if name.ends_with(b"/") => make_directory(into, &path)?,
                    EntryType::Regular => write_file(&mut entry, into, &path)?,
                    _ => return Err(ArchiveError::Unsupported),
                }
            }
        }
    }
    Ok(())
}

fn extended(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ArchiveError> {
    if entry.size() > MAX_PATH {
        return Err(ArchiveError::TooLarge);
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The path in a pax header, if it has one. A size there would be for files larger than allowed.
fn pax_path(header: &[u8]) -> Result<Option<Vec<u8>>, ArchiveError> {
    let mut path = None;
    for record in PaxExtensions::new(header) {
        let record = record.map_err(unreadable)?;
        match record.key_bytes() {
            b"path" => path = Some(record.value_bytes().to_vec()),
            b"size" => return Err(ArchiveError::TooLarge),
            _ => {}
        }
    }
    Ok(path)
}

/// A path that stays inside its directory; empty for the directory itself.
fn safe_path(name: &[u8]) -> Result<PathBuf, ArchiveError> {
    let name = std::str::from_utf8(name).map_err(|_| ArchiveError::UnsafePath)?;
    if name.is_empty() || name.contains('\0') || name.len() as u64 > MAX_PATH {
        return Err(ArchiveError::UnsafePath);
    }
    let mut path = PathBuf::new();
    for (depth, component) in Path::new(name).components().enumerate() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) if depth <= MAX_DEPTH => path.push(part),
            _ => return Err(ArchiveError::UnsafePath),
        }
    }
    Ok(path)
}

fn make_directory(into: &Path, path: &Path) -> Result<(), ArchiveError> {
    fs::create_dir_all(into.join(path)).map_err(store)
}

/// Writes a file of the archive. Nothing in `into` is a link, so no path leads out of it, and nothing is overwritten.
fn write_file(entry: &mut Entry<'_, impl Read>, into: &Path, path: &Path) -> Result<(), ArchiveError> {
    let parent = path.parent().ok_or(ArchiveError::UnsafePath)?;
    make_directory(into, parent)?;
    let mut file = match File::create_new(into.join(path)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(ArchiveError::UnsafePath),
        file => file.map_err(store)?,
    };
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match entry.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(()),
            read => io::Write::write_all(&mut file, &buffer[..read]).map_err(store)?,
        }
    }
}

/// Checks that `directory` holds the image `hash`, syncs its files, and removes those that are not in the list.
pub(super) fn check(directory: &Path, hash: &[u8; 32], deadline: Deadline) -> Result<(), ArchiveError> {
    let manifest = read_manifest(directory, hash)?;
    for entry in manifest.entries() {
        let file = File::open(directory.join(&entry.name)).map_err(|_| ArchiveError::Checksum)?;
        if sha256(&file, deadline)? != entry.sha256 {
            return Err(ArchiveError::Checksum);
        }
        file.sync_all().map_err(store)?;
    }
    let listed: HashSet<&str> = manifest.entries().iter().map(|entry| entry.name.as_str()).collect();
    for entry in fs::read_dir(directory).map_err(store)? {
        let entry = entry.map_err(store)?;
        let name = entry.file_name();
        if name == manifest::NAME || name.to_str().is_some_and(|name| listed.contains(name)) {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type().map_err(store)?.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        removed.map_err(store)?;
    }
    match directory.join(METADATA).is_file() {
        true => Ok(()),
        false => Err(ArchiveError::NoMetadata),
    }
}

/// The list of files of the image `hash` in `directory`.
pub(super) fn read_manifest(directory: &Path, hash: &[u8; 32]) -> Result<Manifest, ArchiveError> {
    let missing = |error| ArchiveError::NoManifest(Arc::new(error));
    let file = File::open(directory.join(manifest::NAME)).map_err(missing)?;
    let mut text = Vec::new();
    file.take(manifest::MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(missing)?;
    if manifest::image_hash(&text) != *hash {
        return Err(ArchiveError::OtherImage);
    }
    Ok(Manifest::parse(&text)?)
}

fn sha256(file: &File, deadline: Deadline) -> Result<[u8; 32], ArchiveError> {
    let mut reader = Bounded { inner: file, left: MAX_UNPACKED, deadline };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(ArchiveError::Timeout),
            Err(_) => return Err(ArchiveError::Checksum),
        }
    }
}

/// Moves the checked image into place by one rename; a previous one goes to `trash`.
pub(super) fn install(checked: &Path, place: &Path, trash: &Path) -> Result<(), ArchiveError> {
    match fs::rename(place, trash) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(store(error)),
        _ => {}
    }
    fs::rename(checked, place).map_err(store)
}
