//! All root epochs of a node: their public keys, their states, and the keys of those that are not destroyed.
//!
//! Epochs are numbered from 0 without a gap, and none is ever removed. A keyring does not change: a change makes
//! another one, which is in force once it is on the disk.

mod change;
mod error;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use kms_attest::p256::{P256Key, SPKI_LENGTH};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::change::{EpochChange, EpochKeys, EpochParts, NewEpoch, ReceivedEpochs};
pub use self::error::{EpochError, Unreadable};
use super::epoch::RootEpoch;
use super::{K256Key, RootKeys, statement};

/// The most epochs that a keyring has. With one a month this is enough for 21 years.
pub const MAX_EPOCHS: usize = 256;

/// What may be done with the keys of a root epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EpochState {
    /// The keys exist and are not used yet.
    Prepared,
    /// Apps get keys of it.
    Active,
    /// Nobody gets keys of it any more. They still exist.
    Retired,
    /// The keys do not exist any more.
    Destroyed,
}

impl EpochState {
    /// Its name, as in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
        }
    }
}

/// When the state of an epoch changes or changed, Unix seconds each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EpochTimes {
    /// When the keys were made; unknown for epoch 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepared_at: Option<u64>,
    /// From when on apps get keys of it; 0 for epoch 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activate_at: Option<u64>,
    /// Since when nobody gets keys of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<u64>,
    /// When the keys were destroyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroyed_at: Option<u64>,
}

impl EpochTimes {
    /// The times of epoch 0 of a new cluster.
    pub const FIRST: Self =
        Self { prepared_at: None, activate_at: Some(0), retired_at: None, destroyed_at: None };

    /// The state at this time.
    pub fn state(&self, now: u64) -> EpochState {
        match self {
            Self { destroyed_at: Some(_), .. } => EpochState::Destroyed,
            Self { retired_at: Some(_), .. } => EpochState::Retired,
            Self { activate_at: Some(at), .. } if *at <= now => EpochState::Active,
            Self { .. } => EpochState::Prepared,
        }
    }

    /// Whether it is active now or will be without further change.
    fn is_scheduled(&self) -> bool {
        self.activate_at.is_some() && self.retired_at.is_none()
    }
}

/// The public keys of a root epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicRoot {
    /// Root CA, SubjectPublicKeyInfo DER.
    pub ca_spki: [u8; SPKI_LENGTH],
    /// Root secp256k1 key, SEC1 compressed.
    pub k256: [u8; 33],
}

impl PublicRoot {
    /// The public keys of `root`.
    pub fn of(root: &RootKeys) -> Self {
        Self { ca_spki: root.ca_spki(), k256: root.k256_public() }
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.ca_spki).into()
    }

    /// SHA-256 of the compressed point.
    pub fn k256_fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.k256).into()
    }
}

/// One root epoch. Copies share the keys.
#[derive(Debug, Clone)]
pub struct Epoch {
    number: RootEpoch,
    times: EpochTimes,
    public: PublicRoot,
    /// `None` once they are destroyed.
    keys: Option<Arc<RootKeys>>,
    /// Its root CA certificate, PEM; made when a node starts or the epoch is added.
    root_ca_pem: Option<Arc<str>>,
    /// What an older root states of it; none of epoch 0.
    statement: Option<EpochStatement>,
}

/// The statement of an older root over the public keys of an epoch, by which those that pinned that root can follow. It is kept,
/// because it is needed when the older root does not sign any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStatement {
    /// The epoch whose root has signed.
    pub by: RootEpoch,
    /// As [`statement::sign_root_epoch`] makes it.
    pub signature: [u8; 65],
}

impl Epoch {
    /// Its number.
    pub fn number(&self) -> RootEpoch {
        self.number
    }

    /// When its state changes.
    pub fn times(&self) -> EpochTimes {
        self.times
    }

    /// Its public keys.
    pub fn public(&self) -> &PublicRoot {
        &self.public
    }

    /// Its keys, whatever its state; `None` once they are destroyed. For what saves them and hands them over:
    /// apps get theirs through [`Keyring::readable`].
    pub fn keys(&self) -> Option<&Arc<RootKeys>> {
        self.keys.as_ref()
    }

    /// The statement of an older root over its public keys, once there is one.
    pub fn statement(&self) -> Option<EpochStatement> {
        self.statement
    }

    /// Its root CA certificate, PEM, once there is one.
    pub fn root_ca_pem(&self) -> Option<&str> {
        self.root_ca_pem.as_deref()
    }
}

