//! Domains over HTTP: `/api/v1/domains`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::Method as Verb;
use serde::de::DeserializeOwned;

use super::prpc;
use super::route::{json, part, read_json, read_optional_json, route};
use crate::api::domains::{
    AssignApp, CreateDomain, DomainDetail, DomainService, MoveBody, NoContent, PlacedApp,
};
use crate::api::{Caller, Service};
use crate::error::Result;

const DOMAINS: &str = "/api/v1/domains";
const ONE: &str = "/api/v1/domains/{name}";
const ARCHIVE: &str = "/api/v1/domains/{name}/archive";
const RESTORE: &str = "/api/v1/domains/{name}/restore";
const APPS: &str = "/api/v1/domains/{name}/apps";
const MOVE: &str = "/api/v1/domains/{name}/apps/{app}/move";

/// The routes of domains.
pub(super) fn routes(service: Arc<DomainService>) -> Router {
    let [one, archive, restore, apps, moved] = std::array::from_fn(|_| Arc::clone(&service));
    route(Service::Admin, DOMAINS, move |request: Request| async move { all(&service, request).await })
        .merge(route(Service::Admin, ONE, move |request: Request| async move {
            let scope = prpc::caller(request.extensions()).and_then(Caller::scope);
            json(scope.and_then(|scope| one.show(scope, part(request.uri().path(), 0))))
        }))
        .merge(route(Service::Admin, ARCHIVE, move |request: Request| async move {
            json(match asked::<NoContent>(ARCHIVE, request).await {
                Ok(Asked { caller, path, .. }) => archive.archive(&caller, part(&path, 1)).await,
                Err(error) => Err(error),
            })
        }))
        .merge(route(Service::Admin, RESTORE, move |request: Request| async move {
            json(match asked::<NoContent>(RESTORE, request).await {
                Ok(Asked { caller, path, .. }) => restore.restore(&caller, part(&path, 1)).await,
                Err(error) => Err(error),
            })
        }))
        .merge(route(Service::Admin, APPS, move |request: Request| async move {
            json(assigned(&apps, request).await)
        }))
        .merge(route(Service::Admin, MOVE, move |request: Request| async move {
            json(match asked::<MoveBody>(MOVE, request).await {
                Ok(Asked { caller, path, body }) => {
                    moved.move_app(&caller, part(&path, 3), part(&path, 1), body).await
                }
                Err(error) => Err(error),
            })
        }))
}

async fn all(service: &Arc<DomainService>, request: Request) -> Response {
    if *request.method() == Verb::POST {
        return json(created(service, request).await);
    }
    json(prpc::caller(request.extensions()).and_then(Caller::scope).map(|scope| service.list(scope)))
}

async fn created(service: &Arc<DomainService>, request: Request) -> Result<DomainDetail> {
    let caller = prpc::caller(request.extensions())?.clone();
    let body: CreateDomain = read_json(DOMAINS, request).await?;
    service.create(&caller, body).await
}

async fn assigned(service: &Arc<DomainService>, request: Request) -> Result<PlacedApp> {
    let caller = prpc::caller(request.extensions())?.clone();
    let name = part(request.uri().path(), 1).to_owned();
    let body: AssignApp = read_json(APPS, request).await?;
    service.assign(&caller, &name, body).await
}

/// A request about one domain.
struct Asked<T> {
    caller: Caller,
    path: String,
    body: T,
}

/// Reads a request to the row `path`, which may be empty.
async fn asked<T: DeserializeOwned>(path: &str, request: Request) -> Result<Asked<T>> {
    let caller = prpc::caller(request.extensions())?.clone();
    let asked = request.uri().path().to_owned();
    let body = read_optional_json(path, request).await?;
    Ok(Asked { caller, path: asked, body })
}
