//! The tree over the records and its signed checkpoints, by which others can verify the log.
//!
//! Leaf i is record `first` + i. Its entry is the bytes that the record's hash covers; records of versions
//! without a ledger have an entry in their place ([`legacy`]).

pub(super) mod legacy;
mod memory;
mod node;
mod published;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use kms_attest::small_file::small_file;
use kms_ledger::checkpoint::{Checkpoint, Origin};
use kms_ledger::note::MAX_NOTE;
use kms_ledger::proof::InclusionProof;
use kms_ledger::signature::SigningKey;
use kms_ledger::store::{Staged, StoreError, TileFiles, Tree, TreeSync};
use kms_ledger::vouched::VouchedKey;
use kms_ledger::{Hash, Index, Size};

use super::AuditError;
use super::chain::{self, Link};
use super::event::Event;
use super::records::{self, Records};
use super::segments;
use crate::keys::statement::log_key_signer;

pub use legacy::LegacySalts;
pub use node::{KeyChanged, NodeId};
pub use published::Proven;
pub(super) use published::Published;

use memory::Memory;
use node::{Node, Renamed};
use published::Reader;

/// The file of the log's key and of the root key's signature over it, in the directory of the tree.
const KEY: &str = "key";

/// Leaves that are added together when the tree is completed.
const GROUP: usize = 1024;

/// Number of leaves synced together at that time.
const SYNCED_LEAVES: u64 = 256 * GROUP as u64;

/// The keys and the name of a log. Made from the root keys and the log's origin.
pub struct LogKey {
    /// Signs checkpoints; its name is the origin.
    pub signing: SigningKey,
    /// The key that hides the records of versions without a ledger.
    pub legacy: LegacySalts,
    /// The root secp256k1 key's signature over the log's verifier key.
    pub vouching: [u8; 65],
    /// The signatures of root keys of older epochs over it, as far as these keys exist.
    pub endorsements: Vec<[u8; 65]>,
}

impl LogKey {
    /// The name of the log.
    fn origin(&self) -> io::Result<Origin> {
        self.signing.verifying_key().name().as_str().parse().map_err(io::Error::other)
    }
}

/// The source of a log's key.
pub trait LogKeys: Send + Sync {
    /// The key of the log of this node; `None` if its name cannot be a log's.
    fn log_key(&self, node: &NodeId) -> Option<LogKey>;
}

/// Why the tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LedgerError {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Records(#[from] AuditError),
    #[error("the domain of this KMS cannot be part of the name of a log")]
    Origin,
    /// An older log was restored: signing on would contradict earlier signatures.
    #[error(
        "the audit log has {found} records, and a checkpoint of {signed} was signed: it was rolled back. \
         Stop this KMS and bring the newer files back; if they are lost, move the .node file beside the log \
         away: the log then has a new name"
    )]
    RolledBack { signed: u64, found: u64 },
    #[error(
        "the audit log has other records than those that were signed: it was changed. Stop this KMS and bring the \
         right files back; if they are lost, move the .node file beside the log away: the log then has a new name"
    )]
    Forked,
    /// This node has signed before, and the checkpoint is lost.
    #[error(
        "the newest signed checkpoint of the audit log is lost, so that a rollback of the log cannot be \
         excluded. Stop this KMS and bring the .checkpoint file or the .tree directory beside the log back; \
         if both are lost, move the .node file away: the log then has a new name"
    )]
    Forgotten,
    /// The files were replaced while this process runs.
    #[error("the audit log has another record {seq} than when this KMS opened it: restart this KMS")]
    AnotherEnd { seq: u64 },
}

/// A signed checkpoint, with the log's key.
#[derive(Debug)]
pub struct Head {
    /// Number of leaves in the tree.
    pub size: Size,
    /// The signed note, with the log's own line.
    pub checkpoint: Arc<str>,
    /// The log's verifier key.
    pub key: Arc<str>,
    /// The root secp256k1 key's signature over it.
    pub vouching: [u8; 65],
    /// The newest changes of that key, the oldest first.
    pub key_changes: Arc<[KeyChanged]>,
}

