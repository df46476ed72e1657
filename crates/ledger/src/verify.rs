//! Verification of a whole log from its files: chain, sealed records of older versions, tree, signed
//! checkpoint, and a checkpoint that was kept elsewhere. In one pass, and in memory that does not grow with
//! the log.

use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::chain;
use crate::checkpoint::Checkpoint;
use crate::edge::Edge;
use crate::files::{LogFiles, Names};
use crate::hash::Hash;
use crate::log::{Log, OpenCheckpointError};
use crate::note::{MAX_NOTE, Note};
use crate::number::{NumberError, Size};
use crate::tile::TILE_HEIGHT;
use crate::vouched::VouchedKey;
use crate::walk::{Chain, Record, WalkError, walk};

/// Levels of tiles that the tree of a log has as files.
pub const LEVELS: u8 = 8;

/// The file that says up to which size the hashes are on the disk.
const MARK: &str = "synced";

/// Maximum length of a small file of the tree, bytes.
const MAX_FILE: u64 = MAX_NOTE as u64;

/// Why a log is not what it says.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read, or the chain does not hold.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A file that belongs to the tree is not there.
    #[error("{} is missing", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// A file that belongs to the tree is not of its form.
    #[error("{} has another form", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
    },
    /// A checkpoint is not signed by the log, or not of it.
    #[error("{claim}: {problem}")]
    Checkpoint {
        /// Which one.
        claim: Claim,
        /// What is wrong with it.
        problem: OpenCheckpointError,
    },
    /// There are fewer records than were signed.
    #[error("the log has {found} records, and {claim} is of {size}: it was rolled back or cut off")]
    RolledBack {
        /// What says that there are more.
        claim: Claim,
        /// How many it says.
        size: Size,
        /// How many there are.
        found: u64,
    },
    /// The records are not those that were signed.
    #[error("the first {size} records are not those of {claim}: the log was changed or forked")]
    Forked {
        /// What says otherwise.
        claim: Claim,
        /// How many records it is of.
        size: Size,
    },
    /// The tree has another leaf.
    #[error("record {seq} is not the one in the tree")]
    Leaf {
        /// Number of the record.
        seq: u64,
    },
    /// The tree has another hash above the leaves.
    #[error("hash {index} of level {level} of the tree does not follow from the records")]
    Node {
        /// Level of tiles.
        level: u8,
        /// Its place in the level.
        index: u64,
    },
    /// Records of a version without a ledger are not those that were sealed.
    #[error("the records of older versions before record {seq} are not those that were sealed")]
    NotSealed {
        /// Number of the record that should seal them.
        seq: u64,
    },
    /// The file of the node names another log than the one that signs.
    #[error("{} names another log", file.display())]
    AnotherLog {
        /// The file.
        file: PathBuf,
    },
    /// The log says that another key signs it.
    #[error("record {seq} does not fit the keys that the log was signed with before or is signed with now")]
    KeyChange {
        /// Number of the record.
        seq: u64,
    },
    /// The log has a key, and nothing is signed.
    #[error("nothing of the log is signed")]
    NotSigned,
    /// There are too many.
    #[error(transparent)]
    Number(#[from] NumberError),
}

/// What says how many records there are, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The newest signed checkpoint, in the directory of the tree.
    Checkpoint,
    /// The copy of it beside the name of the node.
    Kept,
    /// The mark up to where the tree is on the disk.
    Mark,
    /// A checkpoint that was kept elsewhere.
    Pin,
}

impl std::fmt::Display for Claim {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Checkpoint => "the signed checkpoint",
            Self::Kept => "the signed checkpoint beside the log",
            Self::Mark => "the mark of the tree",
            Self::Pin => "the pinned checkpoint",
        })
    }
}

/// What the verifier knows from elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// The log, by its key. Without it signatures of the key beside the log are checked, which proves no origin.
    pub log: Option<&'a Log>,
    /// A signed checkpoint.
    pub pin: Option<&'a [u8]>,
}

