//! What the parts of `control` give to the shared state, and take from it.

use std::fmt;
use std::io;

use futures_util::future::BoxFuture;

use super::Unshared;

/// The most bytes of a document.
pub const MAX_DOCUMENT: usize = 8 << 20;

/// A document that all nodes share, as one part of `control` keeps it.
pub trait Document: fmt::Debug + Send + Sync {
    /// Its name in the database.
    fn name(&self) -> &str;

    /// The shared document `there`, changed as this node needs it; `None` if nothing has to change. Where no document exists yet,
    /// all that this node has.
    ///
    /// # Errors
    /// The shared document cannot be read.
    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String>;

    /// Whether [`Document::merge`] would change the document that was adopted last.
    fn has_news(&self) -> bool;

    /// Whether the changes of this node only stop something, such as releases: they are written even while the node cannot read
    /// another document.
    fn only_stops(&self) -> bool {
        false
    }

    /// Puts the shared document in force and on the disk.
    ///
    /// # Errors
    /// [`AdoptError`].
    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>>;
}

/// How a part of `control` reads and writes what its document says, to change it for all nodes.
pub trait Format: Send + 'static {
    /// What the document says; the default where no document exists yet.
    type Content: Default;
    /// Why nothing was changed.
    type Error: From<Unshared> + Send + 'static;

    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read here.
    fn parse(&self, body: &[u8]) -> Result<Self::Content, Self::Error>;

    /// Its bytes.
    ///
    /// # Errors
    /// It is more than may be shared.
    fn encode(&self, content: &Self::Content) -> Result<Vec<u8>, Self::Error>;
}

/// What an edit did to what a document says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// It says something else now.
    Changed,
    /// It said so already: nothing is written.
    Unchanged,
}

/// Why a document is not in force here, or not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The document cannot be read: nothing was changed.
    #[error("{0}")]
    Unreadable(String),
    /// The document contradicts the configuration of this node: nothing was changed.
    #[error("{0}")]
    Contradicts(String),
    /// The document is in force, but could not be written to the disk.
    #[error("the file could not be written")]
    NotKept(#[source] io::Error),
}

/// Where a document comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The number of the state that has it.
    pub state: u64,
    /// The name or id of the node that wrote that state.
    pub node: String,
    /// The operator who changed it; empty if that is not known.
    pub operator: String,
    /// How it came.
    pub arrival: Arrival,
}

/// How a document came to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// This node wrote it.
    Own,
    /// Another node wrote it, while this one ran or before it started.
    Other,
    /// An owner wrote it over whatever there was.
    Repaired,
    /// This node is new in the fleet.
    Joined,
}
