//! `/api/v1/fleet`: the nodes that share their state.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::prpc;
use super::router::{json, route};
use crate::api::Service;
use crate::api::fleet::{FleetService, FleetView};
use crate::error::Result;

const FLEET: &str = "/api/v1/fleet";
const REPAIR: &str = "/api/v1/fleet/repair";

/// The routes of the fleet.
pub(super) fn routes(service: Arc<FleetService>) -> Router {
    let repairing = Arc::clone(&service);
    route(Service::Admin, FLEET, move |_: Request| async move { json(Ok(service.view())) }).merge(route(
        Service::Admin,
        REPAIR,
        move |request: Request| async move { json(repair(&repairing, request).await) },
    ))
}

async fn repair(service: &FleetService, request: Request) -> Result<FleetView> {
    let caller = prpc::caller(request.extensions())?.clone();
    service.repair(&caller).await
}
