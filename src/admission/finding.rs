//! What is wrong with a refused caller, for machines and operators: the step that failed, a stable code, what was
//! expected and what was found.

use kms_attest::{
    collateral::CollateralError,
    identity::BootInfo,
    platform::tdx::TdxError,
    ra_tls::RaTlsError,
    verify::{BootInfoError, VerifyError},
};

use super::{Missing, Refusal, freeze::FROZEN};
use crate::clock::CLOCK_REMEDY;

/// The steps of admission, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// This KMS is itself allowed.
    SelfAuthorization,
    /// There is evidence, and it decodes.
    Evidence,
    /// It is of a platform that can be verified.
    Platform,
    /// It vouches for the caller's key.
    KeyBinding,
    /// The runtime events replay to RTMR3.
    EventLog,
    /// The quote vouches for the report data that the evidence states.
    ReportData,
    /// There is collateral for the platform.
    Collateral,
    /// The quote is signed by genuine hardware that is not revoked.
    Quote,
    /// Nobody else can look into the TD.
    TdAttributes,
    /// Intel's word for the state of the platform; the policy judges it.
    TcbStatus,
    /// The identity has the right form.
    Identity,
    /// No operator has frozen it.
    Frozen,
    /// The policy allows it.
    Policy,
    /// Keys are released at this stage of the guest.
    Stage,
    /// It booted the OS image that it names.
    OsImage,
    /// The release is in the audit log.
    AuditLog,
}

impl Step {
    /// All steps, in the order in which they are reported.
    pub const ALL: [Self; 16] = [
        Self::SelfAuthorization,
        Self::Evidence,
        Self::Platform,
        Self::KeyBinding,
        Self::EventLog,
        Self::ReportData,
        Self::Collateral,
        Self::Quote,
        Self::TdAttributes,
        Self::TcbStatus,
        Self::Identity,
        Self::Frozen,
        Self::Policy,
        Self::Stage,
        Self::OsImage,
        Self::AuditLog,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Platform => "platform",
            Self::KeyBinding => "key_binding",
            Self::EventLog => "event_log",
            Self::ReportData => "report_data",
            Self::Collateral => "collateral",
            Self::Quote => "quote",
            Self::TdAttributes => "td_attributes",
            Self::TcbStatus => "tcb_status",
            Self::Identity => "identity",
            Self::Frozen => "frozen",
            Self::Policy => "policy",
            Self::Stage => "stage",
            Self::OsImage => "os_image",
            Self::AuditLog => "audit_log",
            Self::SelfAuthorization => "own_standing",
        }
    }
}

/// Why evidence is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadEvidence {
    /// Where verification stopped.
    pub step: Step,
    /// Stable, for metrics and machines: `event_log_mismatch`.
    pub code: &'static str,
    /// What was found, for the caller too.
    pub reason: String,
    /// What the quote says, where two values differ.
    pub expected: Option<String>,
    /// What the evidence says instead.
    pub actual: Option<String>,
}

impl BadEvidence {
    fn new(step: Step, code: &'static str, error: &impl ToString) -> Self {
        Self { step, code, reason: error.to_string(), expected: None, actual: None }
    }

    /// Bytes that are no evidence.
    pub fn malformed(error: &impl ToString) -> Self {
        Self::new(Step::Evidence, "evidence_malformed", error)
    }
}

impl From<&RaTlsError> for BadEvidence {
    fn from(error: &RaTlsError) -> Self {
        Self::malformed(error)
    }
}

impl From<&VerifyError> for BadEvidence {
    fn from(error: &VerifyError) -> Self {
        let (step, code) = match error {
            VerifyError::UnsupportedPlatform(_) => (Step::Platform, "platform_not_supported"),
            VerifyError::Evidence(_) => (Step::Evidence, "evidence_malformed"),
            VerifyError::ReportData | VerifyError::PodPayload => (Step::KeyBinding, "evidence_not_bound"),
            VerifyError::EventName => (Step::EventLog, "event_name_not_allowed"),
            VerifyError::Rtmr3 { .. } => (Step::EventLog, "event_log_mismatch"),
            VerifyError::Preimages(_) => (Step::EventLog, "event_preimage_mismatch"),
            VerifyError::QuotedReportData => (Step::ReportData, "report_data_mismatch"),
            VerifyError::Clock(_) => (Step::Collateral, CLOCK),
            VerifyError::Collateral(error) => of_collateral(error),
            VerifyError::Quote(error) => of_quote(error),
            #[allow(unreachable_patterns)]
            _ => (Step::Quote, "evidence_refused"),
        };
        let bad = Self::new(step, code, error);
        match error {
            VerifyError::Rtmr3 { quoted, replayed } => {
                Self { expected: Some(quoted.clone()), actual: Some(replayed.clone()), ..bad }
            }
            _ => bad,
        }
    }
}

