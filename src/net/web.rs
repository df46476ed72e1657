//! The onboarding page, embedded in the program; it loads nothing from other sites.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderName, HeaderValue, header};

/// The page may load its own files and call its own server, nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 11] = [
    ("/", HTML, include_str!("../../web/onboard.html")),
    ("/assets/onboard.css", CSS, include_str!("../../web/onboard.css")),
    ("/assets/icon.svg", SVG, include_str!("../../web/icon.svg")),
    ("/assets/onboard.js", SCRIPT, include_str!("../../web/onboard.js")),
    ("/assets/advice.js", SCRIPT, include_str!("../../web/advice.js")),
    ("/assets/checks.js", SCRIPT, include_str!("../../web/checks.js")),
    ("/assets/keys.js", SCRIPT, include_str!("../../web/keys.js")),
    ("/assets/kms.js", SCRIPT, include_str!("../../web/kms.js")),
    ("/assets/serve.js", SCRIPT, include_str!("../../web/serve.js")),
    ("/assets/steps.js", SCRIPT, include_str!("../../web/steps.js")),
    ("/assets/view.js", SCRIPT, include_str!("../../web/view.js")),
];

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
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::routes::{Route, Verbs};
    use crate::api::{Access, Service};

    #[test]
    fn the_table_has_every_file_and_leaves_it_open() {
        for (path, _, _) in FILES {
            let row = Route::serving(Service::Onboard, path).expect("a row");
            assert_eq!((row.verbs, row.access), (Verbs::Get, Access::Open), "{path}");
        }
    }
}