/// A log whose files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Of the records.
    pub chain: Chain,
    /// How many records of versions without a ledger are sealed.
    pub sealed: u64,
    /// Up to which record closed files were moved elsewhere, as the log itself says; 0 for none.
    pub archived: u64,
    /// The changes of the log's key since it has its name. Each begins with the key of the one before it, and the last
    /// one ends with the key of the tree. Who made their statements is not checked.
    pub key_changes: Vec<KeyChange>,
    /// Of the tree; `None` for a log that nothing signs yet.
    pub tree: Option<TreeState>,
}

/// What a record says of a new key of the log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KeyChange {
    /// Number of the record.
    pub seq: u64,
    /// The verifier key before.
    pub previous: String,
    /// A root key's signature over it, hex.
    pub previous_statement: String,
    /// The verifier key from there on.
    pub key: String,
    /// A root key's signature over it, hex.
    pub statement: String,
    /// The signature over it of the root key that signed the one before, hex.
    #[serde(default)]
    pub endorsement: Option<String>,
}

/// The most changes of its key that a log may have.
const MAX_KEY_CHANGES: usize = 1024;

/// What is known of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeState {
    /// What the log has signed last.
    pub checkpoint: Checkpoint,
    /// The signing key in the file beside the log.
    pub key: VouchedKey,
    /// Number of the record that is leaf 0.
    pub first: u64,
    /// How many leaves are in the tree's files for certain, by the mark.
    pub synced: u64,
    /// How many leaves there are: those after the checkpoint are not signed yet.
    pub leaves: u64,
    /// How many leaves are in the tree by their hashes only: their records are elsewhere.
    pub elsewhere: u64,
    /// Hashes after the mark that are not those of the records: computed again at the next start.
    pub stale: u64,
    /// Bytes in the tree's files after its last hash: a write that goes on, or that a crash ended.
    pub ahead: u64,
}

/// How often a log is read again that changes while it is verified.
const RE_READS: usize = 2;

/// Verifies the log whose files are `names`.
///
/// The log may grow meanwhile. If something does not hold and files were closed, compressed or moved away
/// since the beginning, or more was signed, the log is read again from the start; what does not hold in the
/// last reading is an error.
///
/// # Errors
/// [`VerifyError`]: the first thing that does not hold.
pub fn verify(files: &dyn LogFiles, names: &Names, known: Known<'_>) -> Result<Verified, VerifyError> {
    let mut snapshot = Snapshot::read(files, names)?;
    for _ in 0..RE_READS {
        let verified = verify_files(files, names, known, &snapshot.segments);
        let Err(error) = verified else { return verified };
        let now = Snapshot::read(files, names)?;
        if now == snapshot {
            return Err(error);
        }
        snapshot = now;
    }
    verify_files(files, names, known, &snapshot.segments)
}

/// What shows that a log has changed.
#[derive(PartialEq, Eq)]
struct Snapshot {
    segments: Vec<PathBuf>,
    checkpoint: Option<Vec<u8>>,
    mark: Option<Vec<u8>>,
}

impl Snapshot {
    fn read(files: &dyn LogFiles, names: &Names) -> Result<Self, VerifyError> {
        Ok(Self {
            segments: names.segments(files).map_err(|source| unusable(names.growing(), source))?,
            checkpoint: read_small(files, names.tree("checkpoint"))?,
            mark: read_small(files, names.tree(MARK))?,
        })
    }
}

