//! Making a set: inside the TEE only.

use zeroize::Zeroizing;

use crate::bytes::Bytes;
use crate::envelope::{self, EncryptError};
use crate::manifest::{
    Checkpoint, EpochFingerprint, Manifest, ManifestError, Officer, Sealed, SetId, SignedManifest, sha256,
};
use crate::officer::{Name, Named, OfficersError, Threshold, ThresholdError, distinct};
use crate::scalar::{self, SecretScalar};
use crate::seal::{self, MAX_MATERIAL, SALT};
use crate::share::Share;
use crate::signature::{SIGNATURE, digest};

/// What the manifest says of the KMS.
#[derive(Debug, Clone)]
pub struct Description {
    /// Now, Unix seconds.
    pub created_at: u64,
    /// The name of the KMS.
    pub domain: String,
    /// The epoch whose root key signs.
    pub identity_epoch: u32,
    /// Every epoch of the material, in increasing order.
    pub epochs: Vec<EpochFingerprint>,
    /// The ledger.
    pub ledger: Option<Checkpoint>,
}

/// A new set: nothing of it is secret.
#[derive(Debug)]
pub struct NewSet {
    /// The manifest.
    pub manifest: SignedManifest,
    /// One file an officer, in the order of the manifest.
    pub files: Vec<SetFile>,
}

/// An officer's file.
#[derive(Debug)]
pub struct SetFile {
    /// Whose.
    pub officer: Name,
    /// `NAME-of-SET.age`
    pub name: String,
    /// Armored.
    pub content: String,
}

/// Why no set was made.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// The threshold does not fit.
    #[error(transparent)]
    Threshold(#[from] ThresholdError),
    /// The officers cannot be those of a set.
    #[error(transparent)]
    Officers(#[from] OfficersError),
    /// The material is empty or too long.
    #[error("the material to split has 1 to {MAX_MATERIAL} bytes, got {0}")]
    Material(usize),
    /// A share could not be encrypted.
    #[error("the share of {officer}: {error}")]
    Encrypt {
        /// Whose.
        officer: Name,
        /// Why.
        error: EncryptError,
    },
    /// The manifest would not be read again.
    #[error("the new manifest does not hold: {0}")]
    Manifest(#[from] ManifestError),
}

/// Checks what [`split`] checks of officers and threshold.
///
/// # Errors
/// [`SplitError`]
pub fn check(threshold: usize, officers: &[Named]) -> Result<Threshold, SplitError> {
    let threshold = Threshold::new(threshold, officers.len())?;
    distinct(officers)?;
    Ok(threshold)
}

/// Splits `material` among officers, of whom `threshold` restore it. `sign` makes `r ‖ s ‖ v` over a digest with the secp256k1
/// root key of the identity epoch. The material is dropped once it is sealed. Plugins may make this wait.
///
/// # Errors
/// [`SplitError`]; no share exists then.
pub fn split(
    material: impl AsRef<[u8]>,
    threshold: usize,
    officers: &[Named],
    description: Description,
    sign: impl FnOnce([u8; 32]) -> [u8; SIGNATURE],
) -> Result<NewSet, SplitError> {
    let threshold = check(threshold, officers)?;
    let length = material.as_ref().len();
    if !(1..=MAX_MATERIAL).contains(&length) {
        return Err(SplitError::Material(length));
    }
    let set = SetId::generate();
    let secret = SecretScalar::generate();
    let mut salt = [0; SALT];
    aws_lc_rs::rand::fill(&mut salt).expect("the system has randomness");
    let sealed = Sealed(seal::seal(&secret, &salt, &set, material.as_ref()));
    drop(material);
    let (shares, commitments) = scalar::share(&secret, threshold.get().into(), officers.len());
    drop(secret);

    let mut entries = Vec::with_capacity(officers.len());
    let mut files = Vec::with_capacity(officers.len());
    for ((officer, value), index) in officers.iter().zip(shares).zip(1..) {
        let Named { name, recipient } = officer;
        let share = Share { set, index, officer: name.clone(), value };
        let plaintext: Zeroizing<String> = share.to_json();
        let content = envelope::encrypt(recipient, plaintext.as_bytes())
            .map_err(|error| SplitError::Encrypt { officer: name.clone(), error })?;
        entries.push(Officer {
            index,
            name: name.clone(),
            recipient: recipient.clone(),
            file_sha256: Bytes(sha256(content.as_bytes())),
        });
        files.push(SetFile { officer: name.clone(), name: format!("{name}-of-{set}.age"), content });
    }
    let Description { created_at, domain, identity_epoch, epochs, ledger } = description;
    let manifest = Manifest {
        version: 1,
        set,
        created_at,
        domain,
        threshold: threshold.get(),
        officers: entries,
        commitments: commitments.into_iter().map(Bytes).collect(),
        identity_epoch,
        epochs,
        ledger,
        salt: Bytes(salt),
        sealed,
    };
    let signature = Bytes(sign(digest(&manifest.sha256())));
    Ok(NewSet { manifest: SignedManifest::verified(manifest, signature)?, files })
}
