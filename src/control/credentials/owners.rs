//! How many owners there are, and which credentials of theirs must stay.

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
