//! A log in memory, and a server that shows it, or something else.

use std::sync::{Arc, Mutex};

use kms_ledger::checkpoint::{Checkpoint, Origin};
use kms_ledger::proof::InclusionProof;
use kms_ledger::signature::SigningKey;
use kms_ledger::tile::{Content, Tile};
use kms_ledger::{Hash, Size, bundle};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::{Authority, Leaf, Reply, RootKey, TestServer};

const NAME: &str = "kms.example/cvm-kms/0123456789abcdef";

/// The entry of record `seq` behind another one.
pub(super) fn entry(seq: u64, before: &[u8]) -> Vec<u8> {
    let prev = hex::encode(Sha256::digest(before));
    format!(r#"{{"seq":{seq},"time":"2026-01-01T00:00:00Z","prev":"{prev}","salt":"AAAAAAAAAAAAAAAAAAAAAA","event":"stopped"}}"#)
        .into_bytes()
}

/// A change of the key of a log: seeds of the keys, of the root keys that signed them, and of the one that signed the new key
/// beside its own.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) from: (u8, u8),
    pub(super) to: (u8, u8),
    pub(super) endorsed_by: Option<u8>,
}

/// A log, and how it is shown.
#[derive(Clone)]
pub(super) struct FakeLog {
    pub(super) entries: Arc<Vec<Vec<u8>>>,
    /// Roots of full subtrees by their level.
    pub(super) levels: Arc<Vec<Vec<Hash>>>,
    pub(super) seed: u8,
    /// Seed of the key that signs checkpoints.
    pub(super) signs_with: u8,
    /// Seed of the root key that vouches.
    pub(super) vouched_by: u8,
    /// Seed of the root key that `GetMeta` shows.
    pub(super) root: u8,
    /// The changes of its key that `GetMeta` shows.
    pub(super) changes: Vec<Change>,
    /// Seed of a root key that has stated the one that `GetMeta` shows, as that of epoch 1.
    pub(super) stated_by: Option<u8>,
    /// A file with a byte that is another.
    pub(super) altered: Option<(String, usize)>,
    /// A file that is not there.
    pub(super) missing: Option<String>,
    /// A file with other content.
    pub(super) instead: Option<(String, Vec<u8>)>,
    /// An entry that is another than that of the tree.
    pub(super) rewritten: Option<usize>,
}

impl FakeLog {
    /// With so many records; a smaller one is the beginning of a larger one.
    pub(super) fn of(size: u64) -> Self {
        let mut entries: Vec<Vec<u8>> = Vec::new();
        for seq in 1..=size {
            let next = entry(seq, entries.last().map_or(b"", |last| last));
            entries.push(next);
        }
        Self::with(entries)
    }

    fn with(entries: Vec<Vec<u8>>) -> Self {
        let mut levels: Vec<Vec<Hash>> = vec![entries.iter().map(|entry| Hash::leaf(entry)).collect()];
        while levels.last().is_some_and(|level| level.len() > 1) {
            let below = levels.last().expect("a level");
            let above = below.chunks_exact(2).map(|pair| Hash::node(&pair[0], &pair[1])).collect();
            levels.push(above);
        }
        Self {
            entries: Arc::new(entries),
            levels: Arc::new(levels),
            seed: 1,
            signs_with: 1,
            vouched_by: 7,
            root: 7,
            changes: Vec::new(),
            stated_by: None,
            altered: None,
            missing: None,
            instead: None,
            rewritten: None,
        }
    }

    pub(super) fn with_seed(self, seed: u8) -> Self {
        Self { seed, signs_with: seed, ..self }
    }

    /// The log goes on with the key of seed 2 under the root key of seed 8; that of seed 7 has signed the new key too.
    pub(super) fn renewed(self) -> Self {
        let change = Change { from: (1, 7), to: (2, 8), endorsed_by: Some(7) };
        Self { vouched_by: 8, root: 8, changes: vec![change], ..self.with_seed(2) }
    }

    /// What `GetMeta` says of it, with this root CA.
    fn meta(&self, root_pem: &str) -> serde_json::Value {
        let text = |seed: u8| Self::key(seed).verifying_key().to_string();
        let signed = |root: u8, seed: u8| hex::encode(RootKey::new(root).log_key_signature(&text(seed)));
        let change = |change: &Change| {
            let Change { from, to, endorsed_by } = *change;
            json!({
                "earlier_key": text(from.0),
                "earlier_signature": signed(from.1, from.0),
                "key": text(to.0),
                "signature": signed(to.1, to.0),
                "endorsement": endorsed_by.map_or_else(String::new, |root| signed(root, to.0)),
            })
        };
        let root = RootKey::new(self.root).public();
        let epoch = |by: u8| {
            let ca = [0x30; 91];
            json!({
                "number": 1,
                "state": "active",
                "ca_pubkey": hex::encode(ca),
                "k256_pubkey": root.to_string(),
                "signature": hex::encode(RootKey::new(by).root_epoch_signature(1, &ca, &root)),
            })
        };
        json!({
            "ca_cert": root_pem,
            "k256_pubkey": root.to_string(),
            "log_key": text(self.seed),
            "log_key_signature": signed(self.vouched_by, self.seed),
            "log_key_changes": self.changes.iter().map(change).collect::<Vec<_>>(),
            "epochs": self.stated_by.into_iter().map(epoch).collect::<Vec<_>>(),
        })
    }

