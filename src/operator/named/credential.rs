//! A named credential: who has it, what it may do, and when it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kms_attest::identity::DomainName;
use kms_wire::role::Role;

use super::super::person::Person;
use super::CredentialName;
use super::secret::SecretHash;

/// The state of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its holder has a secret.
    Active(SecretHash),
    /// Its holder has an invitation, which can be exchanged for a secret once.
    Invited {
        /// The hash of the token's secret.
        hash: SecretHash,
        /// The end of the invitation, in Unix seconds.
        until: u64,
    },
}

/// The secret before a rotation, which is valid beside the new one until that is used, or until its end.
#[derive(Debug)]
pub struct Replaced {
    /// Its hash.
    pub hash: SecretHash,
    /// Its version.
    pub version: u64,
    /// Its end, in Unix seconds.
    pub until: u64,
    pub(super) is_over: AtomicBool,
}

impl Replaced {
    /// Whether the secret after it has been used.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// A secret that is valid until `until`.
    pub fn new(hash: SecretHash, version: u64, until: u64) -> Self {
        Self { hash, version, until, is_over: AtomicBool::new(false) }
    }
}

/// An invitation to replace the secret of an active credential. That secret is valid until the invitation is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The hash of the token's secret.
    pub hash: SecretHash,
    /// Its version.
    pub version: u64,
    /// Its end, in Unix seconds.
    pub until: u64,
}

/// One credential.
#[derive(Debug)]
pub struct NamedCredential {
    /// Its name.
    pub name: CredentialName,
    /// What it may do.
    pub role: Role,
    /// The domain to which it is limited; `None` for the whole KMS.
    pub domain: Option<DomainName>,
    /// Its state.
    pub standing: Standing,
    /// Changes with the secret, so that a remembered earlier secret is invalid.
    pub version: u64,
    /// The secret before this one, if that had an overlap.
    pub replaced: Option<Replaced>,
    /// The invitation to replace its secret.
    pub invitation: Option<Invitation>,
    /// The other owner who has chosen its secret, and could use it.
    pub chosen_by: Option<Person>,
    /// Unix seconds.
    pub created_at: u64,
    /// The operator that created it.
    pub created_by: String,
    /// Its end, in Unix seconds.
    pub expires_at: Option<u64>,
    /// Unix seconds of its last use; 0 before the first.
    pub last_used: AtomicU64,
}

impl NamedCredential {
    /// The hash of the secret that was issued last.
    pub fn hash(&self) -> &SecretHash {
        match &self.standing {
            Standing::Active(hash) | Standing::Invited { hash, .. } => hash,
        }
    }

    /// The secret before this one, if it is valid at `now`.
    pub fn replaced(&self, now: u64) -> Option<&Replaced> {
        self.replaced.as_ref().filter(|old| !old.is_over.load(Ordering::Relaxed) && now < old.until)
    }

    /// Ends the secret before this one, if it is one that has ended meanwhile: when that of `earlier` was used.
    pub fn end_replaced_with(&self, earlier: &Self) {
        if let (Some(own), Some(other)) = (&self.replaced, &earlier.replaced)
            && own.version == other.version
            && other.is_over()
        {
            own.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// The invitation to replace its secret, if it is valid at `now`.
    pub fn invitation(&self, now: u64) -> Option<&Invitation> {
        self.invitation.as_ref().filter(|invitation| now < invitation.until)
    }

    /// The versions of the secrets and invitations that are valid at `now`, that of the active secret first.
    pub fn versions(&self, now: u64) -> impl Iterator<Item = u64> {
        let others = [
            self.replaced(now).map(|old| old.version),
            self.invitation(now).map(|invitation| invitation.version),
        ];
        [self.version].into_iter().chain(others.into_iter().flatten())
    }

    /// Whether it has expired at `now`, in Unix seconds.
    pub fn has_ended(&self, now: u64) -> bool {
        let ends = self.expires_at.is_some_and(|end| end <= now);
        match self.standing {
            Standing::Active(_) => ends,
            Standing::Invited { until, .. } => ends || until <= now,
        }
    }

    /// Whether it is an active owner of the whole KMS that does not expire.
    pub fn is_lasting_owner(&self) -> bool {
        self.role == Role::Owner
            && self.domain.is_none()
            && self.expires_at.is_none()
            && matches!(self.standing, Standing::Active(_))
    }

    /// Whether the credential is that of an owner of the whole KMS, also after its end: time must not take an owner away. An invitation
    /// counts until it ends.
    pub fn counts_as_owner(&self, now: u64) -> bool {
        let is_counted = match self.standing {
            Standing::Active(_) => true,
            Standing::Invited { .. } => !self.has_ended(now),
        };
        self.role == Role::Owner && self.domain.is_none() && is_counted
    }
}
