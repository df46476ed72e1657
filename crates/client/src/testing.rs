//! A small TLS server for tests, with chosen certificates and responses. The tests of `kmsctl` use it too.
#![allow(dead_code)]

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use kms_attest::attester::Attester;
use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, CertificateSpec, Issuer, LONG_AGO, Role, Validity};
use kms_attest::collateral::{CacheOptions, CollateralCache};
use kms_attest::p256::P256Key;
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::Verifier;
use kms_simulator::{Cvm, CvmBuilder, GuestAgent, PccsServer, Platform};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::{Connection, KmsUrl, Trust};

/// A day in the year 2100, as Unix time.
const FAR_AWAY: u64 = 4_102_444_800;

/// The two CAs of a KMS.
pub(crate) struct Authority {
    pub(crate) root: P256Key,
    pub(crate) root_pem: String,
    pub(crate) temp: P256Key,
    pub(crate) temp_pem: String,
}

/// The certificate of a test server.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) key: Arc<P256Key>,
    pub(crate) names: Vec<String>,
    pub(crate) usage: Option<&'static str>,
    pub(crate) evidence: Option<Vec<u8>>,
    /// Signs the handshake instead of the certificate's key: an impostor with a copied certificate.
    pub(crate) impostor: Option<Arc<P256Key>>,
    /// Certificates sent after the leaf, DER.
    pub(crate) intermediates: Vec<Vec<u8>>,
    /// Issues the certificate instead of the root.
    pub(crate) issuer: Option<Arc<(P256Key, Vec<u8>)>>,
}

impl Leaf {
    /// The leaf of a KMS on loopback, without attestation.
    pub(crate) fn kms() -> Self {
        Self {
            key: Arc::new(P256Key::generate()),
            names: vec!["127.0.0.1".into(), "localhost".into()],
            usage: Some("kms:rpc"),
            evidence: None,
            impostor: None,
            intermediates: Vec::new(),
            issuer: None,
        }
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let (root, temp) = (P256Key::generate(), P256Key::generate());
        let root_pem = ca_pem("Dstack KMS CA", 1, &root);
        let temp_pem = ca_pem("Dstack Client Temp CA", 0, &temp);
        Self { root, root_pem, temp, temp_pem }
    }

    /// The response of `GetTempCaCert`.
    pub(crate) fn temp_ca_answer(&self) -> Value {
        json!({
            "temp_ca_cert": self.temp_pem,
            "temp_ca_key": self.temp.pem().as_str(),
            "ca_cert": self.root_pem,
        })
    }

    fn certified(&self, leaf: &Leaf) -> Arc<CertifiedKey> {
        let spec = CertificateSpec {
            names: &leaf.names,
            usage: leaf.usage,
            evidence: leaf.evidence.as_deref(),
            ..spec("kms", Role::LEAF)
        };
        let issuer = match leaf.issuer.as_deref() {
            None => Issuer::from_pem(&self.root_pem, &self.root),
            Some((key, certificate)) => Issuer::new(certificate, key),
        };
        let issuer = issuer.expect("a CA");
        let der = certificate::issue(&spec, &leaf.key.spki_der(), &issuer).expect("leaf");
        let signs = leaf.impostor.as_ref().unwrap_or(&leaf.key);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signs.pkcs8_der().to_vec()));
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).expect("key");
        let chain = [der].into_iter().chain(leaf.intermediates.iter().cloned());
        Arc::new(CertifiedKey::new(chain.map(CertificateDer::from).collect(), key))
    }
}

/// A self-signed CA certificate, DER. All have the same name, so path search cannot tell them apart.
pub(crate) fn look_alike(key: &P256Key) -> Vec<u8> {
    certificate::self_signed(&spec("look alike", Role::Ca { path_len: 255 }), key).expect("CA")
}

fn ca_pem(name: &str, path_len: u8, key: &P256Key) -> String {
    let spec = CertificateSpec { organization: Some("Dstack"), ..spec(name, Role::Ca { path_len }) };
    certificate::pem(&certificate::self_signed(&spec, key).expect("CA"))
}

fn spec(common_name: &str, role: Role) -> CertificateSpec<'_> {
    CertificateSpec {
        organization: None,
        common_name,
        names: &[],
        validity: Validity { not_before: LONG_AGO, not_after: FAR_AWAY },
        role,
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
    }
}

