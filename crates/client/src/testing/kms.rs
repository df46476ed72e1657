//! The CAs of a KMS, and a TLS server on loopback with chosen certificates, responses and failures: the one server behind
//! the test servers of this crate, of `kmsctl` and of `kms`, whose tests compile this file too.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use kms_attest::certificate::{self, CertificateSpec, LAST_SECOND, LONG_AGO, Role, Validity};
use kms_attest::p256::P256Key;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DistinguishedName, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Interval, interval};
use tokio_rustls::TlsAcceptor;

/// The longest body of a request.
const MAX_REQUEST: usize = 4 << 20;

/// The two CAs of a KMS.
pub(crate) struct Authority {
    pub(crate) root: P256Key,
    pub(crate) root_pem: String,
    pub(crate) temp: P256Key,
    pub(crate) temp_pem: String,
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
}

fn ca_pem(name: &str, path_len: u8, key: &P256Key) -> String {
    let spec = CertificateSpec { organization: Some("Dstack"), ..spec(name, Role::Ca { path_len }) };
    certificate::pem(&certificate::self_signed(&spec, key).expect("CA"))
}

/// A certificate with nothing but its name.
pub(crate) fn spec(common_name: &str, role: Role) -> CertificateSpec<'_> {
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

/// The certificate that a server shows.
#[derive(Clone)]
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<P256Key>,
    clients: Clients,
    protocols: Vec<Vec<u8>>,
}

/// Which client certificates a server accepts.
#[derive(Clone)]
pub(crate) enum Clients {
    /// Any, or no certificate.
    Anyone,
    /// Those of this CA (PEM), or no certificate, like the peer.
    Of(String),
    /// Like [`Clients::Of`], and any with an attestation, like this KMS.
    OfOrAttested(String),
}

impl Shown {
    /// A chain, leaf first, DER each, with the key that signs the handshake.
    pub(crate) fn of(chain: Vec<Vec<u8>>, key: impl Into<Arc<P256Key>>) -> Self {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Self { chain, key: key.into(), clients: Clients::Anyone, protocols: Vec::new() }
    }

    /// The same chain with another key: a stolen certificate.
    pub(crate) fn stolen(&self) -> Self {
        Self { key: Arc::new(P256Key::generate()), ..self.clone() }
    }

    /// Asks for client certificates.
    pub(crate) fn admitting(&self, clients: Clients) -> Self {
        Self { clients, ..self.clone() }
    }

    /// Offers these protocols (ALPN).
    pub(crate) fn speaking(&self, protocols: &[&str]) -> Self {
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { protocols, ..self.clone() }
    }

    /// The leaf, DER.
    pub(crate) fn leaf(&self) -> &[u8] {
        &self.chain[0]
    }

    /// The key that signs the handshake.
    pub(crate) fn key(&self) -> &P256Key {
        &self.key
    }

    fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.pkcs8_der().to_vec()));
        let key = provider.key_provider.load_private_key(key).expect("a key");
        let of = |ca: &str| {
            let mut roots = RootCertStore::empty();
            roots.add(certificate::der(ca).expect("PEM").into()).expect("an anchor");
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .expect("a verifier")
        };
        let algorithms = provider.signature_verification_algorithms;
        let clients: Arc<dyn ClientCertVerifier> = match &self.clients {
            Clients::Of(ca) => of(ca),
            Clients::Anyone => Arc::new(Lenient { of: None, algorithms }),
            Clients::OfOrAttested(ca) => Arc::new(Lenient { of: Some(of(ca)), algorithms }),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            // The client must check whether key and certificate match.
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(self.chain.clone(), key))));
        config.alpn_protocols.clone_from(&self.protocols);
        Arc::new(config)
    }
}

/// Accepts any certificate whose key the client holds, or none; with a CA, a certificate without an attestation must be its.
#[derive(Debug)]
struct Lenient {
    of: Option<Arc<dyn ClientCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Lenient {
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
        match &self.of {
            Some(ca) if !matches!(kms_attest::ra_tls::evidence_in(leaf), Ok(Some(_))) => {
                ca.verify_client_cert(leaf, intermediates, now)
            }
            Some(_) | None => Ok(ClientCertVerified::assertion()),
        }
    }

