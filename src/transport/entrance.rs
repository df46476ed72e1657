//! Who comes in while a KMS onboards: the holders of the token, where there is one, and no page of another site.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, Method as Verb, header, uri::Authority};

use super::{
    grpc,
    prpc::{self, Encoding},
    setup, status,
};
use crate::{
    error::{Code, Error},
    operator::OperatorToken,
    service::{Access, Method, Service},
};

/// The setup service, which speaks JSON only.
const SETUP: &str = "/api/";

/// What the routes of the onboarding phase ask of a request.
#[derive(Debug)]
pub(super) struct Entrance {
    token: Option<OperatorToken>,
}

impl Entrance {
    /// Asks for `token`, if there is one: `X-Onboard-Token`, `Authorization: Bearer`, or `?token=`.
    pub(super) fn new(token: Option<OperatorToken>) -> Self {
        Self { token }
    }

    fn refuses(&self, request: &Request) -> Option<Error> {
        // What is open is listed, so that whatever is not understood here is guarded.
        if is_open(request.uri().path()) {
            return None;
        }
        let (verb, uri, headers) = (request.method(), request.uri(), request.headers());
        // A page of another site cannot read an answer, so asking for the status gives it nothing.
        if uri.path() != setup::STATUS && is_of_another_site(verb, headers, uri.authority()) {
            let text = "a page of another site may not do this; use the page of this KMS, or curl";
            return Some(Error::new(Code::Denied, text));
        }
        let token = self.token.as_ref()?;
        let is_shown = shows_token(token, headers, uri.query());
        (!is_shown).then(|| Error::new(Code::Unauthenticated, "this KMS asks for its onboarding token"))
    }
}

/// Lets a request pass, or refuses it in its own protocol.
pub(super) async fn pass(State(entrance): State<Arc<Entrance>>, request: Request, next: Next) -> Response {
    match entrance.refuses(&request) {
        None => next.run(request).await,
        Some(refusal) if grpc::is_grpc(&request) => status::grpc_answer(&refusal),
        Some(refusal) if request.uri().path().starts_with(SETUP) => {
            prpc::error(Encoding::Json, &refusal).map(Body::new)
        }
        Some(refusal) => prpc::refuse(request, &refusal).await.map(Body::new),
    }
}

/// What changes nothing and asks for nothing.
fn is_open(path: &str) -> bool {
    let name = path.rsplit(['/', '.']).next().unwrap_or_default();
    matches!(path, "/" | "/health")
        || path.starts_with("/assets/")
        || path.starts_with("/grpc.")
        || !path.starts_with(SETUP)
            && Method::find(Service::Onboard, name).is_some_and(|row| row.access == Access::Open)
}

/// Whether a browser sent this for a page that is not ours: what an operator's browser can reach, any page that it shows
/// could otherwise call. A browser says where a request comes from in headers that a page cannot change; other programs
/// send none of them.
fn is_of_another_site(verb: &Verb, headers: &HeaderMap, authority: Option<&Authority>) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = headers.get("sec-fetch-site") {
        // `none`: typed by the user.
        return site != "same-origin" && site != "none";
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let host = authority.map(Authority::as_str).or_else(|| text(header::HOST));
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        return origin.is_none() || origin != host;
    }
    // Without TLS a browser keeps both back from a GET, which an image or a link on any page can cause.
    let is_browser = text(header::USER_AGENT).is_some_and(|agent| agent.contains("Mozilla/"))
        && headers.contains_key(header::ACCEPT_LANGUAGE);
    is_browser && matches!(*verb, Verb::GET | Verb::HEAD)
}

fn shows_token(token: &OperatorToken, headers: &HeaderMap, query: Option<&str>) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let in_query = || {
        form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .find_map(|(key, value)| (key == "token").then(|| value.into_owned()))
    };
    text("x-onboard-token").is_some_and(|shown| token.is(shown))
        || bearer().is_some_and(|shown| token.is(shown.trim()))
        || in_query().is_some_and(|shown| token.is(&shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROWSER: [(&str, &str); 2] =
        [("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"), ("accept-language", "en-US")];

    fn is_foreign(verb: Verb, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header value"));
        }
        is_of_another_site(&verb, &map, None)
    }

    #[test]
    fn programs_that_are_no_browsers_are_nobodys_page() {
        for headers in [
            &[][..],
            &[("user-agent", "curl/8.5.0"), ("host", "10.0.0.5:8000")],
            &[("user-agent", "Mozilla/5.0 (Windows NT) WindowsPowerShell/5.1")],
            &[("user-agent", "node"), ("accept-language", "*"), ("sec-fetch-mode", "cors")],
        ] {
            assert!(!is_foreign(Verb::GET, headers), "{headers:?}");
            assert!(!is_foreign(Verb::POST, headers), "{headers:?}");
        }
    }

    #[test]
    fn a_browser_says_where_a_request_comes_from() {
        for (site, foreign) in
            [("same-origin", false), ("none", false), ("cross-site", true), ("same-site", true), ("", true)]
        {
            for verb in [Verb::GET, Verb::POST] {
                assert_eq!(is_foreign(verb, &[("sec-fetch-site", site)]), foreign, "{site}");
            }
        }
        for (origin, foreign) in [
            ("http://kms:8000", false),
            ("https://kms:8000", false),
            ("http://kms:9000", true),
            ("http://kms", true),
            ("http://evil.example", true),
            ("null", true),
        ] {
            let headers = [("host", "kms:8000"), ("origin", origin)];
            assert_eq!(is_foreign(Verb::POST, &headers), foreign, "{origin}");
        }
    }

    #[test]
    fn where_a_browser_says_nothing_it_may_not_change_anything() {
        assert!(is_foreign(Verb::GET, &BROWSER));
        assert!(is_foreign(Verb::HEAD, &BROWSER));
        assert!(!is_foreign(Verb::POST, &BROWSER), "a browser's POST has an origin");
    }

    #[test]
    fn what_changes_nothing_is_open() {
        for (path, open) in [
            ("/", true),
            ("/health", true),
            ("/assets/page.js", true),
            ("/prpc/GetAttestationInfo", true),
            ("/prpc/Onboard.GetAttestationInfo", true),
            ("/grpc.health.v1.Health/Check", true),
            ("/prpc/Bootstrap", false),
            ("/finish", false),
            ("/api/v1/setup/status", false),
            ("/api/v1/setup/validate/clock", false),
            ("/api/v1/setup/validate/GetAttestationInfo", false),
        ] {
            assert_eq!(is_open(path), open, "{path}");
        }
    }
}
