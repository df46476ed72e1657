//! The file of freezes, replaced as a whole by one rename.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use kms_attest::state_file::{self, StateFileError};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

/// The largest file, enough for the most freezes.
const MAX_FILE: u64 = 8 << 20;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Why the freezes are unknown.
#[derive(Debug, thiserror::Error)]
pub enum FreezeFileError {
    /// The file cannot be read.
    #[error("the file that core.freeze.file names cannot be read, so what is frozen is not known")]
    Unreadable(#[source] io::Error),
    /// The content is invalid.
    #[error(
        "the file that core.freeze.file names is damaged ({0}), so what is frozen is not known; restore it, or remove \
         it to start with nothing frozen"
    )]
    Damaged(String),
}

/// The file, which no other process writes.
#[derive(Debug)]
pub struct FreezeFile(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    frozen: Vec<FreezeRecord>,
}

/// One freeze, as it is in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeRecord {
    /// The name of its scope.
    pub scope: String,
    /// The value of its scope.
    #[serde(with = "hex::serde")]
    pub value: Vec<u8>,
    /// For operators.
    pub reason: String,
    /// When it began, Unix seconds.
    pub since: u64,
    /// When it expires, Unix seconds.
    pub expires_at: Option<u64>,
    /// The operator.
    pub by: String,
    /// The operator's address.
    pub remote: IpAddr,
}

impl FreezeFile {
    /// The file at `path`, which may not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// All records; empty if there is no file.
    ///
    /// # Errors
    /// [`FreezeFileError`]
    pub fn read(&self) -> Result<Vec<FreezeRecord>, FreezeFileError> {
        let bytes = state_file::read(&self.0, MAX_FILE).map_err(|error| match error {
            StateFileError::Unreadable(cause) => FreezeFileError::Unreadable(cause),
            StateFileError::TooLarge => FreezeFileError::Damaged(error.to_string()),
        })?;
        bytes.map_or_else(|| Ok(Vec::new()), |bytes| parse(&bytes).map_err(FreezeFileError::Damaged))
    }

    fn replace(&self, mut records: Vec<FreezeRecord>) -> io::Result<()> {
        records.sort_by_key(|record| record.since);
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, frozen: records })?;
        text.push(b'\n');
        state_file::replace(&self.0, &text)
    }
}

/// The result of replacing the file.
pub struct Written {
    /// Whether it is on the disk.
    pub outcome: io::Result<()>,
    /// The lock for writing, held until the change is complete. `None` after a panic.
    pub turn: Option<OwnedMutexGuard<FreezeFile>>,
}

/// Replaces the file, and returns the lock for writing.
pub async fn write(file: OwnedMutexGuard<FreezeFile>, records: Vec<FreezeRecord>) -> Written {
    let written = tokio::task::spawn_blocking(move || {
        let outcome = file.replace(records);
        Written { outcome, turn: Some(file) }
    });
    written.await.unwrap_or_else(|_| Written {
        outcome: Err(io::Error::other("the writer ended in a panic")),
        turn: None,
    })
}

fn parse(bytes: &[u8]) -> Result<Vec<FreezeRecord>, String> {
    let content: Content = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("version must be {VERSION}, got {}", content.version));
    }
    Ok(content.frozen)
}
