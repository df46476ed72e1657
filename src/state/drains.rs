//! The file of the nodes of a fleet that operators drain, replaced as a whole by one rename.

use std::io;

use kms_attest::state_file::{Replaced, StateFile};
use serde::{Deserialize, Serialize};

use super::shared::NodeId;

/// The largest file.
const MAX_FILE: u64 = 1 << 20;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The most drained nodes of a fleet. A file may have as many again that are not in the shared state yet.
pub const MAX_DRAINED: usize = 256;
/// The longest name of an operator, in bytes.
pub const MAX_DRAINED_BY: usize = 200;

/// Why it is not known which nodes are drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainFileError {
    /// The file cannot be read.
    #[error(
        "drains.json of the key directory cannot be read, so it is not known whether this node is drained: {0}"
    )]
    Unreadable(#[source] io::Error),
    /// The content is invalid.
    #[error(
        "drains.json of the key directory is damaged ({0}), so it is not known whether this node is drained; restore it, or \
         remove it: this node then takes the drains from the shared state"
    )]
    Damaged(String),
}

/// The file, which no other process writes.
#[derive(Debug)]
pub struct DrainFile(StateFile);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    drained: Vec<DrainRecord>,
}

/// A drained node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRecord {
    /// The node.
    pub node: NodeId,
    /// The operator, at most [`MAX_DRAINED_BY`] bytes.
    pub by: String,
    /// Unix seconds.
    pub since: u64,
    /// Whether it is not in the state that the nodes of a fleet share yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unshared: bool,
}

impl DrainFile {
    /// The file at this path, which may not exist yet.
    pub fn new(file: impl Into<StateFile>) -> Self {
        Self(file.into())
    }

    /// All records; empty if there is no file.
    ///
    /// # Errors
    /// [`DrainFileError`]
    pub fn read(&self) -> Result<Vec<DrainRecord>, DrainFileError> {
        Ok(super::parsed(&self.0, MAX_FILE, parse, DrainFileError::Unreadable, DrainFileError::Damaged)?
            .unwrap_or_default())
    }

    /// Replaces all records. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system; the old file is then unchanged.
    pub fn replace(&self, drained: Vec<DrainRecord>) -> io::Result<Replaced> {
        self.0.replace(&content(drained)?)
    }
}

/// The content of a file with these records, or of the document that the nodes of a fleet share.
///
/// # Errors
/// Only if the records cannot be serialized, which does not happen: they are texts and numbers.
pub fn content(drained: Vec<DrainRecord>) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, drained })?;
    text.push(b'\n');
    Ok(text)
}

/// Reads the content of a file, or of the shared document.
///
/// # Errors
/// What is wrong with it: a version of another program, a node that is there twice, or something beyond a bound.
pub fn parse(bytes: &[u8]) -> Result<Vec<DrainRecord>, String> {
    let Content { version, drained } =
        kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("version must be {VERSION}, got {version}"));
    }
    if drained.len() > 2 * MAX_DRAINED {
        return Err(format!("at most {} drained nodes are allowed, got {}", 2 * MAX_DRAINED, drained.len()));
    }
    if let Some(record) = drained.iter().find(|record| record.by.len() > MAX_DRAINED_BY) {
        return Err(format!("the operator who drains {} has more than {MAX_DRAINED_BY} bytes", record.node));
    }
    let mut nodes: Vec<_> = drained.iter().map(|record| record.node).collect();
    nodes.sort_unstable();
    match nodes.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("the node {} is there twice", pair[0])),
        None => Ok(drained),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node: u16) -> DrainRecord {
        let mut id = [0xff; 16];
        id[..2].copy_from_slice(&node.to_be_bytes());
        let by = "\u{1}".repeat(MAX_DRAINED_BY);
        DrainRecord { node: NodeId(id), by, since: u64::MAX, unshared: true }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = DrainFile::new(home.path().join("drains.json"));
        assert!(file.read().unwrap().is_empty());
        let most: Vec<_> = (0..512).map(record).collect();
        file.replace(most.clone()).and_then(Replaced::safely).unwrap();
        assert_eq!(file.read().unwrap(), most, "the largest file is read");
        let of = |records: Vec<DrainRecord>| content(records).unwrap();
        let too_many = (0..513).map(record).collect();
        let long = DrainRecord { by: "x".repeat(201), ..record(1) };
        for (text, problem) in [
            (b"".to_vec(), "EOF"),
            (br#"{"version":2,"drained":[]}"#.to_vec(), "version must be 1, got 2"),
            (br#"{"version":1}"#.to_vec(), "missing field"),
            (br#"{"version":1,"drained":[],"x":1}"#.to_vec(), "unknown field"),
            (
                br#"{"version":1,"drained":[{"node":"00","by":"","since":1}]}"#.to_vec(),
                "Invalid string length",
            ),
            (of(too_many), "at most 512 drained nodes are allowed, got 513"),
            (of(vec![long]), "has more than 200 bytes"),
            (of(vec![record(1), record(1)]), "is there twice"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }
}
