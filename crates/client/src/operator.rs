//! Calls of operators: the onboarding, setup and admin services, over plain HTTP or TLS.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::connection::{CONNECT_TIMEOUT, ConnectError, Connection, MAX_HEADER_BYTES, drive, reach};
use crate::rpc::{CallError, answer, encode};
use crate::tls::Trust;
use crate::url::{KmsUrl, UrlError};

const DEFAULT_HTTP_PORT: u16 = 80;
const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// The URL of an operator's service: `http://` or `https://`, otherwise like [`KmsUrl`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OperatorUrl {
    /// Plain HTTP: a listener on loopback, or a KMS without keys. The scheme of the inner URL is ignored.
    Plain(KmsUrl),
    /// Over TLS.
    Tls(KmsUrl),
}

impl OperatorUrl {
    /// Whether others can read what is sent there, including credentials.
    pub fn is_exposed(&self) -> bool {
        match self {
            Self::Tls(_) => false,
            Self::Plain(url) => {
                let host = url.host();
                host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// The URL of the KMS once it serves keys: over TLS, at `serving_port` or at the same port.
    pub fn once_serving(&self, serving_port: Option<u16>) -> Result<KmsUrl, UrlError> {
        match (self, serving_port) {
            (Self::Plain(url) | Self::Tls(url), Some(port)) => url.at_port(port),
            (Self::Plain(url), None) if url.authority().port().is_none() => url.at_port(DEFAULT_HTTP_PORT),
            (Self::Plain(url) | Self::Tls(url), None) => Ok(url.clone()),
        }
    }

    pub(crate) fn address(&self) -> &KmsUrl {
        match self {
            Self::Plain(url) | Self::Tls(url) => url,
        }
    }
}

impl FromStr for OperatorUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        match text.get(..HTTP.len()) {
            Some(scheme) if scheme.eq_ignore_ascii_case(HTTP) => {
                format!("{HTTPS}{}", &text[HTTP.len()..]).parse().map(Self::Plain)
            }
            _ => text.parse().map(Self::Tls),
        }
    }
}

/// `http[s]://host[:port]/…/prpc`.
impl fmt::Display for OperatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(url) => write!(f, "{HTTP}{}{}", url.authority(), url.base()),
            Self::Tls(url) => fmt::Display::fmt(url, f),
        }
    }
}

/// The token of an operator. Not printed by `Debug`, and wiped when dropped.
pub struct OperatorToken(Zeroizing<String>);

/// Not a valid token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is one line of visible ASCII characters")]
pub struct TokenError;

impl OperatorToken {
    /// From the content of a file or an environment variable; surrounding white space is removed, spaces inside stay.
    pub fn new(text: Zeroizing<String>) -> Result<Self, TokenError> {
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(TokenError);
        }
        Ok(Self(Zeroizing::new(token.to_owned())))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("Bearer {}", self.0.as_str()));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorToken")
    }
}

/// The state of a KMS that does not serve yet, from its setup service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupStatus {
    /// `onboarding`, `committed`, `serving`, `broken` or `restart_required`.
    pub mode: String,
    /// The port that will serve the keys, if it is another one.
    pub serving_port: Option<u16>,
    /// The next steps.
    pub next: Vec<SetupStep>,
}

/// What an operator can do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupStep {
    /// Its name.
    pub step: String,
    /// A sentence about it.
    pub text: String,
}

const SETUP_STATUS: &str = "/api/v1/setup/status";

/// An open connection to an operator's service. It never reconnects and follows no redirect.
pub struct OperatorConnection {
    url: OperatorUrl,
    channel: Channel,
    token: Option<OperatorToken>,
}

enum Channel {
    Plain {
        sender: Mutex<http1::SendRequest<Full<Bytes>>>,
        /// Dropped with the connection, which tells the driver to finish.
        _open: oneshot::Sender<()>,
    },
    Tls(Box<Connection>),
}

