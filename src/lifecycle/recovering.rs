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
        recovered(&self.0).map(|root| Prepared::received(Keyring::first(root)))
    }
}

/// The root keys that the shares give, compared with the manifest: the same for a restore and for a drill.
///
/// # Errors
/// [`RecoverError`].
pub(super) fn recovered(shares: &Combiner) -> Result<RootKeys, RecoverError> {
    let root = material::import(&shares.open()?)?;
    matches_manifest(&root, shares.manifest())?;
    Ok(root)
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

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret as _;
    use kms_recovery::{
        Bytes, Description, EpochFingerprint, Identities, Named, NoCallbacks, decrypt, split,
    };

    use super::*;

    /// Two officers of a set with this material, who have brought their shares. The manifest says that `expected` is in it.
    fn brought(material: &[u8], expected: &RootKeys, epochs: u32) -> Recovering {
        let identities = [(); 2].map(|()| age::x25519::Identity::generate());
        let officers: Vec<Named> = identities
            .iter()
            .zip(["ann", "bob"])
            .map(|(identity, name)| Named {
                name: name.parse().unwrap(),
                recipient: identity.to_public().to_string().parse().unwrap(),
            })
            .collect();
        let fingerprint = |epoch| EpochFingerprint {
            epoch,
            ca_spki_sha256: Bytes(Sha256::digest(expected.ca_spki()).into()),
            k256_public: Bytes(expected.k256_public()),
        };
        let description = Description {
            created_at: 0,
            domain: "kms.example".to_owned(),
            identity_epoch: 0,
            epochs: (0..epochs).map(fingerprint).collect(),
            ledger: None,
        };
        let sign = |digest| expected.k256().sign_digest(digest);
        let set = split(material, 2, &officers, description, sign).unwrap();
        let mut recovering = Recovering::new(set.manifest);
        for (file, identity) in set.files.iter().zip(&identities) {
            let key = identity.to_string();
            let key = Identities::parse(key.expose_secret().as_bytes(), NoCallbacks).unwrap();
            recovering.combiner_mut().add(decrypt(file.content.as_bytes(), &key).unwrap()).unwrap();
        }
        recovering
    }

    #[test]
    fn only_the_keys_of_the_manifest_are_prepared() {
        let (root, other) = (RootKeys::generate(), RootKeys::generate());
        let prepared = brought(&material::export(&root), &root, 1).prepare().unwrap();
        assert_eq!(prepared.k256_public_key(), root.k256_public());
        let refused = |material: &[u8], epochs| brought(material, &root, epochs).prepare().unwrap_err();
        assert!(matches!(refused(&material::export(&other), 1), RecoverError::OtherKeys { epoch: 0 }));
        assert!(matches!(
            refused(&material::export(&root), 2),
            RecoverError::OtherEpochs { found: 1, expected: 2 }
        ));
        assert!(matches!(refused(b"something else", 1), RecoverError::Material(_)));
    }

    #[test]
    fn without_the_threshold_nothing_is_prepared() {
        let root = RootKeys::generate();
        let whole = brought(&material::export(&root), &root, 1);
        let none = Recovering::new(whole.combiner().manifest().clone());
        assert!(matches!(none.prepare(), Err(RecoverError::Open(OpenError::Incomplete { missing: 2 }))));
    }
}