/// A proof that a record is in the signed tree.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The bytes that the leaf hash covers.
    pub entry: Vec<u8>,
    /// Index of the leaf.
    pub index: Index,
    /// The proof from the leaf to the root.
    pub proof: InclusionProof,
    /// The signed checkpoint.
    pub checkpoint: Arc<str>,
}

/// The tree and its only writer.
pub(super) struct Ledger {
    tree: Tree,
    key: Arc<LogKey>,
    memory: Memory,
    head: Arc<Head>,
    published: Arc<Published>,
    node: Node,
}

impl Ledger {
    /// Opens the tree over the records up to `end`, adds the missing ones, and signs. It signs nothing that
    /// contradicts an earlier checkpoint.
    pub(super) fn open(
        path: &Path,
        keys: &dyn LogKeys,
        end: &Link,
        published: &Arc<Published>,
    ) -> Result<Self, LedgerError> {
        let directory = segments::tree_name(path);
        let mut tree = Tree::open(&directory)?;
        let mut memory = Memory::open(path)?;
        let checkpoints = memory.read()?;
        let named = node::read(&segments::node_name(path))?;
        let (mut node, is_new) = match named {
            Some(_) if checkpoints.is_empty() => return Err(LedgerError::Forgotten),
            Some(node) => (node, false),
            None => (Node::new(records::first(path)?), true),
        };
        let key = Arc::new(keys.log_key(&node.id).ok_or(LedgerError::Origin)?);
        if is_new {
            // Its leaves belong to the log's old name, on which the entries of records without a salt depend.
            tree.clear()?;
        }
        if is_new {
            node.renamed = checkpoints.first().map(|signed| Renamed {
                previous: signed.origin.to_string(),
                size: signed.size.get(),
                root: signed.root.to_base64(),
            });
        }
        // As many as there are leaves.
        let found = (end.seq() + 1).saturating_sub(node.first);
        let signed = published.newest_signed(checkpoints, &key.origin()?);
        let known = signed.as_ref().map_or(0, |signed| signed.size.get()).max(tree.size().get());
        if known > found {
            return Err(LedgerError::RolledBack { signed: known, found });
        }
        check_end(path, end)?;
        check_last(&tree, path, &key.legacy, node.first)?;
        if let Some(signed) = signed {
            // Not on the disk before it is known to be what was signed: right records that are brought back
            // would not fit it.
            complete(&mut tree, path, &key.legacy, node.first, signed.size.get())?;
            if tree.root_at(signed.size)? != signed.root {
                return Err(LedgerError::Forked);
            }
        }
        while tree.size().get() < found {
            let size = found.min(tree.size().get() + SYNCED_LEAVES);
            complete(&mut tree, path, &key.legacy, node.first, size)?;
            // An interrupted start continues here.
            tree.sync()?;
        }
        tree.sync()?;
        if !is_new && let Some(changed) = key_changed(&directory.join(KEY), node.key_changed.as_ref(), &key) {
            // On the disk before the new key signs anything.
            node.key_changed = Some(changed);
            node::save(&segments::node_name(path), &node)?;
        }
        write_key(&directory.join(KEY), &key)?;
        let head = Arc::new(head(&tree, &key, node.changes().into())?);
        let is_kept = !is_new && memory.is_beside_node();
        memory.write(&head.checkpoint)?;
        if !is_kept {
            memory.sync()?;
            File::open(super::disk::directory(path))?.sync_data()?;
        }
        if is_new {
            // Last, so that a node with a name also has a checkpoint.
            node::save(&segments::node_name(path), &node)?;
        }
        let published = Arc::clone(published);
        let ledger = Self { tree, key, memory, head, published, node };
        ledger.publish(path);
        Ok(ledger)
    }

