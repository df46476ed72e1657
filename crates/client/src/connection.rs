//! One TLS connection to a KMS, and calls over it.
//!
//! A connection is one server identity: it never reconnects, so what was learned about its server holds for
//! every call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kms_attest::tls::exporter;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::{self, ClientIdentity, TlsConfigError, Trust};
use crate::url::KmsUrl;

/// From the name lookup to the end of the TLS handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long closing a connection may take, in the background.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// The largest response header; those of a KMS are small.
pub(crate) const MAX_HEADER_BYTES: usize = 32 << 10;

/// An open connection.
pub struct Connection {
    pub(crate) url: KmsUrl,
    pub(crate) sender: Sender,
    server_certificate: CertificateDer<'static>,
    server_public_key: Vec<u8>,
    exporter: Option<[u8; 32]>,
    client_public_key: Option<Vec<u8>>,
    /// Dropped with the connection, which tells the driver to finish.
    _open: oneshot::Sender<()>,
}

pub(crate) enum Sender {
    Http1(Mutex<http1::SendRequest<Full<Bytes>>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The trust or the identity makes no TLS configuration.
    #[error(transparent)]
    Config(#[from] TlsConfigError),
    /// The host name has no address.
    #[error("the host name cannot be resolved: {0}")]
    Name(#[source] io::Error),
    /// No address accepted the connection.
    #[error("connection failed: {0}")]
    Tcp(#[source] io::Error),
    /// The TLS handshake failed, or the server is not the expected one.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// The server has no certificate that can be parsed.
    #[error("the server shows no readable certificate")]
    NoCertificate,
    /// HTTP could not be started on the connection.
    #[error("HTTP did not start: {0}")]
    Http(#[source] hyper::Error),
    /// The time limit has passed.
    #[error("no connection within {} s", .0.as_secs_f32())]
    Timeout(Duration),
}

impl ConnectError {
    /// Whether the server answered the handshake with something else than TLS, as a listener for plain HTTP does.
    pub fn is_plain_http(&self) -> bool {
        let Self::Tls(error) = self else { return false };
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        matches!(inner, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
    }
}

impl Connection {
    /// Connects within [`CONNECT_TIMEOUT`].
    pub async fn open(
        url: &KmsUrl,
        trust: Trust<'_>,
        identity: Option<&ClientIdentity>,
    ) -> Result<Self, ConnectError> {
        Self::open_within(CONNECT_TIMEOUT, url, trust, identity).await
    }

    /// Connects within the given time.
    pub async fn open_within(
        limit: Duration,
        url: &KmsUrl,
        trust: Trust<'_>,
        identity: Option<&ClientIdentity>,
    ) -> Result<Self, ConnectError> {
        let config = Arc::new(tls::client_config(trust, identity)?);
        let connecting = async {
            let tcp = reach(&url.host(), url.port(), Instant::now() + limit).await?;
            let stream = TlsConnector::from(config)
                .connect(url.server_name().clone(), tcp)
                .await
                .map_err(ConnectError::Tls)?;
            let opened = Self::start(url, stream).await?;
            let client_public_key = identity.map(|identity| identity.key().spki_der().to_vec());
            Ok(Self { client_public_key, ..opened })
        };
        timeout(limit, connecting).await.unwrap_or(Err(ConnectError::Timeout(limit)))
    }

    async fn start(url: &KmsUrl, stream: TlsStream<TcpStream>) -> Result<Self, ConnectError> {
        let tls = stream.get_ref().1;
        let server_certificate = tls
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or(ConnectError::NoCertificate)?
            .clone()
            .into_owned();
        let server_public_key =
            tls::public_key_of(&server_certificate).map_err(|_| ConnectError::NoCertificate)?;
        let http2 = tls.alpn_protocol() == Some(b"h2");
        let exporter = exporter(tls);

        let (open, closed) = oneshot::channel();
        let io = TokioIo::new(stream);
        let sender = if http2 {
            let (sender, driver) = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(MAX_HEADER_BYTES as u32)
                .handshake(io)
                .await
                .map_err(ConnectError::Http)?;
            tokio::spawn(drive(driver, closed));
            Sender::Http2(sender)
        } else {
            let (sender, driver) = http1::Builder::new()
                .max_buf_size(MAX_HEADER_BYTES)
                .handshake(io)
                .await
                .map_err(ConnectError::Http)?;
            tokio::spawn(drive(driver, closed));
            Sender::Http1(Mutex::new(sender))
        };
        Ok(Self {
            url: url.clone(),
            sender,
            server_certificate,
            server_public_key,
            exporter,
            client_public_key: None,
            _open: open,
        })
    }

    /// The URL of the server.
    pub fn url(&self) -> &KmsUrl {
        &self.url
    }

    /// The certificate of the server, DER.
    pub fn server_certificate(&self) -> &[u8] {
        &self.server_certificate
    }

    /// The public key of the server's certificate (SubjectPublicKeyInfo DER), whose possession the handshake
    /// proved.
    pub fn server_public_key(&self) -> &[u8] {
        &self.server_public_key
    }

    /// The public key of the client certificate that was shown on request (SubjectPublicKeyInfo DER).
    pub fn client_public_key(&self) -> Option<&[u8]> {
        self.client_public_key.as_deref()
    }

    /// The channel binding `tls-exporter` (RFC 9266); `None` below TLS 1.3.
    pub(crate) fn exporter(&self) -> Option<&[u8; 32]> {
        self.exporter.as_ref()
    }

    /// Whether the server chose HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Connects to the first address that accepts. Each address gets a share of the remaining time, so that one
/// that drops packets does not use up the time of the next.
pub(crate) async fn reach(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(ConnectError::Name)?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no address");
    let mut waiting = addresses.len() as u32;
    for address in addresses {
        let share = deadline.saturating_duration_since(Instant::now()) / waiting;
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A request is written at once and then waits for its response.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
        waiting -= 1;
    }
    Err(ConnectError::Tcp(failure))
}

/// Runs the connection until it ends, or until its owner was dropped and the time for closing has passed.
pub(crate) async fn drive(driver: impl Future<Output = hyper::Result<()>>, closed: oneshot::Receiver<()>) {
    tokio::pin!(driver);
    tokio::select! {
        ended = &mut driver => log_end(ended),
        _ = closed => {
            if let Ok(ended) = timeout(CLOSE_GRACE, driver).await {
                log_end(ended);
            }
        }
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to a KMS ended");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::Ordering;

    use serde_json::{Value, json};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::testing::{Reply, TestServer};

    #[tokio::test]
    async fn a_server_that_never_speaks_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url = format!("https://{}", listener.local_addr().expect("address")).parse().expect("url");
        let limit = Duration::from_millis(100);
        let error =
            Connection::open_within(limit, &url, Trust::DangerousAnyServer, None).await.expect_err("silence");
        assert!(matches!(error, ConnectError::Timeout(_)), "{error}");
        assert_eq!(error.to_string(), "no connection within 0.1 s");
    }

    #[tokio::test]
    async fn a_closed_port_says_so() {
        // Bound and not listening, so that no other server gets the port.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("loopback");
        let url = format!("https://{}", socket.local_addr().expect("address")).parse().expect("url");
        let error = Connection::open(&url, Trust::DangerousAnyServer, None).await.expect_err("closed");
        assert!(error.to_string().starts_with("connection failed: Connection refused"), "{error}");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url = format!("https://{}", listener.local_addr().expect("address")).parse().expect("url");
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.expect("client");
            let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 200 OK\r\n\r\n").await;
        });
        let error = Connection::open(&url, Trust::DangerousAnyServer, None).await.expect_err("no TLS");
        assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    }

    #[tokio::test]
    async fn many_calls_share_one_connection() {
        let server = TestServer::answering(|| Reply::Json(json!({}))).await;
        let connection = server.connect().await;
        let calls = (0..20).map(|_| connection.call::<_, Value>("GetMeta", &()));
        for call in calls {
            call.await.expect("answer");
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    }
}
