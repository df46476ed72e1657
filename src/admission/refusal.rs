//! Refusals: why a request ended without a permit, with a text for the caller, and step, code and values for
//! operators.

mod code;
mod evidence;
mod step;

use std::sync::Arc;

use kms_attest::clock_floor::ClockBehind;
use kms_attest::identity::Identity;
use kms_attest::verify::{UnidentifiedError, VerifyError};
use kms_policy::{Denial, DenialCode, PolicyError};

pub use self::code::RefusalCode;
pub use self::evidence::EvidenceRefusal;
pub use self::step::Step;
use super::{
    DecidedBy, DomainDenial, FreshFault, Mismatch, Missing, Proved, Relaxations, SelfRefusal, StageRule,
};
use crate::clock::CLOCK_REMEDY;
use crate::control::{Freeze, Stopped};
use crate::os_image::OsImageError;
use crate::state::shared::Stale;

/// Why a caller gets no permit. The texts are for the caller.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No client certificate, or one without evidence.
    #[error("No attestation provided")]
    NoAttestation,
    /// The evidence in the client certificate does not decode or verify, or is not bound to the caller's key.
    #[error("invalid quote: {}", .0.reason)]
    BadEvidence(EvidenceRefusal),
    /// The same for the evidence in a certificate request.
    #[error("Quote verification failed: {}", .0.reason)]
    BadRequest(EvidenceRefusal),
    /// Intel's collateral is not available, so nothing is known about the evidence.
    #[error("the collateral service does not answer, evidence cannot be verified now")]
    CollateralUnavailable(#[source] VerifyError),
    /// Our clock is behind a time that is known to be past, so validity cannot be judged.
    #[error("the clock of this KMS is wrong, evidence cannot be verified now")]
    ClockBehind(#[source] ClockBehind),
    /// The evidence verifies, but contains no valid identity.
    #[error(transparent)]
    Unidentified(#[from] UnidentifiedError),
    /// The VM configuration of the request is not the one in the evidence.
    #[error(
        "the vm_config of the request differs from the one in the attestation{}",
        if mismatch.key.is_empty() { String::new() } else { format!(": {}", mismatch.key) }
    )]
    ConfigMismatch {
        /// The difference.
        mismatch: Mismatch,
        /// The caller, by the configuration of the request.
        identity: Box<Identity>,
    },
    /// The domain of the caller does not admit it.
    #[error("Boot denied: {}", .denial.reason)]
    Domain {
        /// The denial.
        denial: DomainDenial,
        /// The caller, as measured.
        identity: Box<Identity>,
        /// How the caller had passed [`Step::Session`]; `None` before it.
        proved: Option<Proved>,
    },
    /// The caller brings no fresh evidence where it must, or wrong one.
    #[error("{fault}")]
    Fresh {
        /// What is wrong.
        fault: FreshFault,
        /// The caller, by the evidence in its certificate or certificate request.
        identity: Box<Identity>,
    },
    /// An operator has frozen the caller, or everything. The operator's reason is not shown to the caller.
    #[error("Boot denied: frozen by the operator")]
    Frozen {
        /// The freeze.
        frozen: Arc<Freeze>,
        /// The caller, if known.
        identity: Option<Box<Identity>>,
    },
    /// What was frozen on other nodes may be unknown here.
    #[error("this KMS does not know what is frozen on others now, so nothing is released")]
    StateStale(Stale),
    /// Policy denies the caller.
    #[error("Boot denied: {}", .denial.reason)]
    Denied {
        /// The denial.
        denial: Denial,
        /// The caller, as measured.
        identity: Box<Identity>,
        /// The exceptions by which policy was told something else.
        relaxations: Relaxations,
        /// The policy; `None` in an explanation of a single rule.
        by: Option<Box<DecidedBy>>,
    },
    /// Policy allows the caller, but keys are released to guests that boot, and this one has booted.
    #[error(
        "Boot denied: keys are released to a guest that boots, and this evidence is from after system-ready"
    )]
    AfterBoot {
        /// The rule that limits the stage.
        rule: StageRule,
        /// The caller, as measured.
        identity: Box<Identity>,
        /// The exceptions by which policy was told something else.
        relaxations: Relaxations,
        /// The policy.
        by: Box<DecidedBy>,
    },
    /// Policy allows the caller, but not with keys of the epochs that it asks for or that are in force for it.
    #[error("Boot denied: {}", .denial.reason)]
    Epochs {
        /// The denial.
        denial: Denial,
        /// The caller, as measured.
        identity: Box<Identity>,
        /// The exceptions by which policy was told something else.
        relaxations: Relaxations,
        /// The policy.
        by: Box<DecidedBy>,
    },
    /// The authorization backend did not respond, so no caller is allowed.
    #[error("the authorization backend does not answer")]
    PolicyUnavailable(#[source] PolicyError),
    /// Policy allows the caller, but it is not proven that the caller booted the OS image that it names.
    #[error("Failed to verify os image hash: {error}")]
    OsImage {
        /// Why it is not proven.
        #[source]
        error: OsImageError,
        /// The caller, as measured.
        identity: Box<Identity>,
        /// The exceptions by which policy was told something else.
        relaxations: Relaxations,
        /// The policy; `None` if it does not allow the caller, as in an explanation.
        by: Option<Box<DecidedBy>>,
    },
    /// This KMS may not serve, or it is unknown whether it may.
    #[error("KMS self authorization failed: {0}")]
    SelfAuthorization(#[from] SelfRefusal),
}

/// Where evidence was sent: the texts for the caller differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The client certificate of the connection.
    ClientCertificate,
    /// A certificate request.
    CertificateRequest,
}

