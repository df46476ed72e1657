//! Why a source did not hand over its root keys, in words that say what to change.

use std::error::Error as StdError;
use std::io;

use kms_attest::ra_tls::RaTlsError;
use kms_attest::verify::VerifyError;
use kms_wire::join::DeadInvitation;
use rustls::CertificateError;

use crate::connection::ConnectError;
use crate::identity::IdentityError;
use crate::rpc::CallError;
use crate::server::ServerError;
use crate::url::KmsUrl;

/// The call that uses our client certificate.
const HANDOVER: &str = "GetKmsKey";

/// Why the root keys were not received. Where the peer has a text it is kept, because operators search for it
/// (docs/compatibility.md).
#[derive(Debug, thiserror::Error)]
pub enum SourceError<E> {
    /// No connection.
    #[error("Failed to send request: error sending request for url ({url}/{method}?json): {source}")]
    Connect {
        /// The source.
        url: Box<KmsUrl>,
        /// The call that needed the connection.
        method: &'static str,
        /// The cause.
        source: ConnectError,
    },
    /// No certificate to check.
    #[error("Source KMS did not present a TLS certificate")]
    NoCertificate,
    /// A copied certificate: the server does not hold its key.
    #[error("{method}: the server does not hold the private key of the certificate that it shows")]
    StolenCertificate {
        /// The call that needed the connection.
        method: &'static str,
    },
    /// The certificate cannot be read.
    #[error("Failed to decode attestation from cert extension: {0}")]
    Certificate(#[source] RaTlsError),
    /// The certificate is not that of a KMS: an app of the same root, for example.
    #[error("the source is not a KMS: {0}")]
    NotAKms(#[source] ServerError),
    /// It has no keys either.
    #[error("the source KMS has no keys yet: it is being onboarded itself")]
    NoKeys,
    /// Nothing to verify: the source runs with `core.attest_rpc_cert = false`, or behind a proxy that
    /// terminates TLS.
    #[error("Source KMS certificate does not contain attestation")]
    NoAttestation,
    /// The attestation of the source does not verify.
    #[error("Failed to verify the attestation of the source KMS: {0}")]
    Attestation(#[source] VerifyError),
    /// The caller's policy does not accept the source.
    #[error("Source KMS is not allowed for onboarding: {0}")]
    NotAllowed(E),
    /// The source names no usable root CA.
    #[error("GetTempCaCert: ca_cert is not exactly one CA certificate in PEM")]
    RootCa,
    /// Its root CA is another one than was said.
    #[error(
        "the root CA of the source KMS is not the one that was asked for: the SHA-256 of its public key is {}",
        hex::encode(found)
    )]
    UnexpectedRoot {
        /// SHA-256 of its public key.
        found: [u8; 32],
    },
    /// The certificate of the source does not belong to the cluster that it claims.
    #[error("the certificate of the source KMS is not issued by the root CA that it shows: {0}")]
    OtherRoot(#[source] webpki::Error),
    /// The source refused a call, or its response is invalid.
    #[error(transparent)]
    Call(CallError),
    /// The connection broke during a call.
    #[error("{method}: the connection to the source KMS broke: {causes}")]
    Broken {
        /// The call.
        method: &'static str,
        /// The errors of the transport.
        causes: String,
    },
    /// This machine could not attest itself.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The server of the second connection is another one.
    #[error(
        "GetKmsKey: the server has another key than the source KMS that was attested on the first connection; use \
         the address of that one KMS, without a load balancer or proxy in between"
    )]
    OtherServer,
    /// The source rejects our client certificate.
    #[error(
        "GetKmsKey: the source KMS refused the TLS certificate of this KMS ({0}); compare the clocks of both, and make \
         sure that one KMS answers at this address, not several that are unrelated"
    )]
    CertificateRefused(String),
    /// Not exactly one key set.
    #[error("Invalid keys")]
    InvalidKeys,
    /// The root CA key is not a P-256 private key.
    #[error("Failed to parse CA key")]
    CaKey,
    /// The temporary CA key is not a P-256 private key.
    #[error("Failed to parse tmp CA key")]
    TempCaKey,
    /// The secp256k1 root key is not 32 bytes.
    #[error("Failed to parse ECDSA key")]
    K256Key,
    /// Its epochs are not those of a KMS.
    #[error("epoch {number} of the source KMS {problem}; nothing was taken over")]
    Epoch {
        /// Which epoch.
        number: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A key differs from the one that the source showed.
    #[error("{key} does not belong to {shown} of the source KMS")]
    OtherKey {
        /// Which key.
        key: &'static str,
        /// Where the source showed it.
        shown: &'static str,
    },
}

