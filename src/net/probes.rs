//! Liveness and readiness for load balancers, orchestrators and scripts.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use kms_wire::media;
use serde_json::{Value, json as value};

use super::route::{json, route};
use super::{prpc, verbs};
use crate::api::health::{Detail, HealthService};
use crate::api::readiness::{Effect, Readiness, Reason};
use crate::api::routes::Route;
use crate::api::{Access, Reach, Service};
use crate::error::Result;
use crate::operator::DomainScope;

/// The paths here, and the older `/health`. Probes come from the address of a load balancer, which all its
/// clients share: they are not rate-limited, and need no token.
pub(super) const PATHS: [&str; 3] = [HEALTH, LIVE, READY];

/// The prefix of gRPC health probes.
pub(super) const GRPC: &str = "/grpc.health.v1.Health/";

const HEALTH: &str = "/health";
const ADMIN_HEALTH: &str = "/api/v1/health";
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

/// `GET /livez`, `GET /readyz`, and the health: at `/health`, as the peer has it on the main listener, or at
/// `/api/v1/health` for operators.
pub(super) fn routes(service: Service, health: Arc<HealthService>, reader: Reader) -> Router {
    let readiness = Arc::clone(health.readiness());
    let health = match service {
        Service::Kms | Service::Onboard => route(service, HEALTH, move |request: Request| async move {
            match accepts_json(request.headers()) {
                true => json(Ok(health.health(Detail::Public))),
                false => "OK".into_response(),
            }
        }),
        Service::Admin => route(service, ADMIN_HEALTH, move |request: Request| async move {
            json(scope(&request).map(|scope| health.health(Detail::Operator(&scope))))
        }),
    };
    route(service, LIVE, || async { answer(StatusCode::OK, &value!({ "status": "ok" })) })
        .merge(route(service, READY, move |request: Request| async move {
            match reader {
                Reader::Anyone => ready(&readiness, None),
                Reader::Operator => match scope(&request) {
                    Ok(scope) => ready(&readiness, Some(&scope)),
                    Err(error) => prpc::route_error(&error).map(Body::new),
                },
            }
        }))
        .merge(health)
}

/// What an operator may see.
fn scope(request: &Request) -> Result<DomainScope> {
    prpc::caller(request.extensions())?.scope().cloned()
}

/// Who may call the health service and reflection of gRPC: who may read `/readyz` of the same listener.
pub(super) fn over_grpc(service: Service) -> (Access, Reach) {
    let row = Route::at(service, READY);
    (verbs::needed(row, &Method::GET), row.reach)
}

/// Whether a client asks for JSON by name; `*/*` is not enough.
fn accepts_json(headers: &HeaderMap) -> bool {
    media::accepted(headers).any(|kind| kind == "application/json")
}

/// 200, or 503 with the reasons; with their details for operators.
fn ready(readiness: &Readiness, scope: Option<&DomainScope>) -> Response {
    let report = readiness.report();
    let reasons: Vec<_> = report.not_ready().map(|reason| shown(reason, scope)).collect();
    let warnings: Vec<_> = report.with(Effect::Warns).map(|reason| shown(reason, scope)).collect();
    let (status, word) = match report.is_ready() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    let body = value!({ "status": word, "reasons": reasons, "warnings": warnings });
    let mut answer = answer(status, &body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

fn shown(reason: &Reason, scope: Option<&DomainScope>) -> Value {
    let mut shown = value!({ "code": reason.cause.name(), "text": reason.cause.text() });
    let detail = scope.map(|scope| reason.detail_for(scope));
    if let Some(detail) = detail.filter(|detail| !detail.is_empty()) {
        shown["detail"] = detail.into();
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
