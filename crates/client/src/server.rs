//! Checks that a server is a KMS, by its certificate's usage and attestation, before anything is sent to it.

use kms_attest::ra_tls::{self, RaTlsError};
use kms_attest::verify::{Binding, Verified, Verifier, VerifyError};

use crate::connection::Connection;
use crate::text;

/// The special usage in the certificate of a KMS.
pub const KMS_USAGE: &str = "kms:rpc";

/// The special usage in the certificate of a KMS without keys. Only operators' clients accept it.
pub const ONBOARDING_USAGE: &str = "kms:onboarding";

/// The requirement for the attestation in the server's certificate.
#[derive(Clone, Copy)]
pub enum ServerAttestation<'a> {
    /// It may be missing; if present, it must verify. Guests of the peer do this: they rely on the root key,
    /// which they measure as their key provider.
    IfPresent(&'a Verifier),
    /// It must be present and verify.
    Required(&'a Verifier),
}

/// Why the server is not accepted as a KMS.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The certificate has no special usage.
    #[error("missing server cert usage")]
    NoUsage,
    /// The certificate has another usage: an app of the same root, for example.
    #[error("Invalid server cert usage: {0}")]
    Usage(String),
    /// The certificate names an app, which no KMS's does, whatever its usage.
    #[error("the server certificate is that of an app")]
    App,
    /// No attestation, and the caller requires one.
    #[error("the server certificate does not contain attestation")]
    NoAttestation,
    /// An extension of the certificate cannot be read.
    #[error("the server certificate cannot be read: {0}")]
    Certificate(#[from] RaTlsError),
    /// The attestation does not verify.
    #[error("the server's attestation is not valid: {0}")]
    Attestation(#[from] VerifyError),
}

/// Requires that a certificate (DER) has the usage of a KMS, and does not name an app of the same root CA.
///
/// # Errors
/// [`ServerError::Usage`], [`ServerError::NoUsage`], [`ServerError::App`], or that it cannot be parsed.
pub fn kms_certificate(certificate: &[u8]) -> Result<(), ServerError> {
    match ra_tls::special_usage(certificate)? {
        Some(usage) if usage == KMS_USAGE => {}
        Some(usage) => return Err(ServerError::Usage(text::printable(&usage))),
        None => return Err(ServerError::NoUsage),
    }
    let names_app = ra_tls::app_id_in(certificate)?.is_some() || ra_tls::app_info_in(certificate)?.is_some();
    if names_app { Err(ServerError::App) } else { Ok(()) }
}

impl Connection {
    /// Requires that the server's certificate is that of a KMS, with the required attestation. Returns what
    /// the attestation proves, if there is one.
    pub async fn verify_server(
        &self,
        attestation: ServerAttestation<'_>,
    ) -> Result<Option<Verified>, ServerError> {
        kms_certificate(self.server_certificate())?;
        let verifier = match attestation {
            ServerAttestation::IfPresent(verifier) | ServerAttestation::Required(verifier) => verifier,
        };
        match (self.server_evidence()?, attestation) {
            (Some(evidence), _) => {
                let binding = Binding::PublicKey(self.server_public_key());
                Ok(Some(verifier.verify(&evidence, binding).await?))
            }
            (None, ServerAttestation::IfPresent(_)) => Ok(None),
            (None, ServerAttestation::Required(_)) => Err(ServerError::NoAttestation),
        }
    }

    /// The attestation in the server's certificate, not yet verified.
    pub(crate) fn server_evidence(&self) -> Result<Option<kms_attest::evidence::Evidence>, RaTlsError> {
        ra_tls::evidence_in(self.server_certificate())
    }
}
