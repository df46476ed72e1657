//! Epochs of keys over HTTP: `/api/v1/epochs`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use http::Method as Verb;

use super::router::{json, read_json, route};
use super::{body, prpc};
use crate::api::epochs::{AppEpochsShown, EpochService};
use crate::api::routes::Route;
use crate::api::{Access, Role, Service};
use crate::error::{Error, Result};

const APPS: &str = "/api/v1/epochs/apps";
const APP: &str = "/api/v1/epochs/apps/{app}";

/// The routes of epochs.
pub(super) fn routes(service: Arc<EpochService>) -> Router {
    let app = Arc::clone(&service);
    route(Service::Admin, APPS, move || async move { json(Ok(service.apps())) }).merge(route(
        Service::Admin,
        APP,
        move |request: Request| async move { json(of_app(&app, request).await) },
    ))
}

async fn of_app(service: &EpochService, request: Request) -> Result<AppEpochsShown> {
    let caller = prpc::caller(request.extensions())?.clone();
    // The last part of the path. It is not decoded: no app id needs it.
    let app = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    if !matches!(*request.method(), Verb::PUT | Verb::DELETE) {
        return service.app(&app);
    }
    caller.authorize(Access::Operator(Role::Owner))?;
    if *request.method() == Verb::PUT {
        return service.choose(&caller, &app, read_json(APP, request).await?).await;
    }
    let limit = Route::at(Service::Admin, APP).body_limit;
    match body::read(request.into_body(), limit).await.map_err(|error| error.cause)?.is_empty() {
        true => service.forget(&caller, &app).await,
        false => Err(Error::invalid("DELETE takes no body; nothing was changed")),
    }
}
