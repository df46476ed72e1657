//! What a node remembers of the shared state over restarts: who it is, and the newest state that it has seen. So it notices when
//! the database goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use kms_attest::state_file::{self, StateFileError};
use serde::{Deserialize, Serialize};

use super::head::{Head, HeadId, Listed};
use super::seal::{FleetId, NodeId};
use crate::state;

/// The largest file.
const MAX_FILE: u64 = 1 << 20;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// It cannot be read or written.
    #[error("fleet.json of the key directory cannot be used")]
    Io(#[source] io::Error),
    /// The content is invalid.
    #[error(
        "fleet.json of the key directory is damaged ({0}); restore it, or remove it: this node then has another id, and takes over what the \
         database shows, as one that is new. If it was drained, drain it again; what it has of freezes and drains that were ended on other \
         nodes meanwhile is in force again on all nodes, and must be ended again"
    )]
    Damaged(String),
}

/// The newest state that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    pub(super) fleet: FleetId,
    pub(super) head: HeadId,
    pub(super) documents: BTreeMap<String, Listed>,
    /// The documents that were repaired and could not be read here since.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) unread_repairs: BTreeSet<String>,
}

impl Known {
    /// Whether what `head` lists of a document was written over what this node knew.
    pub(super) fn is_repaired_by(&self, head: &Head, name: &str) -> bool {
        head.repaired > self.head.seq || self.unread_repairs.contains(name)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    node: NodeId,
    /// How often the node has started, so that the numbers of its reports only grow.
    starts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known: Option<Known>,
}

/// The file, which no other process writes.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    content: Content,
}

impl Memory {
    /// Reads the file at `path`, makes one if there is none, and counts this start.
    pub(super) fn open(path: PathBuf) -> Result<Self, MemoryError> {
        let bytes = state_file::read(&path, MAX_FILE).map_err(|error| match error {
            StateFileError::Unreadable(cause) => MemoryError::Io(cause),
            StateFileError::TooLarge => MemoryError::Damaged(error.to_string()),
        })?;
        let content = match bytes {
            Some(bytes) => parse(&bytes).map_err(MemoryError::Damaged)?,
            None => {
                let mut node = [0; 16];
                aws_lc_rs::rand::fill(&mut node)
                    .map_err(|_| MemoryError::Io(io::Error::other("the system has no randomness")))?;
                Content { version: VERSION, node: NodeId(node), starts: 0, known: None }
            }
        };
        let mut memory = Self { path, content };
        memory.content.starts = memory.content.starts.saturating_add(1);
        memory.write(&memory.text().map_err(MemoryError::Io)?).map_err(MemoryError::Io)?;
        Ok(memory)
    }

    /// The id of this node.
    pub(super) fn node(&self) -> NodeId {
        self.content.node
    }

    /// The number of its first report since this start.
    pub(super) fn first_counter(&self) -> u64 {
        u64::from(self.content.starts) << 31
    }

    /// Goes on after a counter that another run of this node has used. Waits for the disk.
    pub(super) async fn continue_after(&mut self, counter: u64) -> io::Result<u64> {
        let starts = u32::try_from(counter >> 31).unwrap_or(u32::MAX - 1);
        self.content.starts = self.content.starts.max(starts.saturating_add(1));
        self.save().await?;
        Ok(self.first_counter())
    }

    /// The newest state of `fleet` that was seen.
    pub(super) fn known(&self, fleet: FleetId) -> Option<&Known> {
        self.content.known.as_ref().filter(|known| known.fleet == fleet)
    }

    /// Remembers a state. Waits for the disk.
    pub(super) async fn remember(&mut self, known: Known) -> io::Result<()> {
        self.content.known = Some(known);
        self.save().await
    }

    async fn save(&self) -> io::Result<()> {
        let (path, text) = (self.path.clone(), self.text()?);
        state::written(move || state_file::replace(&path, &text)).await
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(&self.content)?;
        text.push(b'\n');
        Ok(text)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        state_file::replace(&self.path, text)
    }
}

/// Whether the content of `fleet.json` can be read; for tests with arbitrary bytes.
///
/// # Errors
/// What is wrong with it.
pub fn check_memory(bytes: &[u8]) -> Result<(), String> {
    parse(bytes).map(drop)
}

fn parse(bytes: &[u8]) -> Result<Content, String> {
    let content: Content = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    match content.version {
        VERSION => Ok(content),
        other => Err(format!("version must be {VERSION}, got {other}")),
    }
}
