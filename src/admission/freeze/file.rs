//! The file that keeps freezes over restarts: replaced as a whole, by one rename.

use std::{io, net::IpAddr, path::PathBuf};

use kms_attest::state_file::{self, StateFileError};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::{Author, Entries, Freeze, MAX_FREEZES, MAX_REASON, Scope};

/// No file of [`MAX_FREEZES`] is larger.
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

/// The file, and nobody else's.
#[derive(Debug)]
pub(super) struct FreezeFile(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    frozen: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    scope: String,
    #[serde(with = "hex::serde")]
    value: Vec<u8>,
    reason: String,
    since: u64,
    expires_at: Option<u64>,
    by: String,
    remote: IpAddr,
}

impl FreezeFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn read(&self) -> Result<Vec<Freeze>, FreezeFileError> {
        let bytes = state_file::read(&self.0, MAX_FILE).map_err(|error| match error {
            StateFileError::Unreadable(cause) => FreezeFileError::Unreadable(cause),
            StateFileError::TooLarge => FreezeFileError::Damaged(error.to_string()),
        })?;
        bytes.map_or_else(|| Ok(Vec::new()), |bytes| parse(&bytes).map_err(FreezeFileError::Damaged))
    }

    fn replace(&self, entries: &Entries) -> io::Result<()> {
        let mut lines: Vec<_> = entries.values().map(|held| Line::of(&held.freeze)).collect();
        lines.sort_by_key(|line| line.since);
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, frozen: lines })?;
        text.push(b'\n');
        state_file::replace(&self.0, &text)
    }
}

/// How a replacement of the file ended.
pub(super) struct Written {
    pub(super) outcome: io::Result<()>,
    /// Who changes freezes keeps it until the change is whole. `None` after a panic.
    pub(super) turn: Option<OwnedMutexGuard<FreezeFile>>,
}

/// Replaces the file and gives the turn back.
pub(super) async fn write(file: OwnedMutexGuard<FreezeFile>, entries: Entries) -> Written {
    let written = tokio::task::spawn_blocking(move || {
        let outcome = file.replace(&entries);
        Written { outcome, turn: Some(file) }
    });
    written.await.unwrap_or_else(|_| Written {
        outcome: Err(io::Error::other("the writer ended in a panic")),
        turn: None,
    })
}

fn parse(bytes: &[u8]) -> Result<Vec<Freeze>, String> {
    let content: Content = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("version must be {VERSION}, got {}", content.version));
    }
    if content.frozen.len() > MAX_FREEZES {
        return Err(format!("at most {MAX_FREEZES} entries are allowed, got {}", content.frozen.len()));
    }
    content.frozen.into_iter().map(Freeze::try_from).collect()
}

impl Line {
    fn of(freeze: &Freeze) -> Self {
        Self {
            scope: freeze.scope.name().to_owned(),
            value: freeze.scope.value().to_vec(),
            reason: freeze.reason.clone(),
            since: freeze.since,
            expires_at: freeze.expires_at,
            by: freeze.author.by.clone(),
            remote: freeze.author.remote,
        }
    }
}

impl TryFrom<Line> for Freeze {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        if line.reason.len() > MAX_REASON {
            return Err(format!("a reason must be at most {MAX_REASON} bytes, got {}", line.reason.len()));
        }
        Ok(Self {
            scope: Scope::parse(&line.scope, &line.value).map_err(|error| error.to_string())?,
            reason: line.reason,
            since: line.since,
            expires_at: line.expires_at,
            author: Author { by: line.by, remote: line.remote },
        })
    }
}
