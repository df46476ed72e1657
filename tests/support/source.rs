//! A server on loopback that impersonates a source KMS or an app, with any certificate, response or failure.
//!
//! ```ignore
//! let cluster = Cluster::new();
//! let leaf = cluster.leaf(&world.cvm);
//! let source = Source::start(&[leaf], cluster.answers()).await;
//! // … Onboard from `source.url()` …
//! assert_eq!(source.calls(), ["GetTempCaCert on 0", …]);
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, CertificateSpec, Issuer, LAST_SECOND, LONG_AGO, Role, Validity, oid};
use kms_attest::p256::P256Key;
use kms_simulator::Cvm;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DistinguishedName, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Identity;

const LIFE: Duration = Duration::from_secs(60);
const MAX_REQUEST: usize = 1 << 20;

/// The keys of another cluster, and the responses of its KMS.
pub struct Cluster {
    pub root: P256Key,
    pub root_pem: String,
    pub temp: P256Key,
    pub temp_pem: String,
    pub k256: [u8; 32],
}

/// The certificate of a server.
#[derive(Clone)]
pub struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<P256Key>,
    clients: Clients,
}

/// Which client certificates a server accepts.
#[derive(Clone)]
pub enum Clients {
    /// Any, or no certificate.
    Anyone,
    /// Those of this CA (PEM), or no certificate, like the peer.
    Of(String),
}

/// The reaction to a call.
#[derive(Clone, Debug)]
pub enum Reply {
    /// 200 with JSON.
    Json(Value),
    /// Any status, with a body of any kind.
    Page(u16, &'static str, String),
    /// 200, closed after half of the body.
    Truncated(Value),
    /// 200 with a body that never ends.
    Endless,
    /// 200, one byte per interval.
    Dripping(Value, Duration),
    /// No response, ever.
    Silence,
    /// The connection closes.
    Close,
}

/// The reaction to each method.
pub type Answers = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// A running server; dropping it closes its port and its connections.
pub struct Source {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// New keys.
    pub fn new() -> Self {
        let (root, temp) = (P256Key::generate(), P256Key::generate());
        let root_pem = ca_pem("Dstack KMS CA", 1, &root);
        let temp_pem = ca_pem("Dstack Client Temp CA", 0, &temp);
        Self { root, root_pem, temp, temp_pem, k256: [0x11; 32] }
    }

    /// The certificate of a KMS of this cluster in `cvm`, attested.
    pub fn leaf(&self, cvm: &Cvm) -> Shown {
        let key = P256Key::generate();
        let evidence = cvm.evidence(ReportData::ra_tls(&key.spki_der())).stripped().encode();
        self.leaf_over(key, Some(&evidence))
    }

    /// The certificate of a KMS of this cluster over a key, with any bytes in place of evidence.
    pub fn leaf_over(&self, key: P256Key, evidence: Option<&[u8]>) -> Shown {
        self.issue(&CertificateSpec { usage: Some("kms:rpc"), evidence, ..loopback("kms", &names()) }, key)
    }

    /// Any certificate of this cluster's root CA.
    pub fn issue(&self, spec: &CertificateSpec<'_>, key: P256Key) -> Shown {
        let issuer = Issuer::from_pem(&self.root_pem, &self.root).expect("own CA");
        let leaf = certificate::issue(spec, &key.spki_der(), &issuer).expect("a certificate");
        Shown::of(vec![leaf], key)
    }

    /// The certificate of an older KMS version in `cvm`.
    pub fn legacy_leaf(&self, cvm: &Cvm) -> Shown {
        let key = P256Key::generate();
        Shown::of(vec![legacy(&self.root_pem, &self.root, cvm, &key, Some("kms:rpc"))], key)
    }

    /// The response of `GetTempCaCert`.
    pub fn temp_ca(&self) -> Value {
        json!({
            "temp_ca_cert": self.temp_pem,
            "temp_ca_key": self.temp.pem().as_str(),
            "ca_cert": self.root_pem,
        })
    }

    /// The response of `GetMeta`.
    pub fn meta(&self) -> Value {
        json!({ "ca_cert": self.root_pem, "k256_pubkey": hex::encode(self.k256_public()) })
    }

