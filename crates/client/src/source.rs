//! What a new replica does: verify a running KMS, have it allowed, and receive the root keys from exactly that one.

use kms_attest::{
    attester::Attester,
    p256::P256Key,
    ra_tls::RaTlsError,
    verify::{Binding, Verified, Verifier, VerifyError},
};

use crate::{
    connection::{ConnectError, Connection},
    identity::IdentityError,
    proto::{GetKmsKeyRequest, GetTempCaCertResponse, KmsKeyResponse},
    rpc::CallError,
    tls::{self, ClientIdentity, Trust},
    url::KmsUrl,
};

/// Why the root keys were not received. The texts of the peer are kept where it has one: operators search for them
/// (docs/compatibility.md).
#[derive(Debug, thiserror::Error)]
pub enum SourceError<E> {
    /// No connection.
    #[error("Failed to send request: error sending request for url ({url}/{method}?json): {source}")]
    Connect {
        /// The source.
        url: Box<KmsUrl>,
        /// The call for which the connection was needed.
        method: &'static str,
        /// Why not.
        source: ConnectError,
    },
    /// No certificate to judge.
    #[error("Source KMS did not present a TLS certificate")]
    NoCertificate,
    /// The certificate cannot be read.
    #[error("Failed to decode attestation from cert extension: {0}")]
    Certificate(#[source] RaTlsError),
    /// Nothing to verify: the source runs with `core.attest_rpc_cert = false`, or a proxy ends TLS in front of it.
    #[error("Source KMS certificate does not contain attestation")]
    NoAttestation,
    /// The attestation of the source does not verify.
    #[error("Failed to verify the attestation of the source KMS: {0}")]
    Attestation(#[source] VerifyError),
    /// The source refused, or a call broke.
    #[error(transparent)]
    Call(#[from] CallError),
    /// This machine could not prove itself.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The caller's policy does not accept the source.
    #[error("Source KMS is not allowed for onboarding: {0}")]
    NotAllowed(E),
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
    /// A key does not belong to the certificate that the same source showed.
    #[error("{0} does not belong to the certificate that the source KMS showed")]
    OtherKey(&'static str),
}

/// Receives the root keys of a running KMS.
///
/// `authorize` is given what the source's attestation proves and decides whether to take keys from it. The connection
/// over which the keys come is tied to the public key that was attested: a server in between can neither listen nor
/// hand over keys of its own.
pub async fn receive_root_keys<E>(
    source: &KmsUrl,
    attester: &Attester,
    verifier: &Verifier,
    vm_config: &str,
    authorize: impl AsyncFnOnce(&Verified) -> Result<(), E>,
) -> Result<KmsKeyResponse, SourceError<E>> {
    let first = open(source, "GetTempCaCert", Trust::DangerousAnyServer, None).await?;
    let evidence =
        first.server_evidence().map_err(SourceError::Certificate)?.ok_or(SourceError::NoAttestation)?;
    let verified = verifier
        .verify(&evidence, Binding::PublicKey(first.server_public_key()))
        .await
        .map_err(SourceError::Attestation)?;
    let temp_ca = first.temp_ca_cert().await?;

    let identity = ClientIdentity::attested(&temp_ca, attester).await?;
    authorize(&verified).await.map_err(SourceError::NotAllowed)?;

    let attested = Trust::PublicKey(first.server_public_key());
    let second = open(source, "GetKmsKey", attested, Some(&identity)).await?;
    let request = GetKmsKeyRequest { vm_config: vm_config.to_owned() };
    let response: KmsKeyResponse = second.call("GetKmsKey", &request).await?;
    check(&response, &temp_ca)?;
    Ok(response)
}

async fn open<E>(
    url: &KmsUrl,
    method: &'static str,
    trust: Trust<'_>,
    identity: Option<&ClientIdentity>,
) -> Result<Connection, SourceError<E>> {
    Connection::open(url, trust, identity).await.map_err(|source| match source {
        ConnectError::NoCertificate => SourceError::NoCertificate,
        source => SourceError::Connect { url: Box::new(url.clone()), method, source },
    })
}

/// One key set, each key of its kind, the CA keys those of the certificates shown before.
fn check<E>(response: &KmsKeyResponse, shown: &GetTempCaCertResponse) -> Result<(), SourceError<E>> {
    let [keys] = &response.keys[..] else { return Err(SourceError::InvalidKeys) };
    let ca = P256Key::from_pem(&keys.ca_key).map_err(|_| SourceError::CaKey)?;
    let temp_ca = P256Key::from_pem(&response.temp_ca_key).map_err(|_| SourceError::TempCaKey)?;
    if keys.k256_key.len() != 32 {
        return Err(SourceError::K256Key);
    }
    for (name, key, certificate) in
        [("the CA key", &ca, &shown.ca_cert), ("the tmp CA key", &temp_ca, &shown.temp_ca_cert)]
    {
        let shown = tls::single_certificate(certificate).ok().and_then(|der| tls::public_key_of(&der).ok());
        if shown.as_deref() != Some(&key.spki_der()[..]) {
            return Err(SourceError::OtherKey(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
