//! Why a TDX quote is refused.

use super::{Rejection, Shortfall};
use crate::collateral::ChainError;

/// Length of a PPID, bytes.
pub(super) const PPID_BYTES: usize = 16;

/// Maximum length of a message of the library, because part of it may come from the quote's sender.
pub(super) const MAX_REASON_CHARS: usize = 400;

/// Why a TDX quote is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TdxError {
    /// The bytes are not a quote.
    #[error("failed to parse TDX quote: {0}")]
    Malformed(String),
    /// The quote verifier refused the quote.
    #[error("failed to verify TDX quote: {reason}")]
    Rejected {
        /// Its message.
        reason: String,
        /// The kind of refusal.
        rejection: Rejection,
    },
    /// Security versions below every level that Intel lists. All signatures were verified before; for the
    /// quoting enclave, those up to its own report.
    #[error("failed to verify TDX quote: {reason}: {shortfall}")]
    Unlisted {
        /// The quote verifier's message.
        reason: String,
        /// The versions that are too low.
        shortfall: Box<Shortfall>,
    },
    /// The quote is of an SGX enclave.
    #[error("no td report")]
    NotATd,
    /// A TD report version later than 1.5.
    #[error("td report of this version is not supported")]
    UnsupportedBody,
    /// A bit of TDATTRIBUTES' debug byte is set.
    #[error("debug mode is enabled")]
    Debug,
    /// TDATTRIBUTES bits that are reserved or not accepted.
    #[error("td attributes {0:#018x} are not accepted")]
    Attributes(u64),
    /// SEPT_VE_DISABLE is clear.
    #[error("SEPT_VE_DISABLE is not enabled")]
    SeptVeEnabled,
    /// The TDX module is not Intel's.
    #[error("mr_signer_seam is not zero")]
    ForeignModule,
    /// A service TD is bound to the TD.
    #[error("mr_service_td is not zero")]
    ServiceTd,
    /// The PCK certificate chain has the wrong form.
    #[error("failed to verify TDX quote: pck certificate chain {0}")]
    PckChain(ChainError),
    /// There is no PCK certificate chain in the quote or the collateral.
    #[error("failed to verify TDX quote: no pck certificate chain")]
    NoPckChain,
    /// The PCK certificate lacks a value, or has another than was verified.
    #[error("the platform's security versions do not parse")]
    Platform,
    /// A TCB status that this program does not know.
    #[error("unknown tcb status {0}")]
    Status(String),
    /// The PPID in the PCK certificate has the wrong length.
    #[error("ppid must be {PPID_BYTES} bytes, got {bytes}")]
    Ppid {
        /// The length found.
        bytes: usize,
    },
}

/// A library error with its causes, on one line of bounded length.
pub(super) fn reason(error: &(impl std::fmt::Display + ?Sized)) -> String {
    format!("{error:#}").chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect()
}