    kms_attest::usual_signatures!(verifier => &verifier.algorithms);
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

/// The reaction to a call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// 200 with JSON.
    Json(Value),
    /// Any status and body.
    Status(u16, Vec<u8>),
    /// Any status, with a body of any kind.
    Page(u16, &'static str, String),
    /// 403 with this code in the header, and this body.
    Coded(&'static str, &'static str),
    /// 503 with this `Retry-After`.
    Busy(&'static str),
    /// 200, closed after half of the body.
    Truncated(Value),
    /// 200 with a body that never ends.
    Endless,
    /// 200, with one byte of the body per interval.
    Dripping(Value, Duration),
    /// No response, ever.
    Hang,
    /// The connection closes.
    Close,
}

/// A running server. Dropping it closes its port and its connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The number of connections so far.
    pub(crate) connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// A server whose first connection shows the first of `shown`, the second connection the second, and so on; the last one
    /// repeats.
    pub(crate) async fn start(
        shown: &[Shown],
        reply: impl Fn(Call) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let configs: Vec<_> = shown.iter().map(Shown::config).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let (counter, reply) = (Arc::clone(&connections), Arc::new(reply));
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let _ = tcp.set_nodelay(true);
                let connection = counter.fetch_add(1, Ordering::SeqCst);
                let config = Arc::clone(&configs[connection.min(configs.len() - 1)]);
                let reply = Arc::clone(&reply);
                open.spawn(async move {
                    let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
                    let client = tls.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (reply, client) = (Arc::clone(&reply), client.clone());
                        async move { answer(reply(call(request, client, connection).await)).await }
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
                while open.try_join_next().is_some() {}
            }
        });
        Self { address, connections, task }
    }
}

async fn call(request: Request<Incoming>, client: Option<Vec<u8>>, connection: usize) -> Call {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_REQUEST).collect().await.expect("a request that ends");
    Call {
        method: head.uri.path().rsplit('/').next().unwrap_or_default().to_owned(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        http2: head.version == http::Version::HTTP_2,
        authorization: head
            .headers
            .get(header::AUTHORIZATION)
            .map(|value| value.to_str().expect("text").to_owned()),
        body: body.to_bytes().to_vec(),
        client,
        connection,
    }
}

async fn answer(reply: Reply) -> io::Result<Response<Body>> {
    const JSON: &str = "application/json";
    let json = |value: Value| Bytes::from(value.to_string());
    let (status, headers, body, pace): (u16, Option<(_, &str)>, _, _) = match reply {
        Reply::Json(value) => (200, Some((header::CONTENT_TYPE, JSON)), json(value), Pace::Whole),
        Reply::Status(status, body) => (status, None, body.into(), Pace::Whole),
        Reply::Page(status, kind, body) => {
            (status, Some((header::CONTENT_TYPE, kind)), body.into(), Pace::Whole)
        }
        Reply::Coded(code, body) => (
            403,
            Some((http::HeaderName::from_static("x-error-code"), code)),
            Bytes::from_static(body.as_bytes()),
            Pace::Whole,
        ),
        Reply::Busy(seconds) => (
            503,
            Some((header::RETRY_AFTER, seconds)),
            Bytes::from_static(br#"{"error": "busy"}"#),
            Pace::Whole,
        ),
        Reply::Truncated(value) => (200, Some((header::CONTENT_TYPE, JSON)), json(value), Pace::Half),
        Reply::Endless => (200, None, Bytes::from_static(&[b' '; 0x1000]), Pace::Endless),
        Reply::Dripping(value, pause) => {
            (200, Some((header::CONTENT_TYPE, JSON)), json(value), Pace::Dripping(interval(pause)))
        }
        Reply::Hang => std::future::pending().await,
        Reply::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    let mut response = Response::new(Body { rest: body, pace });
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    if let Some((name, value)) = headers {
        response.headers_mut().insert(name, HeaderValue::from_str(value).expect("a header"));
    }
    Ok(response)
}

/// The body of a response, whole or not.
struct Body {
    rest: Bytes,
    pace: Pace,
}

enum Pace {
    /// At once.
    Whole,
    /// The first half, and then [`Pace::Sent`].
    Half,
    /// What was said so far is sent, and then [`Pace::Broken`].
    Sent,
    /// The connection ends.
    Broken,
    /// Again and again.
    Endless,
    /// One byte at each tick.
    Dripping(Interval),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { rest, pace } = &mut *self;
        let length = match pace {
            Pace::Whole => rest.len(),
            Pace::Half => {
                *pace = Pace::Sent;
                rest.len() / 2
            }
            Pace::Sent => {
                // hyper sends what it has while a body is pending.
                *pace = Pace::Broken;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Pace::Broken => return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            Pace::Endless => return Poll::Ready(Some(Ok(Frame::data(rest.clone())))),
            Pace::Dripping(interval) => {
                ready!(interval.poll_tick(context));
                rest.len().min(1)
            }
        };
        Poll::Ready((length > 0).then(|| Ok(Frame::data(rest.split_to(length)))))
    }

    fn size_hint(&self) -> SizeHint {
        match self.pace {
            Pace::Endless => SizeHint::default(),
            Pace::Whole | Pace::Half | Pace::Sent | Pace::Broken | Pace::Dripping(_) => {
                SizeHint::with_exact(self.rest.len() as u64)
            }
        }
    }
}
