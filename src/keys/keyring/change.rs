//! What changes a keyring: each change makes another keyring, or says why not.

use std::sync::Arc;

use kms_attest::p256::{P256Key, SPKI_LENGTH};

use super::{Epoch, EpochError, EpochState, EpochTimes, Keyring, MAX_EPOCHS, PublicRoot, number, root_keys};
use crate::keys::epoch::RootEpoch;
use crate::keys::{K256Key, RootKeys};

/// One epoch as it is stored or handed over.
#[derive(Debug)]
pub struct EpochParts {
    /// Its number.
    pub epoch: RootEpoch,
    /// When its state changes.
    pub times: EpochTimes,
    /// Its keys, or what is left of them.
    pub keys: EpochKeys,
    /// Its root CA certificate, PEM, where one exists.
    pub root_ca_pem: Option<String>,
}

/// The keys of an epoch as they are stored or handed over.
#[derive(Debug)]
pub enum EpochKeys {
    /// Both keys.
    Held {
        /// The root CA's key.
        ca: P256Key,
        /// The secp256k1 root key.
        k256: K256Key,
    },
    /// The keys were destroyed: the public ones are left.
    Destroyed(PublicRoot),
}

impl EpochParts {
    pub(super) fn into_epoch(self, temp_ca: &P256Key) -> Result<Epoch, EpochError> {
        let Self { epoch: number, times, keys, root_ca_pem } = self;
        let (public, keys) = match keys {
            EpochKeys::Held { ca, k256 } => {
                let keys = root_keys(number, temp_ca, ca, k256);
                (PublicRoot::of(&keys), Some(keys))
            }
            EpochKeys::Destroyed(public) => {
                // All public keys of this curve begin alike.
                const BEFORE_POINT: usize = SPKI_LENGTH - 65;
                let is_p256 = public.ca_spki[..=BEFORE_POINT] == temp_ca.spki_der()[..=BEFORE_POINT];
                if !is_p256 || !matches!(public.k256[0], 2 | 3) {
                    return Err(EpochError::PublicKey(number));
                }
                (public, None)
            }
        };
        let EpochTimes { retired_at, destroyed_at, .. } = times;
        let is_whole =
            destroyed_at.is_some() == keys.is_none() && retired_at.is_some() >= destroyed_at.is_some();
        if !is_whole {
            return Err(EpochError::Contradiction(number));
        }
        Ok(Epoch { number, times, public, keys, root_ca_pem: root_ca_pem.map(Into::into), statement: None })
    }
}

/// New root keys that are not part of the keyring yet.
#[derive(Debug)]
pub struct NewEpoch(Epoch);

impl NewEpoch {
    /// The number that it will have.
    pub fn number(&self) -> RootEpoch {
        self.0.number
    }

    /// Its public keys.
    pub fn public(&self) -> &PublicRoot {
        &self.0.public
    }
}

/// Epochs of another node that were checked on their own and are not part of the keyring yet.
#[derive(Debug)]
pub struct ReceivedEpochs(Vec<Epoch>);

