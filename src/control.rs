//! What operators control and inspect at run time: freezes, refused requests, a candidate allowlist.
//! Admission depends on it only through proofs such as [`NotFrozen`].

mod adopted;
mod app_epochs;
mod approvals;
mod author;
mod bundles;
mod credentials;
mod denials;
mod domains;
mod drain;
mod freeze;
mod joins;
mod recovery;
mod rollout;
mod shadow;
mod store;

pub use self::app_epochs::{
    Adopted, Adoption, AppChoice, AppEpochError, AppEpochs, Difference, Preference, SharedAppEpochs,
};
pub use self::approvals::{
    Accepted, Action, ActivateBundle, ActivatePolicy, Approval, ApprovalError, Approvals, Approved, Consent,
    CreateRecoverySet, EachApproved, EpochAction, FollowedEpoch, FollowedState, ForgetNode, Gate,
    InviteReplica, LowerClockFloor, MoveApp, OwnerChange, OwnerCredential, RepairFleet, ReplaceHtpasswd,
    RestoreDomain, SeenFreeze, StartRollout, State, Unfreeze,
};
pub use self::author::Author;
pub use self::bundles::{
    Activated, BundleKeeper, BundleView, KeeperError, OfferError, Offered, Origin, PendingBundle,
    SharedBundle, SharedSerials, bundle_document, parse_serials,
};
pub use self::credentials::{
    Changer, CredentialError, INVITATION, Issue, Issued, NamedCredentials, NewCredential, OpenError, Opened,
    OwnerSecret, SharedCredentials, WillMakeOwner,
};
pub use self::denials::{
    Concerns, DenialId, Denials, FreshEvidence, Novelty, RefusalRecord, RefusedRequest, Shown,
};
pub use self::domains::{
    ByOperator, Domain, DomainAdoption, DomainChange, DomainError, DomainOrigin, Domains, DomainsDiffer,
    Membership, SharedDomains,
};
pub use self::drain::{Begun, Drain, DrainError, Draining, Ended, SharedDrains};
pub use self::freeze::{
    Earlier, Freeze, FreezeError, Freezes, MAX_FREEZES, MAX_REASON, NotFrozen, RecentApps, Room,
    SHARE_OF_OPERATORS, Scope, ScopeError, SharedFreezes, Stopped, Unfrozen,
};
pub use self::joins::{
    Bound, Claimed, InvitedReplica, JoinError, JoinLabel, Joins, MAX_VALID as MAX_JOIN_VALID, NewJoin,
    REPORTS as JOIN_REPORTS, SharedJoins, Shown as ShownJoinToken,
};
pub use self::recovery::{CurrentSet, Drill, Recovery, RecoverySets, RetiredSet, Standing};
pub use self::rollout::{
    Begin, Current, Driver, Facts, HookReport, HookSays, LEASE, Moved, NoOrder, NodeFact, Order, OrderError,
    RolloutError, Rollouts, SharedRollout,
};
pub use self::shadow::{CandidateError, CandidateText, Change, Effect, MAX_CANDIDATE, Report, Shadow};
pub use self::store::{Reach, Store};
