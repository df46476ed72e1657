//! Why a document proves nothing: one code of a closed list, which the clients of all languages use, and one sentence.

use super::pins::Pin;

/// Why a document, or a connection, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The pins are not usable.
    #[error("the pins are not usable: {0}")]
    BadPins(String),
    /// Nothing says which KMS is meant.
    #[error(
        "nothing says which KMS is meant: pin root_ca_spki_sha256 or mr_aggregated, because anyone can run a KMS that proves itself"
    )]
    NoPin,
    /// Longer than [`super::MAX_BYTES`].
    #[error("the document must have at most {} bytes", super::MAX_BYTES)]
    TooLarge,
    /// Not JSON of this form.
    #[error("the document is malformed: {0}")]
    Malformed(String),
    /// A key is given twice in one object.
    #[error("the document is malformed: {0} is there more than once")]
    DuplicateKey(String),
    /// A version that this program does not know.
    #[error("the version of the document is {0}, and this program knows version 1: update it")]
    UnknownVersion(u64),
    /// The quote is over something else than the statement.
    #[error("the quote is not over this statement: the statement was changed, or belongs to another quote")]
    ReportData,
    /// The events do not replay to the register in the quote.
    #[error("the event log is not what the quote measured: {0}")]
    EventLog(String),
    /// There is no collateral to verify the quote with.
    #[error("the document has no collateral, without which its quote cannot be verified")]
    CollateralMissing,
    /// The collateral is not valid now.
    #[error("the collateral is valid from {begins} to {ends} (Unix seconds), and the time is {now}")]
    CollateralExpired {
        /// The first second.
        begins: u64,
        /// The last second.
        ends: u64,
        /// The time of the verdict.
        now: u64,
    },
    /// The collateral is of another platform, or does not parse.
    #[error("the collateral does not fit the quote: {0}")]
    CollateralMismatch(String),
    /// The TD can be debugged.
    #[error("the KMS runs in debug mode, so its host can read its memory")]
    Debug,
    /// The TD has attributes, a module or a service TD that weaken its isolation.
    #[error("the KMS is not isolated from its host: {0}")]
    TdIsolation(String),
    /// The quote is not signed by genuine hardware.
    #[error("the quote is not genuine: {0}")]
    Quote(String),
    /// Intel's verdict about the platform is not accepted.
    #[error("the TCB status of the platform is {found}, and accepted is {accepted}")]
    TcbStatus {
        /// The status, in Intel's words, or why there is none.
        found: String,
        /// The accepted ones.
        accepted: String,
    },
    /// The events or the configuration name no guest.
    #[error("the evidence names no guest: {0}")]
    Identity(String),
    /// The root CA has not signed this quote.
    #[error("the root CA key has not signed this quote and statement: {0}")]
    RootSignature(&'static str),
    /// An answer to another question.
    #[error("the document is not the answer to this request: its nonce differs")]
    Nonce,
    /// Too old, or of the future.
    #[error("the statement was made at {made} (Unix seconds), and the time is {now}: {why}")]
    Time {
        /// The time in the statement.
        made: u64,
        /// The time of the verdict.
        now: u64,
        /// What is wrong with that.
        why: &'static str,
    },
    /// A proved value is not a pinned one.
    #[error("{pin} is {found}, which is not pinned", pin = pin.name())]
    PinMismatch {
        /// Which value.
        pin: Pin,
        /// The value that was proved.
        found: String,
    },
    /// The server of a connection does not have the key in the statement.
    #[error(
        "the server's TLS key is not the one that the quote proves: another program answers at this address"
    )]
    TlsKey,
}

/// The codes of refusals. The list is closed: clients of other languages have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Code {
    BadPins,
    NoPin,
    TooLarge,
    Malformed,
    DuplicateKey,
    UnknownVersion,
    ReportData,
    EventLog,
    CollateralMissing,
    CollateralExpired,
    CollateralMismatch,
    Debug,
    TdIsolation,
    Quote,
    TcbStatus,
    Identity,
    RootSignature,
    Nonce,
    Time,
    PinMismatch,
    TlsKey,
}

