//! The onboarding page: three files inside the program, nothing from elsewhere.

use axum::{Router, body::Body, response::Response, routing::get};
use http::{HeaderValue, header};

/// The page loads its own style and script, and asks its own server; nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("../../web/onboard.html")),
    ("/assets/onboard.css", "text/css; charset=utf-8", include_str!("../../web/onboard.css")),
    ("/assets/onboard.js", "text/javascript; charset=utf-8", include_str!("../../web/onboard.js")),
];

/// The routes of the page.
pub(super) fn onboarding() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(path, get(move || async move { file(kind, content) }))
    })
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let mut answer = Response::new(Body::from(content));
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
