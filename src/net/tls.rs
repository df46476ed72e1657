//! TLS: which client certificates are accepted, and a server certificate that can be replaced while serving.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, io};

use arc_swap::ArcSwap;
use kms_attest::binding::session::spki_sha256;
use kms_attest::certificate;
use kms_attest::ra_tls::{self, ParsedCertificate};
use kms_attest::tls::{ChainLimit, exporter};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, StoresServerSessions};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, CipherSuite, DistinguishedName, NamedGroup, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::sessions::Sessions;
use crate::admission::Session;
use crate::api::views::ServedCertificate;
use crate::config;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls rejects the key, the certificate or the settings.
    #[error("tls: {0}")]
    Rustls(#[from] rustls::Error),
    /// The temporary CA certificate cannot be parsed.
    #[error("the certificate of the temporary CA is unusable: {0}")]
    TempCa(webpki::Error),
    /// The server certificate cannot be parsed.
    #[error("the server certificate is unusable: {0}")]
    Certificate(#[from] ra_tls::RaTlsError),
}

/// The server certificate for new handshakes; replacing it leaves open connections alone.
pub struct Leaf(ArcSwap<Served>);

/// A server certificate with its key.
struct Served {
    certified: Arc<CertifiedKey>,
    /// SHA-256 of its SubjectPublicKeyInfo.
    spki_sha256: [u8; 32],
}

impl Served {
    fn new(certified: CertifiedKey) -> Result<Self, TlsError> {
        let leaf = certified.end_entity_cert()?;
        let spki_sha256 = spki_sha256(&ra_tls::spki_of(leaf)?);
        Ok(Self { certified: Arc::new(certified), spki_sha256 })
    }
}

impl Leaf {
    /// Serves `chain` (leaf first) with its PKCS#8 key.
    ///
    /// # Errors
    /// When key and certificate do not belong together.
    pub fn new(chain: Vec<CertificateDer<'static>>, pkcs8: &[u8]) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified(chain, pkcs8)?))))
    }

    /// Like [`Leaf::new`], with a key in any form.
    ///
    /// # Errors
    /// Like [`Leaf::new`].
    pub fn with_key(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, TlsError> {
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?;
        Ok(Arc::new(Self(ArcSwap::from_pointee(Served::new(certified)?))))
    }

    /// Uses this certificate from the next handshake on.
    ///
    /// # Errors
    /// Like [`Leaf::new`]; the old certificate then stays.
    pub fn swap(&self, chain: Vec<CertificateDer<'static>>, pkcs8: &[u8]) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(chain, pkcs8)?));
        Ok(())
    }
}

impl ServedCertificate for Leaf {
    fn expires_at(&self) -> Option<u64> {
        let served = self.0.load();
        let der = served.certified.cert.first()?;
        certificate::not_after(&certificate::pem(der)).ok()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let served = self.0.load();
        // Outside [`Acceptor::accept`] it is not used.
        let _ = SHOWN.try_with(|shown| shown.borrow_mut().server_spki_sha256 = Some(served.spki_sha256));
        Some(Arc::clone(&served.certified))
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, pkcs8: &[u8]) -> Result<Served, TlsError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    Served::new(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}

/// For the KMS phase: requests client certificates.
///
/// # Errors
/// [`TlsError`].
pub fn serving(
    leaf: Arc<Leaf>,
    temp_ca: &CertificateDer<'_>,
    clients: ClientPolicy,
) -> Result<Acceptor, TlsError> {
    let verifier = Arc::new(ClientCertificates::new(temp_ca, clients)?);
    Acceptor::new(|builder| {
        builder.with_client_cert_verifier(verifier.clone()).with_cert_resolver(Arc::clone(&leaf) as _)
    })
}

/// For the onboarding phase: requests no client certificate.
///
/// # Errors
/// [`TlsError`].
pub fn onboarding(leaf: Arc<Leaf>) -> Result<Acceptor, TlsError> {
    Acceptor::new(|builder| builder.with_no_client_auth().with_cert_resolver(Arc::clone(&leaf) as _))
}

type Builder = rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>;

tokio::task_local! {
    /// What both ends have shown in the handshake of this task.
    static SHOWN: RefCell<Handshake>;
}

/// What rustls itself does not return.
#[derive(Default)]
struct Handshake {
    /// What [`ClientCertificates`] has parsed.
    client: Option<ParsedCertificate>,
    /// The key of the certificate that [`Leaf`] has chosen.
    server_spki_sha256: Option<[u8; 32]>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The connection.
    pub stream: TlsStream<IO>,
    /// The client's certificate.
    pub certificate: Option<ParsedCertificate>,
    /// What evidence can be bound to; `None` below TLS 1.3.
    pub session: Option<Session>,
}

/// Accepts handshakes. Key exchange is X25519MLKEM768 with every client that supports it, although rustls
/// alone would follow the client's order: released keys must stay secret for longer than classic key exchange
/// may. Clients that do not prefer it receive a HelloRetryRequest.
#[derive(Clone, Debug)]
pub struct Acceptor {
    /// For clients with X25519MLKEM768: offers no other group.
    hybrid: Arc<ServerConfig>,
    classic: Arc<ServerConfig>,
}

impl Acceptor {
    fn new(finish: impl Fn(Builder) -> ServerConfig) -> Result<Self, TlsError> {
        let sessions = Arc::new(Sessions::new());
        let config = |provider: CryptoProvider| -> Result<_, TlsError> {
            let builder = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
            let mut config = finish(builder);
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            config.session_storage = Arc::clone(&sessions) as Arc<dyn StoresServerSessions>;
            config.send_tls13_tickets = 1;
            Ok(Arc::new(config))
        };
        let hybrid =
            CryptoProvider { kx_groups: vec![kx_group::X25519MLKEM768], ..aws_lc_rs::default_provider() };
        Ok(Self { hybrid: config(hybrid)?, classic: config(aws_lc_rs::default_provider())? })
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// Those of the handshake and of the connection.
    pub async fn accept<IO>(&self, stream: IO) -> io::Result<Accepted<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let config = match has_hybrid(&hello.client_hello()) {
            true => &self.hybrid,
            false => &self.classic,
        };
        let handshake = async {
            let stream = hello.into_stream(Arc::clone(config)).await;
            (stream, SHOWN.with(RefCell::take))
        };
        let (stream, Handshake { client: shown, server_spki_sha256 }) =
            SHOWN.scope(RefCell::default(), handshake).await;
        let stream = stream?;
        // A resumed session brings the certificate of its first handshake, which was not parsed in this one.
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = match (leaf, shown) {
            (None, _) => None,
            (Some(leaf), Some(shown)) if shown.der() == &**leaf => Some(shown),
            (Some(leaf), _) => Some(ParsedCertificate::parse(leaf).map_err(io::Error::other)?),
        };
        let exporter = exporter(stream.get_ref().1);
        let session = exporter.zip(server_spki_sha256).map(|(exporter, spki)| Session::new(exporter, spki));
        Ok(Accepted { stream, certificate, session })
    }
}

/// Whether a client supports X25519MLKEM768, which TLS 1.2 cannot use.
fn has_hybrid(hello: &ClientHello<'_>) -> bool {
    const TLS13_SUITES: [CipherSuite; 3] = [
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let groups = hello.named_groups().unwrap_or_default();
    groups.contains(&NamedGroup::X25519MLKEM768)
        && hello.cipher_suites().iter().any(|suite| TLS13_SUITES.contains(suite))
}

/// The negotiated key exchange group, by its name in the TLS registry.
pub(super) fn group_name<IO>(stream: &TlsStream<IO>) -> &'static str {
    let group = stream.get_ref().1.negotiated_key_exchange_group();
    match group.map(|group| group.name()) {
        Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
        Some(NamedGroup::X25519) => "x25519",
        Some(NamedGroup::secp256r1) => "secp256r1",
        Some(NamedGroup::secp384r1) => "secp384r1",
        Some(_) => "other",
        // TLS 1.2 has no key exchange in a resumed session.
        None => "none",
    }
}

/// Whether a client may come without a certificate (`rpc.tls.mutual.mandatory`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientPolicy {
    /// Yes.
    Optional,
    /// No.
    Mandatory,
}

impl From<config::ClientCertificates> for ClientPolicy {
    fn from(configured: config::ClientCertificates) -> Self {
        match configured {
            config::ClientCertificates::Optional => Self::Optional,
            config::ClientCertificates::Mandatory => Self::Mandatory,
        }
    }
}

/// Accepts a certificate with evidence from any issuer, or one that chains to our temporary CA.
///
/// Both prove only possession of the key, because the temporary CA's key is public. The evidence is what
/// proves an identity, and is verified when a method needs it.
#[derive(Debug)]
struct ClientCertificates {
    temp_ca: rustls::pki_types::TrustAnchor<'static>,
    policy: ClientPolicy,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertificates {
    fn new(temp_ca: &CertificateDer<'_>, policy: ClientPolicy) -> Result<Self, TlsError> {
        let temp_ca = webpki::anchor_from_trusted_cert(temp_ca).map_err(TlsError::TempCa)?.to_owned();
        let provider: CryptoProvider = aws_lc_rs::default_provider();
        Ok(Self { temp_ca, policy, algorithms: provider.signature_verification_algorithms })
    }

    fn chains_to_temp_ca(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let leaf = webpki::EndEntityCert::try_from(leaf)?;
        let anchors = std::slice::from_ref(&self.temp_ca);
        let usage = webpki::KeyUsage::client_auth();
        leaf.verify_for_usage(self.algorithms.all, anchors, intermediates, now, usage, None, None).map(|_| ())
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.policy == ClientPolicy::Mandatory
    }

    /// Empty, because clients would withhold self-signed certificates if names were listed.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        ChainLimit::KMS.check(intermediates)?;
        let certificate = ParsedCertificate::parse(leaf).map_err(|_| CertificateError::BadEncoding)?;
        check_dates(&certificate, now)?;
        // Evidence needs no path to the temporary CA.
        if !certificate.has_evidence() {
            self.chains_to_temp_ca(leaf, intermediates, now).map_err(|_| CertificateError::UnknownIssuer)?;
        }
        // Outside [`Acceptor::accept`] the certificate is not used.
        let _ = SHOWN.try_with(|shown| shown.borrow_mut().client = Some(certificate));
        Ok(ClientCertVerified::assertion())
    }

    kms_attest::usual_signatures!(verifier => &verifier.algorithms);
}

/// Version 3 and inside its validity: the check that both kinds of certificates share.
fn check_dates(certificate: &ParsedCertificate, now: UnixTime) -> Result<(), rustls::Error> {
    if !certificate.is_version_3() {
        return Err(CertificateError::BadEncoding.into());
    }
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.not_before() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.not_after() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether a certificate is inside its validity now, because a resumed session brings the one of its first
/// handshake.
pub fn is_current(certificate: &ParsedCertificate) -> bool {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    check_dates(certificate, UnixTime::since_unix_epoch(since)).is_ok()
}
