//! Liveness and readiness for load balancers, orchestrators and scripts.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::router::route;
use crate::api::Service;
use crate::api::readiness::{Effect, Readiness, Reason};

/// The paths here, and the older `/health`. Probes come from the address of a load balancer, which all its
/// clients share: they are not rate-limited, and need no token.
pub(super) const PATHS: [&str; 3] = ["/health", LIVE, READY];

/// The prefix of gRPC health probes.
pub(super) const GRPC: &str = "/grpc.health.v1.Health/";

const LIVE: &str = "/livez";
const READY: &str = "/readyz";

/// Who reads a response, which decides how much it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Anyone: causes only.
    Anyone,
    /// An operator: also the error messages.
    Operator,
}

/// `GET /livez` and `GET /readyz`.
pub(super) fn routes(service: Service, readiness: Arc<Readiness>, reader: Reader) -> Router {
    route(service, LIVE, || async { answer(StatusCode::OK, &json!({ "status": "ok" })) }).merge(route(
        service,
        READY,
        move || async move { ready(&readiness, reader) },
    ))
}

/// 200, or 503 with the reasons.
fn ready(readiness: &Readiness, reader: Reader) -> Response {
    let report = readiness.report();
    let list = |effect| report.with(effect).map(|reason| shown(reason, reader)).collect::<Vec<_>>();
    let (status, word) = match report.is_ready() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    let body = json!({ "status": word, "reasons": list(Effect::Stops), "warnings": list(Effect::Warns) });
    let mut answer = answer(status, &body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

fn shown(reason: &Reason, reader: Reader) -> Value {
    let mut shown = json!({ "code": reason.cause.name(), "text": reason.cause.text() });
    if reader == Reader::Operator && !reason.detail.is_empty() {
        shown["detail"] = reason.detail.as_str().into();
    }
    shown
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let mut answer = Response::new(Body::from(body.to_string()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