    /// The response of `GetKmsKey`.
    pub fn handover(&self) -> Value {
        json!({
            "temp_ca_key": self.temp.pem().as_str(),
            "keys": [{ "ca_key": self.root.pem().as_str(), "k256_key": hex::encode(self.k256) }],
        })
    }

    /// The public half of the secp256k1 key.
    pub fn k256_public(&self) -> [u8; 33] {
        *cvm_kms::keys::K256Key::from_scalar(&self.k256).expect("a scalar").public_key()
    }

    /// The responses of a KMS of this cluster to a replica.
    pub fn answers(&self) -> Answers {
        self.answering(|_| None)
    }

    /// Like [`Cluster::answers`], except where `other` has a reaction of its own.
    pub fn answering(&self, other: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static) -> Answers {
        let (temp_ca, meta, handover) = (self.temp_ca(), self.meta(), self.handover());
        Arc::new(move |method| {
            other(method).unwrap_or_else(|| match method {
                "GetTempCaCert" => Reply::Json(temp_ca.clone()),
                "GetMeta" => Reply::Json(meta.clone()),
                "GetKmsKey" => Reply::Json(handover.clone()),
                other => Reply::Page(
                    400,
                    "application/json",
                    format!("{{\"error\": \"Service not found: {other}\"}}"),
                ),
            })
        })
    }
}

/// A certificate for `key` as older versions make it: the quote and the event log are in separate extensions,
/// and the VM's configuration is missing.
pub fn legacy(ca_pem: &str, ca_key: &P256Key, cvm: &Cvm, key: &P256Key, usage: Option<&str>) -> Vec<u8> {
    let quote = cvm.quote(ReportData::ra_tls(&key.spki_der()).0);
    let log = serde_json::to_vec(&cvm.event_log()).expect("JSON");
    // The payload is wrapped again, with a length of two bytes or one.
    let extension = |oid: &[u64], payload: &[u8]| {
        let length = u16::try_from(payload.len()).expect("below 64 KiB").to_be_bytes();
        let header =
            if payload.len() < 0x80 { vec![4, length[1]] } else { vec![4, 0x82, length[0], length[1]] };
        rcgen::CustomExtension::from_oid_content(oid, [&header, payload].concat())
    };
    let mut params = rcgen::CertificateParams::new(names()).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "RA-TLS TEMP Cert");
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    params.custom_extensions = vec![extension(oid::TDX_QUOTE, &quote), extension(oid::EVENT_LOG, &log)];
    params.custom_extensions.extend(usage.map(|usage| extension(oid::SPECIAL_USAGE, usage.as_bytes())));
    let issuer = rcgen::Issuer::from_ca_cert_pem(ca_pem, ca_key).expect("a CA");
    params.signed_by(key, &issuer).expect("a certificate").der().to_vec()
}

/// The names of the servers here.
pub fn names() -> Vec<String> {
    vec!["127.0.0.1".to_owned(), "localhost".to_owned()]
}

/// A server certificate with nothing but its names.
pub fn loopback<'a>(common_name: &'a str, names: &'a [String]) -> CertificateSpec<'a> {
    CertificateSpec { names, ..spec(common_name, Role::LEAF) }
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
        validity: Validity { not_before: LONG_AGO, not_after: LAST_SECOND },
        role,
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
    }
}

impl Shown {
    /// A chain, leaf first, DER each, with the key that signs the handshake.
    pub fn of(chain: Vec<Vec<u8>>, key: P256Key) -> Self {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Self { chain, key: Arc::new(key), clients: Clients::Anyone }
    }

    /// The same chain with another key: a stolen certificate.
    pub fn stolen(&self) -> Self {
        Self { key: Arc::new(P256Key::generate()), ..self.clone() }
    }

    /// Requires client certificates.
    pub fn admitting(&self, clients: Clients) -> Self {
        Self { clients, ..self.clone() }
    }

    /// The leaf, DER.
    pub fn leaf(&self) -> &[u8] {
        &self.chain[0]
    }

    /// The leaf as a client certificate.
    pub fn identity(&self) -> Identity {
        Identity::of(self.leaf().to_vec(), &self.key)
    }

    fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.pkcs8_der().to_vec()));
        let key = provider.key_provider.load_private_key(key).expect("a key");
        let clients: Arc<dyn ClientCertVerifier> = match &self.clients {
            Clients::Anyone => Arc::new(AnyClient(Arc::clone(&provider))),
            Clients::Of(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(certificate::der(ca).expect("PEM").into()).expect("an anchor");
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .allow_unauthenticated()
                    .build()
                    .expect("a verifier")
            }
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            // The client must check whether key and certificate match.
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(self.chain.clone(), key))));
        Arc::new(config)
    }
}

impl Source {
    /// A server whose first connection shows the first of `shown`, the second connection the second, and so
    /// on; the last one repeats.
    pub async fn start(shown: &[Shown], answers: Answers) -> Self {
        let configs: Vec<_> = shown.iter().map(Shown::config).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let _ = tcp.set_nodelay(true);
                let acceptor = TlsAcceptor::from(Arc::clone(&configs[number.min(configs.len() - 1)]));
                let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
                let serve = async move {
                    let mut stream = acceptor.accept(tcp).await?;
                    while let Some(method) = call(&mut stream).await? {
                        // Every replica asks whether there are challenges; these sources know none.
                        if method == "GetChallenge" {
                            let unknown = r#"{"error": "Service not found: GetChallenge"}"#.to_owned();
                            answer(&mut stream, Reply::Page(400, "application/json", unknown)).await?;
                            continue;
                        }
                        log.lock().expect("no panic").push(format!("{method} on {number}"));
                        answer(&mut stream, answers(&method)).await?;
                    }
                    stream.shutdown().await
                };
                connections.spawn(timeout(LIFE, serve));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, calls, task }
    }

    /// A server without TLS: it sends `bytes` after accept, and waits.
    pub async fn speaking(bytes: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut tcp, _)) = listener.accept().await {
                let bytes = bytes.clone();
                connections.spawn(timeout(LIFE, async move {
                    let mut hello = [0; 1024];
                    let _ = tcp.read(&mut hello).await;
                    let _ = tcp.write_all(&bytes).await;
                    while tcp.read(&mut hello).await.is_ok_and(|read| read > 0) {}
                }));
            }
        });
        Self { address, calls: Arc::default(), task }
    }

    /// `https://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The calls so far, each with the number of its connection.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no panic").clone()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The method of the next request; `None` at the end of the connection.
async fn call(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = head {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, length)| length.trim().parse().expect("a length"));
            if bytes.len() >= end + 4 + length {
                let path = head.split(' ').nth(1).unwrap_or_default();
                let name = path.split('?').next().unwrap_or_default();
                return Ok(Some(name.rsplit('/').next().unwrap_or_default().to_owned()));
            }
        }
        assert!(bytes.len() < MAX_REQUEST, "a request without end");
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    let head = |status: u16, kind: &str, length: usize| {
        format!("HTTP/1.1 {status} -\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n")
            .into_bytes()
    };
    match reply {
        Reply::Json(value) => {
            let body = value.to_string();
            stream.write_all(&[head(200, "application/json", body.len()), body.into_bytes()].concat()).await
        }
        Reply::Page(status, kind, body) => {
            stream.write_all(&[head(status, kind, body.len()), body.into_bytes()].concat()).await
        }
        Reply::Truncated(value) => {
            let body = value.to_string();
            stream.write_all(&head(200, "application/json", body.len())).await?;
            stream.write_all(&body.as_bytes()[..body.len() / 2]).await?;
            stream.shutdown().await?;
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let chunk = [b"1000\r\n", &[b' '; 0x1000][..], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Reply::Dripping(value, pause) => {
            let body = value.to_string();
            for byte in [head(200, "application/json", body.len()), body.into_bytes()].concat() {
                stream.write_all(&[byte]).await?;
                stream.flush().await?;
                sleep(pause).await;
            }
            Ok(())
        }
        Reply::Silence => std::future::pending().await,
        Reply::Close => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Requests a certificate, and accepts any whose key the client holds, or none.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    kms_attest::usual_signatures!(verifier => &verifier.0.signature_verification_algorithms);
}