impl OperatorConnection {
    /// Connects within [`CONNECT_TIMEOUT`]. Over TLS, `trust` decides which server receives the token and is
    /// believed; over plain HTTP it is ignored.
    pub async fn open(
        url: &OperatorUrl,
        trust: Trust<'_>,
        token: Option<OperatorToken>,
    ) -> Result<Self, ConnectError> {
        let channel = match url {
            OperatorUrl::Tls(kms) => Channel::Tls(Box::new(Connection::open(kms, trust, None).await?)),
            OperatorUrl::Plain(kms) => timeout(CONNECT_TIMEOUT, plain(kms))
                .await
                .unwrap_or(Err(ConnectError::Timeout(CONNECT_TIMEOUT)))?,
        };
        Ok(Self { url: url.clone(), channel, token })
    }

    /// The URL of the service.
    pub fn url(&self) -> &OperatorUrl {
        &self.url
    }

    /// The TLS connection, if it is one, with the server's certificate.
    pub fn tls(&self) -> Option<&Connection> {
        match &self.channel {
            Channel::Tls(connection) => Some(connection),
            Channel::Plain { .. } => None,
        }
    }

    /// Calls a method by its full name, such as `Onboard.Bootstrap`, within `limit`.
    pub async fn call<Q, A>(&self, limit: Duration, method: &str, request: &Q) -> Result<A, CallError>
    where
        Q: Serialize + ?Sized + Sync,
        A: DeserializeOwned,
    {
        let body = encode(method, request)?;
        let path = self.url.address().method_path(method);
        self.exchange(limit, method, Method::POST, path, body).await
    }

    /// Like [`OperatorConnection::call`], for responses that decide something: every field must be present,
    /// without defaults.
    pub async fn call_complete<Q, A>(
        &self,
        limit: Duration,
        method: &str,
        request: &Q,
    ) -> Result<A, CallError>
    where
        Q: Serialize + ?Sized + Sync,
        A: Serialize + DeserializeOwned,
    {
        let shown: Value = self.call(limit, method, request).await?;
        let undecoded = |error: serde_json::Error| CallError::Decode {
            method: method.to_owned(),
            line: error.line(),
            column: error.column(),
        };
        let answer: A = serde_json::from_str(&shown.to_string()).map_err(undecoded)?;
        let whole = serde_json::to_value(&answer).map_err(undecoded)?;
        match missing(&shown, &whole) {
            None => Ok(answer),
            Some(field) => Err(CallError::Incomplete { method: method.to_owned(), field }),
        }
    }

    /// The state of this KMS while it does not serve. Other implementations have no such call and return 404.
    pub async fn setup_status(&self, limit: Duration) -> Result<SetupStatus, CallError> {
        let path = self.url.address().path(SETUP_STATUS);
        self.exchange(limit, SETUP_STATUS, Method::GET, path, Vec::new()).await
    }

    async fn exchange<A: DeserializeOwned>(
        &self,
        limit: Duration,
        name: &str,
        verb: Method,
        path: Option<PathAndQuery>,
        body: Vec<u8>,
    ) -> Result<A, CallError> {
        let request = path.and_then(|path| self.request(verb, path, body.into()));
        let request = request.ok_or_else(|| CallError::Method(name.to_owned()))?;
        answer(limit, name, self.send(request)).await
    }

    /// A request with the credentials of this connection.
    pub(crate) fn request(
        &self,
        verb: Method,
        path: PathAndQuery,
        body: Bytes,
    ) -> Option<Request<Full<Bytes>>> {
        let authorization = self.token.as_ref().and_then(OperatorToken::header);
        match &self.channel {
            Channel::Tls(connection) => connection.request(verb, path, authorization, body),
            Channel::Plain { .. } => self.plain_request(verb, path, authorization, body),
        }
    }

    /// Sends a request and waits for the headers of its response.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &self.channel {
            Channel::Tls(connection) => connection.send(request).await,
            Channel::Plain { sender, .. } => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    fn plain_request(
        &self,
        method: Method,
        path: PathAndQuery,
        authorization: Option<HeaderValue>,
        body: Bytes,
    ) -> Option<Request<Full<Bytes>>> {
        let host = self.url.address().authority().as_str();
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).ok()
    }
}