/// What everybody may know of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EpochInfo {
    /// Its number.
    pub epoch: RootEpoch,
    /// Its state now.
    pub state: EpochState,
    /// When its state changes.
    #[serde(flatten)]
    pub times: EpochTimes,
    /// Root CA, SubjectPublicKeyInfo DER, hex.
    #[serde(serialize_with = "hex::serde::serialize")]
    #[schemars(with = "String")]
    pub ca_spki: [u8; SPKI_LENGTH],
    /// Root secp256k1 key, SEC1 compressed, hex.
    #[serde(serialize_with = "hex::serde::serialize")]
    #[schemars(with = "String")]
    pub k256_public: [u8; 33],
    /// SHA-256 of `ca_spki`, hex.
    #[serde(serialize_with = "hex::serde::serialize")]
    #[schemars(with = "String")]
    pub ca_fingerprint: [u8; 32],
    /// SHA-256 of `k256_public`, hex.
    #[serde(serialize_with = "hex::serde::serialize")]
    #[schemars(with = "String")]
    pub k256_fingerprint: [u8; 32],
    /// Whether it is the newest epoch that apps get keys of.
    pub is_current: bool,
}

/// All root epochs, with the temporary CA, which is one for all. Copies share the keys.
#[derive(Clone)]
pub struct Keyring {
    temp_ca: Arc<P256Key>,
    /// Epoch n is at index n. Never empty, and one of them is current at any time.
    epochs: Vec<Epoch>,
}

impl Keyring {
    /// The keyring of a new cluster, or of a directory of the peer: epoch 0 only.
    pub fn first(root: RootKeys) -> Self {
        let temp_ca = Arc::new(copy(root.temp_ca()));
        let first = Epoch {
            number: RootEpoch::FIRST,
            times: EpochTimes::FIRST,
            public: PublicRoot::of(&root),
            keys: Some(Arc::new(root)),
            root_ca_pem: None,
            statement: None,
        };
        Self { temp_ca, epochs: vec![first] }
    }

    /// The keyring with these epochs, in order from 0.
    ///
    /// # Errors
    /// [`EpochError`]: a gap, too many, keys that are not those of their public keys, states that contradict the
    /// keys, or no epoch that apps could get keys of.
    pub fn from_parts(temp_ca: P256Key, parts: Vec<EpochParts>) -> Result<Self, EpochError> {
        let temp_ca = Arc::new(temp_ca);
        let epochs: Vec<Epoch> =
            parts.into_iter().map(|parts| parts.into_epoch(&temp_ca)).collect::<Result<_, _>>()?;
        Self { temp_ca, epochs }.checked()
    }

    fn checked(self) -> Result<Self, EpochError> {
        if self.epochs.len() > MAX_EPOCHS {
            return Err(EpochError::TooMany);
        }
        for (index, epoch) in self.epochs.iter().enumerate() {
            if epoch.number.0 as usize != index {
                return Err(EpochError::NotNext { found: epoch.number, next: number(index) });
            }
        }
        match self.epochs.iter().any(|epoch| epoch.times.is_scheduled()) {
            true => Ok(self),
            false => Err(EpochError::NoneActive),
        }
    }

    /// The temporary CA's key. Public by design.
    pub fn temp_ca(&self) -> &P256Key {
        &self.temp_ca
    }

    /// All epochs, in order from 0.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// The epoch with this number.
    pub fn epoch(&self, number: RootEpoch) -> Option<&Epoch> {
        self.epochs.get(usize::try_from(number.0).ok()?)
    }

    /// Whether there is epoch 0 only, never changed: the directory is the peer's then.
    pub fn is_first_only(&self) -> bool {
        self.epochs.len() == 1 && self.epochs[0].times == EpochTimes::FIRST
    }

    /// The newest epoch that apps get keys of: the highest that is active. Where the clock is so slow that none is
    /// active yet, the lowest that will be.
    pub fn current(&self, now: u64) -> RootEpoch {
        let scheduled = || self.epochs.iter().filter(|epoch| epoch.times.is_scheduled());
        scheduled()
            .rfind(|epoch| epoch.times.state(now) == EpochState::Active)
            .or_else(|| scheduled().next())
            .map(|epoch| epoch.number)
            .expect("every keyring is checked to have one that is scheduled")
    }

    /// The epoch whose root signs what a node says of itself, chosen when it starts: the lowest that is active.
    pub fn identity(&self, now: u64) -> RootEpoch {
        let active = |epoch: &&Epoch| epoch.times.state(now) == EpochState::Active;
        self.epochs.iter().find(active).map_or_else(|| self.current(now), |epoch| epoch.number)
    }

