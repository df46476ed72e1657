//! Officers with their shares of the root keys of a KMS.

use age::secrecy::ExposeSecret as _;
use cvm_kms::keys::keyring::{Epoch, Keyring};
use cvm_kms::keys::{K256Key, RootKeys, material};
use kms_attest::clock::unix_now;
use kms_attest::p256::P256Key;
use kms_recovery::{Description, Identities, Named, NewSet, NoCallbacks, Share, decrypt, split};

use super::DOMAIN;

/// A recovery set, and the private keys of its officers.
pub struct Officers {
    /// The set.
    pub set: NewSet,
    identities: Vec<age::x25519::Identity>,
}

impl Officers {
    /// `officers` officers, of whom `threshold` restore these keys.
    pub fn of(root: &RootKeys, threshold: usize, officers: usize) -> Self {
        Self::made_at(root, threshold, officers, unix_now())
    }

    /// As [`Officers::of`], by a KMS whose clock said `created_at`.
    pub fn made_at(root: &RootKeys, threshold: usize, officers: usize, created_at: u64) -> Self {
        let p256 = |key: &P256Key| P256Key::from_scalar(key.scalar()).expect("a scalar");
        let k256 = K256Key::from_scalar(root.k256().scalar()).expect("a scalar");
        let root = RootKeys::from_parts(p256(root.ca()), p256(root.temp_ca()), k256);
        Self::of_keyring(&Keyring::first(root), threshold, officers, created_at)
    }

    /// As [`Officers::made_at`], for the keys of all epochs.
    pub fn of_keyring(keyring: &Keyring, threshold: usize, officers: usize, created_at: u64) -> Self {
        Self::with_choices(keyring, None, threshold, officers, created_at)
    }

    /// As [`Officers::of_keyring`], with what operators had chosen, as the set has it.
    pub fn with_choices(
        keyring: &Keyring,
        choices: Option<&[u8]>,
        threshold: usize,
        officers: usize,
        created_at: u64,
    ) -> Self {
        let identities: Vec<_> = (0..officers).map(|_| age::x25519::Identity::generate()).collect();
        let named = |(at, identity): (usize, &age::x25519::Identity)| Named {
            name: format!("officer-{}", at + 1).parse().expect("a name"),
            recipient: identity.to_public().to_string().parse().expect("a recipient"),
        };
        let named: Vec<Named> = identities.iter().enumerate().map(named).collect();
        let identity = keyring.identity(created_at);
        let description = Description {
            created_at,
            domain: DOMAIN.to_owned(),
            identity_epoch: identity.0,
            epochs: keyring.epochs().iter().map(material::fingerprint).collect(),
            ledger: None,
        };
        let root = keyring.epoch(identity).and_then(Epoch::keys).expect("its keys");
        let sign = |digest| root.k256().sign_digest(digest);
        let set =
            split(material::export(keyring, choices), threshold, &named, description, sign).expect("a set");
        Self { set, identities }
    }

    /// The manifest as its file has it.
    pub fn manifest(&self) -> String {
        self.set.manifest.to_text()
    }

    /// The number of the set.
    pub fn number(&self) -> String {
        self.set.manifest.manifest().set.to_string()
    }

    /// The identity file of an officer, by index from 1.
    pub fn identity(&self, index: usize) -> String {
        self.identities[index - 1].to_string().expose_secret().to_owned()
    }

    /// The officer's file, by index from 1.
    pub fn file(&self, index: usize) -> &str {
        &self.set.files[index - 1].content
    }

    /// The decrypted share of an officer, by index from 1.
    pub fn opened(&self, index: usize) -> Share {
        let identities = Identities::parse(self.identity(index).as_bytes(), NoCallbacks).expect("a key");
        decrypt(self.file(index).as_bytes(), &identities).expect("the officer's own file")
    }

    /// The same as the body of a request.
    pub fn share(&self, index: usize) -> String {
        self.opened(index).to_json().to_string()
    }

    /// The secret digits of an officer's share, by index from 1.
    pub fn secret(&self, index: usize) -> String {
        let share: serde_json::Value = serde_json::from_str(&self.share(index)).expect("JSON");
        share["share"].as_str().expect("digits").to_owned()
    }
}

/// All choices of `k` of the numbers 1 to `n`.
pub fn subsets(n: usize, k: usize) -> Vec<Vec<usize>> {
    let all = (0..1_u32 << n).filter(|mask| mask.count_ones() as usize == k);
    all.map(|mask| (1..=n).filter(|index| mask & (1 << (index - 1)) != 0).collect()).collect()
}