fn verify_files(
    files: &dyn LogFiles,
    names: &Names,
    known: Known<'_>,
    segments: &[PathBuf],
) -> Result<Verified, VerifyError> {
    // The checkpoint before the records: a log that grows meanwhile only has more than it says.
    let mut tree = TreeCheck::open(files, names, known)?;
    let (mut seals, mut archived, mut key_changes) = (Seals::default(), 0, Vec::<KeyChange>::new());
    let chain = walk(files, segments, &mut |record| {
        let said = Said::of(record.line);
        seals.push(record, &said)?;
        archived = archived.max(said.archived_to());
        match said.event.as_ref() {
            "log_key_changed" => {
                let misfit = VerifyError::KeyChange { seq: record.seq };
                let change: KeyChange = match serde_json::from_slice(record.line) {
                    Ok(change) if key_changes.len() < MAX_KEY_CHANGES => change,
                    _ => return Err(misfit),
                };
                match key_changes.last() {
                    // After a crash it is recorded twice.
                    Some(last) if last.key == change.key && last.previous == change.previous => {}
                    Some(last) if last.key != change.previous => return Err(misfit),
                    _ => key_changes.push(change),
                }
            }
            // The keys before are those of another name.
            "log_renamed" => key_changes.clear(),
            _ => {}
        }
        match &mut tree {
            Some(tree) => tree.push(record, &said),
            None => Ok(()),
        }
    })?;
    let tree = tree.map(|tree| tree.end(&key_changes)).transpose()?;
    if let (Some(last), Some(tree)) = (key_changes.last(), &tree)
        && last.key != tree.key.key.to_string()
    {
        return Err(VerifyError::KeyChange { seq: last.seq });
    }
    Ok(Verified { chain, sealed: seals.sealed, archived, key_changes, tree })
}

fn unusable(file: PathBuf, source: io::Error) -> VerifyError {
    WalkError::Read { file, source }.into()
}

/// What is read of a record.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Said<'a> {
    salt: Option<&'a str>,
    #[serde(borrow)]
    event: std::borrow::Cow<'a, str>,
    first: u64,
    last: u64,
    lines: u64,
    bytes: u64,
    #[serde(borrow)]
    sha256: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    head: std::borrow::Cow<'a, str>,
}

impl<'a> Said<'a> {
    /// A record with members of other types than those of the two events that count here says nothing.
    fn of(line: &'a [u8]) -> Self {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Kind<'a> {
            salt: Option<&'a str>,
            #[serde(borrow)]
            event: std::borrow::Cow<'a, str>,
        }
        let kind: Kind<'_> = serde_json::from_slice(line).unwrap_or_default();
        let said = match kind.event.as_ref() {
            "imported" | "segment_archived" => serde_json::from_slice(line).unwrap_or_default(),
            _ => Self::default(),
        };
        Self { salt: kind.salt, event: kind.event, ..said }
    }

    fn archived_to(&self) -> u64 {
        if self.event == "segment_archived" { self.last } else { 0 }
    }
}

/// Records of versions without a ledger, and the records that seal them.
#[derive(Default)]
struct Seals {
    digest: Sha256,
    first: u64,
    lines: u64,
    bytes: u64,
    head: [u8; 32],
    sealed: u64,
}

impl Seals {
    fn push(&mut self, record: Record<'_>, said: &Said<'_>) -> Result<(), VerifyError> {
        if said.salt.is_none() {
            if self.lines == 0 {
                self.first = record.seq;
            }
            self.digest.update(record.line);
            self.digest.update(b"\n");
            self.lines += 1;
            self.bytes += record.line.len() as u64 + 1;
            let content = chain::content(record.line).unwrap_or_default();
            self.head = Sha256::digest(content).into();
            return Ok(());
        }
        if self.lines == 0 {
            return Ok(());
        }
        let run = std::mem::take(self);
        self.sealed = run.sealed + run.lines;
        // Where the beginning is elsewhere, the head still says that these are the records.
        let is_whole = said.first == run.first;
        let is_sealed = said.event == "imported"
            && said.head == hex::encode(run.head)
            && (said.first < run.first
                || is_whole
                    && said.lines == run.lines
                    && said.bytes == run.bytes
                    && said.sha256 == hex::encode(run.digest.finalize()));
        if is_sealed { Ok(()) } else { Err(VerifyError::NotSealed { seq: record.seq }) }
    }
}

/// A file of a level of tiles, read hash by hash.
struct Level<'a> {
    reader: BufReader<Box<dyn Read + 'a>>,
    file: PathBuf,
}

impl Level<'_> {
    fn next(&mut self) -> Result<Option<Hash>, VerifyError> {
        let mut hash = [0; Hash::LEN];
        match self.reader.read_exact(&mut hash) {
            Ok(()) => Ok(Some(hash.into())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => Err(unusable(self.file.clone(), source)),
        }
    }
}

