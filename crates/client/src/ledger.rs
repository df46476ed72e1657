//! The log of a KMS as its routes show it: checkpoint, tiles and entries, verified against a signed checkpoint.

pub mod leaves;
pub mod watched;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use kms_ledger::bundle::{BundleError, MAX_ENTRY};
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::edge::Edge;
use kms_ledger::hash::Hash;
use kms_ledger::number::{Index, Size};
use kms_ledger::proof::{self, BuildError, ConsistencyProof, InclusionProof};
use kms_ledger::tile::{self, Content, FULL_WIDTH, Tile, TileHashes, TileReadError, TileReader};

use crate::operator::OperatorConnection;
use crate::rpc::CallError;

/// How long one file of the log may take.
const FILE_TIME: Duration = Duration::from_secs(30);
/// A signed checkpoint is not longer, in bytes: a log's own has 300, and each cosignature adds 200.
const MAX_CHECKPOINT: usize = 16 << 10;
/// No question about a tree needs more tiles: a proof has 63 hashes, each from up to two tiles.
const MAX_TILES: usize = 256;

/// Why a log does not hold, or cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// No answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The log does not serve a file that its signed tree has.
    #[error("{0} is not served, although the signed tree has it")]
    Missing(Tile),
    /// A file has another length than its name says.
    #[error("{0} has another length than its name says")]
    Length(Tile),
    /// Some tile is not that of the signed tree.
    #[error("the tiles do not lead to the signed root of {0} leaves: at least one was altered")]
    Tiles(Size),
    /// This tile does not follow from the leaves.
    #[error("{0} does not follow from the leaves: it was altered")]
    Altered(Tile),
    /// The entries are not those of the tree.
    #[error("{tile}: {problem}: it was altered")]
    Entries {
        /// Which entries.
        tile: Tile,
        /// What is wrong with them.
        problem: BundleError,
    },
    /// An entry does not follow from the one before.
    #[error("the record of leaf {0} does not follow from the one before")]
    Chain(u64),
    /// The tree is smaller than it was.
    #[error("the log has {new} leaves and had {old}: it was rolled back, or an old copy is served")]
    Shrunk {
        /// What it had.
        old: Size,
        /// What it has.
        new: Size,
    },
    /// The tree does not begin with the older one. Both are signed, so this proves that the log forked.
    #[error("the first {0} leaves are not those that the log had signed before: it was forked")]
    Forked(Size),
    /// The leaf has another entry.
    #[error("leaf {0} of the log is another record")]
    OtherRecord(Index),
    /// There is no such leaf.
    #[error("the log has {size} leaves, hence no leaf {index}")]
    Outside {
        /// Which leaf.
        index: Index,
        /// How many there are.
        size: Size,
    },
}

/// The files of a log over one connection.
#[derive(Debug)]
pub struct RemoteLog {
    connection: OperatorConnection,
}

impl RemoteLog {
    /// The log that is served over `connection`.
    pub fn new(connection: OperatorConnection) -> Self {
        Self { connection }
    }

    /// The connection.
    pub fn connection(&self) -> &OperatorConnection {
        &self.connection
    }

