//! Which pages of other sites may read answers of the main listener (`rpc.cors_origins`), by the Fetch standard.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode, header};

use super::middleware::Answer;

/// What such a page may send: what gRPC-web clients and `fetch` with JSON do.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
const HEADERS: HeaderValue = HeaderValue::from_static("content-type, grpc-timeout, x-grpc-web, x-user-agent");
/// What it may read besides the body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "grpc-message, grpc-status, retry-after, x-denial-code, x-denial-id, x-error-code",
);
/// How long a browser may remember the answer to a preflight request, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origins whose pages may read answers. Credentials of the browser are never allowed: neither a client certificate
/// nor a cookie comes with what such a page sends.
#[derive(Debug)]
pub(super) struct Cors(Vec<HeaderValue>);

impl Cors {
    /// `None` if there is no origin: then there is nothing to add to any answer.
    pub(super) fn of(origins: &[String]) -> Option<Self> {
        // An origin is ASCII without control characters: the configuration has it from a URL parser.
        let origins: Vec<_> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        (!origins.is_empty()).then_some(Self(origins))
    }

    /// The origin of a request, if its pages may read answers.
    pub(super) fn admitted(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.0.contains(origin).then(|| origin.clone())
    }

    /// The answer to a preflight request of an admitted origin.
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

    /// Says in an answer whose pages may read it; `origin` is the admitted one.
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
