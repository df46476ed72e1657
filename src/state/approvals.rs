//! The file that keeps, over restarts, what waits for a second owner: replaced as a whole, by one rename. It holds no secret,
//! but while such changes wait, hashes of passwords: those of an htpasswd file, and of a secret that was chosen.

use std::io;

use kms_attest::state_file::{Replaced, StateFile};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Larger than the file of the most requests with the largest documents.
const MAX_FILE: u64 = 64 << 20;
/// The only version that is written and read.
const VERSION: u32 = 1;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalFileError {
    /// It cannot be read.
    #[error("the file that core.admin.approvals_file names cannot be read")]
    Unreadable(#[source] io::Error),
    /// Its content is invalid.
    #[error("the file that core.admin.approvals_file names is damaged ({0})")]
    Damaged(String),
}

/// The file, which no other process writes.
#[derive(Debug)]
pub struct ApprovalFile(StateFile);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<T> {
    version: u32,
    approvals: Vec<T>,
}

impl ApprovalFile {
    /// The file at this path, which may not exist yet.
    pub fn new(file: impl Into<StateFile>) -> Self {
        Self(file.into())
    }

    /// All records; none where there is no file.
    ///
    /// # Errors
    /// [`ApprovalFileError`]
    pub fn read<T: DeserializeOwned>(&self) -> Result<Vec<T>, ApprovalFileError> {
        Ok(super::parsed(
            &self.0,
            MAX_FILE,
            parse,
            ApprovalFileError::Unreadable,
            ApprovalFileError::Damaged,
        )?
        .unwrap_or_default())
    }

    /// Replaces all records. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system; the old file is then unchanged.
    pub fn replace<T: Serialize>(&self, approvals: Vec<T>) -> io::Result<Replaced> {
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, approvals })?;
        text.push(b'\n');
        self.0.replace(&text)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<T>, String> {
    let content: Content<T> = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    match content.version {
        VERSION => Ok(content.approvals),
        other => Err(format!("version must be {VERSION}, got {other}")),
    }
}
