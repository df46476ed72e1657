//! The statement of a KMS about itself, which its quote covers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a fixed length, in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = decode(&text).and_then(|bytes| bytes.try_into().ok());
        let bytes: Option<[u8; N]> = bytes;
        bytes.map(Self).ok_or_else(|| {
            serde::de::Error::custom(format_args!("expected {} lower-case hexadecimal digits", 2 * N))
        })
    }
}

/// Bytes from lower-case hexadecimal: one value has one spelling.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let is_lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_lower.then(|| hex::decode(text).ok()).flatten()
}

/// What a KMS states about itself. Fields that are added later are skipped.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Statement {
    /// When it was made, Unix seconds.
    pub time: u64,
    /// The nonce of the request, if it had one.
    pub nonce: Option<Hex<32>>,
    /// The version of the KMS.
    pub kms_version: String,
    /// SHA-256 of the program that runs, if it could be read.
    pub program_sha256: Option<Hex<32>>,
    /// The name in its TLS certificate.
    pub name: String,
    /// The URLs at which it says it is reached.
    pub endpoints: Vec<String>,
    /// SHA-256 of the SubjectPublicKeyInfo of its TLS key.
    pub rpc_spki_sha256: Hex<32>,
    /// The root keys that sign for it.
    pub root: Root,
    /// Every epoch of root keys.
    pub epochs: Vec<EpochRoot>,
    /// Its audit log, if that is signed.
    pub log: Option<Log>,
    /// The policy of each domain.
    pub policies: BTreeMap<String, Policy>,
    /// Settings that weaken it.
    pub relaxed: Vec<String>,
    /// Whether nobody can log in to its machine; `None` if it does not know that, which is no proof that nobody can.
    // Always there: what is left out says nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    pub sealed: Option<bool>,
}

/// Root keys.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Root {
    /// SHA-256 of the SubjectPublicKeyInfo of the root CA.
    pub ca_spki_sha256: Hex<32>,
    /// The secp256k1 root key, compressed.
    pub k256_public_key: Hex<33>,
}

/// The root keys of an epoch.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EpochRoot {
    /// Its number.
    pub epoch: u32,
    /// Its state.
    pub state: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its root CA.
    pub ca_spki_sha256: Hex<32>,
    /// Its secp256k1 root key, compressed.
    pub k256_public_key: Hex<33>,
}

/// An audit log.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Log {
    /// Its name.
    pub origin: String,
    /// Its key (C2SP signed-note verifier key).
    pub key: String,
    /// Its newest signed checkpoint (C2SP tlog-checkpoint).
    pub checkpoint: String,
}

/// A policy.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Policy {
    /// Its kind.
    pub kind: String,
    /// SHA-256 of its rules, where it has any.
    pub digest: Option<Hex<32>>,
}
