//! Calls over a connection: JSON in both directions, with limits on everything.

use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use kms_wire::code::ERROR_CODE;
use kms_wire::method::UNKNOWN_METHOD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::connection::{Connection, Sender};
use crate::epochs::Epochs;
use crate::fresh::Fresh;
use crate::operator::OperatorToken;
use crate::proto::{
    AppId, AppKeyResponse, GetAppKeyRequest, GetMetaResponse, GetTempCaCertResponse, PublicKeyResponse,
};
use crate::text;

/// The limit of one call, from the first byte sent to the last received.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest response body.
pub const MAX_RESPONSE_BYTES: usize = 4 << 20;
/// The longest code in a header.
const MAX_CODE: usize = 64;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server responded with an error.
    #[error("{method}: the server answered {}: {message}", .status.as_u16())]
    Refused {
        /// The called method.
        method: String,
        /// The HTTP status.
        status: StatusCode,
        /// The server's error text, bounded and without control characters.
        message: String,
        /// The code of the refusal, if the server gives one.
        code: Option<String>,
        /// The id under which the server keeps the refusal, if it has one.
        denial_id: Option<String>,
        /// After which time the server wants to be asked again, where it is only busy.
        retry_after: Option<Duration>,
    },
    /// The text cannot be the name of a method.
    #[error("{0:?} is not the name of a method")]
    Method(String),
    /// The request has no JSON form.
    #[error("{method}: the request cannot be written: {source}")]
    Encode {
        /// The called method.
        method: String,
        /// The error of the encoder.
        source: serde_json::Error,
    },
    /// The connection broke.
    #[error("{method}: the connection broke: {source}")]
    Transport {
        /// The called method.
        method: String,
        /// The error of the transport.
        source: hyper::Error,
    },
    /// The response is larger than any of a KMS.
    #[error("{method}: the response is larger than {limit} bytes")]
    TooLarge {
        /// The called method.
        method: String,
        /// How many bytes are read at most.
        limit: usize,
    },
    /// A success without the message of this method. Contains the position only, because the body may hold
    /// secrets.
    #[error("{method}: the response is not the expected JSON (line {line}, column {column})")]
    Decode {
        /// The called method.
        method: String,
        /// Line of the first bad character.
        line: usize,
        /// Column of the first bad character.
        column: usize,
    },
    /// A success with a part of the message missing, which must not be replaced by a default.
    #[error("{method}: the answer lacks {field}")]
    Incomplete {
        /// The called method.
        method: String,
        /// The position: names of fields and indices of lists, from the outside in.
        field: String,
    },
    /// No complete response in time.
    #[error("{method}: no answer within {} s", .limit.as_secs_f32())]
    Timeout {
        /// The called method.
        method: String,
        /// The time limit.
        limit: Duration,
    },
}

impl CallError {
    /// Whether the server does not have the method, as a `dstack-kms` or an older version may not.
    pub fn is_unknown_method(&self) -> bool {
        match self {
            Self::Refused { status, message, .. } => {
                *status == StatusCode::NOT_FOUND || message.starts_with(UNKNOWN_METHOD)
            }
            Self::Method(_)
            | Self::Encode { .. }
            | Self::Transport { .. }
            | Self::TooLarge { .. }
            | Self::Decode { .. }
            | Self::Incomplete { .. }
            | Self::Timeout { .. } => false,
        }
    }
}

impl Connection {
    /// Calls a method within [`CALL_TIMEOUT`].
    pub async fn call<Q, A>(&self, method: &str, request: &Q) -> Result<A, CallError>
    where
        Q: Serialize + ?Sized + Sync,
        A: DeserializeOwned,
    {
        self.call_within(CALL_TIMEOUT, method, request).await
    }

    /// Calls a method within the given time.
    pub async fn call_within<Q, A>(&self, limit: Duration, method: &str, request: &Q) -> Result<A, CallError>
    where
        Q: Serialize + ?Sized + Sync,
        A: DeserializeOwned,
    {
        self.exchange(limit, method, request, None).await
    }

    /// Like [`Connection::call`], with the token of an operator of the server. The server must be verified
    /// before.
    pub async fn call_as_operator<Q, A>(
        &self,
        token: &OperatorToken,
        method: &str,
        request: &Q,
    ) -> Result<A, CallError>
    where
        Q: Serialize + ?Sized + Sync,
        A: DeserializeOwned,
    {
        self.exchange(CALL_TIMEOUT, method, request, token.header()).await
    }

