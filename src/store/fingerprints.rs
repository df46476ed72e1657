//! Fingerprints of the root keys of each epoch, in a file of ours beside the peer's files. They detect a flipped bit, which would
//! otherwise be a different valid key.

use serde::{Deserialize, Serialize};

use crate::keys::keyring::{Epoch, Keyring, PublicRoot};

/// The version that is written while there is epoch 0 only.
const FIRST_ONLY: u32 = 1;
/// The version that is written when there are further epochs.
const SEVERAL: u32 = 2;

/// SHA-256 of the public root keys of each epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprints {
    version: u32,
    /// Of the SubjectPublicKeyInfo of epoch 0, DER.
    #[serde(with = "hex::serde")]
    pub(super) root_ca: [u8; 32],
    /// Of the compressed point of epoch 0.
    #[serde(with = "hex::serde")]
    pub(super) root_k256: [u8; 32],
    /// Those of the epochs from 1 on: they say that there was more than epoch 0, should `keyring.json` be lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    further: Vec<Pair>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    #[serde(with = "hex::serde")]
    root_ca: [u8; 32],
    #[serde(with = "hex::serde")]
    root_k256: [u8; 32],
}

impl Pair {
    fn of(public: &PublicRoot) -> Self {
        Self { root_ca: public.ca_fingerprint(), root_k256: public.k256_fingerprint() }
    }
}

impl Fingerprints {
    pub(super) fn of(keyring: &Keyring) -> Self {
        let mut pairs = keyring.epochs().iter().map(Epoch::public).map(Pair::of);
        let Pair { root_ca, root_k256 } = pairs.next().expect("a keyring is never empty");
        let further: Vec<Pair> = pairs.collect();
        let version = if further.is_empty() { FIRST_ONLY } else { SEVERAL };
        Self { version, root_ca, root_k256, further }
    }

    /// The content of the file.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("numbers and texts");
        text.push(b'\n');
        text
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let read: Self = kms_attest::json::from_utf8(text).ok()?;
        let version = if read.further.is_empty() { FIRST_ONLY } else { SEVERAL };
        (read.version == version).then_some(read)
    }

    /// Number of epochs after 0 that there were.
    pub(super) fn further(&self) -> usize {
        self.further.len()
    }

    /// The first epoch after 0 whose fingerprints are others than those of `found`, or that it lacks.
    pub(super) fn other_epoch(&self, found: &Self) -> Option<usize> {
        let differs = |(index, pair)| found.further.get(index) != Some(pair);
        self.further.iter().enumerate().find(|entry| differs(*entry)).map(|(index, _)| index + 1)
    }
}
