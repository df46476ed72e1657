//! The manifest of a set: public, and signed by the root key that it describes.

use aws_lc_rs::digest::{SHA256, digest as hash};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::Bytes;
use crate::officer::{MAX_OFFICERS, Name, Recipient, Threshold};
use crate::scalar::{Commitments, POINT};
use crate::seal::{MAX_MATERIAL, SALT, TAG};
use crate::signature::{self, SIGNATURE, SignatureError};

/// The longest file of a manifest.
pub const MAX_MANIFEST: usize = 5 << 20;
/// The most epochs of root keys that a set covers.
pub const MAX_EPOCHS: usize = 256;
/// The longest name of a KMS, and the longest origin of a ledger.
const MAX_TEXT: usize = 512;
/// The longest checkpoint of a ledger.
const MAX_CHECKPOINT: usize = 16 << 10;
/// The only version.
const VERSION: u32 = 1;
/// The largest integer that every JSON reader keeps.
const MAX_TIME: u64 = (1 << 53) - 1;

/// The number of a set: 16 random bytes.
pub type SetId = Bytes<16>;

impl SetId {
    /// A new number.
    pub(crate) fn generate() -> Self {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).expect("the system has randomness");
        Bytes(id)
    }

    /// The bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::str::FromStr for SetId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Bytes::parse(text).ok_or("the number of a recovery set is 32 lower-case hex digits")
    }
}

/// A commitment to a coefficient: a P-256 point, SEC1 compressed.
pub type Commitment = Bytes<POINT>;

/// What a set says of itself. Serialized as JSON, with members in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1
    pub version: u32,
    /// The number of the set.
    pub set: SetId,
    /// When it was made, Unix seconds.
    pub created_at: u64,
    /// The name of the KMS that made it.
    pub domain: String,
    /// How many officers restore.
    pub threshold: u8,
    /// The officers, by index: 1, 2, …
    pub officers: Vec<Officer>,
    /// The commitments to the coefficients, the shared scalar's first: as many as the threshold.
    pub commitments: Vec<Commitment>,
    /// The epoch whose secp256k1 root key signs the manifest.
    pub identity_epoch: u32,
    /// Every epoch that the set covers, in increasing order.
    pub epochs: Vec<EpochFingerprint>,
    /// The ledger of the KMS when the set was made.
    pub ledger: Option<Checkpoint>,
    /// Salt of the key that opens the material.
    pub salt: Bytes<SALT>,
    /// The sealed material, in base64.
    #[schemars(with = "String")]
    pub sealed: Sealed,
}

/// An officer of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Officer {
    /// Of the officer's share, from 1.
    pub index: u8,
    /// The officer's name.
    pub name: Name,
    /// The `age` recipient of the officer's file.
    pub recipient: Recipient,
    /// SHA-256 of the officer's file.
    pub file_sha256: Bytes<32>,
}

/// Public keys of one epoch of root keys, and its states: a restore gives the keys in these states back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EpochFingerprint {
    /// The epoch.
    pub epoch: u32,
    /// SHA-256 of the root CA's SubjectPublicKeyInfo.
    pub ca_spki_sha256: Bytes<32>,
    /// The secp256k1 root public key, SEC1 compressed.
    pub k256_public: Bytes<33>,
    /// From when on apps get keys of it, Unix seconds; 0 for epoch 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activate_at: Option<u64>,
    /// Since when nobody gets keys of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<u64>,
    /// When the keys were destroyed: they are not in the set then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed_at: Option<u64>,
}

impl EpochFingerprint {
    /// Whether both have the same root keys, in whatever state.
    pub fn has_keys_of(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.ca_spki_sha256 == other.ca_spki_sha256
            && self.k256_public == other.k256_public
    }

    fn has_times_in_range(&self) -> bool {
        [self.activate_at, self.retired_at, self.destroyed_at].into_iter().flatten().all(|at| at <= MAX_TIME)
    }
}

/// The head of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The ledger's name.
    pub origin: String,
    /// The signed checkpoint: a C2SP note.
    pub checkpoint: String,
}

/// The sealed material.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub(crate) Vec<u8>);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Sealed).map_err(|_| D::Error::custom("must be base64"))
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too long.
    #[error("a manifest has at most {MAX_MANIFEST} bytes")]
    TooLong,
    /// Not the JSON of a manifest.
    #[error("not a manifest of a recovery set: {0}")]
    Malformed(String),
    /// Made by another version of the program.
    #[error("the manifest has version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// A member that contradicts another, or that nobody writes.
    #[error("the manifest's {0}: it was altered, or not made by a KMS")]
    Inconsistent(&'static str),
    /// The signature is not valid.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// A manifest whose signature and members were checked. That its root keys are those of the right KMS, its reader has to know.
#[derive(Debug, Clone)]
pub struct SignedManifest {
    manifest: Manifest,
    signature: Bytes<SIGNATURE>,
    commitments: Commitments,
}

impl std::fmt::Debug for Commitments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Commitments(..)")
    }
}

