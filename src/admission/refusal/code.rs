//! The stable codes of refusals, for metrics, machines and operators.

use kms_policy::DenialCode;

use crate::admission::{DomainDenialCode, SelfDenialCode};

/// Why a request ended without a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// No evidence came.
    NoAttestation,
    /// What came does not decode.
    EvidenceMalformed,
    /// Evidence of a platform that this version does not verify.
    PlatformNotSupported,
    /// It vouches for another key.
    EvidenceNotBound,
    /// An event of a reserved name.
    EventNameNotAllowed,
    /// The events do not replay to the register.
    EventLogMismatch,
    /// An event's content is not what its digest says.
    EventPreimageMismatch,
    /// The quote vouches for other report data.
    ReportDataMismatch,
    /// The quote does not decode.
    QuoteMalformed,
    /// It is not signed by genuine hardware, or is revoked.
    QuoteNotGenuine,
    /// Intel knows no collateral for the platform.
    CollateralNotFound,
    /// The TD can be debugged.
    TdDebug,
    /// Other attributes of the TD.
    TdAttributesNotAllowed,
    /// A TDX module that is not Intel's.
    TdxModuleNotAllowed,
    /// A service TD is bound to the TD.
    ServiceTdBound,
    /// The platform's versions are below every level that Intel lists.
    TcbLevelNotListed,
    /// Intel's verdict is a status that is not known here.
    TcbStatusUnknown,
    /// Intel has revoked the platform's level.
    TcbRevoked,
    /// The evidence verifies, but does not name an app.
    IdentityMalformed,
    /// The request's VM configuration is not that of the evidence.
    VmConfigMismatch,
    /// No fresh evidence came, and it is required.
    FreshEvidenceRequired,
    /// The connection has no session that evidence can be bound to.
    FreshEvidenceNotPossible,
    /// The challenge is not one of this connection, or was used.
    ChallengeUnknown,
    /// The challenge is too old.
    ChallengeExpired,
    /// The fresh evidence is bound to another challenge, connection, key or method.
    FreshEvidenceNotBound,
    /// The fresh evidence is of another guest.
    FreshEvidenceMismatch,
    /// An operator has frozen it.
    Frozen,
    /// Policy said no.
    Denied(DenialCode),
    /// The domain of the caller does not admit it.
    Domain(DomainDenialCode),
    /// The registers are not those of the OS image.
    OsImageNotVerified,
    /// This KMS itself may not serve.
    SelfDenied(SelfDenialCode),
    /// The authorization backend does not answer.
    PolicyUnavailable,
    /// The attester of this KMS gives no usable evidence.
    OwnEvidenceUnavailable,
    /// There is no collateral to verify evidence with.
    CollateralUnavailable,
    /// Our clock is behind what is known to be past.
    Clock,
    /// Releases cannot be recorded.
    AuditLogUnavailable,
    /// What was frozen on other nodes may be unknown here.
    StateStale,
}

impl RefusalCode {
    /// The stable name: `event_log_mismatch`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAttestation => "no_attestation",
            Self::EvidenceMalformed => "evidence_malformed",
            Self::PlatformNotSupported => "platform_not_supported",
            Self::EvidenceNotBound => "evidence_not_bound",
            Self::EventNameNotAllowed => "event_name_not_allowed",
            Self::EventLogMismatch => "event_log_mismatch",
            Self::EventPreimageMismatch => "event_preimage_mismatch",
            Self::ReportDataMismatch => "report_data_mismatch",
            Self::QuoteMalformed => "quote_malformed",
            Self::QuoteNotGenuine => "quote_not_genuine",
            Self::CollateralNotFound => "collateral_not_found",
            Self::TdDebug => "td_debug",
            Self::TdAttributesNotAllowed => "td_attributes_not_allowed",
            Self::TdxModuleNotAllowed => "tdx_module_not_allowed",
            Self::ServiceTdBound => "service_td_bound",
            Self::TcbLevelNotListed => "tcb_level_not_listed",
            Self::TcbStatusUnknown => "tcb_status_unknown",
            Self::TcbRevoked => "tcb_revoked",
            Self::IdentityMalformed => "identity_malformed",
            Self::VmConfigMismatch => "vm_config_mismatch",
            Self::FreshEvidenceRequired => "fresh_evidence_required",
            Self::FreshEvidenceNotPossible => "fresh_evidence_not_possible",
            Self::ChallengeUnknown => "challenge_unknown",
            Self::ChallengeExpired => "challenge_expired",
            Self::FreshEvidenceNotBound => "fresh_evidence_not_bound",
            Self::FreshEvidenceMismatch => "fresh_evidence_mismatch",
            Self::Frozen => "frozen",
            Self::Denied(code) => code.name(),
            Self::Domain(code) => code.name(),
            Self::OsImageNotVerified => "os_image_not_verified",
            Self::SelfDenied(code) => code.name(),
            Self::PolicyUnavailable => "policy_unavailable",
            Self::OwnEvidenceUnavailable => "own_evidence_unavailable",
            Self::CollateralUnavailable => "collateral_unavailable",
            Self::Clock => "clock",
            Self::AuditLogUnavailable => "audit_log_unavailable",
            Self::StateStale => "state_stale",
        }
    }
}
