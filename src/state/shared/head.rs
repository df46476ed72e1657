//! The head: which version of each document counts, and which heads were before it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::seal::NodeId;

/// The most bytes of a head.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// How many earlier heads one names.
const MAX_BEFORE: usize = 32;
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

/// The version of a document that counts.
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
    pub(super) by: Writer,
}

/// How a head is related to one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinship {
    Same,
    /// It comes after the known one.
    Newer,
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
        if head.before.len() > MAX_BEFORE || head.seq == 0 || head.repaired > head.seq {
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
        Self { seq: 1, documents: BTreeMap::new(), before: Vec::new(), repaired: 0, by: by.bounded() }
    }

    /// The one after this, whose digest is `own`, with nothing changed yet.
    pub(super) fn next(&self, own: Sha256Digest, by: Writer) -> Self {
        let mut before = vec![own];
        before.extend(self.before.iter().take(MAX_BEFORE - 1));
        Self { seq: self.seq + 1, before, by: by.bounded(), ..self.clone() }
    }

    /// How this head, whose digest is `own`, is related to a known one.
    pub(super) fn kinship(&self, own: Sha256Digest, known: HeadId) -> Kinship {
        let Some(later) = self.seq.checked_sub(known.seq) else { return Kinship::Older };
        if later == 0 {
            return if own == known.digest { Kinship::Same } else { Kinship::Fork };
        }
        let named = usize::try_from(later - 1).ok().and_then(|index| self.before.get(index));
        match named {
            _ if known.seq < self.repaired => Kinship::Newer,
            Some(named) if *named != known.digest => Kinship::Fork,
            // Too long ago to be named, or the same.
            Some(_) | None => Kinship::Newer,
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
