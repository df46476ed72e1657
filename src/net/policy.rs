//! The policy over HTTP: `/api/v1/policy`, its check and the activation of a candidate.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::prpc;
use super::route::{json, read_json, route};
use crate::api::policy::{ActivateRequest, CheckRequest, Checked, Placed, PolicyService};
use crate::api::{Caller, Service};
use crate::error::Result;

const STATE: &str = "/api/v1/policy";
const CHECK: &str = "/api/v1/policy/check";
const ACTIVATE: &str = "/api/v1/policy/activate";

/// The routes of the policy.
pub(super) fn routes(service: Arc<PolicyService>) -> Router {
    let (checks, activates) = (Arc::clone(&service), Arc::clone(&service));
    route(Service::Admin, STATE, move |request: Request| async move {
        json(match prpc::caller(request.extensions()).and_then(Caller::scope) {
            Ok(scope) => Ok(service.state(scope).await),
            Err(error) => Err(error),
        })
    })
    .merge(route(Service::Admin, CHECK, move |request: Request| async move {
        json(check(&checks, request).await)
    }))
    .merge(route(Service::Admin, ACTIVATE, move |request: Request| async move {
        json(activate(activates, request).await)
    }))
}

async fn check(service: &PolicyService, request: Request) -> Result<Checked> {
    let caller = prpc::caller(request.extensions())?.clone();
    let request: CheckRequest = read_json(CHECK, request).await?;
    service.check(caller.scope()?, request).await
}

async fn activate(service: Arc<PolicyService>, request: Request) -> Result<Placed> {
    let caller = prpc::caller(request.extensions())?.clone();
    let request: ActivateRequest = read_json(ACTIVATE, request).await?;
    service.activate(&caller, request).await
}
