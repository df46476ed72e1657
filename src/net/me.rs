//! `/api/v1/me`: the caller's own credential.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::prpc;
use super::route::{json, route};
use crate::api::Service;
use crate::api::me::MeService;

const ME: &str = "/api/v1/me";

/// The route of the caller's own credential.
pub(super) fn routes(service: Arc<MeService>) -> Router {
    route(Service::Admin, ME, move |request: Request| async move {
        json(prpc::caller(request.extensions()).and_then(|caller| service.me(caller)))
    })
}