/// What is wrong with a quote shows first where its collateral is looked for.
fn of_collateral(error: &CollateralError) -> (Step, &'static str) {
    match error {
        CollateralError::Quote(_) | CollateralError::PckChain(_) | CollateralError::NotATd => {
            (Step::Platform, "quote_malformed")
        }
        CollateralError::UntrustedPlatform => (Step::Quote, "quote_not_genuine"),
        CollateralError::Unavailable { .. } | CollateralError::Malformed(_) => {
            (Step::Collateral, "collateral_not_found")
        }
    }
}

fn of_quote(error: &TdxError) -> (Step, &'static str) {
    match error {
        TdxError::Malformed(_)
        | TdxError::NotATd
        | TdxError::UnsupportedBody
        | TdxError::PckChain(_)
        | TdxError::NoPckChain => (Step::Platform, "quote_malformed"),
        TdxError::Debug => (Step::TdAttributes, "td_debug"),
        TdxError::Attributes(_) | TdxError::SeptVeEnabled => {
            (Step::TdAttributes, "td_attributes_not_allowed")
        }
        TdxError::ForeignModule => (Step::TdAttributes, "tdx_module_not_allowed"),
        TdxError::ServiceTd => (Step::TdAttributes, "service_td_bound"),
        // Genuine as far as the signatures go: it is the versions that are wrong.
        TdxError::Unlisted { .. } => (Step::TcbStatus, "tcb_level_not_listed"),
        TdxError::Status(_) => (Step::TcbStatus, "tcb_status_unknown"),
        TdxError::Rejected(reason) => of_rejection(reason),
        _ => (Step::Quote, "quote_not_genuine"),
    }
}

/// The library looks at the TD too, after the signatures; only its words tell these apart from a bad signature.
fn of_rejection(reason: &str) -> (Step, &'static str) {
    let says = |text| reason.contains(text);
    if says("Debug mode is enabled") {
        (Step::TdAttributes, "td_debug")
    } else if says("Reserved bits in TD attributes are set") || says("SEPT_VE_DISABLE is not enabled") {
        (Step::TdAttributes, "td_attributes_not_allowed")
    } else if says("TCB status is invalid: Revoked") {
        (Step::TcbStatus, "tcb_revoked")
    } else if says("Invalid MR service TD") {
        (Step::TdAttributes, "service_td_bound")
    } else {
        (Step::Quote, "quote_not_genuine")
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
    use kms_attest::collateral::ChainError;

    use super::*;

    #[test]
    fn steps_are_listed_once_in_order() {
        assert!(Step::ALL.is_sorted());
        let names: std::collections::BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
    }

    #[test]
    fn what_is_wrong_with_a_quote_has_a_code_of_its_own() {
        for (error, step, code) in [
            (VerifyError::ReportData, Step::KeyBinding, "evidence_not_bound"),
            (VerifyError::EventName, Step::EventLog, "event_name_not_allowed"),
            (VerifyError::QuotedReportData, Step::ReportData, "report_data_mismatch"),
            (VerifyError::Quote(TdxError::Debug), Step::TdAttributes, "td_debug"),
            (VerifyError::Quote(TdxError::ServiceTd), Step::TdAttributes, "service_td_bound"),
            (VerifyError::Quote(TdxError::Rejected("revoked".to_owned())), Step::Quote, "quote_not_genuine"),
            (VerifyError::Quote(TdxError::NotATd), Step::Platform, "quote_malformed"),
            (
                VerifyError::Collateral(CollateralError::PckChain(ChainError::Order)),
                Step::Platform,
                "quote_malformed",
            ),
            (VerifyError::Collateral(CollateralError::UntrustedPlatform), Step::Quote, "quote_not_genuine"),
            (
                VerifyError::Collateral(CollateralError::Unavailable { failures: Vec::new() }),
                Step::Collateral,
                "collateral_not_found",
            ),
            (VerifyError::UnsupportedPlatform("sev-snp"), Step::Platform, "platform_not_supported"),
        ] {
            let bad = BadEvidence::from(&error);
            assert_eq!((bad.step, bad.code, bad.reason), (step, code, error.to_string()));
        }
    }

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
    fn an_event_log_that_does_not_replay_shows_both_values() {
        let error = VerifyError::Rtmr3 { quoted: "aa".to_owned(), replayed: "bb".to_owned() };
        let bad = BadEvidence::from(&error);
        assert_eq!((bad.expected.as_deref(), bad.actual.as_deref()), (Some("aa"), Some("bb")));
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
