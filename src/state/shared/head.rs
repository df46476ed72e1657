//! The head: which version of each document counts, and which heads were before it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::seal::NodeId;

/// The most bytes of a head.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// How many earlier heads one names.
const MAX_BEFORE: usize = 32;
/// Heads with a multiple of this number are kept in the database. Each of them names all since the one before it.
const KEPT_EVERY: u64 = MAX_BEFORE as u64;
/// The longest name of an operator or a node that one has, in bytes.
const MAX_NAME: usize = 256;

/// SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sha256Digest(#[serde(with = "hex::serde")] pub(super) [u8; 32]);

impl Sha256Digest {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// A head, by its number and its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeadId {
    pub(super) seq: u64,
    pub(super) digest: Sha256Digest,
}

/// The current version of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    pub(super) version: u64,
    pub(super) sha256: Sha256Digest,
}

/// Who wrote a head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Writer {
    pub(super) node: NodeId,
    /// What people call the node.
    pub(super) name: String,
    /// The operator; empty where the node did it by itself.
    pub(super) operator: String,
}

/// The head as it is in the database. Fields of later versions are ignored: only nodes of this fleet can write one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) documents: BTreeMap<String, Listed>,
    /// The digests of the heads before it, the last first.
    pub(super) before: Vec<Sha256Digest>,
    /// The number of the last head that an owner wrote over whatever there was; 0 without one.
    #[serde(default)]
    pub(super) repaired: u64,
    /// The number from which on all heads were written by nodes that keep some of them in the database, see [`Head::is_kept`]; 0 where
    /// a node of an older version, or one that may not keep any, wrote this one.
    #[serde(default)]
    pub(super) traced: u64,
    pub(super) by: Writer,
}

/// How a head is related to one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinship {
    Same,
    /// It comes after the known one.
    Newer,
    /// It comes after the known one if heads between the two, which the database keeps, say so.
    Distant,
    /// It was before the known one.
    Older,
    /// It is of another history.
    Fork,
}

impl Head {
    /// Reads one.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        if body.len() > MAX_HEAD {
            return Err("it is too large".to_owned());
        }
        let head: Self = kms_attest::json::from_utf8(body).map_err(|error| error.to_string())?;
        if head.before.len() > MAX_BEFORE || head.seq == 0 || head.repaired.max(head.traced) > head.seq {
            return Err("its numbers contradict each other".to_owned());
        }
        Ok(head)
    }

    /// Its bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers")
    }

    /// The first one.
    pub(super) fn first(by: Writer) -> Self {
        Self {
            seq: 1,
            documents: BTreeMap::new(),
            before: Vec::new(),
            repaired: 0,
            traced: 1,
            by: by.bounded(),
        }
    }

    /// The one after this, whose digest is `own`, with nothing changed yet.
    pub(super) fn next(&self, own: Sha256Digest, by: Writer) -> Self {
        let mut before = vec![own];
        before.extend(self.before.iter().take(MAX_BEFORE - 1));
        let seq = self.seq + 1;
        let traced = if self.traced == 0 { seq } else { self.traced };
        Self { seq, before, traced, by: by.bounded(), ..self.clone() }
    }

    /// Whether it is kept in the database, so that nodes that were away see what follows from what.
    pub(super) fn is_kept(&self) -> bool {
        self.traced != 0 && self.seq.is_multiple_of(KEPT_EVERY)
    }

    /// The digest of an earlier head, if this one names it.
    pub(super) fn named(&self, seq: u64) -> Option<Sha256Digest> {
        let ago = self.seq.checked_sub(seq)?.checked_sub(1)?;
        usize::try_from(ago).ok().and_then(|index| self.before.get(index)).copied()
    }

    /// How this head, whose digest is `own`, is related to a known one.
    pub(super) fn kinship(&self, own: Sha256Digest, known: HeadId) -> Kinship {
        let Some(later) = self.seq.checked_sub(known.seq) else { return Kinship::Older };
        if later == 0 {
            return if own == known.digest { Kinship::Same } else { Kinship::Fork };
        }
        match self.named(known.seq) {
            _ if known.seq < self.repaired => Kinship::Newer,
            Some(named) if named != known.digest => Kinship::Fork,
            Some(_) => Kinship::Newer,
            // The first of those that were kept names the one before it.
            None if self.traced != 0 && known.seq.saturating_add(1) >= self.traced => Kinship::Distant,
            // A node that keeps none wrote heads since.
            None => Kinship::Newer,
        }
    }
}

impl Writer {
    fn bounded(mut self) -> Self {
        for text in [&mut self.name, &mut self.operator] {
            text.truncate(text.floor_char_boundary(MAX_NAME));
        }
        self
    }
}
