//! Why this KMS may not serve: denied, or unknown.

use kms_attest::verify::VerifyError;
use kms_policy::{Denial, DenialCode};

use super::own::OwnEvidenceError;

/// The peer's text if there is no own evidence.
const NO_BOOT_INFO: &str = "failed to build local KMS boot info";
/// The peer's text if the backend does not respond.
const NO_CHECK: &str = "failed to call KMS auth check: the authorization backend does not answer";

/// Why this KMS may not serve.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SelfRefusal {
    /// Policy denies it, or its own evidence is refused.
    #[error("{}", .0.reason())]
    Denied(SelfDenial),
    /// It is not known whether it may.
    #[error("{}", missing.words())]
    Unknown {
        /// What does not respond.
        missing: Missing,
        /// The cause, for the log only.
        detail: String,
    },
}

/// Why policy or the verification of our own evidence denies this KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfDenial {
    /// For metrics and machines.
    pub code: SelfDenialCode,
    /// The code of the policy, if that denies it.
    pub denied: Option<DenialCode>,
    /// The reason of the policy, or the error of the verification.
    pub cause: String,
    /// The expected value, for operators.
    pub expected: Option<String>,
    /// The value that was found, for operators.
    pub actual: Option<String>,
}

/// The code of a [`SelfDenial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SelfDenialCode {
    /// Policy denies it.
    NotAllowed,
    /// The allowlist is missing or invalid, so it denies everything.
    AllowlistUnusable,
    /// Its own evidence does not verify.
    EvidenceRefused,
}

impl SelfDenialCode {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAllowed => "kms_not_allowed",
            Self::AllowlistUnusable => DenialCode::AllowlistUnusable.name(),
            Self::EvidenceRefused => "own_evidence_refused",
        }
    }
}

impl From<DenialCode> for SelfDenialCode {
    fn from(code: DenialCode) -> Self {
        match code {
            DenialCode::AllowlistUnusable => Self::AllowlistUnusable,
            DenialCode::TcbStatus
            | DenialCode::Advisory
            | DenialCode::OsImage
            | DenialCode::KmsMeasurement
            | DenialCode::Device
            | DenialCode::AppNotRegistered
            | DenialCode::ComposeHash
            | DenialCode::AppNotDeployed
            | DenialCode::InvalidRequest
            | DenialCode::GuestHasBooted
            | DenialCode::EpochTooNew
            | DenialCode::EpochNotReadable
            | DenialCode::EpochNotActive
            | DenialCode::EpochRetired
            | DenialCode::EpochDestroyed
            | DenialCode::EpochUnknown
            | DenialCode::Backend => Self::NotAllowed,
        }
    }
}

impl SelfDenial {
    pub(super) fn denied(denial: Denial) -> Self {
        let Denial { code, reason, expected, actual } = denial;
        Self { code: code.into(), denied: Some(code), cause: reason, expected, actual }
    }

    pub(super) fn unproven(error: &VerifyError) -> Self {
        let code = SelfDenialCode::EvidenceRefused;
        Self { code, denied: None, cause: error.to_string(), expected: None, actual: None }
    }

    /// The text for callers.
    pub fn reason(&self) -> String {
        let what = match self.code {
            SelfDenialCode::NotAllowed | SelfDenialCode::AllowlistUnusable => "KMS is not allowed",
            SelfDenialCode::EvidenceRefused => NO_BOOT_INFO,
        };
        format!("{what}: {}", self.cause)
    }
}

/// Why it is unknown whether this KMS may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The policy does not respond.
    Policy,
    /// The attester returns no usable evidence.
    Evidence,
    /// No collateral to verify our evidence with.
    Collateral,
    /// Our clock is behind a time that is known to be past.
    Clock,
    /// The policy depends on the OS image of this KMS, which cannot be compared.
    OsImage,
}

impl Missing {
    pub(super) fn of(error: &OwnEvidenceError) -> Self {
        match error {
            OwnEvidenceError::Verify(VerifyError::Clock(_)) => Self::Clock,
            OwnEvidenceError::Verify(_) => Self::Collateral,
            OwnEvidenceError::Attester(_) | OwnEvidenceError::Identity(_) => Self::Evidence,
        }
    }

    /// The cause in one or two words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Policy => "no decision",
            Self::Evidence => "no evidence",
            Self::Collateral => "no collateral",
            Self::Clock => "clock behind",
            Self::OsImage => "no OS image",
        }
    }

    /// The peer's text.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Policy => NO_CHECK,
            Self::Evidence | Self::Collateral | Self::Clock | Self::OsImage => NO_BOOT_INFO,
        }
    }
}
