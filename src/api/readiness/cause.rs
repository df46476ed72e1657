//! What stops the release of keys, or will soon.

use kms_policy::DenialCode;

use crate::state::shared::SplitKind;

/// What stops the release of keys, or will soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Onboarding is not finished.
    NoKeys,
    /// The policy does not respond.
    PolicyUnavailable,
    /// The allowlist is missing or invalid.
    AllowlistUnusable,
    /// The policy denies this KMS.
    KmsNotAllowed,
    /// The attester gives no usable evidence of this KMS.
    OwnEvidenceUnavailable,
    /// The evidence of this KMS does not verify.
    OwnEvidenceRefused,
    /// No collateral to verify evidence with.
    CollateralUnavailable,
    /// Releases cannot be recorded.
    AuditLogUnavailable,
    /// The clock is behind dates that have certainly passed.
    Clock,
    /// An operator has frozen everything.
    Frozen,
    /// An operator drains this KMS.
    Draining,
    /// The disk of the audit log is nearly full.
    DiskNearlyFull,
    /// The key directory is older than the audit log says.
    EpochsLost,
    /// There is no recovery set, it lacks root keys, or it was not proved for long.
    Recovery,
    /// The signed bundle in force expires soon, or has expired.
    PolicyExpires,
    /// A signed bundle came that contradicts what was seen before.
    PolicyFork,
    /// A new signed bundle would deny what is allowed, so it waits for an operator.
    PolicyHeld,
    /// The policy of a domain cannot decide; the others can.
    DomainPolicyUnavailable,
    /// No service gives newer collateral; what is kept is used.
    CollateralNotRefreshed,
    /// What was changed on other nodes may be unknown here.
    StateStale,
    /// The same, where the configuration says that releases go on.
    StateNotFresh,
    /// The shared state is not as it was.
    StateRolledBack,
    /// There is something in the fleet that must not be.
    Fleet(SplitKind),
}

/// The effect of a cause on the release of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is released.
    Stops,
    /// Keys are released to callers that still arrive; load balancers send them elsewhere.
    Drains,
    /// Keys are released, but an operator should act.
    Warns,
}

impl Cause {
    /// All causes, in the order in which they are reported.
    pub const ALL: [Self; 28] = [
        Self::NoKeys,
        Self::Frozen,
        Self::AllowlistUnusable,
        Self::PolicyUnavailable,
        Self::KmsNotAllowed,
        Self::OwnEvidenceUnavailable,
        Self::OwnEvidenceRefused,
        Self::CollateralUnavailable,
        Self::AuditLogUnavailable,
        Self::Clock,
        Self::StateStale,
        Self::EpochsLost,
        Self::Draining,
        Self::DiskNearlyFull,
        Self::Recovery,
        Self::DomainPolicyUnavailable,
        Self::PolicyFork,
        Self::PolicyHeld,
        Self::PolicyExpires,
        Self::StateRolledBack,
        Self::Fleet(SplitKind::Roots),
        Self::Fleet(SplitKind::Domains),
        Self::Fleet(SplitKind::Policies),
        Self::Fleet(SplitKind::Ledger),
        Self::Fleet(SplitKind::Cloned),
        Self::Fleet(SplitKind::Clock),
        Self::StateNotFresh,
        Self::CollateralNotRefreshed,
    ];

