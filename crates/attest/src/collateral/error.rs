//! Why there is no collateral for a quote. No message names an endpoint, because callers may see these
//! errors.

use std::fmt;

use super::FloorKind;
use crate::outgoing::Cause;

/// Why there is no collateral for a quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollateralError {
    /// The quote does not name its platform. The sender's fault.
    #[error("quote does not name its platform: {0}")]
    Quote(String),
    /// The PCK certificate chain in the quote has the wrong form. The sender's fault.
    #[error("pck certificate chain of the quote {0}")]
    PckChain(super::ChainError),
    /// The quote is of an SGX enclave. The sender's fault.
    #[error("no td report")]
    NotATd,
    /// The PCK certificate in the quote does not chain to the trusted root. The sender's fault.
    #[error("platform certificate of the quote does not lead to the trusted root")]
    UntrustedPlatform,
    /// No endpoint has usable collateral now.
    #[error("collateral for the platform of this quote is not available at the moment")]
    Unavailable {
        /// The failures, in the order of the attempts. For the log.
        failures: Vec<FetchFailure>,
    },
    /// A part of the given collateral does not parse.
    #[error("collateral is malformed: {0}")]
    Malformed(&'static str),
}

impl CollateralError {
    /// Whether the quote itself is wrong. Otherwise a later attempt may succeed.
    pub fn is_senders_fault(&self) -> bool {
        matches!(self, Self::Quote(_) | Self::PckChain(_) | Self::NotATd | Self::UntrustedPlatform)
    }

    pub(crate) fn unavailable(failure: FetchFailure) -> Self {
        Self::Unavailable { failures: vec![failure] }
    }
}

/// The responses that make up collateral.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The platform's PCK certificate, only for quotes with an encrypted PPID.
    PckCertificate,
    /// CRL of the PCK CA.
    PckCrl,
    /// TCB levels of the platform model.
    TcbInfo,
    /// Identity of the TD quoting enclave.
    QeIdentity,
    /// CRL of the root CA, from the endpoint.
    RootCrl,
    /// CRL of the root CA, from the distribution point in the root certificate.
    DistributionPoint,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::PckCertificate => "pck certificate",
            Resource::PckCrl => "pck crl",
            Resource::TcbInfo => "tcb info",
            Resource::QeIdentity => "qe identity",
            Resource::RootCrl => "root crl",
            Resource::DistributionPoint => "root crl distribution point",
        })
    }
}

/// Why one endpoint gave no collateral.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// No connection, or it broke.
    #[error("{resource}: no connection: {cause}")]
    Connection {
        /// The requested document.
        resource: Resource,
        /// The cause, without host names.
        cause: Cause,
        /// The innermost error, such as `Connection refused` or a TLS certificate error. It may name hosts,
        /// so it is only for an operator's terminal.
        detail: String,
    },
    /// No complete response in time.
    #[error("{0}: no response in time")]
    Timeout(Resource),
    /// A status other than 2xx.
    #[error("{resource}: answered {status}")]
    Status {
        /// The requested document.
        resource: Resource,
        /// HTTP status.
        status: u16,
    },
    /// A body longer than the limit.
    #[error("{resource}: more than {limit} bytes")]
    TooLarge {
        /// The requested document.
        resource: Resource,
        /// The limit, bytes.
        limit: usize,
    },
    /// A required response header is missing.
    #[error("{resource}: missing {header}")]
    MissingHeader {
        /// The requested document.
        resource: Resource,
        /// Name of the header.
        header: &'static str,
    },
    /// A response that does not parse.
    #[error("{resource}: {problem}")]
    Malformed {
        /// The requested document.
        resource: Resource,
        /// What is wrong.
        problem: &'static str,
    },
    /// Intel's registration of the platform is at an older TCB level than the platform reports (`SGX-TCBm`).
    #[error("pck certificate: platform is not registered at its current tcb level")]
    TcbLevel,
    /// The root certificate names no CRL distribution point.
    #[error("root crl: root certificate has no crl distribution point")]
    NoDistributionPoint,
    /// A response that is not signed up to the trusted root, or is about another platform.
    #[error("{0}: not signed by the trusted root")]
    Untrusted(Resource),
    /// A response that is past its `nextUpdate` or not yet valid.
    #[error("collateral is not valid at this time")]
    NotCurrent,
    /// A number is lower than one seen before.
    #[error(
        "{kind}: number {number} is lower than {seen}, which was seen before; the service has an older set"
    )]
    RolledBack {
        /// The kind of number.
        kind: FloorKind,
        /// The number in the response.
        number: u64,
        /// The highest number seen before.
        seen: u64,
    },
    /// A number is lower than the operator allows.
    #[error("{kind}: number {number} is lower than core.tcb.min_evaluation_number, {minimum}")]
    BelowMinimum {
        /// The kind of number.
        kind: FloorKind,
        /// The number in the response.
        number: u64,
        /// The configured minimum.
        minimum: u64,
    },
    /// The TCB info is for another FMSPC than requested.
    #[error("tcb info: about another platform")]
    OtherPlatform,
    /// All endpoints together exceeded the deadline.
    #[error("no collateral in time")]
    Deadline,
    /// Too many concurrent fetches.
    #[error("too many collateral requests are under way")]
    Busy,
    /// No service may be asked.
    #[error("core.attestation.offline is set, and no valid collateral of this model is kept")]
    Offline,
    /// A fetch ended without a result.
    #[error("collateral request was abandoned")]
    Abandoned,
}

impl FetchFailure {
    /// The message with all details, hosts included: only for an operator's terminal.
    pub fn detailed(&self) -> String {
        match self {
            Self::Connection { resource, detail, .. } => format!("{resource}: no connection: {detail}"),
            other => other.to_string(),
        }
    }

    /// Whether the endpoint gave a regular response that it does not know the platform.
    pub(crate) fn is_unknown_platform(&self) -> bool {
        matches!(
            self,
            Self::Status { resource: Resource::TcbInfo | Resource::PckCertificate, status: 400 | 404 }
                | Self::TcbLevel
        )
    }
}

/// A configured service that gave no collateral, and the reason. Only for an operator's terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFailure {
    /// The address as configured.
    pub url: String,
    /// The failure of the last request.
    pub failure: FetchFailure,
}

impl fmt::Display for ServiceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.failure.detailed())
    }
}

/// Why an endpoint's address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not an absolute `http` or `https` URL.
    #[error("collateral endpoint {index} is not an http or https url")]
    NotHttp {
        /// Position in the list, from 0.
        index: usize,
    },
    /// Has a query or a fragment.
    #[error("collateral endpoint {index} must not have a query or a fragment")]
    HasQuery {
        /// Position in the list, from 0.
        index: usize,
    },
    /// An address of an older version of the API, which has no TDX.
    #[error("collateral endpoint {index} names version {version} of the API: TDX needs v4")]
    Version {
        /// Position in the list, from 0.
        index: usize,
        /// The version in the path.
        version: u32,
    },
    /// The HTTP client could not be built.
    #[error("http client for collateral: {0}")]
    Client(String),
}
