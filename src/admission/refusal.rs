//! A request that ends without a permit: why, for the caller; and the step, code and values that operators read.

mod code;
mod evidence;
mod step;

use std::sync::Arc;

use kms_attest::clock_floor::ClockBehind;
use kms_attest::identity::Identity;
use kms_attest::verify::{UnidentifiedError, VerifyError};

pub use self::code::RefusalCode;
pub use self::evidence::EvidenceRefusal;
pub use self::step::Step;
use super::{Mismatch, Missing, Relaxations, SelfRefusal, StageRule};
use crate::clock::CLOCK_REMEDY;
use crate::control::Freeze;
use crate::os_image::OsImageError;
use crate::policy::{Denial, DenialCode, PolicyError};

/// Why a caller gets no permit.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No client certificate, or none with an attestation.
    #[error("No attestation provided")]
    NoAttestation,
    /// The evidence in the client certificate does not decode, does not verify, or is not bound to the caller's key.
    #[error("invalid quote: {}", .0.reason)]
    BadEvidence(EvidenceRefusal),
    /// The same of the evidence in a certificate request.
    #[error("Quote verification failed: {}", .0.reason)]
    BadRequest(EvidenceRefusal),
    /// Intel's collateral could not be had: nothing is known about the evidence.
    #[error("the collateral service does not answer, evidence cannot be verified now")]
    CollateralUnavailable(#[source] VerifyError),
    /// Our clock is behind what is known to be past: whether anything is valid now cannot be said.
    #[error("the clock of this KMS is wrong, evidence cannot be verified now")]
    ClockBehind(#[source] ClockBehind),
    /// The evidence verifies, but what it says is not the identity of an app.
    #[error(transparent)]
    Unidentified(#[from] UnidentifiedError),
    /// The request's VM configuration is not the one in the evidence.
    #[error(
        "the vm_config of the request differs from the one in the attestation{}",
        if mismatch.key.is_empty() { String::new() } else { format!(": {}", mismatch.key) }
    )]
    ConfigMismatch {
        /// Where they differ.
        mismatch: Mismatch,
        /// Who it is, by the request's configuration.
        identity: Box<Identity>,
    },
    /// An operator has frozen the caller, or everything. The operator's reason is not the caller's business.
    #[error("Boot denied: frozen by the operator")]
    Frozen {
        /// The freeze.
        frozen: Arc<Freeze>,
        /// Whom it stopped, where that is known.
        identity: Option<Box<Identity>>,
    },
    /// Policy said no.
    #[error("Boot denied: {}", .denial.reason)]
    Denied {
        /// What policy said.
        denial: Denial,
        /// Whom it said it about, as measured.
        identity: Box<Identity>,
        /// Why policy was told something else.
        relaxations: Relaxations,
    },
    /// Policy allowed it, but the guest has booted already, and keys are released before.
    #[error(
        "Boot denied: keys are released to a guest that boots, and this evidence is from after system-ready"
    )]
    AfterBoot {
        /// What says so.
        rule: StageRule,
        /// Who asked, as measured.
        identity: Box<Identity>,
        /// Why policy was told something else.
        relaxations: Relaxations,
    },
    /// The authorization backend did not answer, so nobody is allowed.
    #[error("the authorization backend does not answer")]
    PolicyUnavailable(#[source] PolicyError),
    /// The caller is allowed, but is not known to have booted the OS image that it names.
    #[error("Failed to verify os image hash: {error}")]
    OsImage {
        /// Why not.
        #[source]
        error: OsImageError,
        /// Whom policy allowed, as measured.
        identity: Box<Identity>,
        /// Why policy was told something else.
        relaxations: Relaxations,
    },
    /// This KMS itself may not serve, or it is not known whether it may.
    #[error("KMS self authorization failed: {0}")]
    SelfAuthorization(#[from] SelfRefusal),
}

/// What evidence came in: callers are told of each in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The client certificate of the connection.
    ClientCertificate,
    /// A certificate request.
    CertificateRequest,
}

impl Refusal {
    /// Evidence that cannot be believed, or not now.
    pub fn unverified(carrier: Carrier, error: VerifyError) -> Self {
        match error {
            VerifyError::Clock(behind) => Self::ClockBehind(behind),
            error if error.is_unavailable() => Self::CollateralUnavailable(error),
            error => Self::bad(carrier, (&error).into()),
        }
    }

