//! TLS: which server a connection accepts, and which certificate the client shows.
//!
//! Every configuration is used for one connection: no session is resumed, so no ticket from a connection with
//! weaker checks can skip those made here.

use std::sync::Arc;

use kms_attest::p256::P256Key;
use kms_attest::tls::{ChainLimit, trusting};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, Error as TlsError, RootCertStore, WantsVerifier,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use webpki::EndEntityCert;

/// Which servers are accepted.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Any server that holds the key of its certificate. The caller must check the certificate
    /// ([`crate::Connection::server_certificate`]); until then the server is unknown.
    DangerousAnyServer,
    /// A certificate that chains to this root CA (PEM, exactly one certificate) and names the host of the
    /// URL. At most two intermediates of together 16 KiB are accepted.
    RootCa(&'a str),
    /// A certificate that chains to a public CA (Mozilla's list, built in) and names the host of the URL.
    PublicRoots,
    /// A certificate over exactly this public key (SubjectPublicKeyInfo DER), which was attested before.
    PublicKey(&'a [u8]),
}

impl Trust<'_> {
    /// The configuration of one connection without a client certificate, for other clients than those of this crate.
    ///
    /// # Errors
    /// [`TlsConfigError`].
    pub fn client_config(self) -> Result<ClientConfig, TlsConfigError> {
        client_config(self, None)
    }
}

/// The certificate and key that the client shows on request.
pub struct ClientIdentity {
    certificate: CertificateDer<'static>,
    key: P256Key,
}

impl ClientIdentity {
    /// From a certificate (DER) and its private key.
    pub fn new(certificate: Vec<u8>, key: P256Key) -> Self {
        Self { certificate: certificate.into(), key }
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key of the certificate.
    pub fn key(&self) -> &P256Key {
        &self.key
    }
}

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The root CA is not exactly one certificate in PEM that can anchor a chain.
    #[error("the root CA is not exactly one CA certificate in PEM")]
    RootCa,
    /// Client certificate and key do not match.
    #[error("the client certificate cannot be used: {0}")]
    Identity(#[source] TlsError),
    /// The cryptography library lacks the protocol versions.
    #[error("no usable TLS version: {0}")]
    Versions(#[source] TlsError),
}

/// The configuration of one connection.
pub(crate) fn client_config(
    trust: Trust<'_>,
    identity: Option<&ClientIdentity>,
) -> Result<ClientConfig, TlsConfigError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsConfigError::Versions)?;
    let builder = accepting(builder, trust)?;
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivatePkcs8KeyDer::from(identity.key.pkcs8_der().to_vec());
            builder
                .with_client_auth_cert(vec![identity.certificate.clone()], PrivateKeyDer::Pkcs8(key))
                .map_err(TlsConfigError::Identity)?
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Adds the check that only servers accepted by `trust` pass.
fn accepting(
    builder: ConfigBuilder<ClientConfig, WantsVerifier>,
    trust: Trust<'_>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsConfigError> {
    let algorithms = builder.crypto_provider().signature_verification_algorithms;
    let expected = match trust {
        Trust::DangerousAnyServer => None,
        Trust::PublicKey(spki) => Some(spki.into()),
        Trust::RootCa(pem) => {
            let mut roots = RootCertStore::empty();
            roots.add(single_certificate(pem)?).map_err(|_| TlsConfigError::RootCa)?;
            return trusting(builder, roots, ChainLimit::KMS).map_err(|_| TlsConfigError::RootCa);
        }
        Trust::PublicRoots => {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            return trusting(builder, roots, ChainLimit::PUBLIC).map_err(|_| TlsConfigError::RootCa);
        }
    };
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(KeyHolder { expected, algorithms })))
}

/// The only certificate in a PEM text.
pub(crate) fn single_certificate(pem: &str) -> Result<CertificateDer<'static>, TlsConfigError> {
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    match (certificates.next(), certificates.next()) {
        (Some(Ok(certificate)), None) => Ok(certificate),
        _ => Err(TlsConfigError::RootCa),
    }
}

