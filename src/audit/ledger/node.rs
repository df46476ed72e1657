//! The name of a node's log within a cluster: made once, and kept with the files.

use std::fmt;
use std::io;
use std::path::Path;

use kms_attest::small_file::small_file;
use kms_attest::state_file;
use serde::{Deserialize, Serialize};

/// Maximum length of the file, bytes.
const MAX_FILE: u64 = 32 << 10;

/// Changes of the log's key that are kept here, the newest ones. All are in the log.
const MAX_CHANGES: usize = 8;

/// The name of a node in the origin of its log: 16 hex digits, random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeId(String);

impl NodeId {
    fn random() -> Self {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
        Self(hex::encode(bytes))
    }

    fn parse(text: &str) -> Option<Self> {
        let is_name = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_name.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The node of a log, and where its tree begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// Number of the record that is leaf 0.
    pub(super) first: u64,
    /// What was signed under the log's old name, until the log has a record of it.
    pub(super) renamed: Option<Renamed>,
    /// The change of the log's key, until the log has a record of it.
    pub(super) key_changed: Option<KeyChanged>,
    /// The newest changes of the log's key that are recorded, the oldest first, for those who know an earlier key.
    pub(super) key_changes: Vec<KeyChanged>,
}

/// The newest checkpoint under the log's old name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Renamed {
    pub(super) previous: String,
    pub(super) size: u64,
    /// Base64.
    pub(super) root: String,
}

/// The log's old key and its new one, with the statements of root keys, hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyChanged {
    /// The verifier key before.
    pub previous: String,
    /// A root key's signature over it.
    pub previous_statement: String,
    /// The verifier key from there on.
    pub key: String,
    /// A root key's signature over it.
    pub statement: String,
    /// The signature over it of the root key that signed the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsement: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    node: String,
    first: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renamed: Option<Renamed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_changed: Option<KeyChanged>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    key_changes: Vec<KeyChanged>,
}

impl Node {
    /// A new name, for a log whose first record has this number.
    pub(super) fn new(first: Option<u64>) -> Self {
        let (id, first) = (NodeId::random(), first.unwrap_or(1));
        Self { id, first, renamed: None, key_changed: None, key_changes: Vec::new() }
    }

    /// The change of the log's key is recorded.
    pub(super) fn keep_change(&mut self) {
        self.key_changes.extend(self.key_changed.take());
        let old = self.key_changes.len().saturating_sub(MAX_CHANGES);
        self.key_changes.drain(..old);
    }

    /// The newest changes of the log's key, the oldest first, also one that is not recorded yet.
    pub(super) fn changes(&self) -> Vec<KeyChanged> {
        self.key_changes.iter().chain(&self.key_changed).cloned().collect()
    }
}

/// Reads the file; `None` if it is missing.
pub(super) fn read(path: &Path) -> io::Result<Option<Node>> {
    match small_file(path, MAX_FILE) {
        Ok(text) => {
            let stored: Stored = kms_attest::json::from_utf8(&text).map_err(io::Error::from)?;
            let id = NodeId::parse(&stored.node).ok_or(io::ErrorKind::InvalidData)?;
            let Stored { first, renamed, key_changed, key_changes, .. } = stored;
            Ok(Some(Node { id, first: first.max(1), renamed, key_changed, key_changes }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates or replaces the file. It is on the disk when this returns.
pub(super) fn save(path: &Path, node: &Node) -> io::Result<()> {
    let Node { id, first, renamed, key_changed, key_changes } = node;
    let (renamed, key_changed) = (renamed.clone(), key_changed.clone());
    let key_changes = key_changes.clone();
    let stored = Stored { node: id.to_string(), first: *first, renamed, key_changed, key_changes };
    state_file::replace(path, format!("{}\n", serde_json::to_string(&stored)?).as_bytes())
}
