//! The root keys, and everything that is derived from or signed by them.

pub mod derive;
pub mod epoch;
mod k256;
pub mod keyring;
pub mod label;
pub mod material;
pub mod scope;
mod secret;
pub mod statement;
#[cfg(test)]
mod tests;

use std::fmt;

use kms_attest::p256::{P256Key, SPKI_LENGTH};

use self::epoch::RootEpoch;
pub use self::k256::{K256Error, K256Key};
pub use self::secret::Secret;

/// The keys of one root epoch, which all replicas share. Every other key is derived from them or private to one node.
///
/// They know the number of their epoch, which the derivation binds. Cannot be cloned; printing shows public keys only.
pub struct RootKeys {
    epoch: RootEpoch,
    ca: P256Key,
    temp_ca: P256Key,
    k256: K256Key,
}

impl RootKeys {
    /// New random root keys of epoch 0: a new cluster.
    pub fn generate() -> Self {
        RootKeys::from_parts(P256Key::generate(), P256Key::generate(), K256Key::generate())
    }

    /// Root keys of epoch 0 that were stored or handed over.
    pub fn from_parts(ca: P256Key, temp_ca: P256Key, k256: K256Key) -> Self {
        RootKeys::of_epoch(RootEpoch::FIRST, ca, temp_ca, k256)
    }

    /// Root keys of any epoch. The temporary CA is the same in all of them.
    pub fn of_epoch(epoch: RootEpoch, ca: P256Key, temp_ca: P256Key, k256: K256Key) -> Self {
        RootKeys { epoch, ca, temp_ca, k256 }
    }

    /// The epoch of which they are.
    pub fn epoch(&self) -> RootEpoch {
        self.epoch
    }

    /// The root CA's key, from which all P-256 children and all app secrets are derived.
    pub fn ca(&self) -> &P256Key {
        &self.ca
    }

    /// The temporary CA's key. Public by design: anyone may ask for it, and it proves nothing.
    pub fn temp_ca(&self) -> &P256Key {
        &self.temp_ca
    }

    /// The secp256k1 root key, which signs public keys and from which app keys are derived.
    pub fn k256(&self) -> &K256Key {
        &self.k256
    }

    /// SubjectPublicKeyInfo DER of the root CA: the key provider id that apps pin.
    pub fn ca_spki(&self) -> [u8; SPKI_LENGTH] {
        self.ca.spki_der()
    }

    /// The secp256k1 root public key, SEC1 compressed.
    pub fn k256_public(&self) -> [u8; 33] {
        *self.k256.public_key()
    }
}

impl fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKeys")
            .field("epoch", &self.epoch)
            .field("ca", &self.ca)
            .field("k256", &self.k256)
            .finish_non_exhaustive()
    }
}
