//! The text of a checkpoint: origin, size and root of a log (C2SP `tlog-checkpoint`).

use std::fmt;
use std::str::FromStr;

use crate::hash::Hash;
use crate::number::{NumberError, Size};

/// Why a text is not a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Fewer than three lines, or no newline at the end.
    #[error("a checkpoint must have lines for origin, size and root, each with a newline")]
    Lines,
    /// The first line is not an origin.
    #[error("an origin must not be empty and must not contain control characters")]
    Origin,
    /// The second line is not a size.
    #[error("size of the tree: {0}")]
    Size(#[from] NumberError),
    /// The third line is not a hash.
    #[error("the root must be 32 bytes in padded base64")]
    Root,
    /// The size is 0, and the root is not that of the empty tree.
    #[error("a tree of size 0 has another root")]
    EmptyTree,
    /// An extension line is empty or has a control character.
    #[error("an extension line must not be empty and must not contain control characters")]
    Extension,
}

/// What a log is called. Compared byte by byte.
///
/// For a log of tiles this should be its URL without scheme and without the slash at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(String);

impl Origin {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = CheckpointError;

    fn from_str(origin: &str) -> Result<Self, CheckpointError> {
        if is_line(origin) { Ok(Self(origin.to_owned())) } else { Err(CheckpointError::Origin) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c < ' ')
}

/// What a log states about itself: that the tree of this size has this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: Origin,
    /// How many leaves its tree has.
    pub size: Size,
    /// The root of the tree.
    pub root: Hash,
    extension: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint without extension lines.
    pub fn new(origin: Origin, size: Size, root: Hash) -> Self {
        Self { origin, size, root, extension: Vec::new() }
    }

    /// The extension lines, without their newlines. They are not recommended, and an ML-DSA-44 cosignature
    /// does not sign them.
    pub fn extension(&self) -> &[String] {
        &self.extension
    }

    /// Reads the text. Accepts a tree of size 0 with the root of another tree, for which a witness has a
    /// status of its own.
    pub(crate) fn read(text: &str) -> Result<Self, CheckpointError> {
        let lines = text.strip_suffix('\n').ok_or(CheckpointError::Lines)?;
        let mut lines = lines.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(CheckpointError::Lines);
        };
        let origin = origin.parse()?;
        let size = size.parse()?;
        let root = Hash::from_base64(root).map_err(|_| CheckpointError::Root)?;
        let extension: Vec<String> = lines.map(str::to_owned).collect();
        if extension.iter().all(|line| is_line(line)) {
            Ok(Self { origin, size, root, extension })
        } else {
            Err(CheckpointError::Extension)
        }
    }

    pub(crate) fn check_empty_tree(self) -> Result<Self, CheckpointError> {
        if self.size == Size::ZERO && self.root != Hash::EMPTY_ROOT {
            return Err(CheckpointError::EmptyTree);
        }
        Ok(self)
    }
}

/// The text of the note: each line with its newline.
impl fmt::Display for Checkpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n{}\n{}\n", self.origin, self.size, self.root.to_base64())?;
        self.extension.iter().try_for_each(|line| writeln!(formatter, "{line}"))
    }
}

/// Reads exactly what [`fmt::Display`] writes. This is the text of the note, without the signatures.
impl FromStr for Checkpoint {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        Self::read(text)?.check_empty_tree()
    }
}