    /// The stable name, which is also the code of a refusal for this cause.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoKeys => "no_keys",
            Self::PolicyUnavailable => "policy_unavailable",
            Self::AllowlistUnusable => DenialCode::AllowlistUnusable.name(),
            Self::KmsNotAllowed => "kms_not_allowed",
            Self::OwnEvidenceUnavailable => "own_evidence_unavailable",
            Self::OwnEvidenceRefused => "own_evidence_refused",
            Self::CollateralUnavailable => "collateral_unavailable",
            Self::AuditLogUnavailable => "audit_log_unavailable",
            Self::Clock => "clock",
            Self::Frozen => "frozen",
            Self::Draining => "draining",
            Self::DiskNearlyFull => "disk_nearly_full",
            Self::EpochsLost => "epochs_lost",
            Self::Recovery => "recovery",
            Self::PolicyExpires => "policy_expires",
            Self::PolicyFork => "policy_fork",
            Self::PolicyHeld => "policy_held",
            Self::DomainPolicyUnavailable => "domain_policy_unavailable",
            Self::CollateralNotRefreshed => "collateral_not_refreshed",
            Self::StateStale => "state_stale",
            Self::StateNotFresh => "state_not_fresh",
            Self::StateRolledBack => "state_rolled_back",
            Self::Fleet(kind) => kind.name(),
        }
    }

    /// A sentence that anyone may read: it contains no address, path or other internal.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoKeys => "this KMS does not serve keys yet: onboarding is not finished",
            Self::PolicyUnavailable => "the authorization backend does not answer",
            Self::AllowlistUnusable => "the allowlist is missing or invalid, so everything is denied",
            Self::KmsNotAllowed => "the policy does not allow this KMS itself",
            Self::OwnEvidenceUnavailable => "the attester of this KMS gives no usable evidence",
            Self::OwnEvidenceRefused => "the evidence of this KMS itself does not verify",
            Self::CollateralUnavailable => "there is no valid collateral to verify evidence with",
            Self::AuditLogUnavailable => "the audit log cannot be written, so nothing is released",
            Self::Clock => "the clock is wrong: it is behind what is known to be past",
            Self::Frozen => "an operator has frozen this KMS",
            Self::Draining => "an operator drains this KMS: send requests to another one",
            Self::DiskNearlyFull => "little disk space is left for the audit log",
            Self::EpochsLost => {
                "the key directory is older than the audit log: root epochs are missing, or retired ones are back"
            }
            Self::Recovery => "the recovery of the root keys needs an owner: a set, or a drill of it",
            Self::PolicyExpires => "the signed policy expires soon, or has expired",
            Self::PolicyHeld => {
                "a new signed policy would deny what is allowed now, so it waits for an operator"
            }
            Self::PolicyFork => {
                "signers of the policy have signed two that contradict each other; the one in force stays"
            }
            Self::StateStale => {
                "this KMS does not know what operators changed on other nodes, so it releases nothing"
            }
            Self::StateNotFresh => "this KMS may not know what operators changed on other nodes",
            Self::StateRolledBack => "the state that the nodes share is not as it was, so it is not believed",
            Self::Fleet(SplitKind::Roots) => "nodes of the fleet have different root keys",
            Self::Fleet(SplitKind::Domains) => {
                "nodes of the fleet have different domains, so they give apps different keys"
            }
            Self::Fleet(SplitKind::Policies) => "nodes of the fleet decide by different policies",
            Self::Fleet(SplitKind::Ledger) => {
                "the audit log of a node of the fleet is not the one that it was"
            }
            Self::Fleet(SplitKind::Cloned) => {
                "two nodes of the fleet have one id: the disk of a node was copied"
            }
            Self::Fleet(SplitKind::Clock) => "the clocks of nodes of the fleet differ",
            Self::DomainPolicyUnavailable => {
                "the policy of a domain cannot decide, so nothing is released in that domain"
            }
            Self::CollateralNotRefreshed => {
                "no newer collateral is available: what is kept is used until it expires"
            }
        }
    }

    /// Its effect.
    pub fn effect(self) -> Effect {
        match self {
            // Another replica has the newer keys, where there is one.
            Self::Draining | Self::EpochsLost => Effect::Drains,
            Self::DiskNearlyFull
            | Self::Recovery
            | Self::PolicyExpires
            | Self::PolicyFork
            | Self::StateNotFresh
            | Self::StateRolledBack
            | Self::Fleet(_)
            | Self::PolicyHeld
            // Other domains are served: a load balancer must not take this KMS from them.
            | Self::DomainPolicyUnavailable
            | Self::CollateralNotRefreshed => Effect::Warns,
            Self::NoKeys
            | Self::PolicyUnavailable
            | Self::AllowlistUnusable
            | Self::KmsNotAllowed
            | Self::OwnEvidenceUnavailable
            | Self::OwnEvidenceRefused
            | Self::CollateralUnavailable
            | Self::AuditLogUnavailable
            | Self::Clock
            | Self::StateStale
            | Self::Frozen => Effect::Stops,
        }
    }
}