    /// The newest checkpoint: a signed note, not verified yet.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn checkpoint(&self) -> Result<Vec<u8>, CallError> {
        Ok(self.connection.fetch(FILE_TIME, "/log/checkpoint", MAX_CHECKPOINT).await?.body)
    }

    /// The content of a tile of hashes, of the length that its name says. Mirrors may have only the full tile.
    async fn hashes(&self, tile: &Tile) -> Result<Vec<u8>, LedgerError> {
        let full = usize::from(FULL_WIDTH) * Hash::LEN;
        let mut content = match self.file(tile, full).await {
            Err(LedgerError::Missing(_)) if !tile.width().is_full() => self.file(&tile.full(), full).await?,
            content => content?,
        };
        let length = usize::from(tile.width().get()) * Hash::LEN;
        if content.len() == full {
            content.truncate(length);
        }
        if content.len() == length { Ok(content) } else { Err(LedgerError::Length(*tile)) }
    }

    /// A bundle of entries, not verified yet.
    async fn entries(&self, tile: &Tile) -> Result<Vec<u8>, LedgerError> {
        self.file(tile, usize::from(tile.width().get()) * (MAX_ENTRY + 2)).await
    }

    async fn file(&self, tile: &Tile, max_bytes: usize) -> Result<Vec<u8>, LedgerError> {
        match self.connection.fetch(FILE_TIME, &format!("/log/{tile}"), max_bytes).await {
            Ok(document) => Ok(document.body),
            Err(CallError::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. }) => {
                Err(LedgerError::Missing(*tile))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Tiles that were fetched. One that is not there is named, so that it can be fetched.
#[derive(Debug, Default)]
struct Fetched(RefCell<BTreeMap<Tile, Vec<u8>>>);

impl TileReader for &Fetched {
    type Error = Tile;

    fn read_tile(&self, tile: &Tile) -> Result<Vec<u8>, Tile> {
        self.0.borrow().get(tile).cloned().ok_or(*tile)
    }
}

/// The tree of a signed checkpoint, whose right edge was read and has the signed root.
#[derive(Debug)]
pub struct Tree<'a> {
    log: &'a RemoteLog,
    size: Size,
    root: Hash,
    fetched: Fetched,
}

impl<'a> Tree<'a> {
    /// Reads the edge of the tree that `checkpoint` states. The caller has verified who signed it.
    ///
    /// # Errors
    /// [`LedgerError`]; [`LedgerError::Tiles`] for another root.
    pub async fn open(log: &'a RemoteLog, checkpoint: &Checkpoint) -> Result<Self, LedgerError> {
        let (size, root) = (checkpoint.size, checkpoint.root);
        let tree = Self { log, size, root, fetched: Fetched::default() };
        let found = tree.read(|hashes| proof::root(hashes, size)).await?;
        if found == root { Ok(tree) } else { Err(LedgerError::Tiles(size)) }
    }

    /// How many leaves it has.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Verifies that the tree begins with the one of an older checkpoint, whose signature the caller has verified.
    ///
    /// # Errors
    /// [`LedgerError`]; [`LedgerError::Forked`] only if the tiles prove it.
    pub async fn check_beginning(&self, older: &Checkpoint) -> Result<(), LedgerError> {
        let (old, new) = (older.size, self.size);
        if old > new {
            return Err(LedgerError::Shrunk { old, new });
        }
        if old < new && old > Size::ZERO {
            let found = self.root_of(old).await?;
            return if found == older.root { Ok(()) } else { Err(LedgerError::Forked(old)) };
        }
        let is_same = if old == new { older.root == self.root } else { older.root == Hash::EMPTY_ROOT };
        if is_same { Ok(()) } else { Err(LedgerError::Forked(old)) }
    }

    /// The root of the first `old` leaves, more than none. What the tiles say of it, the signed root confirms.
    async fn root_of(&self, old: Size) -> Result<Hash, LedgerError> {
        let new = self.size;
        let found = self.read(|hashes| proof::root(hashes, old)).await?;
        if old < new {
            let proof = self.read(|hashes| ConsistencyProof::build(hashes, old, new)).await?;
            proof.verify((old, &found), (new, &self.root)).map_err(|_| LedgerError::Tiles(new))?;
        }
        Ok(found)
    }

    /// Verifies that leaf `index` is `leaf`, the hash of an entry that the caller has.
    ///
    /// # Errors
    /// [`LedgerError`]; [`LedgerError::OtherRecord`] only if the tiles prove it.
    pub async fn check_leaf(&self, index: Index, leaf: &Hash) -> Result<(), LedgerError> {
        let found = self.leaf(index).await?;
        if found == *leaf { Ok(()) } else { Err(LedgerError::OtherRecord(index)) }
    }

    /// The hash of leaf `index`, with every hash of its tile and of those above it verified against the root.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn leaf(&self, index: Index) -> Result<Hash, LedgerError> {
        let size = self.size;
        if index.get() >= size.get() {
            return Err(LedgerError::Outside { index, size });
        }
        let node = proof::Node { level: 0, index: index.get() };
        let leaf =
            self.read(|hashes| proof::HashReader::read(hashes, &[node]).map_err(BuildError::Read)).await?;
        let leaf = leaf.first().copied().ok_or(LedgerError::Tiles(size))?;
        let proof = self.read(|hashes| InclusionProof::build(hashes, index, size)).await?;
        proof.verify_leaf_hash(&leaf, index, size, &self.root).map_err(|_| LedgerError::Tiles(size))?;
        Ok(leaf)
    }

    /// The edge of the first `size` leaves, as the tiles have it.
    async fn edge(&self, size: Size) -> Result<Edge, LedgerError> {
        self.read(|hashes| Edge::read(hashes, size)).await
    }

    /// Reads hashes of the tree: tries, fetches the tile that is missing, and tries again.
    async fn read<T>(
        &self,
        build: impl Fn(&TileHashes<&Fetched>) -> Result<T, BuildError<TileReadError<Tile>>>,
    ) -> Result<T, LedgerError> {
        for _ in 0..MAX_TILES {
            let missing = match build(&TileHashes::new(&self.fetched, self.size)) {
                Ok(built) => return Ok(built),
                Err(BuildError::Read(TileReadError::Read(tile))) => tile,
                Err(_) => return Err(LedgerError::Tiles(self.size)),
            };
            let content = self.log.hashes(&missing).await?;
            self.fetched.0.borrow_mut().insert(missing, content);
        }
        Err(LedgerError::Tiles(self.size))
    }

    /// The tile with this number, as the tree has it.
    fn tile_at(&self, content: Content, number: u64) -> Result<Tile, LedgerError> {
        Tile::at(content, number, self.size).ok_or(LedgerError::Tiles(self.size))
    }

    /// The hashes of a tile, which is not kept.
    async fn hashes_of(&self, tile: &Tile) -> Result<Vec<Hash>, LedgerError> {
        let content = self.log.hashes(tile).await?;
        tile::hashes(&content, tile.width()).map_err(|_| LedgerError::Length(*tile))
    }
}
