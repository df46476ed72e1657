//! Inclusion and consistency proofs (RFC 6962 section 2.1), verified as RFC 9162 sections 2.1.3.2 and 2.1.4.2 say.

use crate::hash::Hash;
use crate::number::{Index, Size};

/// Maximum number of hashes in a proof: an inclusion proof in a tree below 2⁶³ leaves has no more, and
/// `tlog-witness` allows no more in a consistency proof.
pub const MAX_PROOF_HASHES: usize = 63;

/// Why a proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf is not in the tree.
    #[error("leaf {index} is not in a tree of {size}")]
    IndexOutside {
        /// Index of the leaf.
        index: Index,
        /// Size of the tree.
        size: Size,
    },
    /// The newer tree is smaller.
    #[error("the tree shrank from {old} to {new}")]
    Shrunk {
        /// Size of the older tree.
        old: Size,
        /// Size of the newer tree.
        new: Size,
    },
    /// A proof for these sizes has another number of hashes.
    #[error("the proof has a wrong number of hashes")]
    Length,
    /// The proof leads to another root.
    #[error("the proof leads to another root")]
    Root,
    /// The proof does not contain the older tree.
    #[error("the proof leads to another root of the older tree")]
    OldRoot,
}

/// Why a proof cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError<E> {
    /// The proof does not exist.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The stored hashes cannot be read.
    #[error("stored hashes cannot be read")]
    Read(#[source] E),
    /// The reader returned another number of hashes than requested.
    #[error("stored hashes are missing")]
    Missing,
}

/// A full subtree: the root of leaves `index · 2^level` up to, not including, `(index + 1) · 2^level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Height above the leaves.
    pub level: u8,
    /// Number of subtrees of this height to the left of it.
    pub index: u64,
}

/// Where the hashes of full subtrees are stored.
pub trait HashReader {
    /// Why they cannot be read.
    type Error;

    /// The hash of each node, in the order of `nodes`.
    ///
    /// # Errors
    /// Those of the storage.
    fn read(&self, nodes: &[Node]) -> Result<Vec<Hash>, Self::Error>;
}

impl<R: HashReader + ?Sized> HashReader for &R {
    type Error = R::Error;

    fn read(&self, nodes: &[Node]) -> Result<Vec<Hash>, R::Error> {
        (**self).read(nodes)
    }
}

/// Leaves `from..to` whose root is in a proof.
#[derive(Clone, Copy)]
struct Range {
    from: u64,
    to: u64,
}

impl Range {
    /// The largest power of two below the number of leaves. Only for two leaves or more.
    fn split(self) -> u64 {
        1 << (self.to - self.from - 1).ilog2()
    }

    /// The full subtrees that it consists of, from the left.
    ///
    /// Each is the largest that fits: a range in a proof starts at a multiple of each power of two that it holds.
    fn nodes(self) -> impl Iterator<Item = Node> {
        let mut from = self.from;
        std::iter::from_fn(move || {
            let level = (self.to - from).checked_ilog2()?;
            let node = Node { level: u8::try_from(level).ok()?, index: from >> level };
            from += 1 << level;
            Some(node)
        })
    }
}

/// The root of a range from the hashes of its full subtrees, from the left. Empty only for the empty tree.
pub(crate) fn join(hashes: &[Hash]) -> Hash {
    let mut from_the_right = hashes.iter().rev();
    let last = from_the_right.next().copied().unwrap_or(Hash::EMPTY_ROOT);
    from_the_right.fold(last, |right, left| Hash::node(left, &right))
}

fn read_ranges<R: HashReader>(reader: &R, ranges: &[Range]) -> Result<Vec<Hash>, BuildError<R::Error>> {
    let nodes: Vec<Node> = ranges.iter().flat_map(|range| range.nodes()).collect();
    let hashes = read_nodes(reader, &nodes)?;
    let mut rest = hashes.as_slice();
    let roots = ranges.iter().map(|range| {
        let (own, others) = rest.split_at(range.nodes().count());
        rest = others;
        join(own)
    });
    Ok(roots.collect())
}

fn read_nodes<R: HashReader>(reader: &R, nodes: &[Node]) -> Result<Vec<Hash>, BuildError<R::Error>> {
    let hashes = reader.read(nodes).map_err(BuildError::Read)?;
    if hashes.len() == nodes.len() { Ok(hashes) } else { Err(BuildError::Missing) }
}

/// The hashes of the full subtrees of a whole tree, from the left: its edge.
pub(crate) fn read_edge<R: HashReader>(reader: &R, size: Size) -> Result<Vec<Hash>, BuildError<R::Error>> {
    let nodes: Vec<Node> = Range { from: 0, to: size.get() }.nodes().collect();
    read_nodes(reader, &nodes)
}

/// The root of the first `size` leaves.
///
/// # Errors
/// [`BuildError`].
pub fn root<R: HashReader>(reader: &R, size: Size) -> Result<Hash, BuildError<R::Error>> {
    read_edge(reader, size).map(|edge| join(&edge))
}

/// A proof that a leaf is in a tree: the hashes beside its path, from the leaf upward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof(Vec<Hash>);

impl InclusionProof {
    /// A proof with these hashes, not verified.
    pub fn from_hashes(hashes: Vec<Hash>) -> Self {
        Self(hashes)
    }

    /// Its hashes, the leaf's sibling first.
    pub fn hashes(&self) -> &[Hash] {
        &self.0
    }

