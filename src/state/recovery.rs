//! The file that keeps which recovery set counts, and what became of drills: public data only, replaced as a whole by one
//! rename.

use std::io;
use std::path::PathBuf;

use kms_attest::state_file::{self, StateFileError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Larger than the file with the longest manifest.
const MAX_FILE: u64 = 4 << 20;
/// The only version that is written and read.
const VERSION: u32 = 1;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryFileError {
    /// It cannot be read.
    #[error("recovery.json of the key directory cannot be read")]
    Unreadable(#[source] io::Error),
    /// Its content is invalid.
    #[error("recovery.json of the key directory is damaged ({0})")]
    Damaged(String),
}

/// The file, which no other process writes.
#[derive(Debug)]
pub struct RecoveryFile(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<T> {
    version: u32,
    recovery: T,
}

impl RecoveryFile {
    /// The file at `path`; there need not be one.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The content; `None` where there is no file.
    ///
    /// # Errors
    /// [`RecoveryFileError`]
    pub fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, RecoveryFileError> {
        let bytes = state_file::read(&self.0, MAX_FILE).map_err(|error| match error {
            StateFileError::Unreadable(cause) => RecoveryFileError::Unreadable(cause),
            StateFileError::TooLarge => RecoveryFileError::Damaged(error.to_string()),
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let content: Content<T> = kms_attest::json::from_utf8(&bytes)
            .map_err(|error| RecoveryFileError::Damaged(error.to_string()))?;
        match content.version {
            VERSION => Ok(Some(content.recovery)),
            other => Err(RecoveryFileError::Damaged(format!("version must be {VERSION}, got {other}"))),
        }
    }

    /// Replaces the content. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system.
    pub fn replace<T: Serialize>(&self, recovery: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, recovery })?;
        text.push(b'\n');
        state_file::replace(&self.0, &text)
    }
}