impl Refusal {
    /// The refusal of evidence that does not verify, or cannot be verified now.
    pub fn unverified(carrier: Carrier, error: VerifyError) -> Self {
        match error {
            VerifyError::Clock(behind) => Self::ClockBehind(behind),
            error if error.is_unavailable() => Self::CollateralUnavailable(error),
            error => Self::bad(carrier, (&error).into()),
        }
    }

    /// The refusal of wrong evidence.
    pub fn bad(carrier: Carrier, bad: EvidenceRefusal) -> Self {
        match carrier {
            Carrier::ClientCertificate => Self::BadEvidence(bad),
            Carrier::CertificateRequest => Self::BadRequest(bad),
        }
    }
}

impl Refusal {
    /// The refusal of a caller, if known, that a freeze or an unknown state stops.
    pub fn stopped(stopped: Stopped, identity: Option<Box<Identity>>) -> Self {
        match stopped {
            Stopped::Frozen(frozen) => Self::Frozen { frozen, identity },
            Stopped::Stale(stale) => Self::StateStale(stale),
        }
    }
}

/// The detail of a refusal: for operators, except the code, which the caller gets too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalDetail<'a> {
    /// The step that refused.
    pub step: Step,
    /// The code, for metrics, programs and the caller.
    pub code: RefusalCode,
    /// The expected value.
    pub expected: Option<&'a str>,
    /// The value that was found.
    pub actual: Option<&'a str>,
    /// The caller, if its identity is verified.
    pub identity: Option<&'a Identity>,
}

impl Refusal {
    /// What is wrong with the caller or with this KMS. `None` if neither is known because a service does not
    /// respond; such a refusal is not a denial.
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
            Self::Domain { denial, identity, .. } => RefusalDetail {
                expected: denial.expected.as_deref(),
                actual: denial.actual.as_deref(),
                identity: Some(identity),
                ..plain(denial.code.step(), RefusalCode::Domain(denial.code))
            },
            Self::Fresh { fault, identity } => {
                let (expected, actual) = fault.values();
                RefusalDetail {
                    expected,
                    actual,
                    identity: Some(identity),
                    ..plain(Step::Session, fault.code())
                }
            }
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
            Self::Epochs { denial, identity, .. } => RefusalDetail {
                expected: denial.expected.as_deref(),
                actual: denial.actual.as_deref(),
                identity: Some(identity),
                ..plain(Step::Epochs, RefusalCode::Denied(denial.code))
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
            | Self::StateStale(_)
            | Self::SelfAuthorization(SelfRefusal::Unknown { .. }) => return None,
        })
    }
}

