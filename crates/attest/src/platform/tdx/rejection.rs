//! Kinds of refusal by the quote verifier.

/// The kind of a refusal by the quote verifier. The verifier checks the TD last, after signatures and TCB
/// levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// A wrong signature, certificate, revocation or date, or any other reason.
    NotGenuine,
    /// Intel lists the platform's keys as compromised.
    Revoked,
    /// The TD is in debug mode.
    Debug,
    /// TDATTRIBUTES with a forbidden bit, or without a required one.
    Attributes,
    /// A service TD is bound to the TD.
    ServiceTd,
}
