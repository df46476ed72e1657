//! The right edge of a tree: what must be kept of it to append leaves and to know its root.

use crate::hash::Hash;
use crate::number::{NumberError, Size};
use crate::proof::{BuildError, HashReader, Node, join, read_edge};

/// Size of a tree, and the roots of the full subtrees that it consists of: one for each bit of the size, the
/// largest first.
///
/// At most 63 hashes, whatever the number of leaves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    size: Size,
    hashes: Vec<Hash>,
}

/// The number of hashes does not fit the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the edge of a tree of {size} has {} hashes, not {found}", size.get().count_ones())]
pub struct EdgeError {
    /// Size of the tree.
    pub size: Size,
    /// How many hashes there are.
    pub found: usize,
}

impl Edge {
    /// The edge of the empty tree.
    pub const EMPTY: Self = Self { size: Size::ZERO, hashes: Vec::new() };

    /// Puts an edge together from what was kept of it. Whether the hashes are right, only the root can say.
    ///
    /// # Errors
    /// [`EdgeError`].
    pub fn from_parts(size: Size, hashes: Vec<Hash>) -> Result<Self, EdgeError> {
        if hashes.len() == size.get().count_ones() as usize {
            Ok(Self { size, hashes })
        } else {
            Err(EdgeError { size, found: hashes.len() })
        }
    }

    /// Reads the edge of the first `size` leaves from stored hashes.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn read<R: HashReader>(reader: &R, size: Size) -> Result<Self, BuildError<R::Error>> {
        Ok(Self { size, hashes: read_edge(reader, size)? })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Roots of the full subtrees, the largest first.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        join(&self.hashes)
    }

    /// Appends a leaf and gives the subtrees that it completes, itself first: what a store of hashes has to add.
    ///
    /// # Errors
    /// [`NumberError::TooLarge`]: the tree has 2⁶³ − 1 leaves. It is unchanged then.
    pub fn append(&mut self, leaf: Hash) -> Result<Vec<(Node, Hash)>, NumberError> {
        let size = self.size.next()?;
        let mut index = self.size.get();
        let mut hash = leaf;
        let mut completed = vec![(Node { level: 0, index }, hash)];
        for level in 1.. {
            if index & 1 == 0 {
                break;
            }
            // There is a hash for each bit of the size.
            let Some(left) = self.hashes.pop() else { break };
            hash = Hash::node(&left, &hash);
            index >>= 1;
            completed.push((Node { level, index }, hash));
        }
        self.hashes.push(hash);
        self.size = size;
        Ok(completed)
    }
}
