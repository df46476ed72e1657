//! Recovery sets: the root keys of a KMS, split among officers so that any `k` of `n` of them can restore it.
//!
//! A set is made inside the TEE by [`split`]. Its [`Manifest`] is public; each officer gets one file, which only the officer's
//! own key opens. A fresh random P-256 scalar `s` is split with Feldman's verifiable sharing, and the material (opaque bytes)
//! is sealed under a key that is derived from `s`. The commitments in the manifest show of each share alone whether it is right.
//!
//! Nothing here depends on the KMS: what the material is, and whose root key signs, its caller says.

mod bytes;
mod combine;
mod envelope;
mod manifest;
mod officer;
mod plugin;
mod scalar;
mod seal;
mod share;
mod signature;
mod split;
#[cfg(test)]
mod tests;

pub use bytes::Bytes;
pub use combine::{CheckedShare, Combiner, OpenError, Progress, ShareError};
pub use envelope::{
    Callbacks, DecryptError, EncryptError, Identities, IdentityError, NoCallbacks, SecretString, decrypt,
};
pub use manifest::{
    Checkpoint, Commitment, EpochFingerprint, MAX_EPOCHS, MAX_MANIFEST, Manifest, ManifestError, Officer,
    SetId, SignedManifest,
};
pub use officer::{
    MAX_OFFICERS, MAX_OFFICERS_FILE, Name, NameError, Named, OfficersError, Recipient, RecipientError,
    Threshold, ThresholdError, parse_officers,
};
pub use seal::MAX_MATERIAL;
pub use share::{MAX_SHARE, MAX_SHARE_FILE, Share, ShareFormatError};
pub use signature::{LABEL, SignatureError, digest};
pub use split::{Description, NewSet, SetFile, SplitError, check, split};
