//! Why a freeze or its end was not made.

use std::sync::Arc;

use super::scope::ScopeError;
use super::{Freeze, MAX_FREEZES, SHARE_OF_OPERATORS};
use crate::audit::AuditError;
use crate::state::shared::Unshared;

/// Why a freeze or an unfreeze failed, wholly or in part.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// It would end before the freeze that is in force.
    #[error(
        "it is frozen already until {}, by {} ({}); nothing was changed. To let it end earlier, set replace",
        end(earlier), earlier.author.by, earlier.reason
    )]
    Shortens {
        /// The one in force.
        earlier: Arc<Freeze>,
    },
    /// As [`FreezeError::Shortens`], and other nodes may have ended the one in force here, which is kept.
    #[error(
        "it is frozen already until {}, by {} ({}), which stays; whether the other nodes have that freeze is not known now ({why}), \
         and they get it as soon as possible",
        end(earlier), earlier.author.by, earlier.reason
    )]
    ShortensHere {
        /// The one in force.
        earlier: Arc<Freeze>,
        /// Why it is not known.
        why: Unshared,
    },
    /// Too many freezes are in force.
    #[error("{MAX_FREEZES} freezes are in force, the maximum; nothing was changed")]
    Full,
    /// Too many freezes are in force to add one without the role owner.
    #[error(
        "{SHARE_OF_OPERATORS} freezes are in force: only an owner can add more. The whole KMS can still be frozen; \
         nothing was changed"
    )]
    ShareFull,
    /// In force, but only until this process ends.
    #[error("it is frozen now, but the file that keeps freezes over restarts cannot be written: {0}")]
    NotKept(#[source] std::io::Error),
    /// In force and saved, but not in the audit log.
    #[error("it is frozen now and after a restart, but the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// In force, but only until this process ends, and not in the audit log.
    #[error(
        "it is frozen now, but the file that keeps freezes over restarts cannot be written: {kept}; and the audit log \
         does not take the record: {recorded}"
    )]
    NeitherKeptNorRecorded {
        /// Why it is not saved.
        #[source]
        kept: std::io::Error,
        /// Why it is not recorded.
        recorded: AuditError,
    },
    /// Another freeze than the one whose end was approved.
    #[error(
        "it is still frozen: not the freeze whose end was approved is in force, but one by {} ({})",
        current.author.by, current.reason
    )]
    Changed {
        /// The one in force.
        current: Arc<Freeze>,
    },
    /// The scope is not one.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// An unfreeze that cannot be recorded does not happen.
    #[error("it is still frozen: the audit log does not take the record: {0}")]
    UnfreezeNotRecorded(#[source] AuditError),
    /// An unfreeze that cannot be saved does not happen.
    #[error("it is still frozen: the file that keeps freezes over restarts cannot be written: {0}")]
    UnfreezeNotKept(#[source] std::io::Error),
    /// It is no longer frozen, and the disk does not say that it stays so.
    #[error(
        "it is no longer frozen, but the directory of the file that keeps freezes cannot be synced, so the freeze may be back if \
         the machine stops: {0}"
    )]
    UnfreezeUnsynced(#[source] std::io::Error),
    /// It is no longer frozen on any node, but the disk does not say so.
    #[error(
        "it is no longer frozen, but the file that keeps freezes over restarts cannot be written, so the freeze may be back after \
         a restart: {0}"
    )]
    UnfreezeLeftOnDisk(#[source] std::io::Error),
    /// Another operator froze it while it was being unfrozen.
    #[error(
        "it is still frozen: it was frozen again meanwhile; in force is the freeze by {} ({})",
        current.author.by, current.reason
    )]
    FrozenAgain {
        /// The one in force.
        current: Arc<Freeze>,
    },
    /// Whether other nodes have frozen it is not known.
    #[error(
        "it is not frozen on this node, and whether it is on another one is not known now: the shared state was not read in time. \
         Nothing was changed: try again, or ask another node"
    )]
    NotSeen,
    /// An unfreeze that is not in the state of the fleet does not happen.
    #[error("{}", .0.after("it is still frozen"))]
    UnfreezeNotShared(#[from] Unshared),
}

fn end(freeze: &Freeze) -> String {
    freeze.expires_at.map_or("it is taken back".to_owned(), |end| format!("{end} (Unix seconds)"))
}
