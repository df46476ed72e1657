//! Access control during onboarding: the onboarding token, if one is set, and no pages of other sites.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method as Verb};

use super::prpc::{self, Encoding};
use super::{grpc, probes, restore, same_site, setup, status, verbs};
use crate::api::routes::Route;
use crate::api::{Access, Caller, Method, Service};
use crate::audit::{Audit, Event};
use crate::error::{Code, Error};
use crate::log_limit::LogLimit;
use crate::metrics::Metrics;
use crate::operator::OperatorToken;

/// Log lines a second about wrong tokens.
const LINES: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

/// The setup service, which speaks JSON only.
const SETUP: &str = "/api/";

/// What the routes of the onboarding phase require of a request.
#[derive(Debug)]
pub struct OnboardingAuth {
    token: Option<OperatorToken>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    log: LogLimit,
}

/// Which token a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Wrong,
    Right,
}

impl OnboardingAuth {
    /// Requires `token`, if there is one, as `X-Onboard-Token` or `Authorization: Bearer`. Only the page
    /// reads `/?token=`, and removes it from the address: a link with a token has no effect by itself.
    ///
    /// Wrong tokens are counted in `metrics`, logged, and recorded in `audit`.
    pub fn new(token: Option<OperatorToken>, audit: Arc<Audit>, metrics: Arc<Metrics>) -> Self {
        Self { token, audit, metrics, log: LogLimit::per_second(LINES) }
    }

    fn refuses(&self, request: &Request) -> Option<Error> {
        // The open paths are listed, so that every other path is guarded.
        let (verb, uri, headers) = (request.method(), request.uri(), request.headers());
        if is_open(verb, uri.path()) {
            return None;
        }
        // A page of another site cannot read the response, so it learns nothing from the status.
        if uri.path() != setup::STATUS && same_site::is_of_another_site(verb, uri, headers) {
            let text = "a page of another site may not do this; use the page of this KMS, or curl";
            return Some(Error::new(Code::Denied, text).because("foreign_page"));
        }
        let text = match shown(self.token.as_ref()?, headers) {
            Shown::Right => return None,
            Shown::Nothing => "this KMS asks for its onboarding token",
            Shown::Wrong => {
                self.tell(request);
                "this is not the onboarding token of this KMS"
            }
        };
        Some(Error::new(Code::Unauthenticated, text))
    }

    /// Reports a wrong token: someone who can reach this KMS guesses, or has the token of another one.
    fn tell(&self, request: &Request) {
        self.metrics.onboarding_token_failed();
        let Some(remote) = request.extensions().get::<Caller>().map(Caller::remote) else { return };
        if let Some(omitted) = self.log.admit() {
            tracing::warn!(%remote, omitted, "a wrong onboarding token was shown");
        }
        self.audit.note_of_strangers(Event::CredentialsRefused {
            listener: "onboarding",
            shown: "token",
            remote,
        });
    }
}

/// Lets a request through, or refuses it in its own protocol.
pub(super) async fn pass(State(auth): State<Arc<OnboardingAuth>>, request: Request, next: Next) -> Response {
    match auth.refuses(&request) {
        None => next.run(request).await,
        Some(refusal) if grpc::is_grpc(&request) => status::grpc_answer(&refusal),
        Some(refusal) if is_json(request.uri().path()) => {
            prpc::error(Encoding::Json, &refusal).map(Body::new)
        }
        Some(refusal) => prpc::refuse(request, &refusal).await.map(Body::new),
    }
}

/// Whether responses of a path are JSON, whatever the request says.
fn is_json(path: &str) -> bool {
    path.starts_with(SETUP) || path.starts_with(restore::PATHS)
}

/// Whether the tables list the path as open. Any other path is guarded.
fn is_open(verb: &Verb, path: &str) -> bool {
    if let Some(route) = Route::serving(Service::Onboard, path) {
        return verbs::needed(route, verb) == Access::Open;
    }
    let name = path.rsplit(['/', '.']).next().unwrap_or_default();
    let is_open_over_grpc = || probes::over_grpc(Service::Onboard).0 == Access::Open;
    path.starts_with("/grpc.") && is_open_over_grpc()
        || !is_json(path)
            && Method::find(Service::Onboard, name).is_some_and(|row| row.access == Access::Open)
}

fn shown(token: &OperatorToken, headers: &HeaderMap) -> Shown {
    const HEADERS: [&str; 2] = ["x-onboard-token", "authorization"];
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let is_right = text("x-onboard-token").is_some_and(|shown| token.is(shown))
        || bearer().is_some_and(|shown| token.is(shown.trim()));
    // An empty header comes from a variable that is not set.
    match HEADERS.iter().any(|name| headers.get(*name).is_some_and(|value| !value.is_empty())) {
        _ if is_right => Shown::Right,
        true => Shown::Wrong,
        false => Shown::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_token_is_told_from_none() {
        let token = OperatorToken::new("s3cret");
        for (header, expected) in [
            (None, Shown::Nothing),
            (Some(("x-admin-token", "s3cret")), Shown::Nothing),
            (Some(("x-onboard-token", "")), Shown::Nothing),
            (Some(("x-onboard-token", "s3cret")), Shown::Right),
            (Some(("authorization", "Bearer s3cret")), Shown::Right),
            (Some(("x-onboard-token", "S3cret")), Shown::Wrong),
            (Some(("authorization", "Bearer x")), Shown::Wrong),
            (Some(("authorization", "Basic s3cret")), Shown::Wrong),
        ] {
            let mut headers = HeaderMap::new();
            if let Some((name, value)) = header {
                headers.insert(name, http::HeaderValue::from_static(value));
            }
            assert_eq!(shown(&token, &headers), expected, "{header:?}");
        }
    }

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
            ("/recovery", true),
            ("/recovery/shares", true),
            ("/recovery/restore", false),
            ("/recovery/cancel", false),
            ("/recovery/GetAttestationInfo", false),
            ("/api/v1/setup/status", false),
            ("/api/v1/setup/validate/clock", false),
            ("/api/v1/setup/validate/GetAttestationInfo", false),
        ] {
            for verb in [Verb::GET, Verb::HEAD, Verb::POST, Verb::DELETE] {
                assert_eq!(is_open(&verb, path), open, "{verb} {path}");
            }
        }
    }
}