    /// Evidence that is wrong.
    pub fn bad(carrier: Carrier, bad: EvidenceRefusal) -> Self {
        match carrier {
            Carrier::ClientCertificate => Self::BadEvidence(bad),
            Carrier::CertificateRequest => Self::BadRequest(bad),
        }
    }
}

/// What only operators read of a refusal, and the code that the caller gets too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalDetail<'a> {
    /// Where admission stopped.
    pub step: Step,
    /// For metrics and machines; the caller gets it too.
    pub code: RefusalCode,
    /// What would have been right.
    pub expected: Option<&'a str>,
    /// What was found.
    pub actual: Option<&'a str>,
    /// Whom it is about, where that is verified.
    pub identity: Option<&'a Identity>,
}

impl Refusal {
    /// What is wrong with the caller, or with our self-authorization; `None` when nothing is known about either, because
    /// something that is asked does not answer: such a refusal is no denial.
    pub fn fault(&self) -> Option<RefusalDetail<'_>> {
        let plain = |step, code| RefusalDetail { step, code, expected: None, actual: None, identity: None };
        Some(match self {
            Self::NoAttestation => plain(Step::Evidence, RefusalCode::NoAttestation),
            Self::BadEvidence(bad) | Self::BadRequest(bad) => RefusalDetail {
                expected: bad.expected.as_deref(),
                actual: bad.actual.as_deref(),
                ..plain(bad.step, bad.code)
            },
            Self::Unidentified(_) => plain(Step::Identity, RefusalCode::IdentityMalformed),
            Self::ConfigMismatch { mismatch, identity } => RefusalDetail {
                expected: Some(&mismatch.attested),
                actual: Some(&mismatch.requested),
                identity: Some(identity),
                ..plain(Step::Identity, RefusalCode::VmConfigMismatch)
            },
            Self::Frozen { frozen, identity } => RefusalDetail {
                actual: Some(&frozen.reason),
                identity: identity.as_deref(),
                ..plain(Step::Frozen, RefusalCode::Frozen)
            },
            Self::Denied { denial, identity, .. } => RefusalDetail {
                expected: denial.expected.as_deref(),
                actual: denial.actual.as_deref(),
                identity: Some(identity),
                ..plain(Step::Policy, RefusalCode::Denied(denial.code))
            },
            Self::AfterBoot { identity, .. } => RefusalDetail {
                expected: Some("boot"),
                actual: Some("running"),
                identity: Some(identity),
                ..plain(Step::Stage, RefusalCode::Denied(DenialCode::GuestHasBooted))
            },
            Self::OsImage { error, identity, .. } if !error.is_unavailable() => RefusalDetail {
                identity: Some(identity),
                ..plain(Step::OsImage, RefusalCode::OsImageNotVerified)
            },
            Self::SelfAuthorization(SelfRefusal::Denied(denial)) => RefusalDetail {
                expected: denial.expected.as_deref(),
                actual: denial.actual.as_deref(),
                ..plain(Step::SelfAuthorization, RefusalCode::SelfDenied(denial.code))
            },
            Self::OsImage { .. }
            | Self::CollateralUnavailable(_)
            | Self::ClockBehind(_)
            | Self::PolicyUnavailable(_)
            | Self::SelfAuthorization(SelfRefusal::Unknown { .. }) => return None,
        })
    }
}

