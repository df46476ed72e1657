//! Why a bundle is not taken.

use std::io;
use std::time::Duration;

use kms_policy::bundle::{BundleDigest, BundleError};

use crate::audit::AuditError;
use crate::clock::rfc3339;

/// Why a bundle is not taken, or not put in force. Nothing has changed then, except for [`OfferError::Unsynced`].
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// Its form, its signatures, its domain or its policy.
    #[error("{0}")]
    Bundle(#[from] BundleError),
    /// A bundle with a higher serial was seen.
    #[error("the bundle has serial {serial}, and {highest} was seen before: serials only grow")]
    Rollback {
        /// Its serial.
        serial: u64,
        /// The highest that was seen.
        highest: u64,
    },
    /// Its serial is much higher than all that were seen.
    #[error(
        "the bundle has serial {serial}, much higher than {highest}, the highest that was seen: sign it with the next serial, or set \
         core.auth_api.bundle.minimum_serial near it"
    )]
    TooFarAhead {
        /// Its serial.
        serial: u64,
        /// The highest that was seen.
        highest: u64,
    },
    /// It contradicts a bundle that was seen.
    #[error(
        "the bundle with serial {serial} contradicts {known}, which was seen before: its signers have signed two policies"
    )]
    Fork {
        /// Its serial.
        serial: u64,
        /// The digest of the bundle that it contradicts.
        known: String,
    },
    /// The configuration wants a higher serial.
    #[error("the bundle has serial {serial}, and core.auth_api.bundle.minimum_serial is {minimum}")]
    BelowMinimum {
        /// Its serial.
        serial: u64,
        /// The lowest that is used.
        minimum: u64,
    },
    /// It has expired.
    #[error("the bundle has expired at {}", rfc3339(*.0))]
    Expired(u64),
    /// It is not valid yet.
    #[error("the bundle is valid from {} on", rfc3339(*.0))]
    NotYetValid(u64),
    /// No bundle with this digest waits.
    #[error("no bundle with the digest {0} waits: see kmsctl policy history")]
    NotPending(BundleDigest),
    /// The disk does not take it.
    #[error("the key directory does not take the bundle; nothing was changed")]
    Disk(#[source] io::Error),
    /// It is taken or in force, and the disk does not say that it stays so.
    #[error(
        "it is done, but the key directory cannot be synced, so it may be lost if the machine stops: push the bundle again then"
    )]
    Unsynced(#[source] io::Error),
    /// The audit log does not take the record.
    #[error("the audit log does not take the record; nothing was changed")]
    Audit(#[source] AuditError),
    /// A thread ended in a panic.
    #[error("the check of the bundle ended in a panic")]
    Panic,
}

/// When it is tried again to put a bundle in force that a full disk or the audit log has kept from it: each attempt is a record.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(30);

impl OfferError {
    /// After which pause from `now`, in Unix seconds, the same request may succeed; `None` if it cannot without a change.
    pub(super) fn pause(&self, now: u64) -> Option<Duration> {
        match self {
            // Not much later if the clock is set.
            Self::NotYetValid(not_before) => {
                Some(Duration::from_secs(not_before.saturating_sub(now).clamp(1, 60)))
            }
            Self::Disk(_) | Self::Audit(_) | Self::NotPending(_) | Self::Panic => Some(TRY_AGAIN),
            Self::Bundle(_)
            | Self::Rollback { .. }
            | Self::TooFarAhead { .. }
            | Self::Fork { .. }
            | Self::BelowMinimum { .. }
            | Self::Expired(_)
            | Self::Unsynced(_) => None,
        }
    }

    /// A stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bundle(error) => error.code(),
            Self::Rollback { .. } | Self::BelowMinimum { .. } => "bundle_serial_too_low",
            Self::TooFarAhead { .. } => "bundle_serial_too_high",
            Self::Fork { .. } => "bundle_forked",
            Self::Expired(_) => "bundle_expired",
            Self::NotYetValid(_) => "bundle_not_yet_valid",
            Self::NotPending(_) => "bundle_not_pending",
            Self::Unsynced(_) => "bundle_not_synced",
            Self::Disk(_) => "bundle_not_saved",
            Self::Audit(_) => "audit_log_unavailable",
            Self::Panic => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_tried_again_when_it_becomes_valid() {
        for (now, pause) in [(1000, 1), (999, 1), (990, 10), (940, 60), (0, 60), (1001, 1)] {
            assert_eq!(OfferError::NotYetValid(1000).pause(now), Some(Duration::from_secs(pause)), "{now}");
        }
        assert_eq!(OfferError::Panic.pause(0), Some(TRY_AGAIN));
        assert_eq!(OfferError::Expired(1000).pause(0), None);
    }
}