impl<E> SourceError<E> {
    /// The error for a failed connection, as specific as possible.
    pub(super) fn unconnected(error: ConnectError, url: &KmsUrl, method: &'static str) -> Self {
        let told = match &error {
            ConnectError::NoCertificate => Some(Self::NoCertificate),
            ConnectError::Tls(failure) => match tls_failure(failure) {
                Some(rustls::Error::NoCertificatesPresented) => Some(Self::NoCertificate),
                Some(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) => {
                    Some(Self::StolenCertificate { method })
                }
                // Only a pinned connection fails like this.
                Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
                    Some(Self::OtherServer)
                }
                Some(rustls::Error::AlertReceived(_)) if method == HANDOVER => {
                    Some(Self::CertificateRefused(causes(failure)))
                }
                _ => None,
            },
            ConnectError::Config(_)
            | ConnectError::Name(_)
            | ConnectError::Tcp(_)
            | ConnectError::Http(_)
            | ConnectError::Timeout(_) => None,
        };
        told.unwrap_or_else(|| Self::Connect { url: Box::new(url.clone()), method, source: error })
    }

    /// Why the invitation by which the keys were asked for opens nothing any more; `None` if that is not why.
    pub fn dead_invitation(&self) -> Option<DeadInvitation> {
        match self {
            Self::Call(CallError::Refused { method, code: Some(code), .. }) if method == HANDOVER => {
                DeadInvitation::parse(code)
            }
            Self::Connect { .. }
            | Self::NoCertificate
            | Self::StolenCertificate { .. }
            | Self::Certificate(_)
            | Self::NotAKms(_)
            | Self::NoKeys
            | Self::NoAttestation
            | Self::Attestation(_)
            | Self::NotAllowed(_)
            | Self::RootCa
            | Self::UnexpectedRoot { .. }
            | Self::OtherRoot(_)
            | Self::Call(_)
            | Self::Broken { .. }
            | Self::Identity(_)
            | Self::OtherServer
            | Self::CertificateRefused(_)
            | Self::InvalidKeys
            | Self::CaKey
            | Self::TempCaKey
            | Self::K256Key
            | Self::Epoch { .. }
            | Self::OtherKey { .. } => None,
        }
    }

    /// Whether a retry may succeed without any change.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Identity(IdentityError::Attester(_)) => true,
            Self::Attestation(cause) => cause.is_unavailable(),
            Self::Call(CallError::Refused { status, .. }) => {
                status.is_server_error() || *status == http::StatusCode::TOO_MANY_REQUESTS
            }
            Self::Call(CallError::Timeout { .. }) | Self::Broken { .. } => true,
            Self::Call(
                CallError::Method(_)
                | CallError::Encode { .. }
                | CallError::Transport { .. }
                | CallError::TooLarge { .. }
                | CallError::Decode { .. }
                | CallError::Incomplete { .. },
            )
            | Self::Identity(IdentityError::TempCaKey | IdentityError::Certificate(_))
            | Self::NoCertificate
            | Self::StolenCertificate { .. }
            | Self::Certificate(_)
            | Self::NotAKms(_)
            | Self::NoKeys
            | Self::NoAttestation
            | Self::NotAllowed(_)
            | Self::RootCa
            | Self::UnexpectedRoot { .. }
            | Self::OtherRoot(_)
            | Self::OtherServer
            | Self::CertificateRefused(_)
            | Self::InvalidKeys
            | Self::CaKey
            | Self::TempCaKey
            | Self::K256Key
            | Self::Epoch { .. }
            | Self::OtherKey { .. } => false,
        }
    }
}

/// The error of a handover for which there is no challenge. A refusal is told as one of the handover itself, which the same
/// caller asks for with the same credentials.
pub(super) fn unchallenged<E>(error: CallError) -> SourceError<E> {
    unanswered(HANDOVER)(match error {
        CallError::Refused { status, message, code, denial_id, retry_after, .. } => {
            CallError::Refused { method: HANDOVER.to_owned(), status, message, code, denial_id, retry_after }
        }
        error => error,
    })
}

/// The error for a failed call. In TLS 1.3 a server checks our certificate after the handshake has ended for
/// us, so its alert arrives here; HTTP/2 keeps only the alert's text.
pub(super) fn unanswered<E>(method: &'static str) -> impl FnOnce(CallError) -> SourceError<E> {
    move |error| match error {
        CallError::Transport { source, .. } => match causes(&source) {
            causes if method == HANDOVER && causes.contains("received fatal alert") => {
                SourceError::CertificateRefused(causes)
            }
            causes => SourceError::Broken { method, causes },
        },
        error => SourceError::Call(error),
    }
}

fn tls_failure(failure: &io::Error) -> Option<&rustls::Error> {
    failure.get_ref()?.downcast_ref()
}

/// An error with its causes: each text once, without links to manuals.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        let said = said.split(": https://").next().unwrap_or_default();
        if !text.contains(said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    crate::text::printable(&text)
}
