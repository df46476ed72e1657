//! The file that keeps freezes over restarts: replaced as a whole, by one rename.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use kms_attest::state_file::{self, StateFileError};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

/// No file with as many freezes as can be in force is larger.
const MAX_FILE: u64 = 8 << 20;
/// The version that is written and the only one that is read.
const VERSION: u32 = 1;

/// Why it is not known what is frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeFileError {
    /// The system does not give it.
    #[error("the file that core.freeze.file names cannot be read, so what is frozen is not known")]
    Unreadable(#[source] io::Error),
    /// It is not what this program wrote.
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

/// One freeze, as the file has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeRecord {
    /// The name of what is frozen.
    pub scope: String,
    /// Its value.
    #[serde(with = "hex::serde")]
    pub value: Vec<u8>,
    /// For operators.
    pub reason: String,
    /// Unix seconds.
    pub since: u64,
    /// Unix seconds.
    pub expires_at: Option<u64>,
    /// The operator.
    pub by: String,
    /// The operator's address.
    pub remote: IpAddr,
}

impl FreezeFile {
    /// The file at `path`; there need not be one.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// All records; none where there is no file.
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

/// How a replacement of the file ended.
pub struct Written {
    /// Whether it is on the disk.
    pub outcome: io::Result<()>,
    /// The right to write, kept until the change is complete. `None` after a panic.
    pub turn: Option<OwnedMutexGuard<FreezeFile>>,
}

/// Replaces the file and gives the right to write back.
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
