//! A KMS without keys to which officers bring their shares. It saves nothing: its end is keys that are prepared, as in
//! onboarding.

use kms_recovery::{Combiner, OpenError, SignedManifest};
use sha2::{Digest as _, Sha256};

use super::Prepared;
use crate::keys::RootKeys;
use crate::keys::keyring::Keyring;
use crate::keys::material::{self, MaterialError};

/// The shares of one recovery set that have arrived, in memory only. They are overwritten when it is dropped.
#[derive(Debug)]
pub struct Recovering(Combiner);

/// Why the shares give no keys.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The sealed material does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The material is not that of root keys.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// Other keys than the manifest says.
    #[error("the recovered root keys of epoch {epoch} are not those of the manifest")]
    OtherKeys {
        /// The epoch.
        epoch: u32,
    },
    /// Another number of epochs than the manifest says.
    #[error("the recovered material has {found} epochs, the manifest says {expected}")]
    OtherEpochs {
        /// In the material.
        found: usize,
        /// In the manifest.
        expected: usize,
    },
}

impl Recovering {
    /// No shares yet.
    pub fn new(manifest: SignedManifest) -> Self {
        Self(Combiner::new(manifest))
    }

    /// The shares.
    pub fn combiner(&self) -> &Combiner {
        &self.0
    }

    /// The shares, for another one.
    pub fn combiner_mut(&mut self) -> &mut Combiner {
        &mut self.0
    }

    /// Puts the shares together, opens the material, and compares the root keys of every epoch with the manifest's; saves
    /// nothing.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn prepare(&self) -> Result<Prepared, RecoverError> {
        let root = material::import(&self.0.open()?)?;
        matches_manifest(&root, self.0.manifest())?;
        Ok(Prepared::received(Keyring::first(root)))
    }
}

/// Requires that the public keys of every epoch are those of the manifest, and that neither has an epoch more.
///
/// # Errors
/// [`RecoverError::OtherEpochs`], [`RecoverError::OtherKeys`].
pub fn matches_manifest(root: &RootKeys, manifest: &SignedManifest) -> Result<(), RecoverError> {
    let [expected] = &manifest.manifest().epochs[..] else {
        return Err(RecoverError::OtherEpochs { found: 1, expected: manifest.manifest().epochs.len() });
    };
    let ca_spki_sha256: [u8; 32] = Sha256::digest(root.ca_spki()).into();
    let is_same = expected.epoch == 0
        && expected.ca_spki_sha256.0 == ca_spki_sha256
        && expected.k256_public.0 == root.k256_public();
    match is_same {
        true => Ok(()),
        false => Err(RecoverError::OtherKeys { epoch: expected.epoch }),
    }
}
