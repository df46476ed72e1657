//! `/api/v1/operations`: what goes on for longer than a request.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::route::{json, part, route};
use crate::api::Service;
use crate::api::operations::OperationService;

const ALL: &str = "/api/v1/operations";
/// The two paths of one operation.
const ONE: [&str; 2] = ["/api/v1/operations/{id}", "/status/{id}"];

/// The routes of operations.
pub(super) fn routes(service: Arc<OperationService>) -> Router {
    let all = Arc::clone(&service);
    let all = route(Service::Admin, ALL, move |_: Request| async move { json(Ok(all.list())) });
    ONE.into_iter().fold(all, |routes, path| {
        let service = Arc::clone(&service);
        routes.merge(route(Service::Admin, path, move |request: Request| async move {
            json(service.show(part(request.uri().path(), 0)))
        }))
    })
}
