//! A request that ends without a permit: why, for the caller; and the step, code and values that operators read.

mod evidence;
mod step;

use std::sync::Arc;

use kms_attest::{
    clock_floor::ClockBehind,
    identity::BootInfo,
    verify::{BootInfoError, VerifyError},
};

pub use self::{evidence::BadEvidence, step::Step};
use super::{Freeze, Mismatch, Missing, Relaxations, SelfDenial, StageRule, freeze::FROZEN};
use crate::{
    clock::CLOCK_REMEDY,
    os_image::OsImageError,
    policy::{Denial, PolicyError},
};

/// Why a caller gets no permit.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No client certificate, or none with an attestation.
    #[error("No attestation provided")]
    NoAttestation,
    /// The evidence in the client certificate does not decode, does not verify, or is not bound to the caller's key.
    #[error("invalid quote: {}", .0.reason)]
    BadEvidence(BadEvidence),
    /// The same of the evidence in a certificate request.
    #[error("Quote verification failed: {}", .0.reason)]
    BadRequest(BadEvidence),
    /// Intel's collateral could not be had: nothing is known about the evidence.
    #[error("the collateral service does not answer, evidence cannot be verified now")]
    CollateralUnavailable(#[source] VerifyError),
    /// Our clock is behind what is known to be past: whether anything is valid now cannot be said.
    #[error("the clock of this KMS is wrong, evidence cannot be verified now")]
    ClockBehind(#[source] ClockBehind),
    /// The evidence verifies, but what it says is not the identity of an app.
    #[error("{0}")]
    BadIdentity(String),
    /// The request's VM configuration is not the one in the evidence.
    #[error(
        "the vm_config of the request differs from the one in the attestation{}",
        if mismatch.key.is_empty() { String::new() } else { format!(": {}", mismatch.key) }
    )]
    ConfigMismatch {
        /// Where they differ.
        mismatch: Mismatch,
        /// Who it is, by the request's configuration.
        identity: Box<BootInfo>,
    },
    /// An operator has frozen the caller, or everything. The operator's reason is not the caller's business.
    #[error("Boot denied: frozen by the operator")]
    Frozen {
        /// The freeze.
        frozen: Arc<Freeze>,
        /// Whom it stopped, where that is known.
        identity: Option<Box<BootInfo>>,
    },
    /// Policy said no.
    #[error("Boot denied: {}", .denial.reason)]
    Denied {
        /// What policy said.
        denial: Denial,
        /// Whom it said it about, as measured.
        identity: Box<BootInfo>,
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
        identity: Box<BootInfo>,
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
        identity: Box<BootInfo>,
        /// Why policy was told something else.
        relaxations: Relaxations,
    },
    /// It is not known whether we may serve.
    #[error("KMS self authorization failed: {what}")]
    SelfAuthorizationUnknown {
        /// Which part does not answer.
        missing: Missing,
        /// What is missing, in words.
        what: &'static str,
        /// Why, for the log only.
        detail: String,
    },
    /// Policy says that we may not serve.
    #[error("KMS self authorization failed: {}", .0.reason)]
    SelfDenial(SelfDenial),
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
    pub fn bad(carrier: Carrier, bad: BadEvidence) -> Self {
        match carrier {
            Carrier::ClientCertificate => Self::BadEvidence(bad),
            Carrier::CertificateRequest => Self::BadRequest(bad),
        }
    }
}

/// What only operators read of a refusal, and the code that the caller gets too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding<'a> {
    /// Where admission stopped.
    pub step: Step,
    /// Stable, for metrics and machines: `compose_hash_not_allowed`.
    pub code: &'static str,
    /// What would have been right.
    pub expected: Option<&'a str>,
    /// What was found.
    pub actual: Option<&'a str>,
    /// Whom it is about, where that is verified.
    pub identity: Option<&'a BootInfo>,
}

/// The code of a refusal because the policy does not answer.
const POLICY_UNAVAILABLE: &str = "policy_unavailable";
/// The code of a refusal because our clock is behind what is known to be past.
const CLOCK: &str = "clock";
/// The code of a refusal because there is no collateral.
const COLLATERAL_UNAVAILABLE: &str = "collateral_unavailable";
/// The code of a denial that is not the policy's: the registers are not those of the image.
const OS_IMAGE_NOT_VERIFIED: &str = "os_image_not_verified";

