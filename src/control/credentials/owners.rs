//! How many owners there are, and which credentials of theirs must stay.

use super::CredentialError;
use crate::operator::Credentials;
use crate::operator::named::{Directory, NamedCredential};

/// How many owners that do not expire are in the configuration and in `directory`.
pub(super) fn lasting_owners(configured: &Credentials, directory: &Directory) -> usize {
    let named = directory.values().filter(|credential| credential.is_lasting_owner());
    configured.count_configured_owners() + named.count()
}

/// How many owners the two-person rule counts, in the configuration and in `directory`.
pub(super) fn counted_owners(configured: &Credentials, directory: &Directory, now: u64) -> usize {
    let named = directory.values().filter(|credential| credential.counts_as_owner(now));
    configured.count_configured_owners() + named.count()
}

/// Whether the credential has to stay in the directory: without an owner that has ended, the one who is left would count as
/// the only one, and could make another alone.
pub(super) fn must_stay(credential: &NamedCredential, now: u64) -> bool {
    !credential.has_ended(now) || credential.counts_as_owner(now)
}

/// Checks that enough owners are left in the configuration and in `rest`, which is a directory without `old`.
pub(super) fn expect_enough_owners(
    old: &NamedCredential,
    configured: &Credentials,
    rest: &Directory,
    least: usize,
    now: u64,
) -> Result<(), CredentialError> {
    let is_one_of_two = old.counts_as_owner(now) && counted_owners(configured, rest, now) < least;
    if is_one_of_two && least > 1 && !old.is_lasting_owner() {
        return Err(CredentialError::LastTwo(old.name.clone()));
    }
    match old.is_lasting_owner() && lasting_owners(configured, rest) < least {
        true if least > 1 => Err(CredentialError::LastTwoOwners(old.name.clone())),
        true => Err(CredentialError::LastOwner(old.name.clone())),
        false => Ok(()),
    }
}
