//! Why credentials cannot be opened or changed.

use std::io;

use super::{MAX_CREDENTIALS, SHARE_OF_DOMAIN};
use crate::audit::AuditError;
use crate::operator::BadHtpasswd;
use crate::operator::named::{CredentialName, NoRandomNumbers};
use crate::state::CredentialFileError;
use crate::state::shared::Unshared;
use kms_attest::identity::DomainName;

/// Why a change failed, or took effect only in part.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// No credential has this name.
    #[error("there is no credential named {0}")]
    Unknown(CredentialName),
    /// The name is taken.
    #[error("there is a credential named {0} already; rotate it, or revoke it first")]
    Exists(CredentialName),
    /// A user of the htpasswd file has the name.
    #[error("{0} is a user of the htpasswd file; choose another name")]
    IsUser(CredentialName),
    /// There are as many credentials as allowed already.
    #[error("there are {MAX_CREDENTIALS} credentials, which is the most; revoke some")]
    Full,
    /// The domain to which the changer is limited has its share.
    #[error(
        "the domain {0} has {SHARE_OF_DOMAIN} credentials; revoke some, or ask an owner of the whole KMS"
    )]
    ShareFull(DomainName),
    /// Without it no owner would be left to manage credentials.
    #[error("{0} is the last credential of an owner without an end; create another one first")]
    LastOwner(CredentialName),
    /// It is the credential of an owner, which was not known when the change was requested.
    #[error("nothing was changed: the credential is an owner's, or another one than it was; try again")]
    OfOwner,
    /// Fewer than two owners without an end would be left, and changes of theirs need two.
    #[error("{0} is one of the last two owners without an end; create another one first")]
    LastTwoOwners(CredentialName),
    /// Fewer than two owners would be left, and changes of theirs need two.
    #[error("{0} is one of the last two owners, who count after their end too; create another one first")]
    LastTwo(CredentialName),
    /// An owner had the name: without it, the one who is left would count as the only owner.
    #[error("{0} was an owner, and counts as one after its end; revoke it first, or choose another name")]
    WasOwner(CredentialName),
    /// Only an owner of the whole KMS can have a secret that is chosen.
    #[error("{0} is not an owner of the whole KMS; revoke it first")]
    NotOwner(CredentialName),
    /// The credential that asks for the change is limited to a domain, and the one to be changed is not in it.
    #[error("your credential is limited to the domain {0}, so it changes only credentials of this domain")]
    OtherDomain(DomainName),
    /// Its end is in the past.
    #[error("expires_at must be later than now, {now}, got {expires_at}")]
    Ended {
        /// Unix seconds.
        expires_at: u64,
        /// Unix seconds.
        now: u64,
    },
    /// The caller's credential was revoked or rotated since the request began.
    #[error("nothing was changed: the credential that asks for it does not count any more")]
    NotLive,
    /// The invitation was used or has expired.
    #[error("the invitation is not valid any more; ask for another one")]
    NotInvited,
    /// No random numbers for a secret.
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
    /// The audit log could not be written; nothing was changed.
    #[error("nothing was changed: the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// The file could not be written; nothing was changed.
    #[error("nothing was changed: the file of credentials cannot be written: {0}")]
    NotKept(#[source] io::Error),
    /// Revoked in memory, but valid again after a restart.
    #[error(
        "the credential does not count any more, but it would again after a restart: its file cannot be written: {0}; \
         revoke it again"
    )]
    RevokedNotKept(#[source] io::Error),
    /// Revoked, but without a record.
    #[error(
        "the credential does not count any more, but the audit log does not take the record: {0}; revoke it again"
    )]
    RevokedNotRecorded(#[source] AuditError),
    /// The state that the nodes of a fleet share could not be changed.
    #[error("{}", .0.after("nothing was changed"))]
    NotShared(#[from] Unshared),
    /// The task panicked.
    #[error("the change ended in a panic")]
    Panicked,
}

/// Why the credentials cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] CredentialFileError),
    /// The first owner's token could not be shown.
    #[error("the token of the first owner cannot be printed to standard output, so nobody would know it")]
    NotShown(#[source] io::Error),
    /// The file with the first owner cannot be written.
    #[error(
        "the file that core.admin.credentials_file names cannot be written, so the first owner cannot be made"
    )]
    NotKept(#[source] io::Error),
    /// The audit log could not record the first owner.
    #[error("the first owner cannot be made: the audit log does not take the record")]
    NotRecorded(#[source] AuditError),
    /// The htpasswd file with the first owner cannot be written.
    #[error(
        "the file that core.admin.htpasswd_file names is missing and cannot be written, so the first owner cannot be made"
    )]
    UsersNotKept(#[source] io::Error),
    /// The htpasswd file is missing although there is another owner, so that it is not made.
    #[error("the file that core.admin.htpasswd_file names is missing; restore it, or do not name it")]
    UsersMissing,
    /// The line of the first owner is invalid.
    #[error("core.admin.htpasswd_file: {0}")]
    Htpasswd(#[source] BadHtpasswd),
    /// The password of the first owner cannot be hashed.
    #[error("the password of the first owner cannot be hashed")]
    Hash(#[source] bcrypt::BcryptError),
    /// There is no randomness for a secret.
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
    /// A name is both a named credential and an htpasswd user.
    #[error(
        "{0} is a credential in the file that core.admin.credentials_file names, and a user of the htpasswd file; rename the \
         user"
    )]
    IsUser(CredentialName),
    /// There was a file, and it is missing.
    #[error(
        "the file that core.admin.credentials_file names is gone, and this KMS has had credentials; restore it, set \
         core.admin.auth_token, or remove credentials-created from the key directory to begin with a new owner"
    )]
    Gone,
    /// Neither the file nor the configuration has an owner that does not expire.
    #[error(
        "no credential of an owner without an end is in the file that core.admin.credentials_file names, so nobody could \
         manage this KMS; set core.admin.auth_token, or remove the file, and credentials-created from the key \
         directory, to begin with a new owner"
    )]
    NoOwner,
}
