//! Why a check failed, and what the operator can do.

use kms_attest::attester::AttesterError;
use kms_attest::collateral::{CollateralError, FetchFailure};
use kms_attest::verify::VerifyError;
use kms_client::source::SourceError;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::finding::Failure;

/// How many failed services a text names.
const MAX_FAILURES: usize = 4;

/// No evidence from this machine.
pub(super) fn unattested(error: AttesterError) -> Failure {
    let advice = match &error {
        AttesterError::NotConfigured => {
            "This KMS runs without a TEE (core.insecure_no_tee). It can make keys, but nobody can verify them, and it \
             can neither be nor have a replica."
        }
        AttesterError::Unreachable { .. } => {
            "Make sure that the guest agent runs, and that its socket is where core.attester says and mounted here."
        }
        AttesterError::Address
        | AttesterError::UnsupportedScheme(_)
        | AttesterError::Broken
        | AttesterError::Timeout
        | AttesterError::Status(_)
        | AttesterError::TooLarge { .. }
        | AttesterError::Empty
        | AttesterError::Malformed(_)
        | AttesterError::Evidence(_)
        | AttesterError::OtherReportData
        | AttesterError::NoReports
        | AttesterError::QuoteLate
        | AttesterError::QuoteRefused(_)
        | AttesterError::EmptyQuote
        | AttesterError::UnreadableQuote
        | AttesterError::Tsm { .. }
        | AttesterError::Provider(_)
        | AttesterError::Conflict
        | AttesterError::EventLogFile { .. }
        | AttesterError::EventLog(_) => "See the log of the guest agent, or of what core.attester names.",
    };
    Failure::new(format!("{}.", capitalized(&error.to_string())), advice)
}

/// Our own evidence does not verify, or cannot be verified now.
pub(super) fn unverified(error: VerifyError) -> Failure {
    match &error {
        VerifyError::Collateral(CollateralError::Unavailable { failures }) => {
            if failures.contains(&FetchFailure::Offline) {
                return Failure::new(
                    "No valid collateral for this machine is kept, and core.attestation.offline forbids to fetch it.",
                    "On a machine that reaches Intel, run kms collateral export --fetch; here, kms collateral import.",
                );
            }
            let told: Vec<String> = failures.iter().take(MAX_FAILURES).map(FetchFailure::to_string).collect();
            Failure::new(
                format!("Intel's collateral for this machine is not available: {}.", told.join("; ")),
                "Make sure that a service of core.attestation.urls.pccs can be reached from here and knows this \
                 platform; list several.",
            )
        }
        VerifyError::Collateral(CollateralError::UntrustedPlatform) => Failure::new(
            "The certificate of this platform does not lead to the trusted root.",
            "Make sure that this machine is genuine. A simulated one needs core.attestation.root_ca.tdx.",
        ),
        VerifyError::Clock(behind) => Failure::new(
            format!("{}.", capitalized(&behind.to_string())),
            "Set the clock of this machine: the validity of certificates and collateral is judged by it.",
        ),
        VerifyError::Collateral(
            CollateralError::Quote(_)
            | CollateralError::PckChain(_)
            | CollateralError::NotATd
            | CollateralError::Malformed(_),
        )
        | VerifyError::UnsupportedPlatform(_)
        | VerifyError::Evidence(_)
        | VerifyError::ReportData
        | VerifyError::EventName
        | VerifyError::PodPayload
        | VerifyError::Quote(_)
        | VerifyError::Rtmr3 { .. }
        | VerifyError::QuotedReportData
        | VerifyError::Preimages(_) => Failure::new(
            format!("The evidence of this machine does not verify: {error}."),
            "Make sure that this machine is genuine and its firmware updated.",
        ),
    }
}

/// Why a source cannot be used.
pub(super) fn unreached(error: SourceError<String>) -> Failure {
    let advice = match &error {
        SourceError::Connect { .. } => {
            "Make sure that the URL is right, that the KMS there serves, and that it can be reached from here."
        }
        SourceError::NoKeys => "Give the URL of a KMS that serves, or finish the setup of that one first.",
        SourceError::NoAttestation => {
            "The KMS there runs with core.attest_rpc_cert = false, or has a proxy in front that ends TLS."
        }
        SourceError::NotAKms(_) | SourceError::NoCertificate | SourceError::Certificate(_) => {
            "Give the URL of a running KMS, without a proxy in front that ends TLS."
        }
        SourceError::Attestation(cause) if cause.is_unavailable() => {
            "The source cannot be verified now: see the check of the collateral service."
        }
        SourceError::Attestation(_) => "Do not take keys from it: it cannot prove what it runs.",
        SourceError::NotAllowed(_) => {
            "Allow the source in the policy of this KMS: its mrAggregated, OS image hash and device."
        }
        SourceError::OtherRoot(_) => {
            "Use the address of one KMS: several that are unrelated seem to answer there."
        }
        SourceError::StolenCertificate { .. }
        | SourceError::RootCa
        | SourceError::UnexpectedRoot { .. }
        | SourceError::Call(_)
        | SourceError::Broken { .. }
        | SourceError::Identity(_)
        | SourceError::OtherServer
        | SourceError::CertificateRefused(_)
        | SourceError::InvalidKeys
        | SourceError::CaKey
        | SourceError::TempCaKey
        | SourceError::K256Key
        | SourceError::Epoch { .. }
        | SourceError::OtherKey { .. } => "See the log of the source.",
    };
    Failure::new(format!("{}.", capitalized(&error.to_string())), advice)
}

/// Whether collateral was fetched, but is not valid at the clock's time.
pub(super) fn is_not_current(error: &CollateralError) -> bool {
    matches!(error, CollateralError::Unavailable { failures } if failures.contains(&FetchFailure::NotCurrent))
}

/// A Unix time as a date in UTC.
pub(super) fn date(unix_seconds: u64) -> String {
    let time = i64::try_from(unix_seconds).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| "a date out of range".to_owned())
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
