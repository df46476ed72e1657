//! The public view of the growing log: checkpoints, tiles and entries of the signed tree.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_ledger::checkpoint::{Checkpoint, Origin};
use kms_ledger::proof::{BuildError, InclusionProof};
use kms_ledger::proof_file::ProofFile;
use kms_ledger::store::TileFiles;
use kms_ledger::tile::{Content, Tile, TileReadError, TileReader as _};
use kms_ledger::{Hash, Index, Size, bundle};
use tokio::sync::watch;

use super::super::AuditError;
use super::super::records::Records;
use super::super::witness::WitnessState;
use super::memory::parsed;
use super::{Head, LogKey, entry};
use crate::clock::unix_now;

/// How long a cosigned checkpoint is shown although there are newer ones: witnesses need time.
const SHOWN_COSIGNED: Duration = Duration::from_secs(60);

/// The public view of the growing log.
#[derive(Default)]
pub(in super::super) struct Published {
    shown: Mutex<Shown>,
    /// The newest checkpoint, for tasks that wait for one.
    heads: watch::Sender<Option<(Arc<Head>, TileFiles)>>,
    /// Number of leaves that enough witnesses have cosigned.
    witnessed: watch::Sender<u64>,
    /// The witnesses, as they were last asked.
    witnesses: Mutex<Vec<WitnessState>>,
    /// The newest checkpoint that this process knows to be signed, also when the tree's directory is moved away.
    signed: Mutex<Option<Checkpoint>>,
}

#[derive(Default)]
struct Shown {
    head: Option<Arc<Head>>,
    reader: Option<Arc<Reader>>,
    cosigned: Option<Cosigned>,
    /// When the newest checkpoint was signed, Unix seconds.
    signed_at: Option<u64>,
}

/// A checkpoint with the lines of witnesses.
struct Cosigned {
    size: Size,
    note: Arc<str>,
    at: Instant,
}

impl Published {
    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest signed checkpoint of the log `origin`: one that is kept on the disk, or one that was seen before.
    pub(super) fn newest_signed(&self, kept: Vec<Checkpoint>, origin: &Origin) -> Option<Checkpoint> {
        let head = self.shown().head.as_ref().and_then(|head| parsed(head.checkpoint.as_bytes()));
        let mut known = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        let all =
            [known.take(), head].into_iter().flatten().chain(kept).filter(|signed| signed.origin == *origin);
        *known = all.max_by_key(|signed| signed.size);
        known.clone()
    }

    pub(super) fn open(&self, reader: Reader) {
        self.shown().reader = Some(Arc::new(reader));
    }

    pub(super) fn set(&self, head: Arc<Head>) {
        let mut shown = self.shown();
        shown.head = Some(Arc::clone(&head));
        shown.signed_at = Some(unix_now());
        if let Some(reader) = &shown.reader {
            self.heads.send_replace(Some((head, reader.tiles.clone())));
        }
    }

    pub(in super::super) fn heads(&self) -> watch::Receiver<Option<(Arc<Head>, TileFiles)>> {
        self.heads.subscribe()
    }

    /// Stores cosignature lines of witnesses for a checkpoint; `is_enough` says whether they are enough to release.
    pub(in super::super) fn cosigned(&self, head: &Head, lines: &[String], is_enough: bool) {
        let note = Arc::from(format!("{}{}", head.checkpoint, lines.concat()));
        self.shown().cosigned = Some(Cosigned { size: head.size, note, at: Instant::now() });
        if is_enough {
            self.witnessed.send_if_modified(|size| {
                let is_newer = head.size.get() > *size;
                *size = head.size.get().max(*size);
                is_newer
            });
        }
    }

    /// Shows these witnesses, which were not asked yet.
    pub(in super::super) fn name_witnesses(&self, witnesses: Vec<WitnessState>) {
        *self.witnesses.lock().unwrap_or_else(PoisonError::into_inner) = witnesses;
    }

    /// Notes how a witness has answered. What it has cosigned before stays.
    pub(in super::super) fn asked(&self, state: &WitnessState) {
        let mut witnesses = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = witnesses.iter_mut().find(|known| known.name == state.name) {
            known.last = state.last.or(known.last);
            known.size = state.size.or(known.size);
            known.problem.clone_from(&state.problem);
        }
    }

    pub(in super::super) fn witnesses(&self) -> Vec<WitnessState> {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in super::super) fn signed_at(&self) -> Option<u64> {
        self.shown().signed_at
    }