struct TreeCheck<'a> {
    levels: Vec<Level<'a>>,
    edge: Edge,
    first: u64,
    /// Up to here the files must have every hash.
    safe: u64,
    claims: Vec<(Claim, Size, Hash)>,
    /// The pinned checkpoint if the log's key has not signed it, with what is wrong then.
    unopened: Option<(Vec<u8>, VerifyError)>,
    state: TreeState,
}

impl<'a> TreeCheck<'a> {
    /// `None` for a log without a tree.
    fn open(files: &'a dyn LogFiles, names: &Names, known: Known<'_>) -> Result<Option<Self>, VerifyError> {
        let small = |file: PathBuf| read_small(files, file);
        let checkpoint = small(names.tree("checkpoint"))?;
        let node = small(names.node())?;
        let Some(checkpoint) = checkpoint else {
            let is_signed = known.log.is_some() || known.pin.is_some();
            let is_there =
                node.is_some() || small(names.tree("key"))?.is_some() || small(names.tree("0"))?.is_some();
            return if is_signed || is_there { Err(VerifyError::NotSigned) } else { Ok(None) };
        };
        let needed = |file: PathBuf| {
            let content = small(file.clone())?;
            content.ok_or(VerifyError::Missing { file })
        };
        let key_file = names.tree("key");
        let malformed = |file: &PathBuf| VerifyError::Malformed { file: file.clone() };
        let key = VouchedKey::parse(&needed(key_file.clone())?).ok_or_else(|| malformed(&key_file))?;
        let own = Log::of_key(key.key.clone()).map_err(|_| malformed(&key_file))?;
        if known.log.is_some_and(|log| *log != own) {
            return Err(VerifyError::AnotherLog { file: key_file });
        }
        let open = |claim, note: &[u8]| {
            let signed = own.open(note, &[]).map_err(|problem| VerifyError::Checkpoint { claim, problem })?;
            Ok::<_, VerifyError>(signed.checkpoint().clone())
        };
        let checkpoint = open(Claim::Checkpoint, &checkpoint)?;
        let node_file = names.node();
        let node = node.ok_or_else(|| VerifyError::Missing { file: node_file.clone() })?;
        let node: Node = serde_json::from_slice(&node).map_err(|_| malformed(&node_file))?;
        if checkpoint.origin.as_str().rsplit('/').next() != Some(node.node.as_str()) || node.first == 0 {
            return Err(VerifyError::AnotherLog { file: node_file });
        }
        let mark_file = names.tree(MARK);
        let mark = needed(mark_file.clone())?;
        let (size, root) = parse_mark(&mark).ok_or_else(|| malformed(&mark_file))?;
        let mut claims =
            vec![(Claim::Checkpoint, checkpoint.size, checkpoint.root), (Claim::Mark, size, root)];
        if let Some(kept) = small(names.checkpoint())? {
            let kept = open(Claim::Kept, &kept)?;
            claims.push((Claim::Kept, kept.size, kept.root));
        }
        let mut unopened = None;
        if let Some(note) = known.pin {
            let pin = match open(Claim::Pin, note) {
                Ok(pin) => pin,
                Err(error) => {
                    // A key that the log had before may have signed it, which its records say.
                    let read = Note::parse(note).ok().and_then(|note| note.text().parse::<Checkpoint>().ok());
                    let Some(pin) = read.filter(|pin| pin.origin == checkpoint.origin) else {
                        return Err(error);
                    };
                    unopened = Some((note.to_vec(), error));
                    pin
                }
            };
            claims.push((Claim::Pin, pin.size, pin.root));
        }
        let mut levels = Vec::new();
        for level in 0..LEVELS {
            let file = names.tree(&level.to_string());
            let content = files.open(&file).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => VerifyError::Missing { file: file.clone() },
                _ => unusable(file.clone(), source),
            })?;
            levels.push(Level { reader: BufReader::with_capacity(1 << 15, content), file });
        }
        let state = TreeState {
            checkpoint,
            key,
            first: node.first,
            synced: size.get(),
            leaves: 0,
            elsewhere: 0,
            stale: 0,
            ahead: 0,
        };
        let mut check =
            Self { levels, edge: Edge::EMPTY, first: node.first, safe: size.get(), claims, unopened, state };
        check.compare_claims()?;
        Ok(Some(check))
    }

    fn push(&mut self, record: Record<'_>, said: &Said<'_>) -> Result<(), VerifyError> {
        let Some(index) = record.seq.checked_sub(self.first) else { return Ok(()) };
        while self.edge.size().get() < index {
            self.state.elsewhere += 1;
            self.append(None)?;
        }
        // The salt of a record of an older version is known to the log alone; what seals these records is
        // checked instead.
        let entry = said.salt.and_then(|_| chain::content(record.line));
        self.append(entry.map(|entry| Hash::leaf(&entry)))
    }

    /// Adds a leaf; one whose entry is not known, as the tree has it.
    fn append(&mut self, computed: Option<Hash>) -> Result<(), VerifyError> {
        let index = self.edge.size().get();
        let seq = self.first + index;
        let stored = self.levels[0].next()?;
        let leaf = computed.or(stored).ok_or(VerifyError::Leaf { seq })?;
        if stored != Some(leaf) {
            self.stale(index < self.safe, VerifyError::Leaf { seq })?;
        }
        for (node, hash) in self.edge.append(leaf)? {
            if node.level == 0 || !node.level.is_multiple_of(TILE_HEIGHT) {
                continue;
            }
            let level = node.level / TILE_HEIGHT;
            if self.levels[usize::from(level)].next()? != Some(hash) {
                let is_safe = self.edge.size().get() <= self.safe;
                self.stale(is_safe, VerifyError::Node { level, index: node.index })?;
            }
        }
        self.compare_claims()
    }

    fn stale(&mut self, is_safe: bool, error: VerifyError) -> Result<(), VerifyError> {
        self.state.stale += 1;
        if is_safe { Err(error) } else { Ok(()) }
    }

    fn compare_claims(&mut self) -> Result<(), VerifyError> {
        let size = self.edge.size();
        for (claim, at, root) in &self.claims {
            if *at == size && self.edge.root() != *root {
                return Err(VerifyError::Forked { claim: *claim, size });
            }
        }
        Ok(())
    }

    fn end(mut self, key_changes: &[KeyChange]) -> Result<TreeState, VerifyError> {
        if let Some((note, error)) = self.unopened.take() {
            let earlier =
                key_changes.iter().filter_map(|change| Log::of_key(change.previous.parse().ok()?).ok());
            if !earlier.into_iter().any(|log| log.open(&note, &[]).is_ok()) {
                return Err(error);
            }
        }
        let found = self.edge.size().get();
        for (claim, size, _) in &self.claims {
            if size.get() > found {
                return Err(VerifyError::RolledBack { claim: *claim, size: *size, found });
            }
        }
        for level in &mut self.levels {
            let ahead = io::copy(&mut level.reader, &mut io::sink());
            self.state.ahead += ahead.map_err(|source| unusable(level.file.clone(), source))?;
        }
        self.state.leaves = found;
        Ok(self.state)
    }
}

/// What counts here of the file: what else the KMS keeps in it, its records say.
#[derive(Deserialize)]
struct Node {
    node: String,
    first: u64,
}

/// `None` if there is none.
fn read_small(files: &dyn LogFiles, file: PathBuf) -> Result<Option<Vec<u8>>, VerifyError> {
    let mut content = Vec::new();
    match files.open(&file).and_then(|opened| opened.take(MAX_FILE).read_to_end(&mut content)) {
        Ok(_) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(unusable(file, source)),
    }
}

fn parse_mark(mark: &[u8]) -> Option<(Size, Hash)> {
    let (size, root) = std::str::from_utf8(mark).ok()?.strip_suffix('\n')?.split_once('\n')?;
    Some((size.parse().ok()?, Hash::from_base64(root).ok()?))
}
