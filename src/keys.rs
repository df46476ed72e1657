//! The root keys, and everything that is derived from or signed by them.

pub mod derive;
mod k256;
pub mod label;
pub mod material;
mod secret;
pub mod statement;
#[cfg(test)]
mod tests;

use std::fmt;

use kms_attest::p256::{P256Key, SPKI_LENGTH};

pub use self::k256::{K256Error, K256Key};
pub use self::secret::Secret;

/// The keys that all replicas share. Every other key is derived from them or private to one node.
///
/// Cannot be cloned; printing shows public keys only.
pub struct RootKeys {
    ca: P256Key,
    temp_ca: P256Key,
    k256: K256Key,
}

impl RootKeys {
    /// New random root keys: a new cluster.
    pub fn generate() -> Self {
        RootKeys { ca: P256Key::generate(), temp_ca: P256Key::generate(), k256: K256Key::generate() }
    }

    /// Root keys that were stored or handed over.
    pub fn from_parts(ca: P256Key, temp_ca: P256Key, k256: K256Key) -> Self {
        RootKeys { ca, temp_ca, k256 }
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
        f.debug_struct("RootKeys").field("ca", &self.ca).field("k256", &self.k256).finish_non_exhaustive()
    }
}
