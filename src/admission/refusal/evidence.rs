//! Why evidence is refused: the step, the code, and the two values that differ.

use kms_attest::{
    collateral::CollateralError, platform::tdx::TdxError, ra_tls::RaTlsError, verify::VerifyError,
};

use super::{CLOCK, Step};

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

#[cfg(test)]
mod tests {
    use kms_attest::collateral::ChainError;

    use super::*;

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
    fn an_event_log_that_does_not_replay_shows_both_values() {
        let error = VerifyError::Rtmr3 { quoted: "aa".to_owned(), replayed: "bb".to_owned() };
        let bad = BadEvidence::from(&error);
        assert_eq!((bad.expected.as_deref(), bad.actual.as_deref()), (Some("aa"), Some("bb")));
    }
}
