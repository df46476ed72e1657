//! Reads a small file whole.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::mem;
use std::path::Path;

use zeroize::Zeroizing;

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
    if metadata.len() > limit {
        return Err(too_large(limit));
    }
    let content = read(file, metadata.len(), limit)?;
    content.map(|content| (content, metadata)).ok_or_else(|| too_large(limit))
}

/// The content of at most `limit` bytes of a file that its user names on the command line. It may be a pipe.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn small_input(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len().min(limit);
    let content = read(file, size, limit)?;
    content.ok_or_else(|| too_large(limit))
}

/// All that standard input has, at most `limit` bytes.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn small_stdin(limit: u64) -> io::Result<Vec<u8>> {
    let content = read(io::stdin().lock(), limit.min(64 << 10), limit)?;
    content.ok_or_else(|| too_large(limit))
}

/// What can be read, allocated for `size` bytes; `None` if it is larger than `limit`.
fn read(input: impl Read, size: u64, limit: u64) -> io::Result<Option<Vec<u8>>> {
    // Allocated at once, because growing would leave copies of a secret in memory. One byte more, in case the
    // file grows. Wiped unless it is returned.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    input.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= limit).then(|| mem::take(&mut *content)))
}

fn too_large(limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {}", shown(limit)))
}

/// A number of bytes for operators.
fn shown(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_readers_end_at_the_limit_and_only_one_reads_what_is_not_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"12345").unwrap();
        for read in [small_file, small_input] {
            assert_eq!(read(&path, 5).unwrap(), b"12345");
            assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
            let missing = read(&directory.path().join("missing"), 5).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        }
        let device = Path::new("/dev/zero");
        assert_eq!(small_file(device, 5).unwrap_err().to_string(), "not a file");
        assert_eq!(small_input(device, 5).unwrap_err().to_string(), "larger than 5 bytes");
        assert_eq!(small_input(Path::new("/dev/null"), 5).unwrap(), b"");
    }
}