    /// The change of the log's name or key, if it is not recorded yet.
    pub(super) fn announcement(&self) -> Option<Event> {
        if let Some(Renamed { previous, size, root }) = self.node.renamed.clone() {
            return Some(Event::LogRenamed { previous, size, root });
        }
        let KeyChanged { previous, previous_statement, key, statement, endorsement } =
            self.node.key_changed.clone()?;
        Some(Event::LogKeyChanged { previous, previous_statement, key, statement, endorsement })
    }

    /// What [`Ledger::announcement`] gave is recorded. After a crash before this it is recorded twice.
    pub(super) fn announced(&mut self, path: &Path) -> io::Result<()> {
        match self.node.renamed.take() {
            Some(_) => {}
            None => self.node.keep_change(),
        }
        node::save(&segments::node_name(path), &self.node)
    }

    /// Writes the hashes of records that follow, before they are on the disk themselves.
    pub(super) fn stage(&self, lines: &[u8]) -> Result<Staged, LedgerError> {
        let leaf = |line: &[u8]| chain::content(line).map(|entry| Hash::leaf(&entry));
        let leaves: Vec<Hash> = each(lines).filter_map(leaf).collect();
        Ok(self.tree.stage(&leaves)?)
    }

    /// Counts them, now that they are on the disk, and signs.
    pub(super) fn commit(&mut self, staged: Staged) -> Result<(), LedgerError> {
        self.tree.commit(staged);
        let head = head(&self.tree, &self.key, Arc::clone(&self.head.key_changes))?;
        self.memory.write(&head.checkpoint)?;
        self.head = Arc::new(head);
        self.published.set(Arc::clone(&self.head));
        Ok(())
    }

    /// The leaf of one of the newest records.
    pub(super) fn leaf(&self, seq: u64, record: &[u8]) -> io::Result<Leaf> {
        let index = index(seq, self.node.first)?;
        let proof = self.tree.prove_recent(index).map_err(|error| io::Error::other(error.to_string()))?;
        let entry = chain::content(record).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Leaf { entry, index, proof, checkpoint: Arc::clone(&self.head.checkpoint) })
    }

    /// Brings the tree's files to the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.memory.sync()?;
        self.tree.sync()
    }

    /// What has to be synced, on whichever thread, for the tree to be on the disk as it is now; `None` if it is.
    pub(super) fn begin_sync(&self) -> io::Result<Option<(TreeSync, File)>> {
        let Some(sync) = self.tree.begin_sync()? else { return Ok(None) };
        Ok(Some((sync, self.memory.file()?)))
    }

    /// Notes that the tree is synced.
    pub(super) fn end_sync(&mut self, sync: &TreeSync) -> io::Result<()> {
        self.tree.end_sync(sync)
    }

    fn publish(&self, path: &Path) {
        self.published.open(Reader {
            path: path.to_owned(),
            tiles: TileFiles::new(&segments::tree_name(path)),
            first: self.node.first,
            key: Arc::clone(&self.key),
        });
        self.published.set(Arc::clone(&self.head));
    }
}

fn index(seq: u64, first: u64) -> io::Result<Index> {
    let index = seq.checked_sub(first).and_then(|index| Index::try_from(index).ok());
    index.ok_or_else(|| io::Error::other("the record is not in the tree"))
}