impl Code {
    /// All codes, in the order of the checks.
    pub const ALL: [Self; 21] = [
        Self::BadPins,
        Self::NoPin,
        Self::TooLarge,
        Self::Malformed,
        Self::DuplicateKey,
        Self::UnknownVersion,
        Self::ReportData,
        Self::EventLog,
        Self::CollateralMissing,
        Self::CollateralExpired,
        Self::CollateralMismatch,
        Self::Debug,
        Self::TdIsolation,
        Self::Quote,
        Self::TcbStatus,
        Self::Identity,
        Self::RootSignature,
        Self::Nonce,
        Self::Time,
        Self::PinMismatch,
        Self::TlsKey,
    ];

    /// The code as text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadPins => "bad_pins",
            Self::NoPin => "no_pin",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::DuplicateKey => "duplicate_key",
            Self::UnknownVersion => "unknown_version",
            Self::ReportData => "report_data",
            Self::EventLog => "event_log",
            Self::CollateralMissing => "collateral_missing",
            Self::CollateralExpired => "collateral_expired",
            Self::CollateralMismatch => "collateral_mismatch",
            Self::Debug => "debug",
            Self::TdIsolation => "td_isolation",
            Self::Quote => "quote",
            Self::TcbStatus => "tcb_status",
            Self::Identity => "identity",
            Self::RootSignature => "root_signature",
            Self::Nonce => "nonce",
            Self::Time => "time",
            Self::PinMismatch => "pin_mismatch",
            Self::TlsKey => "tls_key",
        }
    }
}

impl Refusal {
    /// The code.
    pub fn code(&self) -> Code {
        match self {
            Self::BadPins(_) => Code::BadPins,
            Self::NoPin => Code::NoPin,
            Self::TooLarge => Code::TooLarge,
            Self::Malformed(_) => Code::Malformed,
            Self::DuplicateKey(_) => Code::DuplicateKey,
            Self::UnknownVersion(_) => Code::UnknownVersion,
            Self::ReportData => Code::ReportData,
            Self::EventLog(_) => Code::EventLog,
            Self::CollateralMissing => Code::CollateralMissing,
            Self::CollateralExpired { .. } => Code::CollateralExpired,
            Self::CollateralMismatch(_) => Code::CollateralMismatch,
            Self::Debug => Code::Debug,
            Self::TdIsolation(_) => Code::TdIsolation,
            Self::Quote(_) => Code::Quote,
            Self::TcbStatus { .. } => Code::TcbStatus,
            Self::Identity(_) => Code::Identity,
            Self::RootSignature(_) => Code::RootSignature,
            Self::Nonce => Code::Nonce,
            Self::Time { .. } => Code::Time,
            Self::PinMismatch { .. } => Code::PinMismatch,
            Self::TlsKey => Code::TlsKey,
        }
    }

    /// The pin that does not match.
    pub fn pin(&self) -> Option<Pin> {
        match self {
            Self::PinMismatch { pin, .. } => Some(*pin),
            Self::BadPins(_)
            | Self::NoPin
            | Self::TooLarge
            | Self::Malformed(_)
            | Self::DuplicateKey(_)
            | Self::UnknownVersion(_)
            | Self::ReportData
            | Self::EventLog(_)
            | Self::CollateralMissing
            | Self::CollateralExpired { .. }
            | Self::CollateralMismatch(_)
            | Self::Debug
            | Self::TdIsolation(_)
            | Self::Quote(_)
            | Self::TcbStatus { .. }
            | Self::Identity(_)
            | Self::RootSignature(_)
            | Self::Nonce
            | Self::Time { .. }
            | Self::TlsKey => None,
        }
    }
}