impl Refusal {
    /// The service that does not respond, so that all callers are refused. Such a refusal is not a denial,
    /// but it is listed with the denials, because guests see nothing else. `None` if something is known about
    /// the caller, or if only the caller's OS image is missing.
    pub fn outage(&self) -> Option<RefusalDetail<'_>> {
        let outage =
            |step, code, actual| RefusalDetail { step, code, expected: None, actual, identity: None };
        Some(match self {
            Self::SelfAuthorization(SelfRefusal::Unknown { missing, detail }) => {
                let code = match missing {
                    Missing::Policy => RefusalCode::PolicyUnavailable,
                    Missing::Evidence | Missing::OsImage => RefusalCode::OwnEvidenceUnavailable,
                    Missing::Collateral => RefusalCode::CollateralUnavailable,
                    Missing::Clock => RefusalCode::Clock,
                };
                outage(Step::SelfAuthorization, code, Some(detail.as_str()))
            }
            Self::PolicyUnavailable(error) => {
                outage(Step::Policy, RefusalCode::PolicyUnavailable, Some(error.detail()))
            }
            Self::StateStale(stale) => outage(Step::Frozen, RefusalCode::StateStale, Some(stale.text())),
            Self::CollateralUnavailable(_) => {
                outage(Step::Collateral, RefusalCode::CollateralUnavailable, None)
            }
            Self::ClockBehind(_) => outage(Step::Collateral, RefusalCode::Clock, Some(CLOCK_REMEDY)),
            Self::NoAttestation
            | Self::BadEvidence(_)
            | Self::BadRequest(_)
            | Self::Unidentified(_)
            | Self::ConfigMismatch { .. }
            | Self::Domain { .. }
            | Self::Fresh { .. }
            | Self::Frozen { .. }
            | Self::Denied { .. }
            | Self::AfterBoot { .. }
            | Self::Epochs { .. }
            | Self::OsImage { .. }
            | Self::SelfAuthorization(SelfRefusal::Denied(_)) => return None,
        })
    }
}

impl Refusal {
    /// Whether the caller's fresh evidence was verified, and found to be of the same guest, before it was refused. A domain judges
    /// before that and again after it.
    pub fn is_after_session(&self) -> bool {
        match self {
            Self::Domain { proved, .. } => proved.is_some(),
            Self::NoAttestation
            | Self::BadEvidence(_)
            | Self::BadRequest(_)
            | Self::CollateralUnavailable(_)
            | Self::ClockBehind(_)
            | Self::Unidentified(_)
            | Self::ConfigMismatch { .. }
            | Self::Fresh { .. }
            | Self::Frozen { .. }
            | Self::StateStale(_)
            | Self::Denied { .. }
            | Self::AfterBoot { .. }
            | Self::Epochs { .. }
            | Self::PolicyUnavailable(_)
            | Self::OsImage { .. }
            | Self::SelfAuthorization(_) => {
                self.fault().or_else(|| self.outage()).is_some_and(|it| it.step > Step::Session)
            }
        }
    }

