//! A client that can send anything: any identity, TLS version, HTTP version, verb, path, header and body.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, SupportedProtocolVersion};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{DOMAIN, Identity, PATIENCE};

const LIMIT: Duration = PATIENCE;

/// How a client connects. Each request of a `Caller` has its own connection; [`Caller::connect`] keeps one.
#[derive(Clone)]
pub struct Caller {
    address: SocketAddr,
    identity: Identity,
    protocols: &'static [&'static [u8]],
    versions: &'static [&'static SupportedProtocolVersion],
    groups: Vec<&'static dyn SupportedKxGroup>,
    is_plain: bool,
    source: Option<IpAddr>,
}

impl Caller {
    /// HTTPS without a certificate, HTTP/2 if the server has it.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            identity: Identity::none(),
            protocols: &[b"h2", b"http/1.1"],
            versions: rustls::ALL_VERSIONS,
            groups: aws_lc_rs::default_provider().kx_groups,
            is_plain: false,
            source: None,
        }
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// With this client certificate.
    pub fn shows(&self, identity: &Identity) -> Self {
        Self { identity: identity.clone(), ..self.clone() }
    }

    /// Over HTTP/1.1.
    pub fn http1(&self) -> Self {
        self.offers(&[b"http/1.1"])
    }

    /// Over HTTP/2.
    pub fn http2(&self) -> Self {
        self.offers(&[b"h2"])
    }

    /// With these ALPN protocols.
    pub fn offers(&self, protocols: &'static [&'static [u8]]) -> Self {
        Self { protocols, ..self.clone() }
    }

    /// With these TLS versions.
    pub fn speaks(&self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self.clone() }
    }

    /// With these key exchange groups.
    pub fn exchanges(&self, groups: &[&'static dyn SupportedKxGroup]) -> Self {
        Self { groups: groups.to_vec(), ..self.clone() }
    }

    /// Without TLS.
    pub fn plain(&self) -> Self {
        Self { is_plain: true, protocols: &[b"http/1.1"], ..self.clone() }
    }

    /// From this address of this machine.
    pub fn from(&self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self.clone() }
    }

    /// One connection, for several requests.
    pub async fn connect(&self) -> io::Result<Line> {
        timeout(LIMIT, self.open()).await.expect("a connection in time")
    }

    async fn open(&self) -> io::Result<Line> {
        let stream = match self.source {
            None => TcpStream::connect(self.address).await?,
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(source, 0))?;
                socket.connect(self.address).await?
            }
        };
        stream.set_nodelay(true)?;
        let authority = format!("{DOMAIN}:{}", self.address.port());
        if self.is_plain {
            let is_http2 = self.protocols == [b"h2"];
            return Ok(Line {
                sender: Sender::open(stream, is_http2).await?,
                base: format!("http://{authority}"),
                server_certificate: None,
                alpn: None,
                version: None,
                exporter: None,
            });
        }
        let name = ServerName::try_from(DOMAIN).expect("a name");
        let stream = TlsConnector::from(Arc::new(self.tls())).connect(name, stream).await?;
        let tls = stream.get_ref().1;
        let server_certificate = tls.peer_certificates().map(|chain| chain[0].clone().into_owned());
        let alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
        let version = tls.protocol_version();
        let exporter = kms_attest::tls::exporter(tls);
        let is_http2 = alpn.as_deref() == Some(b"h2");
        Ok(Line {
            sender: Sender::open(stream, is_http2).await?,
            base: format!("https://{authority}"),
            server_certificate,
            alpn,
            version,
            exporter,
        })
    }

    /// The TLS configuration; sessions are not resumed.
    pub fn tls(&self) -> ClientConfig {
        let provider =
            Arc::new(CryptoProvider { kx_groups: self.groups.clone(), ..aws_lc_rs::default_provider() });
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.versions)
            .expect("TLS versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(Arc::clone(&provider))));
        let mut config = match self.identity.shown() {
            None => builder.with_no_client_auth(),
            // The server must check whether key and certificate match.
            Some(shown) => {
                let key = provider.key_provider.load_private_key(shown.key().into()).expect("a key");
                let chain = [&shown.certificate].into_iter().chain(&shown.intermediates).cloned().collect();
                let shown = CertifiedKey::new(chain, key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
        };
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = self.protocols.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// One request on its own connection.
    pub async fn send(&self, request: Request<Bytes>) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    /// Like [`Caller::send`], but the server may not respond.
    pub async fn try_send(&self, request: Request<Bytes>) -> io::Result<Answer> {
        self.connect().await?.try_send(request).await
    }

    /// `POST /prpc/<method>` with a JSON body.
    pub async fn json(&self, method: &str, body: Value) -> Answer {
        self.send(json(method, body)).await
    }

    /// Like [`Caller::json`], but the server may not respond.
    pub async fn try_json(&self, method: &str, body: Value) -> io::Result<Answer> {
        self.try_send(json(method, body)).await
    }

    /// `POST /prpc/<method>` with a protobuf body.
    pub async fn protobuf(&self, method: &str, body: &impl prost::Message) -> Answer {
        self.send(post(&format!("/prpc/{method}"), body.encode_to_vec())).await
    }

    /// `GET <path>`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, "")).await
    }
}

/// Any request without headers.
pub fn request(verb: &str, path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    let verb = Method::from_bytes(verb.as_bytes()).expect("a verb");
    Request::builder().method(verb).uri(path).body(body.into()).expect("a request")
}

/// `POST <path>` without headers.
pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    request("POST", path, body)
}

