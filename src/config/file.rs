//! Files that the configuration names.

use std::io;
use std::path::Path;

use kms_attest::outgoing::{self, CaFileError};
use kms_attest::small_file::small_file;
use rustls_pki_types::CertificateDer;

/// Largest password file, trust anchor, key and certificate in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Why a file that the configuration names is unusable.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{key} cannot be read")]
    Unreadable {
        /// The key that names it.
        key: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It does not hold certificates of servers.
    #[error("{key} {problem}")]
    Certificates {
        /// The key that names it.
        key: &'static str,
        /// Why.
        problem: CaFileError,
    },
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Certificates { .. } => false,
        }
    }
}

/// The content of the file that `key` names, at most 1 MiB.
///
/// # Errors
/// [`FileError::Unreadable`].
pub fn read_file(key: &'static str, path: &Path) -> Result<Vec<u8>, FileError> {
    small_file(path, MAX_FILE).map_err(|source| FileError::Unreadable { key, source })
}

/// The certificates that are trusted for servers besides the public roots; empty if no file is named.
pub(super) fn ca_file(
    key: &'static str,
    path: Option<&Path>,
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    outgoing::ca_file(&read_file(key, path)?).map_err(|problem| FileError::Certificates { key, problem })
}
