//! Epochs of keys over HTTP: `/api/v1/epochs`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::Method as Verb;
use serde::de::DeserializeOwned;

use super::prpc;
use super::route::{json, part, read_body, read_json, read_optional_json, route};
use crate::api::epochs::{AppEpochsShown, EpochService, Epochs};
use crate::api::{Caller, Service};
use crate::error::{Error, Result};

const EPOCHS: &str = "/api/v1/epochs";
const ONE: &str = "/api/v1/epochs/{id}";
const ACTIVATE: &str = "/api/v1/epochs/{id}/activate";
const RETIRE: &str = "/api/v1/epochs/{id}/retire";
const DESTROY: &str = "/api/v1/epochs/{id}/destroy";
const FETCH: &str = "/api/v1/epochs/fetch";
const ACCEPT: &str = "/api/v1/epochs/accept";
const APPS: &str = "/api/v1/epochs/apps";
const APP: &str = "/api/v1/epochs/apps/{app}";

/// The routes of epochs.
pub(super) fn routes(service: Arc<EpochService>) -> Router {
    let [one, activate, retire, destroy, fetch, accept, apps, app] =
        std::array::from_fn(|_| Arc::clone(&service));
    route(Service::Admin, EPOCHS, move |request: Request| async move { all(&service, request).await })
        .merge(route(Service::Admin, ONE, move |request: Request| async move {
            let id = part(request.uri().path(), 0);
            json(one.preview(id).await)
        }))
        .merge(route(Service::Admin, ACTIVATE, move |request: Request| async move {
            json(match asked(ACTIVATE, request).await {
                Ok(Asked { caller, id, body }) => activate.activate(&caller, &id, body).await,
                Err(error) => Err(error),
            })
        }))
        .merge(route(Service::Admin, RETIRE, move |request: Request| async move {
            json(match asked(RETIRE, request).await {
                Ok(Asked { caller, id, body }) => retire.retire(&caller, &id, body).await,
                Err(error) => Err(error),
            })
        }))
        .merge(route(Service::Admin, DESTROY, move |request: Request| async move {
            json(match asked(DESTROY, request).await {
                Ok(Asked { caller, id, body }) => destroy.destroy(&caller, &id, body).await,
                Err(error) => Err(error),
            })
        }))
        .merge(route(Service::Admin, FETCH, move |request: Request| async move {
            json(fetched(&fetch, request).await)
        }))
        .merge(route(Service::Admin, ACCEPT, move |request: Request| async move {
            json(accepted(&accept, request).await)
        }))
        .merge(route(Service::Admin, APPS, move |request: Request| async move {
            let scope = prpc::caller(request.extensions()).and_then(Caller::scope);
            json(scope.map(|scope| apps.apps(scope)))
        }))
        .merge(route(Service::Admin, APP, move |request: Request| async move {
            json(of_app(&app, request).await)
        }))
}

async fn all(service: &Arc<EpochService>, request: Request) -> Response {
    if *request.method() != Verb::POST {
        return json(service.list().await);
    }
    json(prepared(service, request).await)
}

async fn prepared(service: &Arc<EpochService>, request: Request) -> Result<Epochs> {
    let Asked { caller, body, .. } = asked(EPOCHS, request).await?;
    service.prepare(&caller, body).await
}

async fn fetched(service: &Arc<EpochService>, request: Request) -> Result<Epochs> {
    let caller = prpc::caller(request.extensions())?.clone();
    service.fetch(&caller, read_json(FETCH, request).await?).await
}

async fn accepted(service: &Arc<EpochService>, request: Request) -> Result<Epochs> {
    let caller = prpc::caller(request.extensions())?.clone();
    service.accept(&caller, read_json(ACCEPT, request).await?).await
}

/// A request about one epoch.
struct Asked<T> {
    caller: Caller,
    /// The part of the path before the last one. It is not decoded: no number needs it.
    id: String,
    body: T,
}

/// Reads a request to the row `path`, which may be empty.
async fn asked<T: DeserializeOwned>(path: &str, request: Request) -> Result<Asked<T>> {
    let caller = prpc::caller(request.extensions())?.clone();
    let id = part(request.uri().path(), 1).to_owned();
    let body = read_optional_json(path, request).await?;
    Ok(Asked { caller, id, body })
}

async fn of_app(service: &EpochService, request: Request) -> Result<AppEpochsShown> {
    let caller = prpc::caller(request.extensions())?.clone();
    let app = part(request.uri().path(), 0).to_owned();
    if !matches!(*request.method(), Verb::PUT | Verb::DELETE) {
        return service.app(caller.scope()?, &app);
    }
    if *request.method() == Verb::PUT {
        return service.choose(&caller, &app, read_json(APP, request).await?).await;
    }
    match read_body(Service::Admin, APP, request.into_body()).await?.is_empty() {
        true => service.forget(&caller, &app).await,
        false => Err(Error::invalid("DELETE takes no body; nothing was changed")),
    }
}
