//! A tree on a disk: one file for each level of tiles, to which hashes are appended, and a mark up to where
//! they are safe.
//!
//! Hash i of level L is at byte 32·i of file `L`, so that a tile, full or partial, is a range of one file.
//! The files contain nothing that does not follow from the entries: lost parts are computed again.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::edge::Edge;
use crate::hash::Hash;
use crate::number::{Index, NumberError, Size};
use crate::proof::{self, BuildError, InclusionProof, Node};
use crate::recent::{NotKept, Recent};
use crate::tile::{Content, FULL_WIDTH, TILE_HEIGHT, Tile, TileHashes, TileReader};

/// The file with the size up to which the hashes are on the disk.
const MARK: &str = "synced";

/// Maximum length of the mark, bytes: a size and a root, with their newlines.
const MAX_MARK: u64 = 128;

/// Levels of tiles that a tree below 2⁶³ leaves has.
const LEVELS: u8 = 8;

/// Why leaves are not added to the tree.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refuses.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// The tree is full.
    #[error(transparent)]
    Full(#[from] NumberError),
}

/// The hashes of a tree as files, for reading. Other processes may read while one writes.
#[derive(Debug, Clone)]
pub struct TileFiles {
    directory: PathBuf,
}

impl TileFiles {
    /// The tree in this directory.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Reads hashes and proofs of the tree of this size.
    pub fn hashes(&self, size: Size) -> TileHashes<Self> {
        TileHashes::new(self.clone(), size)
    }

    fn level(&self, level: u8) -> PathBuf {
        self.directory.join(level.to_string())
    }
}

impl TileReader for TileFiles {
    type Error = io::Error;

    fn read_tile(&self, tile: &Tile) -> io::Result<Vec<u8>> {
        let Content::Hashes(level) = tile.content() else { return Err(io::ErrorKind::NotFound.into()) };
        let width = usize::from(tile.width().get());
        let start =
            tile.number().checked_mul(u64::from(FULL_WIDTH)).and_then(|index| index.checked_mul(HASH));
        let start = start.ok_or(io::ErrorKind::NotFound)?;
        let mut content = vec![0; width * Hash::LEN];
        File::open(self.level(level))?.read_exact_at(&mut content, start)?;
        Ok(content)
    }
}

/// Bytes of a hash in a file.
const HASH: u64 = Hash::LEN as u64;

/// The tree as its only writer holds it.
#[derive(Debug)]
pub struct Tree {
    tiles: TileFiles,
    levels: Vec<File>,
    edge: Edge,
    recent: Recent,
    mark: File,
    /// What [`Tree::sync`] has brought to the disk; `None` without a mark that says so.
    synced: Option<Size>,
}

/// Leaves whose hashes are written, but which are not in the tree yet: the tree is as it was until [`Tree::commit`].
#[derive(Debug)]
#[must_use = "staged leaves are not in the tree"]
pub struct Staged {
    edge: Edge,
    nodes: Vec<(Node, Hash)>,
}