/// A change of the keyring.
#[derive(Debug, Clone, Copy)]
pub enum EpochChange<'a> {
    /// Add new root keys, which nobody gets keys of yet.
    Prepare(&'a NewEpoch),
    /// Add what another node of the cluster has, and follow its states; but keys are only destroyed by
    /// [`EpochChange::Destroy`].
    Adopt(&'a ReceivedEpochs),
    /// Let apps get keys of a prepared epoch from this time on, Unix seconds; a time that has not come can be changed.
    Activate {
        /// The epoch.
        epoch: RootEpoch,
        /// From when on.
        at: u64,
    },
    /// Let nobody get keys of it any more.
    Retire(RootEpoch),
    /// Forget the keys of a retired epoch.
    Destroy(RootEpoch),
}

impl Keyring {
    /// New random root keys for the next epoch.
    ///
    /// # Errors
    /// [`EpochError::TooMany`].
    pub fn new_epoch(&self, now: u64) -> Result<NewEpoch, EpochError> {
        if self.epochs.len() >= MAX_EPOCHS {
            return Err(EpochError::TooMany);
        }
        let number = number(self.epochs.len());
        let keys = root_keys(number, &self.temp_ca, P256Key::generate(), K256Key::generate());
        let times = EpochTimes { prepared_at: Some(now), ..EpochTimes::default() };
        let public = PublicRoot::of(&keys);
        Ok(NewEpoch(Epoch { number, times, public, keys: Some(keys), root_ca_pem: None, statement: None }))
    }

    /// Checks epochs of another node on their own. Those that this keyring has already may be among them.
    ///
    /// # Errors
    /// [`EpochError`].
    pub fn received(&self, parts: Vec<EpochParts>) -> Result<ReceivedEpochs, EpochError> {
        if parts.len() > MAX_EPOCHS {
            return Err(EpochError::TooMany);
        }
        let epochs =
            parts.into_iter().map(|parts| parts.into_epoch(&self.temp_ca)).collect::<Result<_, _>>()?;
        Ok(ReceivedEpochs(epochs))
    }

    /// The keyring after a change.
    ///
    /// # Errors
    /// [`EpochError`], the reason why the change is refused.
    pub fn after(&self, change: EpochChange<'_>, now: u64) -> Result<Self, EpochError> {
        let mut after = self.clone();
        match change {
            EpochChange::Prepare(NewEpoch(epoch)) => after.push(epoch.clone())?,
            EpochChange::Adopt(ReceivedEpochs(epochs)) => after.adopt(epochs)?,
            EpochChange::Activate { epoch, at } => after.activate(epoch, at, now)?,
            EpochChange::Retire(epoch) => after.retire(epoch, now)?,
            EpochChange::Destroy(epoch) => after.destroy(epoch, now)?,
        }
        after.checked()
    }

    /// The epochs that are another or in another state than in `before`.
    pub fn changed_since(&self, before: &Self) -> Vec<RootEpoch> {
        let is_same = |epoch: &&Epoch| before.epoch(epoch.number).is_none_or(|old| old.times != epoch.times);
        self.epochs.iter().filter(is_same).map(|epoch| epoch.number).collect()
    }

    fn push(&mut self, epoch: Epoch) -> Result<(), EpochError> {
        let next = number(self.epochs.len());
        match epoch.number == next {
            true => self.epochs.push(epoch),
            false => return Err(EpochError::NotNext { found: epoch.number, next }),
        }
        Ok(())
    }

    fn adopt(&mut self, received: &[Epoch]) -> Result<(), EpochError> {
        for theirs in received {
            match self.epochs.get_mut(theirs.number.0 as usize) {
                None => self.push(theirs.clone())?,
                Some(ours) if ours.public != theirs.public => return Err(EpochError::OtherKeys(ours.number)),
                Some(ours) => ours.times.follow(theirs.times),
            }
        }
        let mut last = (RootEpoch::FIRST, 0);
        for epoch in self.epochs.iter().filter(|epoch| epoch.times.is_scheduled()) {
            let at = epoch.times.activate_at.unwrap_or(0);
            if at < last.1 {
                return Err(EpochError::OutOfOrder { epoch: epoch.number, other: last.0 });
            }
            last = (epoch.number, at);
        }
        Ok(())
    }

    fn activate(&mut self, number: RootEpoch, at: u64, now: u64) -> Result<(), EpochError> {
        match self.existing(number)?.times.state(now) {
            EpochState::Prepared => {}
            EpochState::Active => return Err(EpochError::IsActive(number)),
            EpochState::Retired | EpochState::Destroyed => return Err(EpochError::IsRetired(number)),
        }
        for other in self.epochs.iter().filter(|other| other.times.is_scheduled()) {
            let other_at = other.times.activate_at.unwrap_or(0);
            if other.number < number && other_at > at
                || other.number > number && (other_at < at || other_at <= now)
            {
                return Err(EpochError::OutOfOrder { epoch: number, other: other.number });
            }
        }
        self.existing(number)?.times.activate_at = Some(at);
        Ok(())
    }

    fn retire(&mut self, number: RootEpoch, now: u64) -> Result<(), EpochError> {
        let current = self.current(now);
        let epoch = self.existing(number)?;
        match epoch.times.state(now) {
            EpochState::Retired | EpochState::Destroyed => Err(EpochError::IsRetired(number)),
            EpochState::Prepared | EpochState::Active if number == current => {
                Err(EpochError::IsCurrent(number))
            }
            EpochState::Prepared | EpochState::Active => {
                epoch.times.retired_at = Some(now);
                Ok(())
            }
        }
    }

    fn destroy(&mut self, number: RootEpoch, now: u64) -> Result<(), EpochError> {
        let epoch = self.existing(number)?;
        match epoch.times.state(now) {
            EpochState::Prepared | EpochState::Active => Err(EpochError::NotRetired(number)),
            EpochState::Destroyed => Err(EpochError::IsDestroyed(number)),
            EpochState::Retired => {
                epoch.times.destroyed_at = Some(now);
                epoch.keys = None;
                epoch.root_ca_pem = None;
                Ok(())
            }
        }
    }

    fn existing(&mut self, number: RootEpoch) -> Result<&mut Epoch, EpochError> {
        self.epochs.get_mut(number.0 as usize).ok_or(EpochError::Unknown(number))
    }
}

impl EpochTimes {
    /// Takes over what another node knows, short of destruction. What is retired here stays so.
    fn follow(&mut self, theirs: Self) {
        self.prepared_at = self.prepared_at.or(theirs.prepared_at);
        if self.retired_at.is_none() {
            self.activate_at = theirs.activate_at.or(self.activate_at);
            self.retired_at = theirs.retired_at;
        }
    }
}

impl From<RootKeys> for EpochKeys {
    fn from(root: RootKeys) -> Self {
        let k256 = K256Key::from_scalar(root.k256().scalar()).expect("the scalar of a key");
        Self::Held { ca: super::copy(root.ca()), k256 }
    }
}

impl From<&Arc<RootKeys>> for EpochKeys {
    fn from(root: &Arc<RootKeys>) -> Self {
        let k256 = K256Key::from_scalar(root.k256().scalar()).expect("the scalar of a key");
        Self::Held { ca: super::copy(root.ca()), k256 }
    }
}
