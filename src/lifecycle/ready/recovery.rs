//! Recovery sets: the root keys leave this KMS only split and encrypted to officers, after a record; a drill shows that they
//! would come back.

use kms_recovery::{
    Bytes, Checkpoint, Combiner, Description, EpochFingerprint, NewSet, SignedManifest, SplitError, split,
};

use super::super::recovering::{RecoverError, recovered};
use super::Ready;
use crate::audit::Receipt;
use crate::control::{Approved, CreateRecoverySet};
use crate::keys::keyring::Epoch;
use crate::keys::{material, statement};

/// A recovery set that is in no record yet, so nobody may have it.
#[derive(Debug)]
pub struct UnrecordedSet(NewSet);

/// Why shares do not give the root keys of this KMS.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// A restore would fail too.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// They are those of the manifest, but not those of this KMS.
    #[error("the recovered root keys of epoch {epoch} are not those of this KMS")]
    OtherKeys {
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
    /// The public keys of every epoch whose root keys there are, as manifests name them.
    pub fn recovery_epochs(&self) -> Vec<EpochFingerprint> {
        let keyring = self.keyring.load();
        fingerprints(keyring.epochs().iter().filter(|epoch| epoch.keys().is_some()))
    }

    /// Splits all root keys among the officers of an approved request. Plugins of `age` may make this wait.
    ///
    /// # Errors
    /// [`SplitError`]; nothing has left this KMS then.
    pub fn make_recovery_set(
        &self,
        approved: &Approved<CreateRecoverySet>,
        created_at: u64,
        ledger: Option<Checkpoint>,
    ) -> Result<UnrecordedSet, SplitError> {
        let CreateRecoverySet { officers, threshold } = approved.action();
        let keyring = self.keyring.load();
        let description = Description {
            created_at,
            domain: self.domain().as_str().to_owned(),
            identity_epoch: self.identity.epoch().0,
            epochs: fingerprints(keyring.epochs()),
            ledger,
        };
        let material = material::export(&keyring);
        let sign = |digest| statement::sign_recovery_set(&self.identity, digest);
        split(&material, usize::from(*threshold), officers, description, sign).map(UnrecordedSet)
    }

    /// Puts the shares together as a restore does, compares the root keys with those of this KMS, and forgets them.
    ///
    /// # Errors
    /// [`RehearsalError`]
    pub fn rehearse(&self, combiner: &Combiner) -> Result<(), RehearsalError> {
        let recovered = fingerprints(recovered(combiner)?.epochs());
        let own = fingerprints(self.keyring.load().epochs());
        match recovered.iter().find(|epoch| !own.contains(epoch)) {
            Some(epoch) => Err(RehearsalError::OtherKeys { epoch: epoch.epoch }),
            None => Ok(()),
        }
    }
}

fn fingerprints<'a>(epochs: impl IntoIterator<Item = &'a Epoch>) -> Vec<EpochFingerprint> {
    let fingerprint = |epoch: &Epoch| EpochFingerprint {
        epoch: epoch.number().0,
        ca_spki_sha256: Bytes(epoch.public().ca_fingerprint()),
        k256_public: Bytes(epoch.public().k256),
    };
    epochs.into_iter().map(fingerprint).collect()
}