/// A simulated TDX machine with a CVM, and what its software needs.
pub(crate) struct World {
    pub(crate) attester: Attester,
    pub(crate) verifier: Verifier,
    pub(crate) platform: Arc<Platform>,
    pub(crate) cvm: Arc<Cvm>,
    pub(crate) agent: GuestAgent,
    pub(crate) pccs: PccsServer,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|cvm| cvm).await
    }

    /// Like [`World::start`], with another CVM.
    pub(crate) async fn with(describe: impl FnOnce(CvmBuilder) -> CvmBuilder) -> Self {
        let platform = Platform::from_seed(b"kms-client tests");
        let pccs = PccsServer::start(&platform).await.expect("collateral server");
        let cvm = describe(Cvm::builder(&platform)).build();
        let agent = GuestAgent::serve_tcp(&cvm).await.expect("guest agent");
        let attester = Attester::at(agent.address()).expect("address");
        let anchors = TrustAnchors::with_tdx_root(platform.root_der()).expect("root");
        let cache =
            CollateralCache::new(&[pccs.url()], &anchors, CacheOptions::default()).expect("collateral");
        Self { attester, verifier: Verifier::new(anchors, cache), platform, cvm, agent, pccs }
    }

    /// The leaf of a KMS, with an attestation of its key.
    pub(crate) fn attested_leaf(&self) -> Leaf {
        let leaf = Leaf::kms();
        let evidence = self.cvm.evidence(ReportData::ra_tls(&leaf.key.spki_der()));
        Leaf { evidence: Some(evidence.stripped().encode()), ..leaf }
    }
}

/// One call, as received by the server.
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) http2: bool,
    pub(crate) body: Vec<u8>,
    /// The header `Authorization`.
    pub(crate) authorization: Option<String>,
    /// The client's certificate, DER.
    pub(crate) client: Option<Vec<u8>>,
    /// The number of the connection, from 0.
    pub(crate) connection: usize,
}

/// The server's reaction.
pub(crate) enum Reply {
    Json(Value),
    Status(u16, Vec<u8>),
    /// 503 with this `Retry-After`.
    Busy(&'static str),
    Hang,
}

/// A running server. Ends when dropped.
pub(crate) struct TestServer {
    pub(crate) url: KmsUrl,
    pub(crate) authority: Arc<Authority>,
    pub(crate) connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestServer {
    /// A server whose first connection shows the first leaf, the second connection the second, and so on; the
    /// last one repeats.
    pub(crate) async fn start(
        authority: Arc<Authority>,
        leaves: &[Leaf],
        protocols: &[&str],
        reply: impl Fn(&Authority, Call) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let configs: Vec<_> = leaves.iter().map(|leaf| server_config(&authority, leaf, protocols)).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
        let port = listener.local_addr().expect("address").port();
        let url = format!("https://127.0.0.1:{port}").parse().expect("url");
        let connections = Arc::new(AtomicUsize::new(0));
        let (ca, counter, reply) = (Arc::clone(&authority), Arc::clone(&connections), Arc::new(reply));
        let task = tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let config = Arc::clone(&configs[number.min(configs.len() - 1)]);
                let (ca, reply) = (Arc::clone(&ca), Arc::clone(&reply));
                tokio::spawn(async move {
                    let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
                    let client = tls.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (ca, reply, client) = (Arc::clone(&ca), Arc::clone(&reply), client.clone());
                        async move { answer(request, client, number, |call| reply(&ca, call)).await }
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
        Self { url, authority, connections, task }
    }

    /// A KMS with both protocols that gives every call the same reply.
    pub(crate) async fn answering(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(Authority::new()), &[Leaf::kms()], &["h2", "http/1.1"], move |_, _| reply())
            .await
    }

    /// A verified connection to it.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(&self.url, Trust::RootCa(&self.authority.root_pem), None).await.expect("connection")
    }
}

async fn answer(
    request: Request<Incoming>,
    client: Option<Vec<u8>>,
    connection: usize,
    reply: impl FnOnce(Call) -> Reply,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let call = Call {
        method: request.uri().path().rsplit('/').next().unwrap_or_default().to_owned(),
        target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        http2: request.version() == http::Version::HTTP_2,
        authorization: request
            .headers()
            .get(http::header::AUTHORIZATION)
            .map(|value| value.to_str().expect("text").to_owned()),
        body: request.into_body().collect().await.expect("request body").to_bytes().to_vec(),
        client,
        connection,
    };
    let mut retry_after = None;
    let (status, body) = match reply(call) {
        Reply::Json(value) => (200, value.to_string().into_bytes()),
        Reply::Status(status, body) => (status, body),
        Reply::Busy(seconds) => {
            retry_after = Some(http::HeaderValue::from_static(seconds));
            (503, br#"{"error": "busy"}"#.to_vec())
        }
        Reply::Hang => std::future::pending().await,
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).expect("status");
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds);
    }
    Ok(response)
}

/// Accepts the same client certificates as a KMS: those of the temporary CA, and any with an attestation.
#[derive(Debug)]
struct Clients(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match kms_attest::ra_tls::evidence_in(leaf) {
            Ok(Some(_)) => Ok(ClientCertVerified::assertion()),
            _ => self.0.verify_client_cert(leaf, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn server_config(authority: &Authority, leaf: &Leaf, protocols: &[&str]) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate::der(&authority.temp_pem).expect("temp CA").into()).expect("anchor");
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect("client verifier");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(Arc::new(Clients(clients)))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(authority.certified(leaf))));
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}
