//! Which pages of other sites may read responses of the main listener (`rpc.cors_origins`), by the Fetch
//! standard.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode, header};

use super::answer::Answer;

/// The methods that such a page may use: those of gRPC-web clients and of `fetch` with JSON.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
const HEADERS: HeaderValue = HeaderValue::from_static("content-type, grpc-timeout, x-grpc-web, x-user-agent");
/// The response headers that it may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "grpc-message, grpc-status, retry-after, x-denial-code, x-denial-id, x-error-code",
);
/// How long a browser may cache the response to a preflight request, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origins whose pages may read responses. Credentials are never allowed: a browser sends neither client
/// certificates nor cookies with such requests.
#[derive(Debug)]
pub(super) struct Cors(Vec<HeaderValue>);

impl Cors {
    /// `None` without origins: responses then need no header.
    pub(super) fn of(origins: &[String]) -> Option<Self> {
        // An origin is ASCII without control characters, because the configuration parses it as a URL.
        let origins: Vec<_> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        (!origins.is_empty()).then_some(Self(origins))
    }

    /// The origin of a request, if its pages may read the response.
    pub(super) fn admitted(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.0.contains(origin).then(|| origin.clone())
    }

    /// The response to a preflight request of an admitted origin.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Option<Answer> {
        let headers = request.headers();
        let is_preflight =
            request.method() == Verb::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight {
            return None;
        }
        self.admitted(headers)?;
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ] {
            answer.headers_mut().insert(name, value);
        }
        Some(answer)
    }

    /// Sets the header that lets pages of `origin`, an admitted one, read a response.
    pub(super) fn mark(origin: Option<HeaderValue>, answer: &mut Answer) {
        let headers = answer.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: Verb, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(verb).uri("/kms.KMS/GetMeta");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn only_a_listed_origin_gets_a_preflight_answer() {
        assert!(Cors::of(&[]).is_none());
        let cors = Cors::of(&["https://app.example".to_owned()]).expect("an origin");
        let asks = ("access-control-request-method", "POST");
        for (verb, headers, answered) in [
            (Verb::OPTIONS, &[("origin", "https://app.example"), asks][..], true),
            (Verb::OPTIONS, &[("origin", "https://app.example")], false),
            (Verb::OPTIONS, &[asks], false),
            (Verb::POST, &[("origin", "https://app.example"), asks], false),
            (Verb::OPTIONS, &[("origin", "http://app.example"), asks], false),
            (Verb::OPTIONS, &[("origin", "https://app.example:8443"), asks], false),
            (Verb::OPTIONS, &[("origin", "https://app.example.evil.example"), asks], false),
            (Verb::OPTIONS, &[("origin", "null"), asks], false),
        ] {
            let answer = cors.preflight(&request(verb, headers));
            assert_eq!(answer.is_some(), answered, "{headers:?}");
        }
    }
}