/// `request` with an additional header.
pub fn with(mut request: Request<Bytes>, name: &'static str, value: &str) -> Request<Bytes> {
    request.headers_mut().append(name, value.parse().expect("a header value"));
    request
}

/// `POST /prpc/<method>` with a JSON body.
pub fn json(method: &str, body: Value) -> Request<Bytes> {
    with(post(&format!("/prpc/{method}"), body.to_string()), "content-type", "application/json")
}

/// An open connection.
pub struct Line {
    sender: Sender,
    base: String,
    /// The leaf certificate of the server.
    pub server_certificate: Option<CertificateDer<'static>>,
    /// The negotiated ALPN protocol.
    pub alpn: Option<Vec<u8>>,
    /// The negotiated TLS version.
    pub version: Option<rustls::ProtocolVersion>,
    /// The channel binding of TLS 1.3.
    pub exporter: Option<[u8; 32]>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn open<S>(stream: S, is_http2: bool) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        if is_http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            Ok(Self::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            Ok(Self::Http1(sender))
        }
    }
}

impl Line {
    /// One request.
    pub async fn send(&mut self, request: Request<Bytes>) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    /// One request, possibly without a response.
    pub async fn try_send(&mut self, request: Request<Bytes>) -> io::Result<Answer> {
        timeout(LIMIT, self.exchange(request)).await.expect("an answer in time").map_err(io::Error::other)
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// `POST /prpc/<method>` with a JSON body.
    pub async fn json(&mut self, method: &str, body: Value) -> Answer {
        self.send(json(method, body)).await
    }

    async fn exchange(&mut self, request: Request<Bytes>) -> hyper::Result<Answer> {
        let (mut parts, body) = request.into_parts();
        let whole: Uri = format!("{}{}", self.base, parts.uri).parse().expect("a URL");
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                let host = whole.authority().expect("base has one").as_str().parse().expect("a header");
                parts.headers.insert(header::HOST, host);
                sender.ready().await?;
                sender.send_request(Request::from_parts(parts, Full::new(body))).await?
            }
            Sender::Http2(sender) => {
                parts.uri = whole;
                sender.ready().await?;
                sender.send_request(Request::from_parts(parts, Full::new(body))).await?
            }
        };
        let (parts, body) = answer.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }
}

/// A complete response.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What followed the body.
    pub trailers: HeaderMap,
}

impl Answer {
    /// A header as text, empty if missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text header"))
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or("(not text)")
    }

    /// The body as JSON.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as a JSON message.
    pub fn message<M: DeserializeOwned>(&self) -> M {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as a protobuf message.
    pub fn decoded<M: prost::Message + Default>(&self) -> M {
        M::decode(self.body.clone()).expect("a message")
    }

    /// Status and `error` text of a failed JSON response.
    pub fn refusal(&self) -> (u16, String) {
        assert_ne!(self.status, 200, "{}", self.text());
        (self.status, self.value()["error"].as_str().expect("an error text").to_owned())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.status, self.text())
    }
}

/// Accepts every server that holds the key of its certificate.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    kms_attest::usual_signatures!(verifier => &verifier.0.signature_verification_algorithms);
}
