//! Recovery sets: the root keys leave this KMS only split and encrypted to officers, after a record; a drill shows that they
//! would come back.

use kms_recovery::{
    Checkpoint, Combiner, Description, EpochFingerprint, NewSet, SignedManifest, SplitError, split,
};

use super::super::recovering::{RecoverError, recovered};
use super::Ready;
use crate::audit::Receipt;
use crate::control::{Approved, CreateRecoverySet};
use crate::keys::{material, statement};
use crate::state::Choices;

/// A recovery set that is in no record yet, so nobody may have it.
#[derive(Debug)]
pub struct UnrecordedSet(NewSet);

/// Why shares do not give the root keys of this KMS.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// A restore would fail too.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// They are those of the manifest, but not those of this KMS.
    #[error("the recovered root keys of epoch {epoch} are not those of this KMS")]
    OtherKeys {
        /// The epoch.
        epoch: u32,
    },
    /// The root keys have another state in the set than here.
    #[error(
        "the set has epoch {epoch} in another state than this KMS, and a restore would bring that state back: make a new set"
    )]
    OtherState {
        /// The epoch.
        epoch: u32,
    },
}

impl UnrecordedSet {
    /// The manifest, for the record.
    pub fn manifest(&self) -> &SignedManifest {
        &self.0.manifest
    }

    /// The set, once its creation is recorded.
    pub fn recorded(self, _: &Receipt) -> NewSet {
        self.0
    }
}

impl Ready {
    /// The public keys and states of every epoch, as manifests name them.
    pub fn recovery_epochs(&self) -> Vec<EpochFingerprint> {
        let keyring = self.keyring.load();
        keyring.epochs().iter().map(material::fingerprint).collect()
    }

    /// Splits all root keys among the officers of an approved request, with what operators chose. Plugins of `age` may make this wait.
    ///
    /// # Errors
    /// [`SplitError`]; nothing has left this KMS then.
    pub fn make_recovery_set(
        &self,
        approved: &Approved<CreateRecoverySet>,
        created_at: u64,
        ledger: Option<Checkpoint>,
        choices: &Choices,
    ) -> Result<UnrecordedSet, SplitError> {
        let CreateRecoverySet { officers, threshold } = approved.action();
        let keyring = self.keyring.load();
        let description = Description {
            created_at,
            domain: self.domain().as_str().to_owned(),
            identity_epoch: self.identity.epoch().0,
            epochs: keyring.epochs().iter().map(material::fingerprint).collect(),
            ledger,
        };
        let material = material::export(&keyring, Some(choices.to_json().as_bytes()));
        let sign = |digest| statement::sign_recovery_set(&self.identity, digest);
        split(material, usize::from(*threshold), officers, description, sign).map(UnrecordedSet)
    }

    /// Puts the shares together as a restore does, compares root keys and states with those of this KMS, and forgets them.
    ///
    /// # Errors
    /// [`DrillError`]
    pub fn drill(&self, combiner: &Combiner) -> Result<(), DrillError> {
        let recovered = recovered(combiner)?.keyring;
        let own = self.recovery_epochs();
        for epoch in recovered.epochs().iter().map(material::fingerprint) {
            match own.iter().find(|own| own.has_keys_of(&epoch)) {
                None => return Err(DrillError::OtherKeys { epoch: epoch.epoch }),
                Some(own) if *own != epoch => {
                    return Err(DrillError::OtherState { epoch: epoch.epoch });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
