//! A small file of our own that outlives the process: read whole, replaced whole by one rename.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The system does not give it.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// This program writes none that is as large.
    #[error("it is too large")]
    TooLarge,
}

/// The content of the file at `path`, at most `limit` bytes; `None` if there is no file.
///
/// # Errors
/// [`StateFileError`]; anything but a regular file is unreadable.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StateFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateFileError::Unreadable(error)),
    };
    let metadata = file.metadata().map_err(StateFileError::Unreadable)?;
    if !metadata.is_file() {
        return Err(StateFileError::Unreadable(io::Error::other("not a file")));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(StateFileError::Unreadable)?;
    match bytes.len() as u64 > limit {
        true => Err(StateFileError::TooLarge),
        false => Ok(Some(bytes)),
    }
}

/// Replaces the file at `path` by one with `content` that only its owner can read. A crash leaves the old one or the new
/// one. Makes the directory if it is missing.
///
/// # Errors
/// Those of the system; the old file is as it was then, unless only the last sync failed.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let new = path.with_extension("json.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}
