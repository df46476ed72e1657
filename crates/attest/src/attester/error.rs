//! Why there is no evidence about this node.

use std::io;
use std::path::PathBuf;

use crate::evidence::EvidenceError;

/// Why there is no evidence about this node.
#[derive(Debug, thiserror::Error)]
pub enum AttesterError {
    /// No source of evidence is configured.
    #[error("no attester is configured: this node cannot prove what it runs")]
    NotConfigured,
    /// The address has no known form.
    #[error("attester address must be unix:<path>, http://<host>:<port>, configfs-tsm:<event log> or none")]
    Address,
    /// A scheme that the peer knows and this program does not support.
    #[error("{0} addresses of a guest agent are not supported, use unix: or http:")]
    UnsupportedScheme(&'static str),
    /// No connection to the guest agent.
    #[error("guest agent is not reachable: {kind}")]
    Unreachable {
        /// The address. Not in the message, which callers may see.
        address: String,
        /// The system's error.
        kind: io::ErrorKind,
    },
    /// The connection closed before the response was complete.
    #[error("connection to the guest agent broke")]
    Broken,
    /// No complete response in time.
    #[error("guest agent did not respond in time")]
    Timeout,
    /// A status other than 200.
    #[error("guest agent returned status {0}")]
    Status(u16),
    /// A response longer than the limit.
    #[error("response of the guest agent has more than {limit} bytes")]
    TooLarge {
        /// The limit, bytes.
        limit: usize,
    },
    /// An attestation of zero bytes.
    #[error("guest agent gave an empty attestation")]
    Empty,
    /// A response without the requested field.
    #[error("response of the guest agent has no usable {0}")]
    Malformed(&'static str),
    /// The evidence in the response does not decode.
    #[error("own evidence: {0}")]
    Evidence(#[from] EvidenceError),
    /// The evidence is for other report data than requested.
    #[error("own evidence is for other report data")]
    OtherReportData,
    /// The kernel has no TSM report interface.
    #[error("configfs-tsm: this kernel offers no reports")]
    NoReports,
    /// The host returned no quote in time.
    #[error("configfs-tsm: no quote in time")]
    QuoteLate,
    /// The host refused to make a quote.
    #[error("configfs-tsm: the host made no quote: {0}")]
    QuoteRefused(io::ErrorKind),
    /// A quote of zero bytes.
    #[error("configfs-tsm: the quote is empty")]
    EmptyQuote,
    /// The bytes are not a TD quote.
    #[error("configfs-tsm: what the host gave is not the quote of a TD")]
    UnreadableQuote,
    /// An operation on the kernel's report interface failed.
    #[error("configfs-tsm: {step}: {kind}")]
    Tsm {
        /// The operation.
        step: &'static str,
        /// The system's error.
        kind: io::ErrorKind,
    },
    /// The kernel's reports are for another TEE.
    #[error("configfs-tsm: provider is not tdx_guest but {0:?}")]
    Provider(String),
    /// Another process changed the report entry at every attempt.
    #[error("configfs-tsm: report entry is in use")]
    Conflict,
    /// The runtime event log cannot be read.
    #[error("runtime event log: cannot be read: {kind}")]
    EventLogFile {
        /// The file. Not in the message, which callers may see.
        path: PathBuf,
        /// The system's error.
        kind: io::ErrorKind,
    },
    /// The runtime event log has the wrong form.
    #[error("runtime event log: {0}")]
    EventLog(&'static str),
}

impl AttesterError {
    /// What an operator should check, in the guest or on its host.
    pub fn advice(&self) -> &'static str {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        match self {
            Self::NotConfigured => "configure an attester; without one a KMS cannot be a replica or have one",
            Self::Address | Self::UnsupportedScheme(_) => "correct the address of the attester",
            Self::Unreachable { kind: NotFound, .. } => {
                "there is no such socket: is this a dstack guest, does its guest agent run, and is the \
                 socket mounted here?"
            }
            Self::Unreachable { kind: ConnectionRefused, .. } => {
                "nothing listens there: start the guest agent, or restart it if its socket is a leftover"
            }
            Self::Unreachable { kind: PermissionDenied, .. } => {
                "this user may not open the socket: give it to the user or run as its owner"
            }
            Self::Unreachable { .. } => "make sure that the guest agent runs and can be reached from here",
            Self::Broken => "another program than a guest agent may listen there, or it crashed: see its log",
            Self::Timeout => {
                "the guest agent is waiting for a quote from the host: check that the host's quote \
                 generation service (QGS) runs"
            }
            Self::Status(404) => {
                "this guest agent does not have the method: it is older than dstack 0.5, or another program"
            }
            Self::Status(_) | Self::Empty => {
                "the guest agent got no quote: check its log, then the quote generation service (QGS) of the \
                 host, and whether the platform is registered with Intel"
            }
            Self::TooLarge { .. } | Self::Malformed(_) => {
                "another program than a guest agent may listen there"
            }
            Self::Evidence(_) => {
                "the versions of the guest agent and of this program are not compatible: update the older one"
            }
            Self::OtherReportData => "the guest agent returns cached evidence, or it is a simulator",
            Self::NoReports => {
                "this VM is not a TD, or its kernel is older than 6.7: mount configfs at /sys/kernel/config, \
                 load the module tdx_guest, and check that the host starts this VM as a TD"
            }
            Self::QuoteLate => {
                "the host's quote generation service (QGS) does not respond: check that it runs and that the \
                 VM has its vsock port or socket (quote-generation-socket of QEMU)"
            }
            Self::QuoteRefused(_) | Self::EmptyQuote => {
                "the host's quote generation service (QGS) failed: check its log, and whether the platform \
                 has its PCK certificate (registration, PCCS)"
            }
            Self::UnreadableQuote => "the host's quote generation service (QGS) makes quotes of another kind",
            Self::Tsm { kind: PermissionDenied, .. } => {
                "this user may not write to the kernel's reports: run as root, and mount them writable into \
                 the container"
            }
            Self::Tsm { .. } => {
                "check the kernel log of this guest, and the log of the host's quote generation service"
            }
            Self::Provider(_) => {
                "this VM is not a TD but another TEE, which is not supported; check how the host starts it"
            }
            Self::Conflict => "another process keeps using the same report entry: run only one of them",
            Self::EventLogFile { kind: NotFound, .. } => {
                "the guest has written no events yet, or elsewhere: correct the path"
            }
            Self::EventLogFile { .. } => "this user must be able to read the file",
            Self::EventLog(_) => "is it the runtime event log of a dstack guest, one JSON object a line?",
        }
    }

    /// The message with address or path and the advice: only for an operator's terminal.
    pub fn detailed(&self) -> String {
        let place = match self {
            Self::Unreachable { address, .. } => format!(" ({address})"),
            Self::EventLogFile { path, .. } => format!(" ({})", path.display()),
            Self::NotConfigured
            | Self::Address
            | Self::UnsupportedScheme(_)
            | Self::Broken
            | Self::Timeout
            | Self::Status(_)
            | Self::TooLarge { .. }
            | Self::Empty
            | Self::Malformed(_)
            | Self::Evidence(_)
            | Self::OtherReportData
            | Self::NoReports
            | Self::QuoteLate
            | Self::QuoteRefused(_)
            | Self::EmptyQuote
            | Self::UnreadableQuote
            | Self::Tsm { .. }
            | Self::Provider(_)
            | Self::Conflict
            | Self::EventLog(_) => String::new(),
        };
        format!("{self}{place}; {}", self.advice())
    }
}
