//! Settings over HTTP: `/api/v1/settings` and `/api/v1/reload`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use http::Method as Verb;

use super::prpc;
use super::route::{json, read_body, route};
use crate::api::Service;
use crate::api::reload::{ReloadService, Reloaded, Trigger};
use crate::api::settings::{Settings, SettingsService};
use crate::error::Result;

const SETTINGS: &str = "/api/v1/settings";
const RELOAD: &str = "/api/v1/reload";

/// The routes of settings.
pub(super) fn routes(settings: Arc<SettingsService>, reload: Arc<ReloadService>) -> Router {
    route(
        Service::Admin,
        SETTINGS,
        move |request: Request| async move { json(serve(&settings, request).await) },
    )
    .merge(route(Service::Admin, RELOAD, move |request: Request| async move {
        json(reloaded(&reload, request).await)
    }))
}

async fn serve(service: &Arc<SettingsService>, request: Request) -> Result<Settings> {
    let caller = prpc::caller(request.extensions())?.clone();
    if *request.method() != Verb::PATCH {
        return Ok(service.list(&caller));
    }
    let body = read_body(Service::Admin, SETTINGS, request.into_body()).await?;
    service.change(&caller, &body).await
}

async fn reloaded(service: &ReloadService, request: Request) -> Result<Reloaded> {
    let author = prpc::caller(request.extensions())?.author();
    service.reload(Trigger::Operator(author)).await
}
