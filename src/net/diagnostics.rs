//! `/api/v1/diagnostics/key-flow`: what requests wait for, and what fails.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::route::{json, route};
use crate::api::Service;
use crate::api::diagnostics::DiagnosticsService;
use crate::error::Error;

const KEY_FLOW: &str = "/api/v1/diagnostics/key-flow";

/// The route of diagnostics.
pub(super) fn routes(service: Arc<DiagnosticsService>) -> Router {
    route(Service::Admin, KEY_FLOW, move |request: Request| async move {
        json(without_parameters(request.uri().query()).map(|()| service.key_flow()))
    })
}

/// Refuses a query, by the name of its first parameter.
fn without_parameters(query: Option<&str>) -> crate::error::Result<()> {
    match form_urlencoded::parse(query.unwrap_or_default().as_bytes()).next() {
        None => Ok(()),
        Some((name, _)) => {
            let shown: String = name.chars().filter(|character| !character.is_control()).take(32).collect();
            Err(Error::invalid(format!("unknown parameter \"{shown}\": there are none")))
        }
    }
}
