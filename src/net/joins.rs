//! `/api/v1/replica-joins`: invitations of replicas.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::Method as Verb;

use super::prpc;
use super::route::{json, part, read_json, route};
use crate::api::Service;
use crate::api::joins::{InvitedShown, JoinService, JoinShown};
use crate::error::Result;

const JOINS: &str = "/api/v1/replica-joins";
const ONE: &str = "/api/v1/replica-joins/{id}";

/// The routes of invitations.
pub(super) fn routes(service: Arc<JoinService>) -> Router {
    let one = Arc::clone(&service);
    route(Service::Admin, JOINS, move |request: Request| async move { all(&service, request).await }).merge(
        route(Service::Admin, ONE, move |request: Request| async move { json(shown(&one, request).await) }),
    )
}

async fn all(service: &JoinService, request: Request) -> Response {
    if *request.method() == Verb::POST {
        return json(invited(service, request).await);
    }
    json(Ok(service.list()))
}

async fn invited(service: &JoinService, request: Request) -> Result<InvitedShown> {
    let caller = prpc::caller(request.extensions())?.clone();
    let body = read_json(JOINS, request).await?;
    service.invite(&caller, body).await
}

async fn shown(service: &JoinService, request: Request) -> Result<JoinShown> {
    let id = part(request.uri().path(), 0).to_owned();
    if *request.method() != Verb::DELETE {
        return service.show(&id);
    }
    let caller = prpc::caller(request.extensions())?.clone();
    service.cancel(caller.author(), &id).await
}
