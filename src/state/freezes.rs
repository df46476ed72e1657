//! The file of freezes, replaced as a whole by one rename.

use std::io;
use std::net::IpAddr;

use kms_attest::state_file::{Replaced, StateFile};
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
pub struct FreezeFile(StateFile);

/// The content of the file, and of the document that the nodes of a fleet share.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeContent {
    version: u32,
    /// Whether they are those of a fleet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// All freezes.
    pub frozen: Vec<FreezeRecord>,
}

/// Where freezes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptIn {
    /// The file of one machine.
    ThisMachine,
    /// The state of a fleet.
    Fleet,
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
    /// Whether it is not in the state that the nodes of a fleet share yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unshared: bool,
}

impl FreezeFile {
    /// The file at this path, which may not exist yet.
    pub fn new(file: impl Into<StateFile>) -> Self {
        Self(file.into())
    }

    /// The content; empty if there is no file.
    ///
    /// # Errors
    /// [`FreezeFileError`]
    pub fn read(&self) -> Result<FreezeContent, FreezeFileError> {
        let none = || FreezeContent { version: VERSION, shared: false, frozen: Vec::new() };
        Ok(super::parsed(&self.0, MAX_FILE, parse, FreezeFileError::Unreadable, FreezeFileError::Damaged)?
            .unwrap_or_else(none))
    }

    fn replace(&self, (records, kept_in): (Vec<FreezeRecord>, KeptIn)) -> io::Result<Replaced> {
        self.0.replace(&content(records, kept_in)?)
    }
}

/// The content of a file, or of the shared document.
///
/// # Errors
/// Only if the records cannot be serialized, which does not happen: they are texts and numbers.
pub fn content(mut frozen: Vec<FreezeRecord>, kept_in: KeptIn) -> io::Result<Vec<u8>> {
    frozen.sort_by(|one, other| {
        let key = |it: &FreezeRecord| (it.since, it.scope.clone(), it.value.clone());
        key(one).cmp(&key(other))
    });
    let shared = kept_in == KeptIn::Fleet;
    let mut text = serde_json::to_vec_pretty(&FreezeContent { version: VERSION, shared, frozen })?;
    text.push(b'\n');
    Ok(text)
}

/// The result of replacing the file.
pub struct Written<T = ()> {
    /// Whether it is on the disk; with [`Replaced`], whether the next start reads it.
    pub outcome: io::Result<T>,
    /// The lock for writing, held until the change is complete. `None` after a panic.
    pub turn: Option<OwnedMutexGuard<FreezeFile>>,
}

/// Replaces the file, and returns the lock for writing.
pub async fn write(file: OwnedMutexGuard<FreezeFile>, records: (Vec<FreezeRecord>, KeptIn)) -> Written {
    let Written { outcome, turn } = write_and_tell(file, records).await;
    Written { outcome: outcome.and_then(Replaced::safely), turn }
}

/// As [`write()`], for a change that takes effect if the next start reads it.
pub async fn write_and_tell(
    file: OwnedMutexGuard<FreezeFile>,
    records: (Vec<FreezeRecord>, KeptIn),
) -> Written<Replaced> {
    let written = tokio::task::spawn_blocking(move || {
        let outcome = file.replace(records);
        Written { outcome, turn: Some(file) }
    });
    written.await.unwrap_or_else(|_| Written {
        outcome: Err(io::Error::other("the writer ended in a panic")),
        turn: None,
    })
}

/// Reads the content of a file, or of the shared document.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<FreezeContent, String> {
    let content: FreezeContent = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("version must be {VERSION}, got {}", content.version));
    }
    Ok(content)
}