    /// Returns when enough witnesses have cosigned this many leaves.
    pub(in super::super) async fn witnessed(&self, size: u64) {
        // The sender is ours.
        let _ = self.witnessed.subscribe().wait_for(|known| *known >= size).await;
    }

    /// The checkpoint to show, with its cosignatures.
    pub(in super::super) fn checkpoint(&self) -> Option<Arc<str>> {
        let shown = self.shown();
        let head = shown.head.as_ref()?;
        let is_shown =
            |cosigned: &&Cosigned| cosigned.size == head.size || cosigned.at.elapsed() < SHOWN_COSIGNED;
        let cosigned = shown.cosigned.as_ref().filter(is_shown);
        Some(Arc::clone(cosigned.map_or(&head.checkpoint, |cosigned| &cosigned.note)))
    }

    pub(in super::super) fn head(&self) -> Option<Arc<Head>> {
        self.shown().head.clone()
    }

    /// The content of a tile or of a bundle; `None` if the signed tree does not have it.
    pub(in super::super) fn tile(&self, tile: &Tile) -> Result<Option<Vec<u8>>, AuditError> {
        let (head, reader) = {
            let shown = self.shown();
            (shown.head.clone(), shown.reader.clone())
        };
        match (head, reader) {
            (Some(head), Some(reader)) if tile.is_within(head.size) => reader.read(tile).map(Some),
            _ => Ok(None),
        }
    }
}

/// The proof that a record is in a signed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The entry of the leaf.
    pub entry: Vec<u8>,
    /// The index of the leaf.
    pub index: u64,
    /// The hash of the leaf.
    pub hash: [u8; 32],
    /// The root of the tree.
    pub root: [u8; 32],
    /// The signed checkpoint of the tree.
    pub checkpoint: Arc<str>,
    /// All of it as a file (C2SP `tlog-proof`), with the entry as extra data.
    pub file: String,
}

impl Published {
    /// The proof of record `seq`, which is this `line`; `None` if the signed tree does not have it.
    pub(in super::super) fn prove(&self, seq: u64, line: &[u8]) -> io::Result<Option<Proven>> {
        let reader = self.shown().reader.clone();
        let (Some(reader), Some(checkpoint)) = (reader, self.checkpoint()) else { return Ok(None) };
        let Some(signed) = parsed(checkpoint.as_bytes()) else { return Ok(None) };
        let Some(place) = seq.checked_sub(reader.first).filter(|place| *place < signed.size.get()) else {
            return Ok(None);
        };
        let index = Index::try_from(place).map_err(io::Error::other)?;
        let entry = entry(line, seq, place, &reader.key.legacy)?;
        let proof = InclusionProof::build(&reader.tiles.hashes(signed.size), index, signed.size);
        let proof = proof
            .map_err(|error: BuildError<TileReadError<io::Error>>| io::Error::other(error.to_string()))?;
        // Also that the line is the record: it may come from elsewhere.
        proof.verify(&entry, index, signed.size, &signed.root).map_err(io::Error::other)?;
        let file = ProofFile { extra: Some(entry.clone()), index, proof, checkpoint: checkpoint.to_string() };
        let (hash, root) = (*Hash::leaf(&entry).as_bytes(), *signed.root.as_bytes());
        Ok(Some(Proven { hash, root, index: place, entry, checkpoint, file: file.to_string() }))
    }
}

/// Reads what is in the signed tree.
pub(super) struct Reader {
    pub(super) path: PathBuf,
    pub(super) tiles: TileFiles,
    pub(super) first: u64,
    pub(super) key: Arc<LogKey>,
}

impl Reader {
    fn read(&self, tile: &Tile) -> Result<Vec<u8>, AuditError> {
        let unusable = |source| AuditError::Open { path: self.path.clone(), source };
        match tile.content() {
            Content::Hashes(_) => self.tiles.read_tile(tile).map_err(unusable),
            Content::Entries => {
                let index = tile.number() * u64::from(kms_ledger::tile::FULL_WIDTH);
                let first = self.first + index;
                let last = first + u64::from(tile.width().get()) - 1;
                let mut records = Records::between(&self.path, first, last)?;
                let (mut content, mut place) = (Vec::new(), index);
                while let Some(record) = records.next()? {
                    let entry =
                        entry(record, self.first + place, place, &self.key.legacy).map_err(unusable)?;
                    bundle::append(&mut content, &entry)
                        .map_err(|error| unusable(io::Error::other(error)))?;
                    place += 1;
                }
                Ok(content)
            }
        }
    }
}
