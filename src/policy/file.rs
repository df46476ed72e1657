//! Files with certificates and keys that a policy's section names: small, and read once.

use std::fs;
use std::io;
use std::path::Path;

use kms_attest::outgoing;
use rustls_pki_types::CertificateDer;

use super::SetupError;

/// No file with certificates or a key is larger.
const MAX_FILE: u64 = 1 << 20;

/// The content of the file that `key` names.
pub(super) fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, SetupError> {
    let read = || {
        let metadata = fs::metadata(path)?;
        // A pipe would be waited for.
        if !metadata.is_file() {
            return Err(io::Error::other("not a file"));
        }
        if metadata.len() > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
        }
        fs::read(path)
    };
    read().map_err(|error| SetupError::file(key, format!("cannot be read: {error}")))
}

/// The certificates of the file that `key` names.
pub(super) fn ca_file(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    outgoing::ca_file(&read(key, path)?).map_err(|error| SetupError::file(key, error.to_string()))
}