    /// Makes the proof: PATH(m, D\[n\]) of RFC 6962 section 2.1.1.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build<R: HashReader>(reader: &R, index: Index, size: Size) -> Result<Self, BuildError<R::Error>> {
        let (leaf, mut tree) = (index.get(), Range { from: 0, to: size.get() });
        if leaf >= tree.to {
            return Err(ProofError::IndexOutside { index, size }.into());
        }
        let mut beside = Vec::new();
        while tree.to - tree.from > 1 {
            let middle = tree.from + tree.split();
            let (left, right) = (Range { to: middle, ..tree }, Range { from: middle, ..tree });
            let (on_path, off_path) = if leaf < middle { (left, right) } else { (right, left) };
            beside.push(off_path);
            tree = on_path;
        }
        beside.reverse();
        read_ranges(reader, &beside).map(Self)
    }

    /// Verifies that `entry` is leaf `index` of the tree of this size and root. The size has to come from a signed
    /// checkpoint: a proof alone does not fix it.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn verify(&self, entry: &[u8], index: Index, size: Size, root: &Hash) -> Result<(), ProofError> {
        self.verify_leaf_hash(&Hash::leaf(entry), index, size, root)
    }

    /// As [`Self::verify`], for a leaf hash that the caller computed from the entry.
    ///
    /// A leaf hash from another source proves nothing: the hash of an inner node verifies as a leaf of a smaller tree.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn verify_leaf_hash(
        &self,
        leaf: &Hash,
        index: Index,
        size: Size,
        root: &Hash,
    ) -> Result<(), ProofError> {
        let outside = ProofError::IndexOutside { index, size };
        let (mut path, last) = (index.get(), size.get().checked_sub(1));
        let mut last = last.filter(|last| path <= *last).ok_or(outside)?;
        let mut hash = *leaf;
        for beside in &self.0 {
            if last == 0 {
                return Err(ProofError::Length);
            }
            if path & 1 == 1 || path == last {
                hash = Hash::node(beside, &hash);
                // `path` is not 0 here: it is odd, or the last of more than one.
                let complete = path.trailing_zeros();
                (path, last) = (path >> complete, last >> complete);
            } else {
                hash = Hash::node(&hash, beside);
            }
            (path, last) = (path >> 1, last >> 1);
        }
        match last {
            0 if hash == *root => Ok(()),
            0 => Err(ProofError::Root),
            _ => Err(ProofError::Length),
        }
    }
}

/// A proof that a tree has only grown since it had another size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof(Vec<Hash>);

impl ConsistencyProof {
    /// A proof with these hashes, not verified.
    pub fn from_hashes(hashes: Vec<Hash>) -> Self {
        Self(hashes)
    }

    /// Its hashes, in the order of RFC 6962.
    pub fn hashes(&self) -> &[Hash] {
        &self.0
    }

    /// Makes the proof: PROOF(m, D\[n\]) of RFC 6962 section 2.1.2. From the empty tree it is empty, as
    /// `tlog-witness` says.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build<R: HashReader>(reader: &R, old: Size, new: Size) -> Result<Self, BuildError<R::Error>> {
        let (end, mut tree) = (old.get(), Range { from: 0, to: new.get() });
        if end > tree.to {
            return Err(ProofError::Shrunk { old, new }.into());
        }
        let mut parts = Vec::new();
        if end > 0 {
            while tree.to > end {
                let middle = tree.from + tree.split();
                if end <= middle {
                    parts.push(Range { from: middle, ..tree });
                    tree.to = middle;
                } else {
                    parts.push(Range { to: middle, ..tree });
                    tree.from = middle;
                }
            }
            // The verifier has the old root, so a part that is the complete older tree is omitted.
            if tree.from > 0 {
                parts.push(tree);
            }
        }
        parts.reverse();
        read_ranges(reader, &parts).map(Self)
    }

    /// Verifies that the tree of size and root `new` begins with the tree of size and root `old`. Both sizes
    /// have to come from signed checkpoints. Every tree begins with the empty one, whose root is
    /// [`Hash::EMPTY_ROOT`] and whose proof is empty.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn verify(&self, old: (Size, &Hash), new: (Size, &Hash)) -> Result<(), ProofError> {
        let ((old, old_root), (new, new_root)) = (old, new);
        if old > new {
            return Err(ProofError::Shrunk { old, new });
        }
        for (size, root, problem) in [(old, old_root, ProofError::OldRoot), (new, new_root, ProofError::Root)]
        {
            if size == Size::ZERO && *root != Hash::EMPTY_ROOT {
                return Err(problem);
            }
        }
        if old == new || old == Size::ZERO {
            return match self.0.as_slice() {
                [] if old == new && old_root != new_root => Err(ProofError::Root),
                [] => Ok(()),
                _ => Err(ProofError::Length),
            };
        }
        let (first, rest) = if old.get().is_power_of_two() {
            (old_root, self.0.as_slice())
        } else {
            self.0.split_first().ok_or(ProofError::Length)?
        };
        if self.0.is_empty() {
            return Err(ProofError::Length);
        }
        let (path, last) = (old.get() - 1, new.get() - 1);
        let complete = path.trailing_ones();
        let (mut path, mut last) = (path >> complete, last >> complete);
        let (mut old_hash, mut new_hash) = (*first, *first);
        for beside in rest {
            if last == 0 {
                return Err(ProofError::Length);
            }
            if path & 1 == 1 || path == last {
                old_hash = Hash::node(beside, &old_hash);
                new_hash = Hash::node(beside, &new_hash);
                let complete = path.trailing_zeros();
                (path, last) = (path >> complete, last >> complete);
            } else {
                new_hash = Hash::node(&new_hash, beside);
            }
            (path, last) = (path >> 1, last >> 1);
        }
        match last {
            0 if old_hash != *old_root => Err(ProofError::OldRoot),
            0 if new_hash != *new_root => Err(ProofError::Root),
            0 => Ok(()),
            _ => Err(ProofError::Length),
        }
    }
}
