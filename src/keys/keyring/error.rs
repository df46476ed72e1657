//! Why keys of an epoch cannot be read, and why a keyring does not change.

use super::MAX_EPOCHS;
use crate::keys::epoch::RootEpoch;

/// Why apps get no keys of a root epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No such epoch.
    #[error("there is no root epoch {0}")]
    Unknown(RootEpoch),
    /// Its time has not come.
    #[error("root epoch {0} is not active yet")]
    NotActive(RootEpoch),
    /// It was retired.
    #[error("root epoch {0} is retired: its keys are not given to anybody any more")]
    Retired(RootEpoch),
    /// Its keys were destroyed.
    #[error("root epoch {0} is destroyed: its keys do not exist any more")]
    Destroyed(RootEpoch),
}

impl Unreadable {
    /// The epoch.
    pub fn epoch(self) -> RootEpoch {
        match self {
            Self::Unknown(epoch) | Self::NotActive(epoch) | Self::Retired(epoch) | Self::Destroyed(epoch) => {
                epoch
            }
        }
    }
}

/// Why epochs do not become a keyring, or a keyring does not change. Nothing was changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// No room for another epoch.
    #[error("a keyring has at most {MAX_EPOCHS} root epochs")]
    TooMany,
    /// A gap, or an epoch that exists already.
    #[error("root epoch {found} cannot be added, because the next one is {next}")]
    NotNext {
        /// The number found.
        found: RootEpoch,
        /// The number that must come next.
        next: RootEpoch,
    },
    /// Nobody could get keys.
    #[error("no root epoch is active, so that no app could get keys")]
    NoneActive,
    /// A private key and a public key do not belong together.
    #[error("the keys of root epoch {0} do not belong to its public keys")]
    KeyMismatch(RootEpoch),
    /// A public key is none.
    #[error("a public key of root epoch {0} is not usable")]
    PublicKey(RootEpoch),
    /// Its times contradict each other, or its keys.
    #[error("the state of root epoch {0} contradicts itself")]
    Contradiction(RootEpoch),
    /// Two sets of keys have the same number: the two nodes are not of one cluster.
    #[error("root epoch {0} has other public keys there than here: the two are not of one cluster")]
    OtherKeys(RootEpoch),
    /// No such epoch.
    #[error("there is no root epoch {0}")]
    Unknown(RootEpoch),
    /// Activation of an epoch whose time has come.
    #[error("root epoch {0} is active already")]
    IsActive(RootEpoch),
    /// The epoch is retired or destroyed.
    #[error("root epoch {0} is retired, which is final")]
    IsRetired(RootEpoch),
    /// The epoch is destroyed.
    #[error("root epoch {0} is destroyed already")]
    IsDestroyed(RootEpoch),
    /// Epochs become current in order.
    #[error(
        "root epoch {epoch} cannot be activated at that time, because epochs must become active in order and epoch {other} would not"
    )]
    OutOfOrder {
        /// The epoch that was to be activated.
        epoch: RootEpoch,
        /// The one whose activation stands against it.
        other: RootEpoch,
    },
    /// Apps would get no keys.
    #[error("root epoch {0} is the current one: activate a newer one first")]
    IsCurrent(RootEpoch),
    /// Only a retired epoch is destroyed.
    #[error("root epoch {0} is not retired: retire it first")]
    NotRetired(RootEpoch),
    /// The running process signs with it.
    #[error("this KMS signs its certificates with root epoch {0} until it starts again: restart it first")]
    IsIdentity(RootEpoch),
}
