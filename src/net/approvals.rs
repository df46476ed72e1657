//! Changes that wait for a second owner, over HTTP: `/api/v1/approvals`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::prpc;
use super::route::{json, part, read_optional_json, route};
use crate::api::approvals::{ApprovalService, ApproveRequest, Shown};
use crate::api::{Caller, Service};
use crate::error::Result;

const LIST: &str = "/api/v1/approvals";
const ONE: &str = "/api/v1/approvals/{id}";
const APPROVE: &str = "/api/v1/approvals/{id}/approve";
const REJECT: &str = "/api/v1/approvals/{id}/reject";

/// The routes of approvals.
pub(super) fn routes(service: Arc<ApprovalService>) -> Router {
    let [one, approve, reject] = std::array::from_fn(|_| Arc::clone(&service));
    route(Service::Admin, LIST, move |request: Request| async move {
        json(prpc::caller(request.extensions()).and_then(|caller| service.list(caller)))
    })
    .merge(route(Service::Admin, ONE, move |request: Request| async move {
        let id = part(request.uri().path(), 0);
        json(prpc::caller(request.extensions()).and_then(|caller| one.show(caller, id)))
    }))
    .merge(route(Service::Admin, APPROVE, move |request: Request| async move {
        json(approved(&approve, request).await)
    }))
    .merge(route(Service::Admin, REJECT, move |request: Request| async move {
        json(rejected(&reject, request).await)
    }))
}

/// The caller, and the part of the path before the last one.
fn asked(request: &Request) -> Result<(Caller, String)> {
    let caller = prpc::caller(request.extensions())?.clone();
    let id = part(request.uri().path(), 1).to_owned();
    Ok((caller, id))
}

async fn approved(service: &ApprovalService, request: Request) -> Result<Shown> {
    let (caller, id) = asked(&request)?;
    let body: ApproveRequest = read_optional_json(APPROVE, request).await?;
    service.approve(&caller, &id, body).await
}

async fn rejected(service: &ApprovalService, request: Request) -> Result<Shown> {
    let (caller, id) = asked(&request)?;
    service.reject(&caller, &id).await
}