impl Refusal {
    /// What is wrong with the caller, or with our self-authorization; `None` when nothing is known about either, because
    /// something that is asked does not answer: such a refusal is no denial.
    pub fn finding(&self) -> Option<Finding<'_>> {
        let plain = |step, code| Finding { step, code, expected: None, actual: None, identity: None };
        Some(match self {
            Self::NoAttestation => plain(Step::Evidence, "no_attestation"),
            Self::BadEvidence(bad) | Self::BadRequest(bad) => Finding {
                expected: bad.expected.as_deref(),
                actual: bad.actual.as_deref(),
                ..plain(bad.step, bad.code)
            },
            Self::BadIdentity(_) => plain(Step::Identity, "identity_malformed"),
            Self::ConfigMismatch { mismatch, identity } => Finding {
                expected: Some(&mismatch.attested),
                actual: Some(&mismatch.requested),
                identity: Some(identity),
                ..plain(Step::Identity, "vm_config_mismatch")
            },
            Self::Frozen { frozen, identity } => Finding {
                actual: Some(&frozen.reason),
                identity: identity.as_deref(),
                ..plain(Step::Frozen, FROZEN)
            },
            Self::Denied { denial, identity, .. } => Finding {
                expected: denial.expected.as_deref(),
                actual: denial.actual.as_deref(),
                identity: Some(identity),
                ..plain(Step::Policy, denial.code)
            },
            Self::AfterBoot { identity, .. } => Finding {
                expected: Some("boot"),
                actual: Some("running"),
                identity: Some(identity),
                ..plain(Step::Stage, "guest_has_booted")
            },
            Self::OsImage { error, identity, .. } if !error.is_unavailable() => {
                Finding { identity: Some(identity), ..plain(Step::OsImage, OS_IMAGE_NOT_VERIFIED) }
            }
            Self::SelfDenial(self_denial) => Finding {
                expected: self_denial.expected.as_deref(),
                actual: self_denial.actual.as_deref(),
                ..plain(Step::SelfAuthorization, self_denial.code)
            },
            Self::OsImage { .. }
            | Self::CollateralUnavailable(_)
            | Self::ClockBehind(_)
            | Self::PolicyUnavailable(_)
            | Self::SelfAuthorizationUnknown { .. } => return None,
        })
    }
}

impl Refusal {
    /// What does not answer, so that everybody is refused: such a refusal is no denial, but operators find it listed with
    /// them, because guests are told nothing else. `None` where something is known about the caller, or where only the
    /// caller's OS image is missing.
    pub fn outage(&self) -> Option<Finding<'_>> {
        let finding = |step, code, actual| Finding { step, code, expected: None, actual, identity: None };
        Some(match self {
            Self::SelfAuthorizationUnknown { missing, detail, .. } => {
                let code = match missing {
                    Missing::Policy => POLICY_UNAVAILABLE,
                    Missing::Evidence => "own_evidence_unavailable",
                    Missing::Collateral => COLLATERAL_UNAVAILABLE,
                    Missing::Clock => CLOCK,
                };
                finding(Step::SelfAuthorization, code, Some(detail.as_str()))
            }
            Self::PolicyUnavailable(error) => finding(Step::Policy, POLICY_UNAVAILABLE, Some(error.detail())),
            Self::CollateralUnavailable(_) => finding(Step::Collateral, COLLATERAL_UNAVAILABLE, None),
            Self::ClockBehind(_) => finding(Step::Collateral, CLOCK, Some(CLOCK_REMEDY)),
            _ => return None,
        })
    }
}

/// Policy, the audit log and clients see canonical widths: no field is as long as a sender likes, and a backend that pads
/// or ignores an empty compose hash is never asked about one.
///
/// # Errors
/// What is wrong, for the caller.
pub fn check_widths(identity: &BootInfo) -> Result<(), String> {
    if identity.compose_hash.len() != 32 {
        return Err(format!("compose_hash must be 32 bytes, got {}", identity.compose_hash.len()));
    }
    for (name, bytes, width) in
        [("instance_id", &identity.instance_id, 20), ("os_image_hash", &identity.os_image_hash, 32)]
    {
        if !bytes.is_empty() && bytes.len() != width {
            return Err(format!("{name} must be {width} bytes or empty, got {}", bytes.len()));
        }
    }
    Ok(())
}

impl From<BootInfoError> for Refusal {
    fn from(error: BootInfoError) -> Self {
        Self::BadIdentity(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_canonical_before_anybody_is_asked() {
        let good = crate::policy::testing::boot_info();
        assert_eq!(check_widths(&good), Ok(()));
        type Alter = fn(&mut BootInfo, Vec<u8>);
        let cases: [(&str, Alter, usize, bool); 3] = [
            ("compose_hash", |identity, bytes| identity.compose_hash = bytes, 32, false),
            ("instance_id", |identity, bytes| identity.instance_id = bytes, 20, true),
            ("os_image_hash", |identity, bytes| identity.os_image_hash = bytes, 32, true),
        ];
        for (name, alter, width, may_be_empty) in cases {
            for length in [0, 1, width - 1, width, width + 1, 4096] {
                let mut identity = good.clone();
                alter(&mut identity, vec![1; length]);
                let allowed = length == width || (length == 0 && may_be_empty);
                let or_empty = if may_be_empty { " or empty" } else { "" };
                let text = format!("{name} must be {width} bytes{or_empty}, got {length}");
                assert_eq!(check_widths(&identity), if allowed { Ok(()) } else { Err(text) });
            }
        }
    }

    #[test]
    fn what_does_not_answer_is_no_denial() {
        for (missing, code) in [
            (Missing::Policy, "policy_unavailable"),
            (Missing::Evidence, "own_evidence_unavailable"),
            (Missing::Collateral, "collateral_unavailable"),
        ] {
            let outage =
                Refusal::SelfAuthorizationUnknown { missing, what: "the backend", detail: String::new() };
            assert_eq!(outage.finding(), None);
            assert_eq!(outage.outage().map(|finding| finding.code), Some(code), "operators find it listed");
        }
        assert!(Refusal::NoAttestation.finding().is_some());
        assert_eq!(Refusal::NoAttestation.outage(), None);
    }
}
