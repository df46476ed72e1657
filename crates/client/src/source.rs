//! How a new replica gets its keys: verify a running KMS, have it allowed, and receive the root keys from
//! exactly that KMS.

mod epochs;
mod error;
mod handover;
mod join;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kms_attest::attester::Attester;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_attest::verify::{Binding, Verified, Verifier};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage};

pub use self::epochs::{EpochKeyParts, EpochPart};
pub use self::error::SourceError;
use self::error::{unanswered, unchallenged};
pub use self::handover::RootKeyParts;
use self::handover::Shown;
pub use self::join::{JoinToken, Joined, NotAJoinToken, Unreported};
use crate::connection::Connection;
use crate::fresh::Fresh;
use crate::operator::OperatorToken;
use crate::proto::{GetKmsKeyRequest, GetMetaResponse, GetTempCaCertResponse, KmsKeyResponse};
use crate::rpc::CallError;
use crate::server::{self, ONBOARDING_USAGE, ServerError};
use crate::tls::{self, ClientIdentity, Trust};
use crate::url::KmsUrl;

/// The limit for the source's description. The peer's response waits for its authorization backend.
const META_TIMEOUT: Duration = Duration::from_secs(5);

/// Receives the root keys of a running KMS.
///
/// `authorize` receives what the source's attestation proves, and decides whether to accept it; no keys are
/// requested before that. The connection that carries the keys is bound to the attested public key: a server
/// in between can neither read them nor substitute its own. The keys must be those of the certificates that
/// the source showed, and its own certificate must be issued by them.
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
    let asked = Asked { root: None, invitation: None };
    let received = receive(source, asked, attester, verifier, vm_config, authorize).await?;
    Ok(received.0)
}

/// What a replica knows of the source before it connects.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// SHA-256 of the public key of its root CA (SubjectPublicKeyInfo DER); `None` if any is right.
    pub root: Option<[u8; 32]>,
    /// The invitation by which it asks.
    pub invitation: Option<Invited<'a>>,
}

/// An invitation, and the key to which the source binds it.
#[derive(Debug, Clone, Copy)]
pub struct Invited<'a> {
    /// Its token, which goes to an attested and authorized source only, over the attested connection.
    pub token: &'a JoinToken,
    /// The key that this process attests: always the same, so that the source knows it again when a call is repeated.
    pub key: &'a P256Key,
}

/// Like [`receive_root_keys`], from a source with a root that is known before, or by an invitation. With an invitation there
/// is also a way to tell the source what became of it.
///
/// # Errors
/// [`SourceError`]; nothing has been received then.
pub async fn receive<E>(
    source: &KmsUrl,
    asked: Asked<'_>,
    attester: &Attester,
    verifier: &Verifier,
    vm_config: &str,
    authorize: impl AsyncFnOnce(&Verified) -> Result<(), E>,
) -> Result<(RootKeyParts, Option<Joined>), SourceError<E>> {
    let Asked { root, invitation } = asked;
    let first = AttestedSource::open(source, verifier).await?;
    authorize(first.verified()).await.map_err(SourceError::NotAllowed)?;
    let temp_ca = first.temp_ca_cert().await?;
    expect_root(&temp_ca, root)?;
    let meta = described(&first.connection).await;

    let key = match invitation {
        None => P256Key::generate(),
        Some(Invited { key, .. }) => P256Key::from_pkcs8_der(&*key.pkcs8_der()).expect("its own encoding"),
    };
    let identity = ClientIdentity::attested_with(key, &temp_ca, attester).await?;
    let attested = Trust::PublicKey(first.connection.server_public_key());
    let second = open(source, "GetKmsKey", attested, Some(&identity)).await?;
    // A source that describes itself without a word about fresh evidence takes none. One that does not respond is asked.
    let takes_none = meta.as_ref().is_some_and(|meta| meta.require_fresh.is_none());
    let fresh = match second.client_public_key() {
        Some(key) if !takes_none => {
            second.fresh_evidence("KMS.GetKmsKey", key, attester).await.map_err(unchallenged)?
        }
        _ => Fresh::default(),
    };
    let mut request = request(vm_config, fresh);
    if let Some(Invited { token, .. }) = invitation {
        token.expose().clone_into(&mut request.join_token);
    }
    let response: KmsKeyResponse =
        second.call("GetKmsKey", &request).await.map_err(unanswered("GetKmsKey"))?;
    let parts = RootKeyParts::parse(&response, &Shown::Answers { temp_ca: &temp_ca, meta: meta.as_ref() })?;
    let joined = invitation.map(|Invited { token, .. }| Joined {
        source: source.clone(),
        server: first.connection.server_public_key().to_vec(),
        identity,
        token: token.again(),
    });
    Ok((parts, joined))
}

