//! Why there is no collateral for a quote. No text here names an endpoint: these errors may be shown outside.

use std::fmt;

use super::FloorKind;
use crate::outgoing::Cause;

/// Why a quote got no collateral.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollateralError {
    /// The quote does not say on which platform it was made. The sender's fault.
    #[error("quote does not name its platform: {0}")]
    Quote(String),
    /// The chain of the platform's certificate is not in the form that quotes have it in. The sender's fault.
    #[error("pck certificate chain of the quote {0}")]
    PckChain(super::ChainError),
    /// The quote is of an SGX enclave. The sender's fault.
    #[error("no td report")]
    NotATd,
    /// The platform certificate in the quote is not Intel's (or not of the configured root). The sender's fault.
    #[error("platform certificate of the quote does not lead to the trusted root")]
    UntrustedPlatform,
    /// No endpoint has usable collateral now.
    #[error("collateral for the platform of this quote is not available at the moment")]
    Unavailable {
        /// What happened, in the order of the attempts. For the log.
        failures: Vec<FetchFailure>,
    },
    /// A part of given collateral does not parse.
    #[error("collateral is malformed: {0}")]
    Malformed(&'static str),
}

impl CollateralError {
    /// Whether the sender of the quote can do something about it; otherwise it is worth trying again later.
    pub fn is_senders_fault(&self) -> bool {
        matches!(self, Self::Quote(_) | Self::PckChain(_) | Self::NotATd | Self::UntrustedPlatform)
    }

    pub(crate) fn unavailable(failure: FetchFailure) -> Self {
        Self::Unavailable { failures: vec![failure] }
    }
}

/// The answers that make up collateral.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The platform's own certificate, for quotes that carry an encrypted PPID only.
    PckCertificate,
    /// Revocations by the CA of platform certificates.
    PckCrl,
    /// TCB levels of the kind of platform.
    TcbInfo,
    /// Identity of the quoting enclave.
    QeIdentity,
    /// Revocations by the root, from the endpoint.
    RootCrl,
    /// Revocations by the root, from where the root certificate says.
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
        /// What was asked for.
        resource: Resource,
        /// Why not.
        cause: Cause,
        /// The innermost reason, such as `Connection refused` or what is wrong with a TLS certificate. It may name hosts,
        /// so it is for an operator's own terminal.
        detail: String,
    },
    /// No complete answer in time.
    #[error("{0}: no answer in time")]
    Timeout(Resource),
    /// An answer that is not 2xx.
    #[error("{resource}: answered {status}")]
    Status {
        /// What was asked for.
        resource: Resource,
        /// HTTP status.
        status: u16,
    },
    /// A body longer than we read.
    #[error("{resource}: more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        resource: Resource,
        /// Bytes we read.
        limit: usize,
    },
    /// A response header that must be there.
    #[error("{resource}: missing {header}")]
    MissingHeader {
        /// What was asked for.
        resource: Resource,
        /// Its name.
        header: &'static str,
    },
    /// An answer that does not parse.
    #[error("{resource}: {problem}")]
    Malformed {
        /// What was asked for.
        resource: Resource,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Intel knows the platform only at an older TCB level than it says it has.
    #[error("pck certificate: platform is not registered at its current tcb level")]
    TcbLevel,
    /// The root certificate names no CRL distribution point.
    #[error("root crl: root certificate has no crl distribution point")]
    NoDistributionPoint,
    /// An answer that is not signed up to the trusted root, or is about another platform.
    #[error("{0}: not signed by the trusted root")]
    Untrusted(Resource),
    /// An answer that is past its `nextUpdate` or not yet valid.
    #[error("collateral is not valid at this time")]
    NotCurrent,
    /// A number is lower than one that was seen before: the service has an older set.
    #[error(
        "{kind}: number {number} is lower than {seen}, which was seen before; the service has an older set"
    )]
    RolledBack {
        /// Of what.
        kind: FloorKind,
        /// The answer's.
        number: u64,
        /// The highest before.
        seen: u64,
    },
    /// A number is lower than the operator allows.
    #[error("{kind}: number {number} is lower than core.tcb.min_evaluation_number, {minimum}")]
    BelowMinimum {
        /// Of what.
        kind: FloorKind,
        /// The answer's.
        number: u64,
        /// The operator's.
        minimum: u64,
    },
    /// The answer is about another kind of platform than asked for.
    #[error("tcb info: about another platform")]
    OtherPlatform,
    /// All endpoints together took too long.
    #[error("no collateral in time")]
    Deadline,
    /// Too many fetches are under way.
    #[error("too many collateral requests are under way")]
    Busy,
    /// A fetch ended without a result.
    #[error("collateral request was given up")]
    Abandoned,
}

impl FetchFailure {
    /// With everything that is known, hosts included: for an operator's own terminal.
    pub fn detailed(&self) -> String {
        match self {
            Self::Connection { resource, detail, .. } => format!("{resource}: no connection: {detail}"),
            other => other.to_string(),
        }
    }

    /// Whether the endpoint answered properly that it does not know the platform.
    pub(crate) fn is_unknown_platform(&self) -> bool {
        matches!(
            self,
            Self::Status { resource: Resource::TcbInfo | Resource::PckCertificate, status: 400 | 404 }
                | Self::TcbLevel
        )
    }
}

/// A configured service that gave no collateral, and why. For an operator's own terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFailure {
    /// Its address as configured.
    pub url: String,
    /// What happened when it was asked last.
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
        /// Its place in the list, from 0.
        index: usize,
    },
    /// Has a query or a fragment.
    #[error("collateral endpoint {index} must not have a query or a fragment")]
    HasQuery {
        /// Its place in the list, from 0.
        index: usize,
    },
    /// An address of an older version of the API, which knows no TDX.
    #[error("collateral endpoint {index} names version {version} of the API: TDX needs v4")]
    Version {
        /// Its place in the list, from 0.
        index: usize,
        /// The version in its path.
        version: u32,
    },
    /// The HTTP client could not be built.
    #[error("http client for collateral: {0}")]
    Client(String),
}