    /// The part of policy in this refusal; empty if policy was not asked.
    fn policy(&self) -> PolicyPart<'_> {
        match self {
            Self::Denied { denial, relaxations, by, .. } => PolicyPart {
                denial: Some(denial),
                stage_rule: None,
                relaxations: relaxations.labels(),
                by: by.as_deref(),
            },
            Self::AfterBoot { rule, relaxations, by, .. } => PolicyPart {
                denial: None,
                stage_rule: Some(*rule),
                relaxations: relaxations.labels(),
                by: Some(by),
            },
            Self::Epochs { relaxations, by, .. } => {
                PolicyPart { denial: None, stage_rule: None, relaxations: relaxations.labels(), by: Some(by) }
            }
            Self::OsImage { relaxations, by, .. } => PolicyPart {
                denial: None,
                stage_rule: None,
                relaxations: relaxations.labels(),
                by: by.as_deref(),
            },
            Self::NoAttestation
            | Self::BadEvidence(_)
            | Self::BadRequest(_)
            | Self::CollateralUnavailable(_)
            | Self::ClockBehind(_)
            | Self::Unidentified(_)
            | Self::ConfigMismatch { .. }
            | Self::Domain { .. }
            | Self::Fresh { .. }
            | Self::Frozen { .. }
            | Self::PolicyUnavailable(_)
            | Self::StateStale(_)
            | Self::SelfAuthorization(_) => {
                PolicyPart { denial: None, stage_rule: None, relaxations: &[], by: None }
            }
        }
    }

    /// The code of the policy, if it denies this KMS itself.
    pub fn of_self(&self) -> Option<DenialCode> {
        match self {
            Self::SelfAuthorization(SelfRefusal::Denied(denial)) => denial.denied,
            Self::NoAttestation
            | Self::BadEvidence(_)
            | Self::BadRequest(_)
            | Self::CollateralUnavailable(_)
            | Self::ClockBehind(_)
            | Self::Unidentified(_)
            | Self::ConfigMismatch { .. }
            | Self::Domain { .. }
            | Self::Fresh { .. }
            | Self::Frozen { .. }
            | Self::StateStale(_)
            | Self::Denied { .. }
            | Self::AfterBoot { .. }
            | Self::Epochs { .. }
            | Self::PolicyUnavailable(_)
            | Self::OsImage { .. }
            | Self::SelfAuthorization(SelfRefusal::Unknown { .. }) => None,
        }
    }

    /// The denial of policy, if that is the cause.
    pub fn denial(&self) -> Option<&Denial> {
        self.policy().denial
    }

    /// The reason for records: without our prefix if the text is the peer's.
    pub fn words(&self) -> String {
        match self {
            Self::Denied { denial, .. } | Self::Epochs { denial, .. } => denial.reason.clone(),
            Self::Domain { denial, .. } => denial.reason.clone(),
            Self::OsImage { error, .. } => error.to_string(),
            Self::NoAttestation
            | Self::BadEvidence(_)
            | Self::BadRequest(_)
            | Self::CollateralUnavailable(_)
            | Self::ClockBehind(_)
            | Self::Unidentified(_)
            | Self::ConfigMismatch { .. }
            | Self::Fresh { .. }
            | Self::Frozen { .. }
            | Self::AfterBoot { .. }
            | Self::PolicyUnavailable(_)
            | Self::StateStale(_)
            | Self::SelfAuthorization(_) => self.to_string(),
        }
    }

    /// The exceptions by which policy was told something else than what was measured; empty if it was not
    /// asked.
    pub fn relaxations(&self) -> &[String] {
        self.policy().relaxations
    }

    /// The policy that decided; `None` if it was not asked or did not respond.
    pub fn decided_by(&self) -> Option<DecidedBy> {
        self.policy().by.copied()
    }

    /// The rule about the guest's stage, if that is the cause.
    pub fn stage_rule(&self) -> Option<StageRule> {
        self.policy().stage_rule
    }
}

/// The part of policy in a refusal.
struct PolicyPart<'a> {
    denial: Option<&'a Denial>,
    stage_rule: Option<StageRule>,
    relaxations: &'a [String],
    by: Option<&'a DecidedBy>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_no_denial() {
        for (missing, code) in [
            (Missing::Policy, "policy_unavailable"),
            (Missing::Evidence, "own_evidence_unavailable"),
            (Missing::OsImage, "own_evidence_unavailable"),
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