/// Requires the root that was said before, if one was.
fn expect_root<E>(temp_ca: &GetTempCaCertResponse, root: Option<[u8; 32]>) -> Result<(), SourceError<E>> {
    let Some(expected) = root else { return Ok(()) };
    let certificate = tls::single_certificate(&temp_ca.ca_cert).map_err(|_| SourceError::RootCa)?;
    let spki = tls::public_key_of(&certificate).map_err(|_| SourceError::RootCa)?;
    let found: [u8; 32] = Sha256::digest(spki).into();
    if found == expected { Ok(()) } else { Err(SourceError::UnexpectedRoot { found }) }
}

/// Receives the root keys of a running KMS from its admin listener, with the token of an operator there.
///
/// Like [`receive_root_keys`], but over one connection with a self-signed certificate, because the admin
/// listener has no temporary CA. The token is sent after the source's attestation has been verified and
/// `authorize` has agreed, on the attested connection, so no other server sees it.
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
    let key = identity.key().spki_der();
    let fresh = connection.fresh_evidence_as_operator(token, "Admin.GetKmsKey", &key, attester).await;
    let request = request(vm_config, fresh.map_err(unchallenged)?);
    let response: KmsKeyResponse =
        connection.call_as_operator(token, "GetKmsKey", &request).await.map_err(unanswered("GetKmsKey"))?;
    RootKeyParts::parse(&response, &Shown::Certificate(connection.server_certificate()))
}

fn request(vm_config: &str, fresh: Fresh) -> GetKmsKeyRequest {
    GetKmsKeyRequest {
        vm_config: vm_config.to_owned(),
        epochs: true,
        challenge: fresh.challenge,
        fresh_evidence: fresh.evidence,
        join_token: String::new(),
    }
}

/// A running KMS with a verified certificate, and the connection that showed it. Nothing has been requested
/// from it yet.
#[derive(Debug)]
pub struct AttestedSource {
    connection: Connection,
    verified: Verified,
}

impl AttestedSource {
    /// Connects to `source` and verifies its certificate: the first step of [`receive_root_keys`].
    ///
    /// # Errors
    /// [`SourceError`]: no connection, or not the certificate of an attested KMS.
    pub async fn open<E>(source: &KmsUrl, verifier: &Verifier) -> Result<Self, SourceError<E>> {
        let connection = open(source, "GetTempCaCert", Trust::DangerousAnyServer, None).await?;
        let verified = verify(&connection, verifier).await?;
        Ok(Self { connection, verified })
    }

    /// What its attestation proves.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The public temporary CA and the root certificate, which must have issued the source's own certificate.
    ///
    /// # Errors
    /// [`SourceError`]: no response, or the root of another certificate.
    pub async fn temp_ca_cert<E>(&self) -> Result<GetTempCaCertResponse, SourceError<E>> {
        let temp_ca = self.connection.temp_ca_cert().await.map_err(unanswered("GetTempCaCert"))?;
        issued_by(self.connection.server_certificate(), &temp_ca.ca_cert)?;
        Ok(temp_ca)
    }
}

impl AttestedSource {
    /// Its description of itself, if it responds.
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

/// Verifies the certificate of the source: it is that of a KMS, and its attestation covers its key.
async fn verify<E>(source: &Connection, verifier: &Verifier) -> Result<Verified, SourceError<E>> {
    let certificate = source.server_certificate();
    // An app's certificate is reported as such, with or without an attestation.
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

/// Requires that the source's certificate is issued by the root CA that it shows to guests.
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

/// The source's description of its keys. It is optional: it finds mistakes, but proves nothing beyond the
/// pinned connection.
async fn described(source: &Connection) -> Option<GetMetaResponse> {
    let answer: Result<GetMetaResponse, CallError> = source.call_within(META_TIMEOUT, "GetMeta", &()).await;
    answer.inspect_err(|error| tracing::warn!(%error, "the source KMS does not describe itself")).ok()
}