    async fn exchange<Q, A>(
        &self,
        limit: Duration,
        method: &str,
        request: &Q,
        authorization: Option<HeaderValue>,
    ) -> Result<A, CallError>
    where
        Q: Serialize + ?Sized + Sync,
        A: DeserializeOwned,
    {
        let body = encode(method, request)?;
        let path = self.url.method_path(method).ok_or_else(|| CallError::Method(method.to_owned()))?;
        let request = self
            .request(Method::POST, path, authorization, body)
            .ok_or_else(|| CallError::Method(method.to_owned()))?;
        answer(limit, method, self.send(request)).await
    }

    /// The public description of this KMS. Needs no credentials.
    pub async fn meta(&self) -> Result<GetMetaResponse, CallError> {
        self.call("GetMeta", &()).await
    }

    /// The public temporary CA and the root certificate. Needs no credentials, and proves nothing.
    pub async fn temp_ca_cert(&self) -> Result<GetTempCaCertResponse, CallError> {
        self.call("GetTempCaCert", &()).await
    }

    /// The key to which a deployer encrypts the environment of an app. Needs no credentials.
    pub async fn app_env_encrypt_pub_key(&self, app_id: &[u8]) -> Result<PublicKeyResponse, CallError> {
        self.app_env_encrypt_pub_key_of(app_id, None).await
    }

    /// The same, of a root epoch.
    pub async fn app_env_encrypt_pub_key_of(
        &self,
        app_id: &[u8],
        root_epoch: Option<u32>,
    ) -> Result<PublicKeyResponse, CallError> {
        let request = AppId { app_id: app_id.to_vec(), root_epoch, ..Default::default() };
        self.call("GetAppEnvEncryptPubKey", &request).await
    }

    /// The keys of the app that the client certificate of this connection proves.
    pub async fn app_key(&self, vm_config: &str) -> Result<AppKeyResponse, CallError> {
        self.app_key_at(vm_config, None).await
    }

    /// The same, of these epochs. The caller checks that the response is of them: a KMS that knows no epochs gives the
    /// keys of 0 and 0 instead.
    pub async fn app_key_at(
        &self,
        vm_config: &str,
        epochs: Option<Epochs>,
    ) -> Result<AppKeyResponse, CallError> {
        self.app_key_fresh(vm_config, epochs, Fresh::default()).await
    }

    /// The same, with fresh evidence for this call ([`Connection::fresh_evidence`] for `KMS.GetAppKey`).
    pub async fn app_key_fresh(
        &self,
        vm_config: &str,
        epochs: Option<Epochs>,
        fresh: Fresh,
    ) -> Result<AppKeyResponse, CallError> {
        let request = GetAppKeyRequest {
            api_version: 1,
            vm_config: vm_config.to_owned(),
            root_epoch: epochs.map(|epochs| epochs.root),
            app_epoch: epochs.map(|epochs| epochs.app),
            challenge: fresh.challenge,
            fresh_evidence: fresh.evidence,
            ..Default::default()
        };
        self.call("GetAppKey", &request).await
    }

    /// A request, with credentials if they are given.
    pub(crate) fn request(
        &self,
        method: Method,
        path: PathAndQuery,
        authorization: Option<HeaderValue>,
        body: impl Into<Bytes>,
    ) -> Option<Request<Full<Bytes>>> {
        let mut request = self.address(Request::builder().method(method), path)?;
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Full::new(body.into())).ok()
    }

    /// Adds the server's name as the protocol of this connection requires.
    fn address(&self, request: request::Builder, path: PathAndQuery) -> Option<request::Builder> {
        let authority = self.url.authority().clone();
        Some(match self.sender {
            Sender::Http1(_) => request.uri(path).header(header::HOST, authority.as_str()),
            Sender::Http2(_) => {
                let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path);
                request.uri(uri.build().ok()?)
            }
        })
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &self.sender {
            Sender::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// The request as JSON.
pub(crate) fn encode<Q: Serialize + ?Sized>(method: &str, request: &Q) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(request).map_err(|source| CallError::Encode { method: method.to_owned(), source })
}

/// The response within `limit`: the message, or the reason of a refusal.
pub(crate) async fn answer<A: DeserializeOwned>(
    limit: Duration,
    method: &str,
    sending: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<A, CallError> {
    let exchange = async {
        let response = accepted(method, sending.await).await?;
        read_bounded(method, response, MAX_RESPONSE_BYTES).await
    };
    let body = within(limit, method, exchange).await?;
    // The peer sends an empty body for a method without a result, which its clients read as `null`.
    let text: &[u8] = if body.is_empty() { b"null" } else { &body };
    kms_attest::json::from_utf8(text).map_err(|error| CallError::Decode {
        method: method.to_owned(),
        line: error.line(),
        column: error.column(),
    })
}

/// What `exchange` comes to, if it takes no longer than `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    method: &str,
    exchange: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let ended = timeout(limit, exchange).await;
    ended.unwrap_or_else(|_| Err(CallError::Timeout { method: method.to_owned(), limit }))
}