impl Tree {
    /// Opens the tree in this directory, or creates it. It has the leaves up to the mark, whatever else is in
    /// the files: later ones must be appended again. A tree whose files do not lead to the root at the mark
    /// is empty.
    ///
    /// Reads the edge only, so that this takes as long for a large tree as for a small one.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let tiles = TileFiles::new(directory);
        let levels = (0..LEVELS).map(|level| open_file(&tiles.level(level))).collect::<io::Result<_>>()?;
        let mark = open_file(&directory.join(MARK))?;
        // Makes the file names durable.
        File::open(directory)?.sync_data()?;
        let known = read_mark(&mark)?.and_then(|(size, root)| {
            let reader = tiles.hashes(size);
            let edge = Edge::read(&reader, size).ok().filter(|edge| edge.root() == root)?;
            Some((edge, Recent::read(&reader, size).ok()?))
        });
        let synced = known.as_ref().map(|(edge, _)| edge.size());
        let (edge, recent) = known.unwrap_or_default();
        Ok(Self { tiles, levels, edge, recent, mark, synced })
    }

    /// Removes all leaves, also on the disk.
    ///
    /// # Errors
    /// The mark cannot be removed; the tree is unchanged.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.synced.is_some() {
            self.mark.set_len(0)?;
            self.mark.sync_data()?;
        }
        (self.edge, self.recent, self.synced) = (Edge::EMPTY, Recent::default(), None);
        Ok(())
    }

    /// How many leaves it has.
    pub fn size(&self) -> Size {
        self.edge.size()
    }

    /// Its root.
    pub fn root(&self) -> Hash {
        self.edge.root()
    }

    /// The root that it had with fewer leaves.
    ///
    /// # Errors
    /// The files cannot be read, or the tree is smaller.
    pub fn root_at(&self, size: Size) -> io::Result<Hash> {
        if size > self.size() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the tree is smaller"));
        }
        proof::root(&self.tiles.hashes(size), size).map_err(|error| io::Error::other(error.to_string()))
    }

    /// The hash of the last leaf, as the file has it; the root of an empty tree where there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last_leaf(&self) -> io::Result<Hash> {
        let Some(index) = self.size().get().checked_sub(1) else { return Ok(Hash::EMPTY_ROOT) };
        let mut hash = [0; Hash::LEN];
        self.levels[0].read_exact_at(&mut hash, index * HASH)?;
        Ok(hash.into())
    }

    /// Writes the hashes of leaves that follow, in this order, without counting them.
    ///
    /// # Errors
    /// [`StoreError`]; the tree is unchanged.
    pub fn stage(&self, leaves: &[Hash]) -> Result<Staged, StoreError> {
        let mut edge = self.edge.clone();
        let mut nodes = Vec::with_capacity(2 * leaves.len());
        for leaf in leaves {
            nodes.extend(edge.append(*leaf)?);
        }
        for (level, file) in (0..LEVELS).zip(&self.levels) {
            let height = level * TILE_HEIGHT;
            let mut own = nodes.iter().filter(|(node, _)| node.level == height).peekable();
            let Some((first, _)) = own.peek() else { break };
            let offset = first.index * HASH;
            let content: Vec<u8> = own.flat_map(|(_, hash)| *hash.as_bytes()).collect();
            file.write_all_at(&content, offset)?;
        }
        Ok(Staged { edge, nodes })
    }

    /// Counts the leaves that were staged last.
    pub fn commit(&mut self, staged: Staged) {
        for (node, hash) in staged.nodes {
            self.recent.push(node, hash);
        }
        self.edge = staged.edge;
    }

    /// Proves one of the newest leaves, from memory; [`crate::recent::RECENT_LEAVES`] says how many.
    ///
    /// # Errors
    /// [`BuildError`]: it is older, or not in the tree.
    pub fn prove_recent(&self, index: Index) -> Result<InclusionProof, BuildError<NotKept>> {
        InclusionProof::build(&self.recent, index, self.size())
    }

    /// Brings the hashes to the disk, and then the mark that says so. Nothing has to wait for it.
    ///
    /// # Errors
    /// The disk does not confirm. What the files hold is in doubt then: the tree has to be opened again.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(sync) = self.begin_sync()? else { return Ok(()) };
        for file in &sync.files {
            file.sync_data()?;
        }
        self.end_sync(&sync)?;
        self.mark.sync_data()
    }

    /// What has to be synced, on whichever thread, while leaves are added; `None` if everything is on the disk.
    ///
    /// # Errors
    /// The process has too many open files.
    pub fn begin_sync(&self) -> io::Result<Option<TreeSync>> {
        let size = self.size();
        if self.synced == Some(size) {
            return Ok(None);
        }
        let is_used = |level: &u8| size.get() >> (level * TILE_HEIGHT) > 0;
        let levels = (0..LEVELS).filter(is_used).zip(&self.levels).map(|(_, file)| file.try_clone());
        // The mark of the sync before this one.
        let files = levels.chain([self.mark.try_clone()]).collect::<io::Result<_>>()?;
        Ok(Some(TreeSync { files, size, root: self.root() }))
    }

    /// Writes the mark, now that all files of `sync` are synced. It may reach the disk later: an older one is
    /// right too.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub fn end_sync(&mut self, sync: &TreeSync) -> io::Result<()> {
        // Within one sector, so that it is not torn; a torn one leads to no root, and the tree is built again.
        let mark = format!("{}\n{}\n", sync.size, sync.root.to_base64());
        self.mark.write_all_at(mark.as_bytes(), 0)?;
        self.mark.set_len(mark.len() as u64)?;
        self.synced = Some(sync.size);
        Ok(())
    }
}

