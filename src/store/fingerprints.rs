//! Fingerprints of the root keys, in a file of ours beside the peer's files. They detect a flipped bit, which would
//! otherwise be a different valid key.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::keys::RootKeys;

/// The version that is written and the only one that is read.
const VERSION: u32 = 1;

/// SHA-256 of the public root keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprints {
    version: u32,
    /// Of the SubjectPublicKeyInfo, DER.
    #[serde(with = "hex::serde")]
    pub(super) root_ca: [u8; 32],
    /// Of the compressed point.
    #[serde(with = "hex::serde")]
    pub(super) root_k256: [u8; 32],
}

impl Fingerprints {
    pub(super) fn of(root: &RootKeys) -> Self {
        Self {
            version: VERSION,
            root_ca: Sha256::digest(root.ca_spki()).into(),
            root_k256: Sha256::digest(root.k256_public()).into(),
        }
    }

    /// The content of the file.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("numbers and texts");
        text.push(b'\n');
        text
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        kms_attest::json::from_utf8(text).ok().filter(|read: &Self| read.version == VERSION)
    }
}
