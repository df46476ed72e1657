//! How many credentials there may be: of all, and of one domain.

use kms_attest::identity::DomainName;

use super::owners::must_stay;
use super::{CredentialError, MAX_CREDENTIALS, SHARE_OF_DOMAIN};
use crate::operator::named::{CredentialName, Directory, NamedCredential};

/// Checks that a directory has room for a credential of this name.
pub(super) fn expect_room(
    directory: &Directory,
    name: &CredentialName,
    now: u64,
) -> Result<(), CredentialError> {
    match others(directory, name, now).count() {
        others if others >= MAX_CREDENTIALS => Err(CredentialError::Full),
        _ => Ok(()),
    }
}

/// Checks that one domain does not take the room of the others.
pub(super) fn expect_share(
    directory: &Directory,
    name: &CredentialName,
    own: &DomainName,
    now: u64,
) -> Result<(), CredentialError> {
    match others(directory, name, now).filter(|it| it.domain.as_ref() == Some(own)).count() {
        others if others >= SHARE_OF_DOMAIN => Err(CredentialError::ShareFull(own.clone())),
        _ => Ok(()),
    }
}

/// What stays beside a credential of this name.
fn others<'a>(
    directory: &'a Directory,
    name: &'a CredentialName,
    now: u64,
) -> impl Iterator<Item = &'a NamedCredential> {
    directory.values().map(|it| &**it).filter(move |it| it.name != *name && must_stay(it, now))
}
