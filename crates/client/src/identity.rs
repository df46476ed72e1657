//! The client certificate that proves what the caller runs (RA-TLS).

use kms_attest::attester::{Attester, AttesterError};
use kms_attest::binding::ReportData;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls::{self, RaTlsError};

use crate::proto::GetTempCaCertResponse;
use crate::tls::ClientIdentity;

/// Why there is no attested client certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The private key of the temporary CA is not a P-256 key in PEM.
    #[error("the key of the temporary CA cannot be read")]
    TempCaKey,
    /// This machine could not attest the key.
    #[error("no attestation for the client certificate: {0}")]
    Attester(#[from] AttesterError),
    /// The certificate could not be made.
    #[error("the client certificate cannot be issued: {0}")]
    Certificate(#[source] RaTlsError),
}

impl ClientIdentity {
    /// A new attested P-256 key, with a certificate from the temporary CA of a KMS: every KMS accepts it.
    pub async fn attested(
        temp_ca: &GetTempCaCertResponse,
        attester: &Attester,
    ) -> Result<Self, IdentityError> {
        Self::attested_with(P256Key::generate(), temp_ca, attester).await
    }

    /// As [`ClientIdentity::attested`], over a key that the caller has already.
    pub async fn attested_with(
        key: P256Key,
        temp_ca: &GetTempCaCertResponse,
        attester: &Attester,
    ) -> Result<Self, IdentityError> {
        let ca_key = P256Key::from_pem(&temp_ca.temp_ca_key).map_err(|_| IdentityError::TempCaKey)?;
        let evidence = attester.attest(ReportData::ra_tls(&key.spki_der())).await?;
        let certificate = ra_tls::client_certificate(&temp_ca.temp_ca_cert, &ca_key, &key, &evidence)
            .map_err(IdentityError::Certificate)?;
        Ok(Self::new(certificate, key))
    }

    /// A new attested P-256 key, with a self-signed certificate: cvm-kms and newer peers accept it.
    pub async fn self_issued(attester: &Attester) -> Result<Self, IdentityError> {
        let key = P256Key::generate();
        let evidence = attester.attest(ReportData::ra_tls(&key.spki_der())).await?;
        let certificate =
            ra_tls::self_issued_certificate(&key, &evidence).map_err(IdentityError::Certificate)?;
        Ok(Self::new(certificate, key))
    }
}
