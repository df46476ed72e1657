//! Why an invitation is not valid, or was not changed.

use std::io;

use kms_wire::join::DeadInvitation;

use super::MAX_OPEN;
use crate::audit::AuditError;
use crate::error::Code;
use crate::operator::named::NoRandomNumbers;
use crate::state::MAX_LABEL;
use crate::state::shared::Unshared;

/// Why an invitation is not valid, or was not changed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Too many wait.
    #[error("{MAX_OPEN} invitations wait for their replicas, the maximum: cancel one first")]
    Full,
    /// A time that is not allowed.
    #[error("valid_for must be from 1 to 900 seconds")]
    Validity,
    /// A label that is not allowed.
    #[error("label must have at most {MAX_LABEL} bytes and no control characters")]
    Label,
    /// No random numbers.
    #[error("no invitation was made: {0}")]
    Random(#[source] NoRandomNumbers),
    /// The audit log could not be written.
    #[error("no invitation was made: the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// The file could not be written.
    #[error("the invitation was not changed: joins.json of the key directory cannot be written: {0}")]
    NotKept(#[source] io::Error),
    /// It is changed, and the disk does not say that it stays so.
    #[error(
        "the invitation was changed, but the key directory cannot be synced, so it may be as before if the machine stops: {0}"
    )]
    Unsynced(#[source] io::Error),
    /// The state that the nodes of a fleet share could not be changed.
    #[error("{}", .0.after("the invitation was not changed"))]
    NotShared(#[from] Unshared),
    /// There is none with this id.
    #[error("there is no invitation {0}; it may be forgotten, after a week")]
    Unknown(String),
    /// The token is wrong.
    #[error("the join token is wrong: no invitation of this KMS has it")]
    Wrong,
    /// Too many tokens are being compared.
    #[error("too many join tokens are being checked, try again")]
    Busy,
    /// It is unknown whether another node has made it.
    #[error("this node does not know now which invitations other nodes have made, try again")]
    NotSeen,
    /// Its time is over.
    #[error("the invitation has expired: an owner invites the replica again")]
    Expired,
    /// An owner has cancelled it.
    #[error("the invitation was cancelled")]
    Cancelled,
    /// The keys were handed over.
    #[error(
        "the invitation is used up: the root keys were sent to a replica by it; if that has none, an owner invites it again"
    )]
    Used,
    /// Another machine has used it.
    #[error(
        "the invitation belongs to another machine, or to an earlier run of this one, which used it first; an owner invites the \
         replica again"
    )]
    UsedByAnother,
    /// A report of a machine that got no keys.
    #[error("no root keys were sent by this invitation")]
    NoKeys,
    /// A report after the last time.
    #[error("the report comes too late, an hour after the keys were sent")]
    Late,
}

impl JoinError {
    /// Whose fault it is.
    pub fn class(&self) -> Code {
        match self {
            Self::Validity | Self::Label | Self::Unknown(_) => Code::InvalidRequest,
            Self::Wrong => Code::Unauthenticated,
            Self::Expired
            | Self::Cancelled
            | Self::Used
            | Self::UsedByAnother
            | Self::NoKeys
            | Self::Late => Code::Denied,
            Self::Full => Code::Conflict,
            Self::Busy
            | Self::NotSeen
            | Self::Random(_)
            | Self::NotRecorded(_)
            | Self::NotKept(_)
            | Self::Unsynced(_)
            | Self::NotShared(_) => Code::Unavailable,
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full => "joins_full",
            Self::Validity | Self::Label => "invalid_request",
            Self::Random(_) => "internal",
            Self::NotRecorded(_) => "audit_unavailable",
            Self::NotKept(_) => "join_not_kept",
            Self::Unsynced(_) => "join_not_synced",
            Self::NotShared(_) | Self::NotSeen => "state_unavailable",
            Self::Unknown(_) => DeadInvitation::Forgotten.code(),
            Self::Wrong => DeadInvitation::Wrong.code(),
            Self::Busy => "join_busy",
            Self::Expired => DeadInvitation::Expired.code(),
            Self::Cancelled => DeadInvitation::Cancelled.code(),
            Self::Used => DeadInvitation::Used.code(),
            Self::UsedByAnother => DeadInvitation::UsedByAnother.code(),
            Self::NoKeys => "join_no_keys",
            Self::Late => "join_late",
        }
    }
}
