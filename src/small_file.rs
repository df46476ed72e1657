//! Reads a small file whole.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

/// The content of a regular file of at most `limit` bytes. A pipe is refused: it would be waited for.
///
/// # Errors
/// It cannot be read, is not a regular file, or is larger.
pub fn small_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a file"));
    }
    // Room for all of it: growing would leave copies of a secret behind.
    let mut content = Vec::with_capacity(usize::try_from(metadata.len().min(limit)).unwrap_or(0) + 1);
    fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    match u64::try_from(content.len()) {
        Ok(length) if length <= limit => Ok(content),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {}", shown(limit)))),
    }
}

/// A number of bytes as operators read it.
fn shown(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        bytes => format!("{bytes} bytes"),
    }
}
