//! Fingerprints of the root keys of each epoch, in a file of ours beside the peer's files. They detect a flipped bit, which
//! would otherwise be a different valid key, and a `keyring.json` that is older than the last one.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::keys::keyring::{Epoch, EpochTimes, Keyring, PublicRoot};

/// The version that is written while there is epoch 0 only.
const FIRST_ONLY: u32 = 1;
/// The version that was written when there were further epochs, before changes were counted.
const SEVERAL: u32 = 2;
/// The version that is written beside a `keyring.json`.
const COUNTED: u32 = 3;

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
    /// What the last `keyring.json` said, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
}

/// The last `keyring.json` that is known to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    /// How often the file was replaced.
    changes: u64,
    /// SHA-256 of the times of every epoch, from which the states follow.
    #[serde(with = "hex::serde")]
    states: [u8; 32],
}

/// Why a `keyring.json` is not the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outdated {
    /// It was replaced less often.
    Older {
        /// How often it was replaced.
        found: u64,
        /// How often the last one was.
        known: u64,
    },
    /// It was replaced as often, and has other states.
    OtherStates,
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
    /// `changes` is how often `keyring.json` was replaced, 0 if there is none.
    pub(super) fn of(keyring: &Keyring, changes: u64) -> Self {
        let mut pairs = keyring.epochs().iter().map(Epoch::public).map(Pair::of);
        let Pair { root_ca, root_k256 } = pairs.next().expect("a keyring is never empty");
        let further: Vec<Pair> = pairs.collect();
        let last = (changes > 0).then(|| Last { changes, states: states(keyring) });
        let version = version(&further, last.as_ref());
        Self { version, root_ca, root_k256, further, last }
    }

    /// The content of the file.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("numbers and texts");
        text.push(b'\n');
        text
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let read: Self = kms_attest::json::from_utf8(text).ok()?;
        (read.version == version(&read.further, read.last.as_ref())).then_some(read)
    }

    /// How often `keyring.json` was replaced; 0 if there was none.
    pub(super) fn changes(&self) -> u64 {
        self.last.map_or(0, |last| last.changes)
    }

    /// Whether `found`, made from the `keyring.json` that there is, is of an older one than this. One that is newer is of a
    /// change that was interrupted before its fingerprints were written.
    pub(super) fn outdated(&self, found: &Self) -> Option<Outdated> {
        let known = self.last?;
        match found.last {
            Some(found) if found.changes > known.changes => None,
            Some(found) if found == known => None,
            Some(found) if found.changes == known.changes => Some(Outdated::OtherStates),
            _ => Some(Outdated::Older { found: found.changes(), known: known.changes }),
        }
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

fn version(further: &[Pair], last: Option<&Last>) -> u32 {
    match (further, last) {
        (_, Some(_)) => COUNTED,
        ([], None) => FIRST_ONLY,
        (_, None) => SEVERAL,
    }
}

/// SHA-256 of each epoch's number and times, u32 and four times 0 or 1 ‖ u64, big-endian.
fn states(keyring: &Keyring) -> [u8; 32] {
    let mut hash = Sha256::new();
    for epoch in keyring.epochs() {
        hash.update(epoch.number().0.to_be_bytes());
        let EpochTimes { prepared_at, activate_at, retired_at, destroyed_at } = epoch.times();
        for time in [prepared_at, activate_at, retired_at, destroyed_at] {
            match time {
                None => hash.update([0]),
                Some(time) => {
                    hash.update([1]);
                    hash.update(time.to_be_bytes());
                }
            }
        }
    }
    hash.finalize().into()
}
