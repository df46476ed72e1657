//! What a new replica does: verify a running KMS, have it allowed, and receive the root keys from exactly that one.

mod error;
mod handover;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kms_attest::attester::Attester;
use kms_attest::ra_tls;
use kms_attest::verify::{Binding, Verified, Verifier};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

pub use self::error::SourceError;
use self::error::unanswered;
pub use self::handover::RootKeyParts;
use self::handover::Shown;
use crate::connection::Connection;
use crate::operator::OperatorToken;
use crate::proto::{GetKmsKeyRequest, GetMetaResponse, GetTempCaCertResponse, KmsKeyResponse};
use crate::rpc::CallError;
use crate::server::{self, ONBOARDING_USAGE, ServerError};
use crate::tls::{self, ClientIdentity, Trust};
use crate::url::KmsUrl;

/// How long the source may take to describe itself. The peer's answer waits for its authorization backend.
const META_TIMEOUT: Duration = Duration::from_secs(5);

/// Receives the root keys of a running KMS.
///
/// `authorize` is given what the source's attestation proves and decides whether to take keys from it; before it has
/// agreed, the source is asked for nothing. The connection over which the keys come is tied to the public key that was
/// attested: a server in between can neither listen nor hand over keys of its own. The keys are those of the
/// certificates that the same source shows, and its own certificate is issued by them.
///
/// # Errors
/// [`SourceError`]; nothing has been received then.
pub async fn receive_root_keys<E>(
    source: &KmsUrl,
    attester: &Attester,
    verifier: &Verifier,
    vm_config: &str,
    authorize: impl AsyncFnOnce(&Verified) -> Result<(), E>,
) -> Result<RootKeyParts, SourceError<E>> {
    let first = AttestedSource::open(source, verifier).await?;
    authorize(first.verified()).await.map_err(SourceError::NotAllowed)?;
    let temp_ca = first.temp_ca_cert().await?;
    let meta = described(&first.connection).await;

    let identity = ClientIdentity::attested(&temp_ca, attester).await?;
    let attested = Trust::PublicKey(first.connection.server_public_key());
    let second = open(source, "GetKmsKey", attested, Some(&identity)).await?;
    let request = GetKmsKeyRequest { vm_config: vm_config.to_owned() };
    let response: KmsKeyResponse =
        second.call("GetKmsKey", &request).await.map_err(unanswered("GetKmsKey"))?;
    RootKeyParts::parse(&response, &Shown::Answers { temp_ca: &temp_ca, meta: meta.as_ref() })
}

/// Receives the root keys of a running KMS from its admin listener, with the token of an operator of it.
///
/// As [`receive_root_keys`], over one connection with a certificate that this machine issues itself: the admin listener
/// has no temporary CA. The token is sent after the source's attestation has been verified and `authorize` has agreed, on
/// the connection that was attested: no other server sees it.
///
/// # Errors
/// [`SourceError`]; nothing has been received then.
pub async fn receive_root_keys_as_operator<E>(
    source: &KmsUrl,
    token: &OperatorToken,
    attester: &Attester,
    verifier: &Verifier,
    vm_config: &str,
    authorize: impl AsyncFnOnce(&Verified) -> Result<(), E>,
) -> Result<RootKeyParts, SourceError<E>> {
    let identity = ClientIdentity::self_issued(attester).await?;
    let connection = open(source, "GetKmsKey", Trust::DangerousAnyServer, Some(&identity)).await?;
    let verified = verify(&connection, verifier).await?;
    authorize(&verified).await.map_err(SourceError::NotAllowed)?;
    let request = GetKmsKeyRequest { vm_config: vm_config.to_owned() };
    let response: KmsKeyResponse =
        connection.call_as_operator(token, "GetKmsKey", &request).await.map_err(unanswered("GetKmsKey"))?;
    RootKeyParts::parse(&response, &Shown::Certificate(connection.server_certificate()))
}

