//! The two states of a KMS, without keys and with keys, and the only transition between them.

mod epochs;
mod onboarding;
mod ready;
mod received;
mod recovering;
mod released;

use std::time::SystemTime;

pub use self::epochs::{HandedEpoch, HandedKeys};
pub use self::onboarding::{HandoverError, Held, Inspection, Onboarding, Prepared};
pub use self::ready::{DrillError, EnvPublicKey, Handover, Ready, RpcIdentity, UnrecordedSet};
pub use self::received::epoch_parts;
pub use self::recovering::{RecoverError, Recovering};
pub use self::released::{NotReleased, ReleaseGuards, Released};
use crate::ca::CaError;
use crate::domain::{Domain, DomainError, ReservedName};
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::EpochError;
use crate::store::{KeyDirectory, State, StoreError, Stored};

/// A KMS in the state that its key directory shows.
#[derive(Debug)]
pub enum Node {
    /// There are no keys yet.
    Onboarding(Onboarding),
    /// There are keys.
    Ready(Box<Ready>),
}

/// Why a node cannot start, or a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The key directory cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Some of the keys exist and some do not. Nothing is overwritten.
    #[error("the key directory is incomplete ({reason}); restore it from a backup, nothing was changed")]
    Broken {
        /// What is missing or wrong.
        reason: String,
    },
    /// The domain of this KMS is unknown.
    #[error("neither the key directory nor core.onboard.auto_bootstrap_domain names the domain of this KMS")]
    NoDomain,
    /// `rpc-domain` does not contain a domain.
    #[error("the file rpc-domain in the key directory is unusable: {0}")]
    Domain(#[from] DomainError),
    /// A certificate could not be issued.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A change of the root epochs is refused.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// The change counts, and bytes of old keys are still on the disk.
    #[error(
        "root epoch {0} is destroyed, but the disk failed before the bytes of its keys were overwritten: the next change \
         of epochs or the next start of this KMS overwrites them"
    )]
    NotOverwritten(RootEpoch),
}

impl Node {
    /// Reads the state from the directory. `configured` is the domain until the directory has one; no app
    /// gets a certificate for a `reserved` name. CA certificates that are missing or expire soon are issued
    /// again for their keys.
    ///
    /// # Errors
    /// [`LifecycleError`]; a partly filled directory is never treated as an empty one.
    pub fn open(
        directory: KeyDirectory,
        configured: Option<Domain>,
        reserved: &[ReservedName],
        now: SystemTime,
    ) -> Result<Self, LifecycleError> {
        match directory.state()? {
            State::Empty => Ok(Self::Onboarding(Onboarding::new(directory))),
            State::Complete(stored) => {
                let domain = domain(&stored, configured)?;
                Ok(Self::Ready(Box::new(Ready::new(directory, *stored, domain, reserved, now)?)))
            }
            State::Broken { reason, .. } => Err(LifecycleError::Broken { reason }),
        }
    }

    /// The state that [`Node::open`] would return, without changing anything.
    ///
    /// # Errors
    /// Those of [`Node::open`] that can be known beforehand.
    pub fn foresee(
        state: State,
        configured: Option<Domain>,
        now: SystemTime,
    ) -> Result<Prospect, LifecycleError> {
        match state {
            State::Empty => Ok(Prospect::Onboarding),
            State::Complete(stored) => {
                domain(&stored, configured)?;
                ready::certificates(&stored, now)?;
                Ok(Prospect::Ready)
            }
            State::Broken { reason, .. } => Err(LifecycleError::Broken { reason }),
        }
    }
}

/// The state in which a node would start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// There are no keys yet.
    Onboarding,
    /// There are keys.
    Ready,
}

fn domain(stored: &Stored, configured: Option<Domain>) -> Result<Domain, LifecycleError> {
    match (configured, &stored.domain) {
        (Some(domain), _) => Ok(domain),
        (None, Some(kept)) => Ok(Domain::parse(kept)?),
        (None, None) => Err(LifecycleError::NoDomain),
    }
}