impl Refusal {
    /// What does not answer, so that everybody is refused: such a refusal is no denial, but operators find it listed with
    /// them, because guests are told nothing else. `None` where something is known about the caller, or where only the
    /// caller's OS image is missing.
    pub fn outage(&self) -> Option<RefusalDetail<'_>> {
        let silent =
            |step, code, actual| RefusalDetail { step, code, expected: None, actual, identity: None };
        Some(match self {
            Self::SelfAuthorization(SelfRefusal::Unknown { missing, detail }) => {
                let code = match missing {
                    Missing::Policy => RefusalCode::PolicyUnavailable,
                    Missing::Evidence => RefusalCode::OwnEvidenceUnavailable,
                    Missing::Collateral => RefusalCode::CollateralUnavailable,
                    Missing::Clock => RefusalCode::Clock,
                };
                silent(Step::SelfAuthorization, code, Some(detail.as_str()))
            }
            Self::PolicyUnavailable(error) => {
                silent(Step::Policy, RefusalCode::PolicyUnavailable, Some(error.detail()))
            }
            Self::CollateralUnavailable(_) => {
                silent(Step::Collateral, RefusalCode::CollateralUnavailable, None)
            }
            Self::ClockBehind(_) => silent(Step::Collateral, RefusalCode::Clock, Some(CLOCK_REMEDY)),
            Self::NoAttestation
            | Self::BadEvidence(_)
            | Self::BadRequest(_)
            | Self::Unidentified(_)
            | Self::ConfigMismatch { .. }
            | Self::Frozen { .. }
            | Self::Denied { .. }
            | Self::AfterBoot { .. }
            | Self::OsImage { .. }
            | Self::SelfAuthorization(SelfRefusal::Denied(_)) => return None,
        })
    }
}

impl Refusal {
    /// What policy had to do with it: nothing where it was not asked.
    fn policy(&self) -> PolicyPart<'_> {
        match self {
            Self::Denied { denial, relaxations, .. } => {
                PolicyPart { denial: Some(denial), stage_rule: None, relaxations: relaxations.labels() }
            }
            Self::AfterBoot { rule, relaxations, .. } => {
                PolicyPart { denial: None, stage_rule: Some(*rule), relaxations: relaxations.labels() }
            }
            Self::OsImage { relaxations, .. } => {
                PolicyPart { denial: None, stage_rule: None, relaxations: relaxations.labels() }
            }
            Self::NoAttestation
            | Self::BadEvidence(_)
            | Self::BadRequest(_)
            | Self::CollateralUnavailable(_)
            | Self::ClockBehind(_)
            | Self::Unidentified(_)
            | Self::ConfigMismatch { .. }
            | Self::Frozen { .. }
            | Self::PolicyUnavailable(_)
            | Self::SelfAuthorization(_) => PolicyPart { denial: None, stage_rule: None, relaxations: &[] },
        }
    }

    /// What the policy has against the caller, where that is why.
    pub fn denial(&self) -> Option<&Denial> {
        self.policy().denial
    }

    /// The reason for a record: the peer's words alone, where they are the peer's.
    pub fn words(&self) -> String {
        match self {
            Self::Denied { denial, .. } => denial.reason.clone(),
            Self::OsImage { error, .. } => error.to_string(),
            Self::NoAttestation
            | Self::BadEvidence(_)
            | Self::BadRequest(_)
            | Self::CollateralUnavailable(_)
            | Self::ClockBehind(_)
            | Self::Unidentified(_)
            | Self::ConfigMismatch { .. }
            | Self::Frozen { .. }
            | Self::AfterBoot { .. }
            | Self::PolicyUnavailable(_)
            | Self::SelfAuthorization(_) => self.to_string(),
        }
    }

    /// Why policy was told something else than what was measured; empty where it was not asked.
    pub fn relaxations(&self) -> &[String] {
        self.policy().relaxations
    }

    /// The rule about the guest's stage, where that is why.
    pub fn stage_rule(&self) -> Option<StageRule> {
        self.policy().stage_rule
    }
}

/// What a refusal has of policy.
struct PolicyPart<'a> {
    denial: Option<&'a Denial>,
    stage_rule: Option<StageRule>,
    relaxations: &'a [String],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_no_denial() {
        for (missing, code) in [
            (Missing::Policy, "policy_unavailable"),
            (Missing::Evidence, "own_evidence_unavailable"),
            (Missing::Collateral, "collateral_unavailable"),
        ] {
            let outage = Refusal::from(SelfRefusal::Unknown { missing, detail: String::new() });
            assert_eq!(outage.fault(), None);
            assert_eq!(
                outage.outage().map(|detail| detail.code.name()),
                Some(code),
                "operators find it listed"
            );
        }
        assert!(Refusal::NoAttestation.fault().is_some());
        assert_eq!(Refusal::NoAttestation.outage(), None);
    }
}
