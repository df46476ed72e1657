//! `POST /api/v1/restart`, and the setup status of a KMS that is set up.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::prpc;
use super::route::{json, route};
use super::setup::STATUS;
use crate::api::Service;
use crate::api::health::HealthService;
use crate::api::restart::{RestartService, Restarting};
use crate::api::setup::Status;
use crate::error::Result;

const RESTART: &str = "/api/v1/restart";

/// The routes of the process as a whole.
pub(super) fn routes(service: Arc<RestartService>, health: Arc<HealthService>) -> Router {
    route(
        Service::Admin,
        RESTART,
        move |request: Request| async move { json(restart(&service, request).await) },
    )
    .merge(route(
        Service::Admin,
        STATUS,
        move || async move { json(Ok(Status::installed(health.boot()))) },
    ))
}

async fn restart(service: &RestartService, request: Request) -> Result<Restarting> {
    let caller = prpc::caller(request.extensions())?.clone();
    service.restart(&caller).await
}
