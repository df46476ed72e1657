//! A KMS without keys to which officers bring their shares. It saves nothing: its end is keys that are prepared, as in
//! onboarding.

use kms_recovery::{Combiner, OpenError, SignedManifest};

use super::Prepared;
use crate::keys::keyring::Keyring;
use crate::keys::material::{self, Material, MaterialError};
use crate::state::{Choices, ChoicesError};

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
    /// What operators chose, or what this version does not know of it.
    #[error("the set is not usable here: {0}")]
    Choices(#[from] ChoicesError),
    /// Other keys, or another state of them, than the manifest says.
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
        let Recovered { keyring, choices } = recovered(&self.0)?;
        Ok(Prepared::received(keyring).with_choices(choices))
    }
}

/// What shares give.
pub(super) struct Recovered {
    pub(super) keyring: Keyring,
    /// What operators had chosen; `None` of a set of an older version.
    choices: Option<Choices>,
}

/// The root keys of all epochs that the shares give, compared with the manifest: the same for a restore and for a drill.
///
/// # Errors
/// [`RecoverError`].
pub(super) fn recovered(shares: &Combiner) -> Result<Recovered, RecoverError> {
    let Material { keyring, choices } = material::import(&shares.open()?)?;
    matches_manifest(&keyring, shares.manifest())?;
    let choices = choices.map(|choices| Choices::parse(&choices)).transpose()?;
    Ok(Recovered { keyring, choices })
}

/// Requires that the public keys and states of every epoch are those of the manifest, and that neither has an epoch more.
fn matches_manifest(keyring: &Keyring, manifest: &SignedManifest) -> Result<(), RecoverError> {
    let (found, expected) = (keyring.epochs(), &manifest.manifest().epochs);
    if found.len() != expected.len() {
        return Err(RecoverError::OtherEpochs { found: found.len(), expected: expected.len() });
    }
    for (found, expected) in found.iter().zip(expected) {
        if material::fingerprint(found) != *expected {
            return Err(RecoverError::OtherKeys { epoch: expected.epoch });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use age::secrecy::ExposeSecret as _;
    use kms_recovery::{Description, Identities, Named, NoCallbacks, decrypt, split};

    use super::*;
    use crate::keys::RootKeys;
    use crate::keys::epoch::RootEpoch;
    use crate::keys::keyring::EpochChange;

    /// Two officers of a set with this material, who have brought their shares. The manifest says that `expected` is in it.
    fn brought(material: &[u8], expected: &Keyring) -> Recovering {
        let identities = [(); 2].map(|()| age::x25519::Identity::generate());
        let officers: Vec<Named> = identities
            .iter()
            .zip(["ann", "bob"])
            .map(|(identity, name)| Named {
                name: name.parse().unwrap(),
                recipient: identity.to_public().to_string().parse().unwrap(),
            })
            .collect();
        let description = Description {
            created_at: 0,
            domain: "kms.example".to_owned(),
            identity_epoch: 0,
            epochs: expected.epochs().iter().map(material::fingerprint).collect(),
            ledger: None,
        };
        let root = Arc::clone(expected.epochs()[0].keys().unwrap());
        let sign = |digest| root.k256().sign_digest(digest);
        let set = split(material, 2, &officers, description, sign).unwrap();
        let mut recovering = Recovering::new(set.manifest);
        for (file, identity) in set.files.iter().zip(&identities) {
            let key = identity.to_string();
            let key = Identities::parse(key.expose_secret().as_bytes(), NoCallbacks).unwrap();
            recovering.combiner_mut().add(decrypt(file.content.as_bytes(), &key).unwrap()).unwrap();
        }
        recovering
    }

    fn new_keyring() -> Keyring {
        Keyring::first(RootKeys::generate())
    }

    #[test]
    fn only_the_keys_of_the_manifest_are_prepared() {
        let (one, other) = (new_keyring(), new_keyring());
        let new = one.new_epoch(10).unwrap();
        let two = one.after(EpochChange::Prepare(&new), 10).unwrap();
        for keyring in [&one, &two] {
            let prepared = brought(&material::export(keyring, None), keyring).prepare().unwrap();
            assert_eq!(material::export(prepared.keyring(), None), material::export(keyring, None));
        }
        let refused = |material: &[u8], expected| brought(material, expected).prepare().unwrap_err();
        assert!(matches!(
            refused(&material::export(&other, None), &one),
            RecoverError::OtherKeys { epoch: 0 }
        ));
        assert!(matches!(
            refused(&material::export(&one, None), &two),
            RecoverError::OtherEpochs { found: 1, expected: 2 }
        ));
        let another = one.new_epoch(10).unwrap();
        let another = one.after(EpochChange::Prepare(&another), 10).unwrap();
        assert!(matches!(
            refused(&material::export(&another, None), &two),
            RecoverError::OtherKeys { epoch: 1 }
        ));
        let activated = two.after(EpochChange::Activate { epoch: RootEpoch(1), at: 20 }, 15).unwrap();
        assert!(matches!(
            refused(&material::export(&two, None), &activated),
            RecoverError::OtherKeys { epoch: 1 }
        ));
        assert!(matches!(refused(b"something else", &one), RecoverError::Material(_)));
        // What operators chose comes along; what this version does not know does not.
        let app = kms_attest::identity::AppId([7; 20]);
        let epochs = crate::state::ChosenEpochs { root: None, app: 2 };
        let choices = Choices { app_epochs: [(app, epochs)].into(), ..Choices::default() };
        let full = material::export(&one, Some(choices.to_json().as_bytes()));
        assert_eq!(brought(&full, &one).prepare().unwrap().choices(), Some(&choices));
        assert_eq!(brought(&material::export(&one, None), &one).prepare().unwrap().choices(), None);
        let newer = material::export(&one, Some(br#"{"version":1,"orbits":{}}"#));
        assert!(matches!(refused(&newer, &one), RecoverError::Choices(ChoicesError::Unknown(_))));
    }

    #[test]
    fn without_the_threshold_nothing_is_prepared() {
        let keyring = new_keyring();
        let whole = brought(&material::export(&keyring, None), &keyring);
        let none = Recovering::new(whole.combiner().manifest().clone());
        assert!(matches!(none.prepare(), Err(RecoverError::Open(OpenError::Incomplete { missing: 2 }))));
    }
}
