//! The nodes near the right edge of a tree: proofs of its newest leaves are made from memory.

use std::collections::VecDeque;

use crate::hash::Hash;
use crate::number::Size;
use crate::proof::{BuildError, HashReader, Node};

/// Proofs of this many newest leaves can be made.
pub const RECENT_LEAVES: u64 = 512;

/// Levels of a tree below 2⁶³ leaves.
const LEVELS: u8 = 63;

/// The last nodes of each level, as many as proofs of the last [`RECENT_LEAVES`] leaves need.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    levels: Vec<Level>,
}

/// The last nodes of a level.
#[derive(Debug, Clone, Default)]
struct Level {
    /// Index of the first one that is kept.
    first: u64,
    hashes: VecDeque<Hash>,
}

/// A node that is not near the right edge, or not in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node {} of level {} is not kept in memory", .0.index, .0.level)]
pub struct NotKept(pub Node);

/// How many nodes of a level are kept.
fn kept(level: u8) -> u64 {
    (RECENT_LEAVES >> level) + 2
}

impl Recent {
    /// Reads what is kept of a tree of this size.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn read<R: HashReader>(reader: &R, size: Size) -> Result<Self, BuildError<R::Error>> {
        let mut levels = Vec::new();
        for level in 0..LEVELS {
            let count = size.get() >> level;
            if count == 0 {
                break;
            }
            let first = count.saturating_sub(kept(level));
            let nodes: Vec<Node> = (first..count).map(|index| Node { level, index }).collect();
            let hashes = reader.read(&nodes).map_err(BuildError::Read)?;
            if hashes.len() != nodes.len() {
                return Err(BuildError::Missing);
            }
            levels.push(Level { first, hashes: hashes.into() });
        }
        Ok(Self { levels })
    }

    /// Adds a subtree that has become complete: the next of its level.
    pub fn push(&mut self, node: Node, hash: Hash) {
        let index = usize::from(node.level);
        if self.levels.len() <= index {
            self.levels.resize_with(index + 1, Level::default);
        }
        let level = &mut self.levels[index];
        if level.hashes.is_empty() {
            level.first = node.index;
        }
        level.hashes.push_back(hash);
        if level.hashes.len() as u64 > kept(node.level) {
            level.hashes.pop_front();
            level.first += 1;
        }
    }

    fn get(&self, node: Node) -> Option<Hash> {
        let level = self.levels.get(usize::from(node.level))?;
        let offset = usize::try_from(node.index.checked_sub(level.first)?).ok()?;
        level.hashes.get(offset).copied()
    }
}

impl HashReader for Recent {
    type Error = NotKept;

    fn read(&self, nodes: &[Node]) -> Result<Vec<Hash>, NotKept> {
        nodes.iter().map(|node| self.get(*node).ok_or(NotKept(*node))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::Edge;
    use crate::number::Index;
    use crate::proof::InclusionProof;

    #[test]
    fn the_newest_leaves_are_proven_from_memory_at_every_size() {
        let (mut edge, mut recent) = (Edge::EMPTY, Recent::default());
        for leaf in 0..1500_u64 {
            for (node, hash) in edge.append(Hash::leaf(&leaf.to_be_bytes())).unwrap() {
                recent.push(node, hash);
            }
            let size = edge.size();
            let oldest = size.get().saturating_sub(RECENT_LEAVES);
            for index in [oldest, oldest + 1, leaf / 2 + oldest / 2 + 1, leaf] {
                let index = index.min(leaf);
                let place = Index::try_from(index).unwrap();
                let proof = InclusionProof::build(&recent, place, size).unwrap();
                proof.verify(&index.to_be_bytes(), place, size, &edge.root()).unwrap();
            }
        }
        assert!(recent.levels.iter().map(|level| level.hashes.len()).sum::<usize>() < 1200);
    }
}
