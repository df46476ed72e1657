//! The file that keeps which recovery set is the current one, and how drills ended: public data only, replaced as a whole by one
//! rename.

use std::io;

use kms_attest::state_file::{Replaced, StateFile};
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
pub struct RecoveryFile(StateFile);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<T> {
    version: u32,
    recovery: T,
}

impl RecoveryFile {
    /// The file at this path, which may not exist yet.
    pub fn new(file: impl Into<StateFile>) -> Self {
        Self(file.into())
    }

    /// The content; `None` where there is no file.
    ///
    /// # Errors
    /// [`RecoveryFileError`]
    pub fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, RecoveryFileError> {
        super::parsed(&self.0, MAX_FILE, parse, RecoveryFileError::Unreadable, RecoveryFileError::Damaged)
    }

    /// Replaces the content. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system; the old file is then unchanged.
    pub fn replace<T: Serialize>(&self, recovery: &T) -> io::Result<Replaced> {
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, recovery })?;
        text.push(b'\n');
        self.0.replace(&text)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let content: Content<T> = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    match content.version {
        VERSION => Ok(content.recovery),
        other => Err(format!("version must be {VERSION}, got {other}")),
    }
}
