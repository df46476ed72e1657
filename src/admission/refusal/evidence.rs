//! Why evidence is refused: the step, the code, and the two values that differ.

use kms_attest::collateral::CollateralError;
use kms_attest::platform::tdx::{Rejection, TdxError};
use kms_attest::ra_tls::RaTlsError;
use kms_attest::verify::VerifyError;

use super::{RefusalCode, Step};

/// Why evidence is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceRefusal {
    /// Where verification stopped.
    pub step: Step,
    /// For metrics and machines.
    pub code: RefusalCode,
    /// What was found, for the caller too.
    pub reason: String,
    /// What the quote says, where two values differ.
    pub expected: Option<String>,
    /// What the evidence says instead.
    pub actual: Option<String>,
}

impl EvidenceRefusal {
    fn new(step: Step, code: RefusalCode, error: &impl ToString) -> Self {
        Self { step, code, reason: error.to_string(), expected: None, actual: None }
    }

    /// Bytes that are no evidence.
    pub fn malformed(error: &impl ToString) -> Self {
        Self::new(Step::Evidence, RefusalCode::EvidenceMalformed, error)
    }
}

impl From<&RaTlsError> for EvidenceRefusal {
    fn from(error: &RaTlsError) -> Self {
        Self::malformed(error)
    }
}

impl From<&VerifyError> for EvidenceRefusal {
    fn from(error: &VerifyError) -> Self {
        let (step, code) = match error {
            VerifyError::UnsupportedPlatform(_) => (Step::Platform, RefusalCode::PlatformNotSupported),
            VerifyError::Evidence(_) => (Step::Evidence, RefusalCode::EvidenceMalformed),
            VerifyError::ReportData | VerifyError::PodPayload => {
                (Step::KeyBinding, RefusalCode::EvidenceNotBound)
            }
            VerifyError::EventName => (Step::EventLog, RefusalCode::EventNameNotAllowed),
            VerifyError::Rtmr3 { .. } => (Step::EventLog, RefusalCode::EventLogMismatch),
            VerifyError::Preimages(_) => (Step::EventLog, RefusalCode::EventPreimageMismatch),
            VerifyError::QuotedReportData => (Step::ReportData, RefusalCode::ReportDataMismatch),
            VerifyError::Clock(_) => (Step::Collateral, RefusalCode::Clock),
            VerifyError::Collateral(error) => of_collateral(error),
            VerifyError::Quote(error) => of_quote(error),
        };
        let bad = Self::new(step, code, error);
        let VerifyError::Rtmr3 { quoted, replayed } = error else { return bad };
        Self { expected: Some(quoted.clone()), actual: Some(replayed.clone()), ..bad }
    }
}

/// What is wrong with a quote shows first where its collateral is looked for.
fn of_collateral(error: &CollateralError) -> (Step, RefusalCode) {
    match error {
        CollateralError::Quote(_) | CollateralError::PckChain(_) | CollateralError::NotATd => {
            (Step::Platform, RefusalCode::QuoteMalformed)
        }
        CollateralError::UntrustedPlatform => (Step::Quote, RefusalCode::QuoteNotGenuine),
        CollateralError::Unavailable { .. } | CollateralError::Malformed(_) => {
            (Step::Collateral, RefusalCode::CollateralNotFound)
        }
    }
}

fn of_quote(error: &TdxError) -> (Step, RefusalCode) {
    match error {
        TdxError::Malformed(_)
        | TdxError::NotATd
        | TdxError::UnsupportedBody
        | TdxError::PckChain(_)
        | TdxError::NoPckChain => (Step::Platform, RefusalCode::QuoteMalformed),
        TdxError::Debug => (Step::TdAttributes, RefusalCode::TdDebug),
        TdxError::Attributes(_) | TdxError::SeptVeEnabled => {
            (Step::TdAttributes, RefusalCode::TdAttributesNotAllowed)
        }
        TdxError::ForeignModule => (Step::TdAttributes, RefusalCode::TdxModuleNotAllowed),
        TdxError::ServiceTd => (Step::TdAttributes, RefusalCode::ServiceTdBound),
        // Genuine as far as the signatures go: it is the versions that are wrong.
        TdxError::Unlisted { .. } => (Step::TcbStatus, RefusalCode::TcbLevelNotListed),
        TdxError::Status(_) => (Step::TcbStatus, RefusalCode::TcbStatusUnknown),
        TdxError::Rejected { rejection, .. } => of_rejection(*rejection),
        TdxError::Platform | TdxError::Ppid { .. } => (Step::Quote, RefusalCode::QuoteNotGenuine),
    }
}

/// The library looks at the TD too, after the signatures.
fn of_rejection(rejection: Rejection) -> (Step, RefusalCode) {
    match rejection {
        Rejection::Debug => (Step::TdAttributes, RefusalCode::TdDebug),
        Rejection::Attributes => (Step::TdAttributes, RefusalCode::TdAttributesNotAllowed),
        Rejection::Revoked => (Step::TcbStatus, RefusalCode::TcbRevoked),
        Rejection::ServiceTd => (Step::TdAttributes, RefusalCode::ServiceTdBound),
        Rejection::NotGenuine => (Step::Quote, RefusalCode::QuoteNotGenuine),
    }
}

#[cfg(test)]
mod tests {
    use kms_attest::collateral::ChainError;

    use super::*;

    fn rejected(reason: &str) -> TdxError {
        TdxError::Rejected { reason: reason.to_owned(), rejection: Rejection::NotGenuine }
    }

    #[test]
    fn what_is_wrong_with_a_quote_has_a_code_of_its_own() {
        for (error, step, code) in [
            (VerifyError::ReportData, Step::KeyBinding, "evidence_not_bound"),
            (VerifyError::EventName, Step::EventLog, "event_name_not_allowed"),
            (VerifyError::QuotedReportData, Step::ReportData, "report_data_mismatch"),
            (VerifyError::Quote(TdxError::Debug), Step::TdAttributes, "td_debug"),
            (VerifyError::Quote(TdxError::ServiceTd), Step::TdAttributes, "service_td_bound"),
            (VerifyError::Quote(rejected("revoked")), Step::Quote, "quote_not_genuine"),
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
            let bad = EvidenceRefusal::from(&error);
            assert_eq!((bad.step, bad.code.name(), bad.reason), (step, code, error.to_string()));
        }
    }

    #[test]
    fn an_event_log_that_does_not_replay_shows_both_values() {
        let error = VerifyError::Rtmr3 { quoted: "aa".to_owned(), replayed: "bb".to_owned() };
        let bad = EvidenceRefusal::from(&error);
        assert_eq!((bad.expected.as_deref(), bad.actual.as_deref()), (Some("aa"), Some("bb")));
    }
}
