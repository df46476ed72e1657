//! Files with certificates and keys that the configuration of a policy names. They are small and read once.

use std::path::Path;

use kms_attest::outgoing;
use kms_attest::small_file::small_file;
use rustls_pki_types::CertificateDer;

use crate::error::SetupError;

/// Maximum size of a file with certificates or a key in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The content of the file that `key` names.
pub(crate) fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, SetupError> {
    small_file(path, MAX_FILE).map_err(|error| SetupError::file(key, format!("cannot be read: {error}")))
}

/// The certificates of the file that `key` names.
pub(crate) fn ca_file(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    outgoing::ca_file(&read(key, path)?).map_err(|error| SetupError::file(key, error.to_string()))
}