/// The records in written lines.
pub(super) fn each(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Checks that the last record in the files is the one after which the writer goes on.
fn check_end(path: &Path, end: &Link) -> Result<(), LedgerError> {
    let seq = end.seq();
    let mut records = Records::between(path, seq, seq)?;
    let found = records.next().map(|record| record.is_some());
    match found {
        Ok(true) if records.head() != end.hash() => Err(LedgerError::AnotherEnd { seq }),
        // Operators may keep closed files elsewhere.
        Ok(_) | Err(AuditError::Missing { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Checks that the last leaf is the record in the files: those before it are chained to it.
fn check_last(tree: &Tree, path: &Path, legacy: &LegacySalts, first: u64) -> Result<(), LedgerError> {
    let Some(index) = tree.size().get().checked_sub(1) else { return Ok(()) };
    let seq = first + index;
    let record =
        Records::between(path, seq, seq).and_then(|mut records| Ok(records.next()?.map(<[u8]>::to_vec)));
    match record {
        Ok(Some(record)) if Hash::leaf(&entry(&record, seq, index, legacy)?) != tree.last_leaf()? => {
            Err(LedgerError::Forked)
        }
        // Operators may keep closed files elsewhere.
        Ok(_) | Err(AuditError::Missing { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Adds the records from the files that the tree lacks to have this size.
fn complete(
    tree: &mut Tree,
    path: &Path,
    legacy: &LegacySalts,
    first: u64,
    size: u64,
) -> Result<(), LedgerError> {
    let mut next = tree.size().get();
    let mut records = Records::between(path, first + next, (first + size).saturating_sub(1))?;
    let mut leaves = Vec::with_capacity(GROUP);
    loop {
        let record = records.next()?;
        let is_end = record.is_none();
        if let Some(record) = record {
            leaves.push(Hash::leaf(&entry(record, first + next, next, legacy)?));
            next += 1;
        }
        if leaves.len() == GROUP || is_end && !leaves.is_empty() {
            let staged = tree.stage(&leaves)?;
            tree.commit(staged);
            leaves.clear();
        }
        if is_end {
            return Ok(());
        }
    }
}

/// The entry of a record.
fn entry(record: &[u8], seq: u64, index: u64, legacy: &LegacySalts) -> io::Result<Vec<u8>> {
    if chain::is_salted(record) {
        chain::content(record).ok_or_else(|| io::ErrorKind::InvalidData.into())
    } else {
        Ok(legacy.entry(record, seq, index))
    }
}

/// The log's key in a file, for verification without the KMS. The same at each start.
fn write_key(path: &Path, key: &LogKey) -> io::Result<()> {
    let vouched = VouchedKey { key: key.signing.verifying_key().clone(), vouching: key.vouching }.to_string();
    if small_file(path, vouched.len() as u64).is_ok_and(|known| known == vouched.as_bytes()) {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all_at(vouched.as_bytes(), 0)?;
    file.sync_data()
}

/// The change from the key in the file to `key`, if it is another one of the same log; `pending` is an earlier change that
/// no record says yet.
fn key_changed(file: &Path, pending: Option<&KeyChanged>, key: &LogKey) -> Option<KeyChanged> {
    let before = VouchedKey::parse(&small_file(file, MAX_NOTE as u64).ok()?)?;
    let now = key.signing.verifying_key();
    if before.key == *now {
        return None;
    }
    let (previous, previous_statement) = match pending {
        Some(pending) => (pending.previous.clone(), pending.previous_statement.clone()),
        None => (before.key.to_string(), hex::encode(before.vouching)),
    };
    let now = now.to_string();
    let vouched = hex::decode(&previous_statement).ok()?;
    let signer = log_key_signer(&previous, &vouched);
    let by_signer =
        |statement: &&[u8; 65]| signer.is_some() && log_key_signer(&now, &statement[..]) == signer;
    let endorsement = key.endorsements.iter().find(by_signer).map(hex::encode);
    Some(KeyChanged {
        previous,
        previous_statement,
        key: now,
        statement: hex::encode(key.vouching),
        endorsement,
    })
}

fn head(tree: &Tree, key: &LogKey, key_changes: Arc<[KeyChanged]>) -> io::Result<Head> {
    let checkpoint = key.signing.sign_checkpoint(&Checkpoint::new(key.origin()?, tree.size(), tree.root()));
    let (checkpoint, key_text) = (Arc::from(checkpoint), Arc::from(key.signing.verifying_key().to_string()));
    Ok(Head { size: tree.size(), checkpoint, key: key_text, vouching: key.vouching, key_changes })
}

#[cfg(test)]
mod tests;