/// A running KMS whose certificate has been verified, on the connection that showed it. It has been asked for nothing.
#[derive(Debug)]
pub struct AttestedSource {
    connection: Connection,
    verified: Verified,
}

impl AttestedSource {
    /// Connects to `source` and verifies what its certificate proves: the first step of [`receive_root_keys`].
    ///
    /// # Errors
    /// [`SourceError`]: no connection, or a certificate that is not of an attested KMS.
    pub async fn open<E>(source: &KmsUrl, verifier: &Verifier) -> Result<Self, SourceError<E>> {
        let connection = open(source, "GetTempCaCert", Trust::DangerousAnyServer, None).await?;
        let verified = verify(&connection, verifier).await?;
        Ok(Self { connection, verified })
    }

    /// What its attestation proves.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The public temporary CA and the root certificate, which issued the source's own.
    ///
    /// # Errors
    /// [`SourceError`]: no answer, or the root of another certificate.
    pub async fn temp_ca_cert<E>(&self) -> Result<GetTempCaCertResponse, SourceError<E>> {
        let temp_ca = self.connection.temp_ca_cert().await.map_err(unanswered("GetTempCaCert"))?;
        issued_by(self.connection.server_certificate(), &temp_ca.ca_cert)?;
        Ok(temp_ca)
    }
}

impl AttestedSource {
    /// What it says about itself, if it does now.
    pub async fn described(&self) -> Option<GetMetaResponse> {
        described(&self.connection).await
    }
}

async fn open<E>(
    url: &KmsUrl,
    method: &'static str,
    trust: Trust<'_>,
    identity: Option<&ClientIdentity>,
) -> Result<Connection, SourceError<E>> {
    let opened = Connection::open(url, trust, identity).await;
    opened.map_err(|error| SourceError::unconnected(error, url, method))
}

/// What the certificate of the source proves: it is one of a KMS, and its attestation verifies and covers its key.
async fn verify<E>(source: &Connection, verifier: &Verifier) -> Result<Verified, SourceError<E>> {
    let certificate = source.server_certificate();
    // An app's certificate is named as such, with an attestation or without.
    let marked = match server::kms_certificate(certificate) {
        Err(ServerError::Usage(usage)) if usage == ONBOARDING_USAGE => return Err(SourceError::NoKeys),
        Err(error @ (ServerError::Usage(_) | ServerError::App)) => return Err(SourceError::NotAKms(error)),
        marked => marked,
    };
    let evidence = ra_tls::evidence_in(certificate)
        .map_err(SourceError::Certificate)?
        .ok_or(SourceError::NoAttestation)?;
    marked.map_err(SourceError::NotAKms)?;
    let binding = Binding::PublicKey(source.server_public_key());
    verifier.verify(&evidence, binding).await.map_err(SourceError::Attestation)
}

/// Requires that the source's certificate is issued by the root CA that it gives to guests.
fn issued_by<E>(certificate: &[u8], root: &str) -> Result<(), SourceError<E>> {
    let root = tls::single_certificate(root).map_err(|_| SourceError::RootCa)?;
    let anchor = webpki::anchor_from_trusted_cert(&root).map_err(|_| SourceError::RootCa)?;
    let certificate = CertificateDer::from(certificate);
    let usage = KeyUsage::server_auth();
    EndEntityCert::try_from(&certificate)
        .and_then(|certificate| {
            let algorithms = webpki::ALL_VERIFICATION_ALGS;
            certificate
                .verify_for_usage(algorithms, &[anchor], &[], UnixTime::now(), usage, None, None)
                .map(drop)
        })
        .map_err(SourceError::OtherRoot)
}

/// What the source says about its keys. A source that does not answer now says nothing, and is not refused for it: this
/// finds mistakes, it proves nothing that the pinned connection does not.
async fn described(source: &Connection) -> Option<GetMetaResponse> {
    let answer: Result<GetMetaResponse, CallError> = source.call_within(META_TIMEOUT, "GetMeta", &()).await;
    answer.inspect_err(|error| tracing::warn!(%error, "the source KMS does not describe itself")).ok()
}
