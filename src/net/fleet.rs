//! `/api/v1/fleet`: the nodes that share their state.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::prpc;
use super::route::{json, read_json, route};
use crate::api::Service;
use crate::api::fleet::{FleetService, FleetView};
use crate::error::Result;

const FLEET: &str = "/api/v1/fleet";
const REPAIR: &str = "/api/v1/fleet/repair";
const FORGET: &str = "/api/v1/fleet/forget";

/// The routes of the fleet.
pub(super) fn routes(service: Arc<FleetService>) -> Router {
    let (repairing, forgetting) = (Arc::clone(&service), Arc::clone(&service));
    let repaired = move |request: Request| async move { json(repair(&repairing, request).await) };
    let forgotten = move |request: Request| async move { json(forget(&forgetting, request).await) };
    route(Service::Admin, FLEET, move |_: Request| async move { json(Ok(service.view())) })
        .merge(route(Service::Admin, REPAIR, repaired))
        .merge(route(Service::Admin, FORGET, forgotten))
}

async fn forget(service: &Arc<FleetService>, request: Request) -> Result<FleetView> {
    let caller = prpc::caller(request.extensions())?.clone();
    let body = read_json(FORGET, request).await?;
    service.forget(&caller, body).await
}

async fn repair(service: &Arc<FleetService>, request: Request) -> Result<FleetView> {
    let caller = prpc::caller(request.extensions())?.clone();
    service.repair(&caller).await
}