/// The first field of `whole`, our encoding of the response, that is not in the response as it was `shown`.
fn missing(shown: &Value, whole: &Value) -> Option<String> {
    let inside = |name: String, inner: String| match inner.as_str() {
        "" => name,
        inner => format!("{name}.{inner}"),
    };
    match (shown, whole) {
        (Value::Object(shown), Value::Object(whole)) => {
            whole.iter().find_map(|(name, value)| match shown.get(name) {
                None => Some(name.clone()),
                Some(found) => missing(found, value).map(|inner| inside(name.clone(), inner)),
            })
        }
        // Messages can also be lists, whose fields have no names.
        (_, Value::Object(whole)) => Some(whole.keys().next().cloned().unwrap_or_default()),
        (Value::Array(shown), Value::Array(whole)) => {
            shown.iter().zip(whole).enumerate().find_map(|(at, (shown, whole))| {
                missing(shown, whole).map(|inner| inside(at.to_string(), inner))
            })
        }
        _ => None,
    }
}

async fn plain(url: &KmsUrl) -> Result<Channel, ConnectError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let stream = reach(&url.host(), url.port_or(DEFAULT_HTTP_PORT), deadline).await?;
    let (sender, driver) = http1::Builder::new()
        .max_buf_size(MAX_HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    let (open, closed) = oneshot::channel();
    tokio::spawn(drive(driver, closed));
    Ok(Channel::Plain { sender: Mutex::new(sender), _open: open })
}