    /// The record at `index` and those after it are others.
    pub(super) fn with_other(&self, index: u64) -> Self {
        let mut entries = self.entries.to_vec();
        for place in index as usize..entries.len() {
            let before = place.checked_sub(1).map_or(&b""[..], |before| &entries[before]);
            let before = [b"x", before].concat();
            entries[place] = entry(place as u64 + 1, &before);
        }
        Self::with(entries)
    }

    /// The record at `index` names another predecessor.
    pub(super) fn with_broken_chain(&self, index: usize) -> Self {
        let mut entries = self.entries.to_vec();
        entries[index] = entry(index as u64 + 1, b"another");
        Self::with(entries)
    }

    pub(super) fn size(&self) -> Size {
        (self.entries.len() as u64).try_into().expect("a size")
    }

    pub(super) fn entry(&self, index: u64) -> &[u8] {
        &self.entries[index as usize]
    }

    fn root_of(&self, from: u64, to: u64) -> Hash {
        match to - from {
            0 => Hash::EMPTY_ROOT,
            count if count.is_power_of_two() => {
                let level = count.ilog2();
                self.levels[level as usize][(from >> level) as usize]
            }
            count => {
                let middle = from + (1 << (count - 1).ilog2());
                Hash::node(&self.root_of(from, middle), &self.root_of(middle, to))
            }
        }
    }

    pub(super) fn prove(&self, index: u64) -> InclusionProof {
        let (mut from, mut to, mut beside) = (0, self.size().get(), Vec::new());
        while to - from > 1 {
            let middle = from + (1 << (to - from - 1).ilog2());
            if index < middle {
                beside.push(self.root_of(middle, to));
                to = middle;
            } else {
                beside.push(self.root_of(from, middle));
                from = middle;
            }
        }
        beside.reverse();
        InclusionProof::from_hashes(beside)
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(NAME.parse().expect("a name"), &[seed; 32]).expect("a key")
    }

    pub(super) fn key_text(&self) -> String {
        Self::key(self.seed).verifying_key().to_string()
    }

    pub(super) fn origin(&self) -> Origin {
        NAME.parse().expect("an origin")
    }

    pub(super) fn sign(&self, checkpoint: &Checkpoint) -> String {
        Self::key(self.signs_with).sign_checkpoint(checkpoint)
    }

    /// The signed checkpoint.
    pub(super) fn note(&self) -> String {
        let root = self.root_of(0, self.size().get());
        self.sign(&Checkpoint::new(self.origin(), self.size(), root))
    }

    /// A file below `/log/`; `None` if there is none.
    pub(super) fn file(&self, path: &str) -> Option<Vec<u8>> {
        if self.missing.as_deref() == Some(path) {
            return None;
        }
        if let Some((_, content)) = self.instead.as_ref().filter(|(instead, _)| instead == path) {
            return Some(content.clone());
        }
        if path == "checkpoint" {
            return Some(self.note().into_bytes());
        }
        let tile: Tile = path.parse().ok()?;
        if !tile.is_within(self.size()) {
            return None;
        }
        let (first, width) = (tile.number() as usize * 256, usize::from(tile.width().get()));
        let mut content = Vec::new();
        match tile.content() {
            Content::Hashes(level) => {
                let hashes = &self.levels[usize::from(level) * 8][first..first + width];
                hashes.iter().for_each(|hash| content.extend_from_slice(hash.as_bytes()));
            }
            Content::Entries => {
                for place in first..first + width {
                    let mut entry = self.entries[place].clone();
                    if self.rewritten == Some(place) {
                        entry = String::from_utf8(entry)
                            .expect("text")
                            .replace("stopped", "denied!")
                            .into_bytes();
                    }
                    bundle::append(&mut content, &entry).expect("short");
                }
            }
        }
        if let Some((_, place)) = self.altered.as_ref().filter(|(altered, _)| altered == path) {
            content[*place] ^= 1;
        }
        Some(content)
    }
}

/// A KMS that shows a log.
pub(super) struct LogServer {
    pub(super) server: TestServer,
    log: Arc<Mutex<FakeLog>>,
}

impl LogServer {
    pub(super) async fn start(log: FakeLog) -> Self {
        let log = Arc::new(Mutex::new(log));
        let shown = Arc::clone(&log);
        let authority = Arc::new(Authority::new());
        let server =
            TestServer::start(authority, &[Leaf::kms()], &["h2", "http/1.1"], move |authority, call| {
                let log = shown.lock().expect("no panic").clone();
                if call.method == "GetMeta" {
                    return Reply::Json(log.meta(&authority.root_pem));
                }
                let path = call.target.strip_prefix("/log/").unwrap_or_default();
                let is_allowed = call.authorization.as_deref() == Some("Bearer operators-token");
                if path.starts_with("tile/entries/") && !is_allowed {
                    return Reply::Status(401, b"no credential".to_vec());
                }
                match log.file(path) {
                    Some(content) => Reply::Status(200, content),
                    None => Reply::Status(404, b"there is no such file".to_vec()),
                }
            })
            .await;
        Self { server, log }
    }

    pub(super) fn url(&self) -> String {
        self.server.url.to_string()
    }

    pub(super) fn log(&self) -> FakeLog {
        self.log.lock().expect("no panic").clone()
    }

    pub(super) fn set(&self, log: FakeLog) {
        *self.log.lock().expect("no panic") = log;
    }

    pub(super) fn alter(&self, alter: impl FnOnce(&mut FakeLog)) {
        alter(&mut self.log.lock().expect("no panic"));
    }
}
