//! Documents and streams that a KMS serves beside its methods.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::operator::OperatorConnection;
use crate::rpc::{CallError, accepted, read_bounded, within};

/// The response header with the cursor of the next page.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");
const INDEX_FIRST: HeaderName = HeaderName::from_static("x-index-first");
const INDEX_LAST: HeaderName = HeaderName::from_static("x-index-last");
const LOG_NEWEST: HeaderName = HeaderName::from_static("x-log-newest");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A document.
#[derive(Debug)]
pub struct Document {
    /// Its content.
    pub body: Vec<u8>,
    /// The cursor of the next page, from `X-Next-Cursor`.
    pub next_cursor: Option<u64>,
    /// For events: what the index of the KMS holds. A KMS of an earlier version does not say it.
    pub reach: Option<Reach>,
}

/// Which events the index of a KMS holds, by number; 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The oldest of the index.
    pub first: u64,
    /// The newest of the index.
    pub last: u64,
    /// The newest of the audit log.
    pub newest: u64,
}

impl Reach {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let (first, last) = (number(headers, &INDEX_FIRST)?, number(headers, &INDEX_LAST)?);
        Some(Self { first, last, newest: number(headers, &LOG_NEWEST)? })
    }
}

impl Document {
    /// The content as JSON; `None` if it is anything else.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(std::str::from_utf8(&self.body).ok()?).ok()
    }
}

impl OperatorConnection {
    /// Fetches the document at `path`, such as `/log/checkpoint`, within `limit`. The path may have a query,
    /// which errors do not show.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::TooLarge`] above `max_bytes`.
    pub async fn fetch(&self, limit: Duration, path: &str, max_bytes: usize) -> Result<Document, CallError> {
        self.document(limit, Method::GET, path, Bytes::new(), max_bytes).await
    }

    /// Posts `body` to `path` and reads the response, within `limit`.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::TooLarge`] above `max_bytes`.
    pub async fn post(
        &self,
        limit: Duration,
        path: &str,
        body: Vec<u8>,
        max_bytes: usize,
    ) -> Result<Document, CallError> {
        self.document(limit, Method::POST, path, body.into(), max_bytes).await
    }

    /// [`OperatorConnection::post`] of a body that is overwritten when it is sent.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::TooLarge`] above `max_bytes`.
    pub async fn post_secret(
        &self,
        limit: Duration,
        path: &str,
        body: Zeroizing<String>,
        max_bytes: usize,
    ) -> Result<Document, CallError> {
        self.document(limit, Method::POST, path, Bytes::from_owner(body), max_bytes).await
    }

    /// Changes what is at `path` as `body` says, and reads the response, within `limit`.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::TooLarge`] above `max_bytes`.
    pub async fn patch(
        &self,
        limit: Duration,
        path: &str,
        body: Vec<u8>,
        max_bytes: usize,
    ) -> Result<Document, CallError> {
        self.document(limit, Method::PATCH, path, body.into(), max_bytes).await
    }

    /// Puts `body` to `path`, which replaces the resource, and reads the response, within `limit`.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::TooLarge`] above `max_bytes`.
    pub async fn put(
        &self,
        limit: Duration,
        path: &str,
        body: Vec<u8>,
        max_bytes: usize,
    ) -> Result<Document, CallError> {
        self.document(limit, Method::PUT, path, body.into(), max_bytes).await
    }

    /// Deletes what is at `path`, and reads the response, within `limit`.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::TooLarge`] above `max_bytes`.
    pub async fn delete(&self, limit: Duration, path: &str, max_bytes: usize) -> Result<Document, CallError> {
        self.document(limit, Method::DELETE, path, Bytes::new(), max_bytes).await
    }

    /// Opens the stream at `path`, after the event number `after`; the headers must arrive within `limit`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn stream(
        &self,
        limit: Duration,
        path: &str,
        after: Option<u64>,
    ) -> Result<Stream<'_>, CallError> {
        let name = name(path);
        let target = self.url().address().path(path);
        let request = target.and_then(|target| self.request(Method::GET, target, Bytes::new()));
        let mut request = request.ok_or_else(|| CallError::Method(name.to_owned()))?;
        if let Some(after) = after {
            request.headers_mut().insert(LAST_EVENT_ID, HeaderValue::from(after));
        }
        let opening = async { accepted(name, self.send(request).await).await };
        let response = within(limit, name, opening).await?;
        Ok(Stream { name: name.to_owned(), body: response.into_body(), _connection: self })
    }

    async fn document(
        &self,
        limit: Duration,
        verb: Method,
        path: &str,
        body: Bytes,
        max_bytes: usize,
    ) -> Result<Document, CallError> {
        let name = name(path);
        let target = self.url().address().path(path);
        let request = target.and_then(|target| self.request(verb, target, body));
        let request = request.ok_or_else(|| CallError::Method(name.to_owned()))?;
        let exchange = async {
            let response = accepted(name, self.send(request).await).await?;
            let next_cursor = number(response.headers(), &NEXT_CURSOR);
            let reach = Reach::of(response.headers());
            let mut body = read_bounded(name, response, max_bytes).await?;
            Ok(Document { body: std::mem::take(&mut *body), next_cursor, reach })
        };
        within(limit, name, exchange).await
    }
}

/// The body of a stream. It ends with its connection.
#[derive(Debug)]
pub struct Stream<'a> {
    name: String,
    body: Incoming,
    _connection: &'a OperatorConnection,
}

impl Stream<'_> {
    /// Waits for the next bytes, without a time limit; `None` at the end.
    ///
    /// # Errors
    /// [`CallError::Transport`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|source| CallError::Transport { method: self.name.clone(), source })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The path for errors, without its query.
fn name(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}