#[derive(Serialize)]
struct Written<'a> {
    manifest: &'a Manifest,
    signature: Bytes<SIGNATURE>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    manifest: Manifest,
    signature: Bytes<SIGNATURE>,
}

impl SignedManifest {
    /// Reads the file `recovery-SET.json`, and verifies it.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLong);
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| ManifestError::Malformed("the file is not UTF-8 text".to_owned()))?;
        let read: Read =
            serde_json::from_str(text).map_err(|error| ManifestError::Malformed(error.to_string()))?;
        Self::verified(read.manifest, read.signature)
    }

    pub(crate) fn verified(manifest: Manifest, signature: Bytes<SIGNATURE>) -> Result<Self, ManifestError> {
        let commitments = manifest.check()?;
        let signer = manifest.signer().ok_or(ManifestError::Inconsistent("identity epoch is not covered"))?;
        signature::verify(&manifest.sha256(), &signature.0, &signer.k256_public.0)?;
        Ok(SignedManifest { manifest, signature, commitments })
    }

    /// The file: indented JSON.
    pub fn to_text(&self) -> String {
        let written = Written { manifest: &self.manifest, signature: self.signature };
        let mut text = serde_json::to_string_pretty(&written).expect("texts and numbers");
        text.push('\n');
        text
    }

    /// What the manifest says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn signature(&self) -> Bytes<SIGNATURE> {
        self.signature
    }

    pub(crate) fn commitments(&self) -> &Commitments {
        &self.commitments
    }
}

impl Manifest {
    /// SHA-256 of the canonical form (RFC 8785) of all members: what is signed.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&serde_jcs::to_vec(self).expect("texts and small numbers"))
    }

    /// The keys that sign it.
    pub fn signer(&self) -> Option<&EpochFingerprint> {
        self.epochs.iter().find(|epoch| epoch.epoch == self.identity_epoch)
    }

    /// The officer with this index.
    pub fn officer(&self, index: u8) -> Option<&Officer> {
        self.officers.get(usize::from(index).checked_sub(1)?)
    }

    fn check(&self) -> Result<Commitments, ManifestError> {
        use ManifestError::Inconsistent;
        if self.version != VERSION {
            return Err(ManifestError::Version(self.version));
        }
        if self.officers.len() > MAX_OFFICERS {
            return Err(Inconsistent("officers are too many"));
        }
        if Threshold::new(self.threshold.into(), self.officers.len()).is_err() {
            return Err(Inconsistent("threshold does not fit its officers"));
        }
        if !self.officers.iter().zip(1..).all(|(officer, index)| officer.index == index) {
            return Err(Inconsistent("officers are not numbered 1, 2, …"));
        }
        for (at, officer) in self.officers.iter().enumerate() {
            if self.officers[..at].iter().any(|other| other.name.is_same(&officer.name)) {
                return Err(Inconsistent("officers have the same name twice"));
            }
            if self.officers[..at].iter().any(|other| other.recipient == officer.recipient) {
                return Err(Inconsistent("officers have the same recipient twice"));
            }
        }
        if self.commitments.len() != usize::from(self.threshold) {
            return Err(Inconsistent("commitments are not as many as its threshold"));
        }
        if self.epochs.is_empty()
            || self.epochs.len() > MAX_EPOCHS
            || !self.epochs.is_sorted_by(|one, next| one.epoch < next.epoch)
        {
            return Err(Inconsistent("epochs are none, too many, or not in increasing order"));
        }
        if !self.epochs.iter().all(EpochFingerprint::has_times_in_range) {
            return Err(Inconsistent("epochs have a time out of range"));
        }
        if self.created_at > MAX_TIME || self.domain.len() > MAX_TEXT {
            return Err(Inconsistent("time or name is out of range"));
        }
        if self
            .ledger
            .as_ref()
            .is_some_and(|ledger| ledger.origin.len() > MAX_TEXT || ledger.checkpoint.len() > MAX_CHECKPOINT)
        {
            return Err(Inconsistent("checkpoint is too long"));
        }
        if !(TAG + 1..=MAX_MATERIAL + TAG).contains(&self.sealed.0.len()) {
            return Err(Inconsistent("sealed material has a wrong length"));
        }
        Commitments::parse(self.commitments.iter().map(|commitment| &commitment.0))
            .ok_or(Inconsistent("commitments are no points of the curve"))
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    hash(&SHA256, bytes).as_ref().try_into().expect("32 bytes")
}
