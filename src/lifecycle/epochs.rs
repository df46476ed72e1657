//! The root epochs of a KMS with keys: what everybody may know of them, how they change, and how they are handed over.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::ready::certified;
use super::{LifecycleError, Ready};
use crate::admission::RootEpochs;
use crate::audit::Receipt;
use crate::clock::{unix, unix_now};
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{
    EpochChange, EpochError, EpochInfo, EpochParts, EpochStatement, Keyring, NewEpoch, ReceivedEpochs,
    Unreadable,
};
use crate::keys::{Secret, statement};
use crate::store::Swept;

/// An epoch as a replica receives it.
pub struct HandedEpoch {
    /// What everybody may know of it.
    pub info: EpochInfo,
    /// Its keys; `None` if they are destroyed.
    pub keys: Option<HandedKeys>,
    /// What an older root states of its public keys.
    pub statement: Option<EpochStatement>,
}

/// The root keys of an epoch as a replica receives them.
pub struct HandedKeys {
    /// Root CA key, PKCS#8 PEM.
    pub ca_key_pem: Zeroizing<String>,
    /// Root secp256k1 key.
    pub k256_key: Secret,
}

impl HandedEpoch {
    /// All epochs, or none if there is epoch 0 only.
    pub(super) fn all(keyring: &Keyring) -> Vec<Self> {
        if keyring.is_first_only() {
            return Vec::new();
        }
        let infos = keyring.infos(unix_now());
        let handed = keyring.epochs().iter().zip(infos).map(|(epoch, info)| Self {
            info,
            keys: epoch.keys().map(|root| HandedKeys {
                ca_key_pem: root.ca().pem(),
                k256_key: Secret::new(Zeroizing::new(*root.k256().scalar())),
            }),
            statement: epoch.statement(),
        });
        handed.collect()
    }
}

impl Ready {
    /// The public keys and the state of each epoch, in order from 0.
    pub fn epochs(&self) -> Vec<EpochInfo> {
        self.keyring.load().infos(unix_now())
    }

    /// The newest epoch that apps get keys of at `now`, Unix seconds.
    pub fn current_epoch(&self, now: u64) -> RootEpoch {
        self.keyring.load().current(now)
    }

    /// The highest epoch that there is, whatever its state.
    pub fn newest_epoch(&self) -> RootEpoch {
        self.keyring.load().epochs().last().map_or(RootEpoch::FIRST, |epoch| epoch.number())
    }

    /// The epoch that signs what this node says of itself, the same as long as the process runs.
    pub fn identity_epoch(&self) -> RootEpoch {
        self.identity.epoch()
    }

    /// The epoch that will sign it after the next start, if that were at `now`, Unix seconds. Where it is another than
    /// [`Ready::identity_epoch`], a restart is required.
    pub fn next_identity_epoch(&self, now: u64) -> RootEpoch {
        self.keyring.load().identity(now)
    }

    /// Whether there is epoch 0 only, as it always was.
    pub fn has_first_epoch_only(&self) -> bool {
        self.keyring.load().is_first_only()
    }

    /// The root key of [`Ready::identity_epoch`] states the public keys of an epoch, so that those that know that key can
    /// follow.
    pub fn sign_root_epoch(&self, epoch: &EpochInfo) -> [u8; 65] {
        statement::sign_root_epoch(&self.identity, epoch.epoch, &epoch.ca_spki, &epoch.k256_public)
    }

    /// What a root that was known before states of the public keys of an epoch, 65 bytes: the root of
    /// [`Ready::identity_epoch`], or of that epoch itself an older root, whose statement is kept. Empty of epoch 0 as the
    /// identity, and where no older root was held.
    pub fn root_epoch_statement(&self, epoch: &EpochInfo) -> Vec<u8> {
        if epoch.epoch != self.identity.epoch() {
            return self.sign_root_epoch(epoch).to_vec();
        }
        let keyring = self.keyring.load();
        let kept = keyring.epoch(epoch.epoch).and_then(|epoch| epoch.statement());
        kept.map_or_else(Vec::new, |kept| kept.signature.to_vec())
    }

    /// What an older root states of the public keys of an epoch that is not that of the identity, where it is kept and
    /// [`Ready::root_epoch_statement`] is another one; empty otherwise. One who pinned a root of long ago follows from epoch to
    /// epoch with these.
    pub fn older_root_statement(&self, epoch: &EpochInfo) -> Vec<u8> {
        let keyring = self.keyring.load();
        let kept = keyring.epoch(epoch.epoch).and_then(|epoch| epoch.statement());
        let is_other = epoch.epoch != self.identity.epoch();
        kept.filter(|kept| is_other && kept.by != self.identity.epoch())
            .map_or_else(Vec::new, |kept| kept.signature.to_vec())
    }