/// A success, its body not read yet; a refusal with its reason.
pub(crate) async fn accepted(
    method: &str,
    response: hyper::Result<Response<Incoming>>,
) -> Result<Response<Incoming>, CallError> {
    let response = response.map_err(|source| CallError::Transport { method: method.to_owned(), source })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = retry_after(status, response.headers());
    let named = error_code(response.headers());
    let Reason { message, code, denial_id } =
        reason(&read_bounded(method, response, MAX_RESPONSE_BYTES).await?);
    let code = code.or(named);
    Err(CallError::Refused { method: method.to_owned(), status, message, code, denial_id, retry_after })
}

/// The code of an error, which bodies of prpc have of denials only.
fn error_code(headers: &HeaderMap) -> Option<String> {
    let code = headers.get(ERROR_CODE)?.to_str().ok()?;
    let is_code = !code.is_empty()
        && code.len() <= MAX_CODE
        && code.bytes().all(|letter| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    is_code.then(|| code.to_owned())
}

/// The `Retry-After` of a server that is busy, in seconds; never a date (RFC 9110, section 10.2.3).
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse::<u32>().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

/// Reads the body into memory that is wiped, because it may hold keys.
pub(crate) async fn read_bounded(
    method: &str,
    response: Response<Incoming>,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, CallError> {
    let too_large = || CallError::TooLarge { method: method.to_owned(), limit };
    let mut body = response.into_body();
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(too_large());
    }
    // Allocated at once for an ordinary response, because growing would leave copies in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity((announced as usize).max(16 << 10)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| CallError::Transport { method: method.to_owned(), source })?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// Why a server refuses, in its own words.
struct Reason {
    message: String,
    code: Option<String>,
    denial_id: Option<String>,
}

/// The server's error: the `error` of its JSON object, or else its text; one bounded line, safe to print.
fn reason(body: &[u8]) -> Reason {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        error: String,
        #[serde(default)]
        code: serde_json::Value,
        #[serde(default)]
        denial_id: serde_json::Value,
    }
    let (line, code, denial_id) = match kms_attest::json::from_utf8::<ErrorBody>(body) {
        Ok(body) => {
            let id = match body.denial_id {
                serde_json::Value::String(id) => Some(text::printable(&id)),
                serde_json::Value::Number(id) => Some(id.to_string()),
                _ => None,
            };
            let code = body.code.as_str().map(text::printable);
            (text::printable(&body.error), code, id)
        }
        Err(_) => {
            let start = &body[..body.len().min(4 * text::MAX_CHARS)];
            (text::printable(&String::from_utf8_lossy(start)), None, None)
        }
    };
    let message = if line.is_empty() { "no reason given".to_owned() } else { line };
    Reason { message, code, denial_id }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Authority, Leaf, Reply, TestServer};

    #[tokio::test]
    async fn a_call_is_json_by_name_over_either_protocol() {
        for (protocols, http2) in [(&["h2", "http/1.1"][..], true), (&["http/1.1"], false), (&[], false)] {
            let server =
                TestServer::start(Arc::new(Authority::new()), &[Leaf::kms()], protocols, |_, call| {
                    let body = String::from_utf8(call.body).expect("text");
                    Reply::Json(json!({"target": call.target, "http2": call.http2, "body": body}))
                })
                .await;
            let connection = server.connect().await;
            assert_eq!(connection.is_http2(), http2, "{protocols:?}");
            let echo: Value = connection
                .call("GetAppEnvEncryptPubKey", &AppId { app_id: vec![0xab], ..Default::default() })
                .await
                .expect("echo");
            assert_eq!(
                echo,
                json!({
                    "target": "/prpc/GetAppEnvEncryptPubKey?json",
                    "http2": http2,
                    "body": r#"{"app_id":"ab"}"#,
                })
            );
            let echo: Value = connection.call("GetMeta", &()).await.expect("echo");
            assert_eq!(echo["body"], "null");
        }
    }

    #[tokio::test]
    async fn a_refusal_keeps_the_status_and_the_reason() {
        let long = "x".repeat(100_000);
        for (status, body, expected) in [
            (400, r#"{"error": "app_id must be 20 bytes"}"#.to_owned(), "app_id must be 20 bytes"),
            (
                403,
                "{\n  \"error\": \"Boot denied: app\\nnot \\u001b[1mregistered\"\n}".into(),
                "Boot denied: app not  [1mregistered",
            ),
            (404, "<html>".into(), "<html>"),
            (503, String::new(), "no reason given"),
            (500, r#"{"error": 7}"#.into(), r#"{"error": 7}"#),
            (302, "elsewhere".into(), "elsewhere"),
            (500, long.clone(), &long[..512]),
        ] {
            let server =
                TestServer::answering(move || Reply::Status(status, body.clone().into_bytes())).await;
            let error = server.connect().await.meta().await.expect_err("refused");
            let CallError::Refused { method, status: got, message, denial_id, .. } = error else {
                panic!("{error}")
            };
            assert_eq!((method.as_str(), got.as_u16(), message.as_str()), ("GetMeta", status, expected));
            assert_eq!(denial_id, None);
        }
    }

    #[tokio::test]
    async fn a_refusal_keeps_the_number_under_which_it_is_remembered() {
        for (body, expected) in [
            (r#"{"error": "Boot denied", "code": "denied", "denial_id": "d-17"}"#, Some("d-17")),
            (r#"{"error": "Boot denied", "denial_id": 17}"#, Some("17")),
            (r#"{"error": "Boot denied", "denial_id": ["x"]}"#, None),
        ] {
            let server = TestServer::answering(move || Reply::Status(403, body.into())).await;
            let error = server.connect().await.meta().await.expect_err("refused");
            let CallError::Refused { message, denial_id, .. } = error else { panic!("{error}") };
            assert_eq!((message.as_str(), denial_id.as_deref()), ("Boot denied", expected));
        }
    }

    #[tokio::test]
    async fn the_code_of_a_header_is_used_where_the_body_has_none() {
        const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        assert_eq!(LONG.len(), MAX_CODE + 1);
        for (header, body, expected) in [
            ("join_used", r#"{"error": "used"}"#, Some("join_used")),
            ("denied", r#"{"error": "denied", "code": "frozen"}"#, Some("frozen")),
            ("Join Used", r#"{"error": "used"}"#, None),
            ("", "used", None),
            (LONG, "used", None),
        ] {
            let server = TestServer::answering(move || Reply::Coded(header, body)).await;
            let error = server.connect().await.meta().await.expect_err("refused");
            let CallError::Refused { code, .. } = error else { panic!("{error}") };
            assert_eq!(code.as_deref(), expected);
        }
    }

    #[tokio::test]
    async fn an_empty_success_is_null() {
        let server = TestServer::answering(|| Reply::Status(200, Vec::new())).await;
        server.connect().await.call::<_, ()>("Finish", &()).await.expect("nothing");
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound_and_no_further() {
        for (length, fits) in [(MAX_RESPONSE_BYTES, true), (MAX_RESPONSE_BYTES + 1, false)] {
            for protocols in [&["h2"], &["http/1.1"]] {
                let server =
                    TestServer::start(Arc::new(Authority::new()), &[Leaf::kms()], protocols, move |_, _| {
                        Reply::Status(200, format!("\"{}\"", "x".repeat(length - 2)).into_bytes())
                    })
                    .await;
                match server.connect().await.call::<_, String>("GetMeta", &()).await {
                    Ok(text) => assert!(fits && text.len() == length - 2),
                    Err(error) => assert!(!fits && matches!(error, CallError::TooLarge { .. }), "{error}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_wrong_body_is_refused_without_repeating_it() {
        for body in ["{\"ca_cert\": 7, \"secret\": 1}", "secret", "{}x", "[[[[", &"[".repeat(10_000)] {
            let bytes = body.as_bytes().to_vec();
            let server = TestServer::answering(move || Reply::Status(200, bytes.clone())).await;
            let error = server.connect().await.meta().await.expect_err("no message");
            assert!(matches!(error, CallError::Decode { .. }), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        for protocols in [&["h2"], &["http/1.1"]] {
            let server =
                TestServer::start(Arc::new(Authority::new()), &[Leaf::kms()], protocols, |_, _| Reply::Hang)
                    .await;
            let connection = server.connect().await;
            let error = connection
                .call_within::<_, Value>(Duration::from_millis(100), "GetMeta", &())
                .await
                .expect_err("silence");
            assert_eq!(error.to_string(), "GetMeta: no answer within 0.1 s");
        }
    }

    #[tokio::test]
    async fn what_is_no_method_is_not_sent() {
        let server = TestServer::answering(|| Reply::Json(json!({}))).await;
        let error = server.connect().await.call::<_, Value>("../admin", &()).await.expect_err("not a method");
        assert!(matches!(error, CallError::Method(_)), "{error}");
    }
}
