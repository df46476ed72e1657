//! A change of a credential: who makes it, what it asks for, and what it gives.

use std::sync::Arc;

use kms_attest::identity::DomainName;
use kms_wire::role::Role;
use zeroize::Zeroizing;

use super::super::Author;
use super::super::approvals::{OwnerChange, OwnerCredential};
use super::INVITATION;
use super::error::CredentialError;
use crate::operator::Operator;
use crate::operator::named::{CredentialName, NamedCredential, SecretHash};

/// How the holder of a new credential gets its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issue {
    /// The response contains it.
    Secret,
    /// The response contains a token that can be exchanged for it once, within [`INVITATION`] seconds.
    Invitation,
}

impl Issue {
    /// The end of the invitation, if it is one.
    pub(super) fn until(self, now: u64) -> Option<u64> {
        match self {
            Self::Secret => None,
            Self::Invitation => Some(now.saturating_add(INVITATION)),
        }
    }
}

/// A credential to be created.
#[derive(Debug)]
pub struct NewCredential {
    /// Its name.
    pub name: CredentialName,
    /// What it may do.
    pub role: Role,
    /// The domain to which it is limited; `None` for the whole KMS.
    pub domain: Option<DomainName>,
    /// Unix seconds at which it ends by itself.
    pub expires_at: Option<u64>,
    /// How its holder gets the secret.
    pub issue: Issue,
}

/// The result of a change. The token is shown once and not stored.
#[derive(Debug)]
pub struct Issued {
    /// The credential after the change.
    pub credential: Arc<NamedCredential>,
    /// The token of its holder.
    pub token: Zeroizing<String>,
}

/// The operator that requests a change. Checked again when the change has the file.
#[derive(Debug)]
pub struct Changer {
    /// The operator, with the version of its secret.
    pub operator: Operator,
    /// The same for the audit log.
    pub author: Author,
    /// Which change of an owner's credential was approved.
    pub(in super::super) owner_change: Option<OwnerChange>,
}

impl Changer {
    /// An operator who changes no owner's credential.
    pub fn new(operator: Operator, author: Author) -> Self {
        Self { operator, author, owner_change: None }
    }

    /// Checks that this change of an owner's credential was approved.
    pub(super) fn expect_approval(&self, change: &OwnerCredential) -> Result<&OwnerChange, CredentialError> {
        let approved = self.owner_change.as_ref().filter(|approved| approved.is(change));
        approved.ok_or(CredentialError::OfOwner)
    }
}

/// A secret that an owner has chosen.
#[derive(Debug)]
pub struct OwnerSecret {
    /// The name of the owner who will have it.
    pub name: CredentialName,
    /// Its hash.
    pub hash: SecretHash,
    /// When the credential was created, if there is one.
    pub created_at: Option<u64>,
}

impl Changer {
    /// Checks that the operator may change credentials that are limited to `domain`.
    ///
    /// # Errors
    /// The operator is limited to another domain.
    pub fn expect_covers(&self, domain: Option<&DomainName>) -> Result<(), CredentialError> {
        match self.operator.domain() {
            Some(own) if domain != Some(own) => Err(CredentialError::OtherDomain(own.clone())),
            Some(_) | None => Ok(()),
        }
    }
}
