//! What authenticates the rows of the shared state: HMAC-SHA-256 under keys that only nodes with the same root keys have.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::keys::derive;
use crate::keys::keyring::{EpochState, Keyring};

/// The label of the id of a fleet.
const FLEET: &[u8] = b"cvm-kms-fleet-v1";
const ROW: &[u8] = b"cvm-kms-state-row-v1";
const HEAD: &[u8] = b"cvm-kms-state-head-v1";
const REPORT: &[u8] = b"cvm-kms-state-report-v1";

/// Nodes with the same root keys: the first 16 bytes of SHA-256 over a label and the root CA's public key of epoch 0, which stays
/// known when its private key is destroyed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FleetId(#[serde(with = "hex::serde")] pub [u8; 16]);

/// A node: 16 random bytes that its key directory keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(#[serde(with = "hex::serde")] pub [u8; 16]);

macro_rules! shown_in_hex {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    )*};
}
shown_in_hex!(FleetId NodeId);

impl FleetId {
    /// The fleet of the nodes with these root keys.
    pub fn of(keyring: &Keyring) -> Self {
        let digest =
            Sha256::new().chain_update(FLEET).chain_update(keyring.epochs()[0].public().ca_spki).finalize();
        Self(std::array::from_fn(|index| digest[index]))
    }
}

/// What is authenticated.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sealed<'a> {
    /// A document, by the SHA-256 of its bytes.
    Row { document: &'a str, version: u64, sha256: &'a [u8; 32] },
    /// The list of the documents.
    Head { body: &'a [u8] },
    /// What one node says.
    Report { node: NodeId, kind: &'a str, counter: u64, body: &'a [u8] },
}

/// A root epoch, and the HMAC under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) epoch: u32,
    pub(super) mac: Vec<u8>,
}

/// Which root epoch a valid seal is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// It is of the current root epoch.
    Current,
    /// It is of an older one that is in use.
    Older,
    /// It is of one that is current elsewhere already.
    Newer,
    /// It is of a retired one: it is accepted only for what was known before.
    Retired,
}

/// Why a seal is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsealed {
    /// There are no keys of this root epoch here.
    Epoch(u32),
    /// It is of something else, or made without the key.
    Wrong,
}

/// The keys of all root epochs that there are.
pub(super) struct Seals {
    pub(super) fleet: FleetId,
    current: u32,
    keys: BTreeMap<u32, (Opened, hmac::Key)>,
}

impl Seals {
    /// The keys for seals that `keyring` has at this time.
    pub(super) fn of(keyring: &Keyring, now: u64) -> Self {
        let fleet = FleetId::of(keyring);
        let current = keyring.current(now);
        let keys = keyring.epochs().iter().filter_map(|epoch| {
            let counts = match epoch.times().state(now) {
                _ if epoch.number() == current => Opened::Current,
                EpochState::Active | EpochState::Prepared if epoch.number() > current => Opened::Newer,
                EpochState::Active | EpochState::Prepared => Opened::Older,
                EpochState::Retired | EpochState::Destroyed => Opened::Retired,
            };
            let key = derive::state_key(epoch.keys()?, &fleet.0);
            Some((epoch.number().0, (counts, hmac::Key::new(hmac::HMAC_SHA256, key.expose()))))
        });
        Self { fleet, current: current.0, keys: keys.collect() }
    }

    /// Authenticates `what` under the current root epoch; `None` without its keys.
    pub(super) fn seal(&self, what: Sealed<'_>) -> Option<Seal> {
        let (_, key) = self.keys.get(&self.current)?;
        let mac = hmac::sign(key, &self.input(self.current, what));
        Some(Seal { epoch: self.current, mac: mac.as_ref().to_vec() })
    }

    /// Whether `what` is authentic.
    pub(super) fn open(&self, seal: &Seal, what: Sealed<'_>) -> Result<Opened, Unsealed> {
        let (counts, key) = self.keys.get(&seal.epoch).ok_or(Unsealed::Epoch(seal.epoch))?;
        let input = self.input(seal.epoch, what);
        hmac::verify(key, &input, &seal.mac).map_err(|_| Unsealed::Wrong)?;
        Ok(*counts)
    }

    /// Every field with its length before it, so that no two lists of fields have the same bytes.
    fn input(&self, epoch: u32, what: Sealed<'_>) -> Vec<u8> {
        let epoch = epoch.to_be_bytes();
        match what {
            Sealed::Row { document, version, sha256 } => {
                let version = version.to_be_bytes();
                fields(&[ROW, &self.fleet.0, &epoch, document.as_bytes(), &version, sha256])
            }
            Sealed::Head { body } => fields(&[HEAD, &self.fleet.0, &epoch, body]),
            Sealed::Report { node, kind, counter, body } => {
                let counter = counter.to_be_bytes();
                fields(&[REPORT, &self.fleet.0, &epoch, &node.0, kind.as_bytes(), &counter, body])
            }
        }
    }

    /// The digest of a head, by which a later one names it.
    pub(super) fn head_digest(&self, body: &[u8]) -> [u8; 32] {
        Sha256::digest(fields(&[HEAD, &self.fleet.0, body])).into()
    }
}

fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut input = Vec::with_capacity(fields.iter().map(|field| field.len() + 8).sum());
    for field in fields {
        input.extend((field.len() as u64).to_be_bytes());
        input.extend(*field);
    }
    input
}
