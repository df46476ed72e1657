//! Signed policy bundles over HTTP: `/api/v1/policy/bundles`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::Method as Verb;
use kms_wire::bundles::BundleOutcome;

use super::prpc;
use super::route::{json, read_body, read_json, route};
use crate::api::policy::BundleService;
use crate::api::{Caller, Service};
use crate::error::Result;

const BUNDLES: &str = "/api/v1/policy/bundles";
const FETCH: &str = "/api/v1/policy/bundles/fetch";
const SHADOW: &str = "/api/v1/policy/bundles/shadow";
const ACTIVATE: &str = "/api/v1/policy/bundles/activate";

/// The routes of signed policy bundles.
pub(super) fn routes(service: Arc<BundleService>) -> Router {
    let [fetches, shadows, activates] = std::array::from_fn(|_| Arc::clone(&service));
    route(Service::Admin, BUNDLES, move |request: Request| async move { all(&service, request).await })
        .merge(route(Service::Admin, FETCH, move |request: Request| async move {
            json(fetch(&fetches, request).await)
        }))
        .merge(route(Service::Admin, SHADOW, move |request: Request| async move {
            json(shadow(&shadows, request).await)
        }))
        .merge(route(Service::Admin, ACTIVATE, move |request: Request| async move {
            json(activate(activates, request).await)
        }))
}

async fn all(service: &BundleService, request: Request) -> Response {
    if *request.method() != Verb::POST {
        return json(match prpc::caller(request.extensions()).and_then(Caller::scope) {
            Ok(scope) => Ok(service.list(scope).await),
            Err(error) => Err(error),
        });
    }
    json(push(service, request).await)
}

async fn push(service: &BundleService, request: Request) -> Result<BundleOutcome> {
    let caller = prpc::caller(request.extensions())?.clone();
    let content = read_body(Service::Admin, BUNDLES, request.into_body()).await?;
    service.push(&caller, content.to_vec()).await
}

async fn fetch(service: &BundleService, request: Request) -> Result<BundleOutcome> {
    let caller = prpc::caller(request.extensions())?.clone();
    service.fetch(&caller, read_json(FETCH, request).await?).await
}

async fn shadow(service: &BundleService, request: Request) -> Result<BundleOutcome> {
    let caller = prpc::caller(request.extensions())?.clone();
    service.shadow(&caller, read_json(SHADOW, request).await?).await
}

async fn activate(service: Arc<BundleService>, request: Request) -> Result<BundleOutcome> {
    let caller = prpc::caller(request.extensions())?.clone();
    service.activate(&caller, read_json(ACTIVATE, request).await?).await
}