    /// Whether apps may get keys of an epoch at `now`, Unix seconds.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn readable_epoch(&self, epoch: RootEpoch, now: u64) -> Result<(), Unreadable> {
        self.keyring.load().readable(epoch, now).map(drop)
    }

    /// New root keys for the next epoch, in memory only, so that their event can be recorded before they are added.
    ///
    /// # Errors
    /// [`EpochError::TooMany`].
    pub fn new_epoch(&self) -> Result<NewEpoch, EpochError> {
        self.keyring.load().new_epoch(unix_now())
    }

    /// Checks the epochs of another node on their own, so that their event can be recorded before they are added.
    ///
    /// # Errors
    /// [`EpochError`].
    pub fn received_epochs(&self, parts: Vec<EpochParts>) -> Result<ReceivedEpochs, EpochError> {
        self.keyring.load().received(parts)
    }

    /// The epochs that a change would add or give another state, as they would be then. Changes nothing.
    ///
    /// # Errors
    /// [`EpochError`]: the change would be refused.
    pub fn foresee_epochs(
        &self,
        change: EpochChange<'_>,
        now: SystemTime,
    ) -> Result<Vec<EpochInfo>, EpochError> {
        let before = self.keyring.load();
        let after = self.after(&before, change, unix(now))?;
        Ok(changed(&before, &after, unix(now)))
    }

    /// Adds new root keys, which apps get no keys of yet. Their event must be recorded.
    ///
    /// # Errors
    /// [`LifecycleError`]; nothing is changed then.
    pub fn prepare_epoch(
        &self,
        new: &NewEpoch,
        recorded: Receipt,
        now: SystemTime,
    ) -> Result<Vec<EpochInfo>, LifecycleError> {
        self.change(EpochChange::Prepare(new), recorded, now)
    }

    /// Adds epochs of another node and follows its states, short of destruction. Their event must be recorded.
    ///
    /// # Errors
    /// [`LifecycleError`]; nothing is changed then.
    pub fn adopt_epoch(
        &self,
        received: &ReceivedEpochs,
        recorded: Receipt,
        now: SystemTime,
    ) -> Result<Vec<EpochInfo>, LifecycleError> {
        self.change(EpochChange::Adopt(received), recorded, now)
    }

    /// Lets apps get keys of a prepared epoch from `at` on, Unix seconds. Its event must be recorded.
    ///
    /// # Errors
    /// [`LifecycleError`]; nothing is changed then.
    pub fn activate_epoch(
        &self,
        epoch: RootEpoch,
        at: u64,
        recorded: Receipt,
        now: SystemTime,
    ) -> Result<Vec<EpochInfo>, LifecycleError> {
        self.change(EpochChange::Activate { epoch, at }, recorded, now)
    }

    /// Lets nobody get keys of an epoch any more, at once. Its event must be recorded.
    ///
    /// # Errors
    /// [`LifecycleError`]; nothing is changed then.
    pub fn retire_epoch(
        &self,
        epoch: RootEpoch,
        recorded: Receipt,
        now: SystemTime,
    ) -> Result<Vec<EpochInfo>, LifecycleError> {
        self.change(EpochChange::Retire(epoch), recorded, now)
    }

    /// Overwrites the keys of a retired epoch. Its event must be recorded.
    ///
    /// # Errors
    /// [`LifecycleError`]; nothing is changed then, except with [`LifecycleError::NotOverwritten`].
    pub fn destroy_epoch(
        &self,
        epoch: RootEpoch,
        recorded: Receipt,
        now: SystemTime,
    ) -> Result<Vec<EpochInfo>, LifecycleError> {
        self.change(EpochChange::Destroy(epoch), recorded, now)
    }

    fn change(
        &self,
        change: EpochChange<'_>,
        _recorded: Receipt,
        now: SystemTime,
    ) -> Result<Vec<EpochInfo>, LifecycleError> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.keyring.load_full();
        // Stated now, because the root that signs may be gone when somebody has to follow to the new one.
        let after = certified(self.after(&before, change, unix(now))?, now)?.stated(&self.identity);
        // On the disk before it counts. From an error on the disk has what it had, and otherwise the new keyring: what is
        // in memory is the same always.
        let swept = self.directory.write_keyring(&after)?;
        let changed = changed(&before, &after, unix(now));
        self.keyring.store(Arc::new(after));
        match (swept, change) {
            (Swept::AtNextStart, EpochChange::Destroy(epoch)) => Err(LifecycleError::NotOverwritten(epoch)),
            (Swept::Now | Swept::AtNextStart, _) => Ok(changed),
        }
    }

    fn after(&self, keyring: &Keyring, change: EpochChange<'_>, now: u64) -> Result<Keyring, EpochError> {
        match change {
            EpochChange::Destroy(epoch) if epoch == self.identity.epoch() => {
                Err(EpochError::IsIdentity(epoch))
            }
            change => keyring.after(change, now),
        }
    }
}

/// What admission needs to know of them.
impl RootEpochs for Ready {
    fn current(&self) -> RootEpoch {
        self.current_epoch(unix_now())
    }

    fn readable(&self, epoch: RootEpoch) -> Result<(), Unreadable> {
        self.readable_epoch(epoch, unix_now())
    }
}

fn changed(before: &Keyring, after: &Keyring, now: u64) -> Vec<EpochInfo> {
    let changed = after.changed_since(before);
    after.infos(now).into_iter().filter(|info| changed.contains(&info.epoch)).collect()
}
