//! Reads a small file whole.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`with_metadata`].
pub fn small_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    with_metadata(path, limit).map(|(content, _)| content)
}

/// The content of a regular file of at most `limit` bytes, and its metadata from before the read. A pipe is
/// refused, because reading it could block.
///
/// # Errors
/// It cannot be read, is not a regular file, or is larger.
pub fn with_metadata(path: &Path, limit: u64) -> io::Result<(Vec<u8>, Metadata)> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {}", shown(limit)));
    if metadata.len() > limit {
        return Err(too_large());
    }
    // Allocated at once, because growing would leave copies of a secret in memory. One byte more, in case the
    // file grows.
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    match content.len() as u64 > limit {
        true => Err(too_large()),
        false => Ok((content, metadata)),
    }
}

/// A number of bytes for operators.
fn shown(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        bytes => format!("{bytes} bytes"),
    }
}
