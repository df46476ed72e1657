//! Rollouts over HTTP: `/api/v1/rollout`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::Method as Verb;
use kms_wire::rollout::RolloutView;

use super::prpc;
use super::route::{json, part, read_json, read_optional_json, route};
use crate::api::Service;
use crate::api::rollout::{OrderRequest, RolloutService, StartRequest, StepRequest};
use crate::error::Result;

const ROLLOUT: &str = "/api/v1/rollout";
const STEP: &str = "/api/v1/rollout/step";
const ORDER: &str = "/api/v1/rollout/{order}";

/// The routes of rollouts.
pub(super) fn routes(service: Arc<RolloutService>) -> Router {
    let (stepped, ordered) = (Arc::clone(&service), Arc::clone(&service));
    route(Service::Admin, ROLLOUT, move |request: Request| async move { all(&service, request).await })
        .merge(route(Service::Admin, STEP, move |request: Request| async move {
            json(step(&stepped, request).await)
        }))
        .merge(route(Service::Admin, ORDER, move |request: Request| async move {
            json(order(&ordered, request).await)
        }))
}

async fn all(service: &Arc<RolloutService>, request: Request) -> Response {
    match *request.method() == Verb::POST {
        true => json(start(service, request).await),
        false => json(Ok(service.view())),
    }
}

async fn start(service: &Arc<RolloutService>, request: Request) -> Result<RolloutView> {
    let caller = prpc::caller(request.extensions())?.clone();
    let body: StartRequest = read_json(ROLLOUT, request).await?;
    service.start(&caller, body).await
}

async fn step(service: &Arc<RolloutService>, request: Request) -> Result<RolloutView> {
    let caller = prpc::caller(request.extensions())?.clone();
    let body: StepRequest = read_json(STEP, request).await?;
    service.step(&caller, body).await
}

async fn order(service: &Arc<RolloutService>, request: Request) -> Result<RolloutView> {
    let caller = prpc::caller(request.extensions())?.clone();
    let name = part(request.uri().path(), 0).to_owned();
    let body: OrderRequest = read_optional_json(ORDER, request).await?;
    service.order(&caller, &name, body).await
}