/// A sync of a tree that is under way.
#[derive(Debug)]
#[must_use = "the mark is not written before the end"]
pub struct TreeSync {
    files: Vec<File>,
    size: Size,
    root: Hash,
}

impl TreeSync {
    /// What has to be synced.
    pub fn files(&self) -> &[File] {
        &self.files
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // The hashes of staged leaves that never counted are overwritten.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// `None` without a mark, or with one that nothing can be made of.
fn read_mark(mark: &File) -> io::Result<Option<(Size, Hash)>> {
    let length = mark.metadata()?.len().min(MAX_MARK);
    let mut text = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    mark.read_exact_at(&mut text, 0)?;
    Ok(std::str::from_utf8(&text).ok().and_then(parse_mark))
}

fn parse_mark(text: &str) -> Option<(Size, Hash)> {
    let (size, root) = text.strip_suffix('\n')?.split_once('\n')?;
    Some((size.parse().ok()?, Hash::from_base64(root).ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn leaf(index: u64) -> Hash {
        Hash::leaf(&index.to_be_bytes())
    }

    fn grown(tree: &mut Tree, to: u64, group: usize) {
        let leaves: Vec<Hash> = (tree.size().get()..to).map(leaf).collect();
        for group in leaves.chunks(group) {
            let staged = tree.stage(group).unwrap();
            tree.commit(staged);
        }
    }

    fn expected_root(size: u64) -> Hash {
        let mut edge = Edge::EMPTY;
        for index in 0..size {
            edge.append(leaf(index)).unwrap();
        }
        edge.root()
    }

    #[test]
    fn a_tree_goes_on_where_its_mark_stands() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("tree");
        let mut tree = Tree::open(&directory).unwrap();
        grown(&mut tree, 70_000, 256);
        tree.sync().unwrap();
        // As a crash leaves it: hashes without a mark, and staged ones that never counted.
        grown(&mut tree, 70_100, 7);
        let _ = tree.stage(&[leaf(0); 300]).unwrap();
        drop(tree);

        let mut tree = Tree::open(&directory).unwrap();
        assert_eq!(tree.size().get(), 70_000);
        assert_eq!(tree.root(), expected_root(70_000));
        grown(&mut tree, 70_300, 100);
        assert_eq!(tree.root(), expected_root(70_300));
        for size in [1, 255, 256, 257, 65_536, 69_999, 70_300] {
            assert_eq!(tree.root_at(Size::try_from(size).unwrap()).unwrap(), expected_root(size), "{size}");
        }
        for index in 70_000..70_300 {
            let place = Index::try_from(index).unwrap();
            let proof = tree.prove_recent(place).unwrap();
            proof.verify_leaf_hash(&leaf(index), place, tree.size(), &tree.root()).unwrap();
            let read = InclusionProof::build(&tree.tiles.hashes(tree.size()), place, tree.size()).unwrap();
            assert_eq!(read, proof);
        }
    }

    #[test]
    fn a_tree_that_is_damaged_at_its_edge_is_empty_and_grows_again() {
        type Damage = fn(&Path);
        let damages: [Damage; 5] = [
            |directory| fs::remove_file(directory.join("1")).unwrap(),
            |directory| fs::remove_file(directory.join(MARK)).unwrap(),
            |directory| fs::write(directory.join(MARK), "600\n").unwrap(),
            |directory| {
                File::options().write(true).open(directory.join("0")).unwrap().set_len(599 * 32).unwrap()
            },
            |directory| {
                let file = File::options().write(true).open(directory.join("1")).unwrap();
                file.write_all_at(&[7], 40).unwrap();
            },
        ];
        for damage in damages {
            let directory = tempfile::tempdir().unwrap();
            let mut tree = Tree::open(directory.path()).unwrap();
            grown(&mut tree, 600, 100);
            tree.sync().unwrap();
            drop(tree);
            damage(directory.path());
            let mut tree = Tree::open(directory.path()).unwrap();
            assert_eq!(tree.size(), Size::ZERO);
            grown(&mut tree, 600, 100);
            assert_eq!(tree.root(), expected_root(600));
        }
    }

    #[test]
    fn leaves_that_are_added_during_a_sync_are_after_its_mark() {
        let directory = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(directory.path()).unwrap();
        grown(&mut tree, 300, 100);
        let sync = tree.begin_sync().unwrap().unwrap();
        grown(&mut tree, 600, 100);
        assert_eq!(read_mark(&tree.mark).unwrap(), None, "there is no mark before the end");
        tree.end_sync(&sync).unwrap();
        assert!(tree.begin_sync().unwrap().is_some());
        drop(tree);
        let tree = Tree::open(directory.path()).unwrap();
        assert_eq!((tree.size().get(), tree.root()), (300, expected_root(300)));
        assert!(tree.begin_sync().unwrap().is_none());
    }

    #[test]
    fn a_full_disk_leaves_the_tree_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", directory.path().join("0")).unwrap();
        let tree = Tree::open(directory.path()).unwrap();
        let error = tree.stage(&[leaf(0)]).unwrap_err();
        assert!(matches!(&error, StoreError::Disk(error) if error.kind() == io::ErrorKind::StorageFull));
        assert_eq!(tree.size(), Size::ZERO);
    }

    #[test]
    fn a_tile_of_every_earlier_size_is_a_range_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(directory.path()).unwrap();
        grown(&mut tree, 600, 64);
        let files = TileFiles::new(directory.path());
        for path in ["tile/0/000", "tile/0/002.p/88", "tile/0/002.p/3", "tile/1/000.p/2", "tile/1/000.p/1"] {
            let tile: Tile = path.parse().unwrap();
            assert!(tile.is_within(tree.size()));
            assert_eq!(files.read_tile(&tile).unwrap().len(), usize::from(tile.width().get()) * 32, "{path}");
        }
    }

    /// A tree whose leaves are all the same: so are the nodes of a level.
    struct Uniform;

    impl proof::HashReader for Uniform {
        type Error = std::convert::Infallible;

        fn read(&self, nodes: &[Node]) -> Result<Vec<Hash>, Self::Error> {
            let hash = |node: &Node| (0..node.level).fold(leaf(0), |below, _| Hash::node(&below, &below));
            Ok(nodes.iter().map(hash).collect())
        }
    }

    #[test]
    fn a_proof_in_a_tree_of_ten_million_leaves_has_24_hashes_and_is_made_from_memory() {
        let size = Size::try_from(10_000_000).unwrap();
        let edge = Edge::read(&Uniform, size).unwrap();
        let recent = Recent::read(&Uniform, size).unwrap();
        for index in [9_999_488, 9_999_700, 9_999_999] {
            let index = Index::try_from(index).unwrap();
            let proof = InclusionProof::build(&recent, index, size).unwrap();
            assert!(proof.hashes().len() <= 24);
            proof.verify_leaf_hash(&leaf(0), index, size, &edge.root()).unwrap();
        }
    }
}