impl fmt::Debug for OperatorConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorConnection").field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::{Reply, TestServer};

    const LIMIT: Duration = Duration::from_secs(10);

    fn token(text: &str) -> Result<OperatorToken, TokenError> {
        OperatorToken::new(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn a_token_is_one_line_and_may_have_spaces_inside() {
        for (text, expected) in [
            (" t0ken\n", Some("t0ken")),
            ("a token of your own", Some("a token of your own")),
            ("two\nlines", None),
            ("a\ttab", None),
            ("t\u{f6}ken", None),
            (" ", None),
        ] {
            assert_eq!(token(text).ok().as_ref().map(OperatorToken::expose), expected, "{text:?}");
        }
    }

    #[test]
    fn both_schemes_name_the_same_service() {
        for (text, shown, exposed) in [
            ("http://127.0.0.1:8001", "http://127.0.0.1:8001/prpc", false),
            ("HTTP://localhost/prpc/", "http://localhost/prpc", false),
            ("http://[::1]:8001", "http://[::1]:8001/prpc", false),
            ("http://kms.example:8000//prpc", "http://kms.example:8000/prpc", true),
            ("https://kms.example:8000", "https://kms.example:8000/prpc", false),
        ] {
            let url: OperatorUrl = text.parse().expect(text);
            assert_eq!((url.to_string().as_str(), url.is_exposed()), (shown, exposed));
        }
        for (text, expected) in [
            ("ftp://host", UrlError::NotHttps),
            ("http://user:secret@host", UrlError::Credentials),
            ("http://host/?token=x", UrlError::Query),
            ("http://", UrlError::Malformed),
            ("ä", UrlError::Malformed),
        ] {
            assert_eq!(text.parse::<OperatorUrl>().expect_err(text), expected, "{text}");
        }
    }

    #[test]
    fn the_listener_keeps_its_port_when_keys_are_served() {
        for (text, expected) in [
            ("http://127.0.0.1:8000", "https://127.0.0.1:8000/prpc"),
            ("http://[::1]/kms", "https://[::1]:80/kms/prpc"),
            ("http://kms.example", "https://kms.example:80/prpc"),
            ("https://kms.example", "https://kms.example/prpc"),
        ] {
            let url: OperatorUrl = text.parse().expect(text);
            assert_eq!(url.once_serving(None).expect(text).to_string(), expected);
        }
    }

    #[test]
    fn keys_may_be_served_at_another_port() {
        for (text, expected) in [
            ("http://127.0.0.1:8000", "https://127.0.0.1:9000/prpc"),
            ("http://[::1]/kms", "https://[::1]:9000/kms/prpc"),
            ("https://kms.example", "https://kms.example:9000/prpc"),
        ] {
            let url: OperatorUrl = text.parse().expect(text);
            assert_eq!(url.once_serving(Some(9000)).expect(text).to_string(), expected);
        }
    }

    #[test]
    fn what_an_answer_lacks_is_named() {
        let whole = json!({ "frozen": [{ "expires_at": null, "scope": "" }], "running": false });
        for (shown, expected) in [
            (whole.clone(), None),
            (json!({}), Some("frozen")),
            (json!([]), Some("frozen")),
            (json!({ "frozen": [], "later": 1 }), Some("running")),
            (json!({ "frozen": [{ "scope": "app" }], "running": true }), Some("frozen.0.expires_at")),
            (json!({ "frozen": [["app"]], "running": true }), Some("frozen.0.expires_at")),
        ] {
            assert_eq!(missing(&shown, &whole).as_deref(), expected, "{shown}");
        }
    }

    #[tokio::test]
    async fn a_token_never_goes_to_a_server_that_is_not_believed() {
        let asked = std::sync::Arc::new(std::sync::Mutex::new(0));
        let counter = std::sync::Arc::clone(&asked);
        let server = TestServer::answering(move || {
            *counter.lock().expect("count") += 1;
            Reply::Json(json!({}))
        })
        .await;
        let url: OperatorUrl = server.url.to_string().parse().expect("url");
        let foreign = crate::testing::Authority::new();
        let other_key = foreign.root.spki_der();
        for trust in [Trust::PublicRoots, Trust::RootCa(&foreign.root_pem), Trust::PublicKey(&other_key)] {
            let error = OperatorConnection::open(&url, trust, token("s3cret").ok()).await.expect_err("MITM");
            assert!(matches!(error, ConnectError::Tls(_)), "{error}");
        }
        assert_eq!(*asked.lock().expect("count"), 0);
    }

    #[test]
    fn a_token_is_one_visible_line_and_is_not_printed() {
        assert_eq!(format!("{:?}", token(" s3cret\n").expect("token")), "OperatorToken");
        for bad in ["", " \n", "two lines\nof it", "with\ttab", "tök"] {
            assert_eq!(token(bad).expect_err(bad), TokenError);
        }
    }

    #[tokio::test]
    async fn plain_http_carries_the_token_in_a_header_and_never_follows_a_redirect() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url: OperatorUrl =
            format!("http://{}", listener.local_addr().expect("address")).parse().expect("url");
        let server = tokio::spawn(async move {
            let mut seen = Vec::new();
            let (mut tcp, _) = listener.accept().await.expect("client");
            for reply in [
                "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}",
                "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
            ] {
                let mut request = vec![0; 4096];
                let length = tcp.read(&mut request).await.expect("request");
                seen.push(String::from_utf8_lossy(&request[..length]).into_owned());
                tcp.write_all(reply.as_bytes()).await.expect("reply");
            }
            seen
        });
        let connection = OperatorConnection::open(&url, Trust::PublicRoots, token("s3cret").ok())
            .await
            .expect("connection");
        let answer: Value = connection.call(LIMIT, "Admin.Freeze", &json!({"b": 2})).await.expect("answer");
        assert_eq!(answer, json!({"a": 1}));
        let error = connection.call::<_, Value>(LIMIT, "Onboard.Finish", &()).await.expect_err("redirect");
        assert!(matches!(&error, CallError::Refused { status, .. } if status.as_u16() == 302), "{error}");
        let seen = server.await.expect("server");
        assert!(seen[0].starts_with("POST /prpc/Admin.Freeze?json HTTP/1.1\r\n"), "{seen:?}");
        assert!(seen[0].contains("authorization: Bearer s3cret\r\n"), "{seen:?}");
        assert!(seen[0].ends_with("{\"b\":2}"), "{seen:?}");
    }

    #[tokio::test]
    async fn tls_reaches_a_server_that_nobody_vouches_for() {
        let server = TestServer::answering(|| Reply::Json(json!({"a": 1}))).await;
        let url: OperatorUrl = server.url.to_string().parse().expect("url");
        let connection =
            OperatorConnection::open(&url, Trust::DangerousAnyServer, None).await.expect("connection");
        let answer: Value = connection.call(LIMIT, "Onboard.GetAttestationInfo", &()).await.expect("answer");
        assert_eq!(answer, json!({"a": 1}));
    }

    #[tokio::test]
    async fn silence_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url: OperatorUrl =
            format!("http://{}", listener.local_addr().expect("address")).parse().expect("url");
        let connection =
            OperatorConnection::open(&url, Trust::DangerousAnyServer, None).await.expect("connection");
        let limit = Duration::from_millis(100);
        let error = connection.call::<_, Value>(limit, "Onboard.Finish", &()).await.expect_err("silence");
        assert_eq!(error.to_string(), "Onboard.Finish: no answer within 0.1 s");
    }
}