/// The public key of a certificate (SubjectPublicKeyInfo DER), by the parser that also verifies the
/// handshake's signature, so that both see the same key.
pub(crate) fn public_key_of(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, webpki::Error> {
    Ok(EndEntityCert::try_from(certificate)?.subject_public_key_info().as_ref().to_vec())
}

/// Accepts a server that holds the key of its certificate, whatever its issuer and name.
#[derive(Debug)]
struct KeyHolder {
    /// Only this public key, if given.
    expected: Option<Box<[u8]>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for KeyHolder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let shown = public_key_of(certificate).map_err(|_| CertificateError::BadEncoding)?;
        match &self.expected {
            Some(expected) if shown[..] != expected[..] => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    kms_attest::usual_signatures!(verifier => &verifier.algorithms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Connection;
    use crate::connection::ConnectError;
    use crate::testing::{Authority, Leaf, Reply, TestServer, look_alike};

    async fn server(leaf: Leaf) -> TestServer {
        TestServer::start(Arc::new(Authority::new()), &[leaf], &["h2"], |_, _| Reply::Json(().into())).await
    }

    #[tokio::test]
    async fn a_server_under_the_root_with_the_right_name_is_accepted() {
        let server = server(Leaf::kms()).await;
        let trust = Trust::RootCa(&server.authority.root_pem);
        Connection::open(&server.url, trust, None).await.expect("IP address");
        let named = server.url.to_string().replace("127.0.0.1", "localhost").parse().expect("url");
        Connection::open(&named, trust, None).await.expect("DNS name");
    }

    #[tokio::test]
    async fn a_server_under_another_root_is_refused() {
        let server = server(Leaf::kms()).await;
        let other = Authority::new();
        for trust in [Trust::RootCa(&other.root_pem), Trust::PublicRoots] {
            let error = Connection::open(&server.url, trust, None).await.expect_err("root");
            assert!(matches!(error, ConnectError::Tls(_)), "{trust:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_sends_many_look_alikes_is_refused_without_a_path_search() {
        let key = P256Key::generate();
        let issuer = look_alike(&key);
        let leaf = Leaf { issuer: Some(Arc::new((key, issuer))), ..Leaf::kms() };
        for count in [3, 170] {
            let intermediates = (0..count).map(|_| look_alike(&P256Key::generate())).collect();
            let server = server(Leaf { intermediates, ..leaf.clone() }).await;
            for trust in [Trust::RootCa(&server.authority.root_pem), Trust::PublicRoots] {
                let began = std::time::Instant::now();
                let error = Connection::open(&server.url, trust, None).await.expect_err("too many");
                assert!(matches!(error, ConnectError::Tls(_)), "{trust:?}: {error}");
                let took = began.elapsed();
                assert!(took < std::time::Duration::from_secs(10), "{count} look-alikes: {took:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_server_with_another_name_is_refused() {
        for names in [vec![], vec!["kms.example".to_owned()], vec!["127.0.0.2".to_owned()]] {
            let server = server(Leaf { names: names.clone(), ..Leaf::kms() }).await;
            let error = Connection::open(&server.url, Trust::RootCa(&server.authority.root_pem), None)
                .await
                .expect_err("name");
            assert!(matches!(error, ConnectError::Tls(_)), "{names:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_pin_accepts_its_key_under_any_issuer_and_refuses_every_other() {
        let leaf = Leaf { names: vec![], ..Leaf::kms() };
        let server = server(leaf.clone()).await;
        let pin = leaf.key.spki_der();
        Connection::open(&server.url, Trust::PublicKey(&pin), None).await.expect("the pinned key");
        let other = P256Key::generate().spki_der();
        for wrong in [&other[..], &pin[..90], &[]] {
            let error =
                Connection::open(&server.url, Trust::PublicKey(wrong), None).await.expect_err("another key");
            assert!(matches!(error, ConnectError::Tls(_)), "{error}");
        }
    }

    #[tokio::test]
    async fn a_copied_certificate_without_its_key_is_refused() {
        let leaf = Leaf { impostor: Some(Arc::new(P256Key::generate())), ..Leaf::kms() };
        let server = server(leaf.clone()).await;
        for trust in [
            Trust::DangerousAnyServer,
            Trust::PublicKey(&leaf.key.spki_der()),
            Trust::RootCa(&server.authority.root_pem),
        ] {
            let error = Connection::open(&server.url, trust, None).await.expect_err("impostor");
            assert!(matches!(error, ConnectError::Tls(_)), "{trust:?}: {error}");
        }
    }

    #[tokio::test]
    async fn the_public_key_of_the_server_is_captured() {
        let leaf = Leaf::kms();
        let server = server(leaf.clone()).await;
        let connection =
            Connection::open(&server.url, Trust::DangerousAnyServer, None).await.expect("any server");
        assert_eq!(connection.server_public_key(), leaf.key.spki_der());
        assert_eq!(
            kms_attest::ra_tls::spki_of(connection.server_certificate()).expect("spki"),
            leaf.key.spki_der()
        );
    }

    #[test]
    fn a_root_is_exactly_one_certificate() {
        let pem = Authority::new().root_pem;
        assert!(client_config(Trust::RootCa(&pem), None).is_ok());
        let broken = pem.replace("MII", "AAA");
        for text in ["", "text", &format!("{pem}{pem}"), &broken] {
            let error = client_config(Trust::RootCa(text), None).expect_err("root");
            assert!(matches!(error, TlsConfigError::RootCa), "{error}");
        }
    }

    #[test]
    fn a_certificate_of_another_key_is_no_identity() {
        let authority = Authority::new();
        let der = kms_attest::certificate::der(&authority.temp_pem).expect("der");
        let identity = ClientIdentity::new(der, P256Key::generate());
        let error = client_config(Trust::DangerousAnyServer, Some(&identity)).expect_err("mismatch");
        assert!(matches!(error, TlsConfigError::Identity(_)), "{error}");
    }
}
