//! Who comes in while a KMS onboards: the holders of the token, where there is one, and no page of another site.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::HeaderMap;

use super::{
    grpc, probes,
    prpc::{self, Encoding},
    same_site, setup, status,
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
    /// Asks for `token`, if there is one: `X-Onboard-Token` or `Authorization: Bearer`. `/?token=` is for the page alone,
    /// which takes it out of the address: a link that carries a token does nothing by itself.
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
        if uri.path() != setup::STATUS && same_site::is_of_another_site(verb, uri, headers) {
            let text = "a page of another site may not do this; use the page of this KMS, or curl";
            return Some(Error::new(Code::Denied, text).because("foreign_page"));
        }
        let token = self.token.as_ref()?;
        let is_shown = shows_token(token, headers);
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
    path == "/"
        || probes::PATHS.contains(&path)
        || path.starts_with("/assets/")
        || path.starts_with("/grpc.")
        || !path.starts_with(SETUP)
            && Method::find(Service::Onboard, name).is_some_and(|row| row.access == Access::Open)
}

fn shows_token(token: &OperatorToken, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    text("x-onboard-token").is_some_and(|shown| token.is(shown))
        || bearer().is_some_and(|shown| token.is(shown.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_is_open() {
        for (path, open) in [
            ("/", true),
            ("/health", true),
            ("/livez", true),
            ("/readyz", true),
            ("/readyz/x", false),
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