    /// The keys of an epoch whose keys apps may get now.
    ///
    /// # Errors
    /// [`Unreadable`]: there is no such epoch, or its state does not allow it.
    pub fn readable(&self, number: RootEpoch, now: u64) -> Result<&Arc<RootKeys>, Unreadable> {
        let epoch = self.epoch(number).ok_or(Unreadable::Unknown(number))?;
        match (epoch.times.state(now), &epoch.keys) {
            (EpochState::Destroyed, _) | (_, None) => Err(Unreadable::Destroyed(number)),
            (EpochState::Retired, _) => Err(Unreadable::Retired(number)),
            (EpochState::Active, Some(keys)) => Ok(keys),
            (EpochState::Prepared, Some(keys)) if number == self.current(now) => Ok(keys),
            (EpochState::Prepared, Some(_)) => Err(Unreadable::NotActive(number)),
        }
    }

    /// What everybody may know, for each epoch.
    pub fn infos(&self, now: u64) -> Vec<EpochInfo> {
        let current = self.current(now);
        let info = |epoch: &Epoch| EpochInfo {
            epoch: epoch.number,
            state: epoch.times.state(now),
            times: epoch.times,
            ca_spki: epoch.public.ca_spki,
            k256_public: epoch.public.k256,
            ca_fingerprint: epoch.public.ca_fingerprint(),
            k256_fingerprint: epoch.public.k256_fingerprint(),
            is_current: epoch.number == current,
        };
        self.epochs.iter().map(info).collect()
    }

    /// Whether the certificates of the epochs after 0, which has a file for its own, and the statements over them are
    /// those of `other`.
    pub fn is_vouched_as(&self, other: &Self) -> bool {
        let mut pairs = self.epochs.iter().zip(&other.epochs).skip(1);
        pairs.all(|(one, other)| one.root_ca_pem == other.root_ca_pem && one.statement == other.statement)
    }

    /// The same keyring with a statement over each epoch that has none: of `identity`, or where that is not older, of the
    /// oldest root that is still held.
    #[must_use]
    pub fn stated(mut self, identity: &RootKeys) -> Self {
        for index in 1..self.epochs.len() {
            let (older, rest) = self.epochs.split_at_mut(index);
            let epoch = &mut rest[0];
            if epoch.statement.is_some() {
                continue;
            }
            let root = match identity.epoch() < epoch.number {
                true => Some(identity),
                false => older.iter().find_map(|older| older.keys.as_deref()),
            };
            epoch.statement = root.map(|root| EpochStatement {
                by: root.epoch(),
                signature: statement::sign_root_epoch(
                    root,
                    epoch.number,
                    &epoch.public.ca_spki,
                    &epoch.public.k256,
                ),
            });
        }
        self
    }

    /// The same keyring with a statement that was kept. One that the older root did not make is left out.
    #[must_use]
    pub fn with_statement(mut self, number: RootEpoch, kept: EpochStatement) -> Self {
        let root = self.epoch(kept.by).filter(|_| kept.by < number).map(|epoch| epoch.public.k256);
        if let Some(epoch) = self.epochs.get_mut(number.0 as usize) {
            let PublicRoot { ca_spki, k256 } = &epoch.public;
            let signer = statement::root_epoch_signer(number, ca_spki, k256, &kept.signature);
            epoch.statement = Some(kept).filter(|_| signer.is_some() && signer == root);
        }
        self
    }

    /// The same keyring with another root CA certificate of an epoch.
    #[must_use]
    pub fn with_root_ca(mut self, number: RootEpoch, pem: &str) -> Self {
        if let Some(epoch) = self.epochs.get_mut(number.0 as usize) {
            epoch.root_ca_pem = Some(pem.into());
        }
        self
    }
}

/// Public keys and states only.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.epochs).finish()
    }
}

fn number(index: usize) -> RootEpoch {
    RootEpoch(u32::try_from(index).unwrap_or(u32::MAX))
}

/// The same key again: every epoch holds the temporary CA's, so that its keys can stand alone.
fn copy(key: &P256Key) -> P256Key {
    P256Key::from_scalar(key.scalar()).expect("the scalar of a key")
}

/// Root keys of an epoch, from its two keys.
fn root_keys(number: RootEpoch, temp_ca: &P256Key, ca: P256Key, k256: K256Key) -> Arc<RootKeys> {
    Arc::new(RootKeys::of_epoch(number, ca, copy(temp_ca), k256))
}
