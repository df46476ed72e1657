//! Recovery over HTTP: sets and drills for operators under `/api/v1/recovery`, and `/recovery` on the main listener, where
//! officers bring their shares.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use http::Method as Verb;

use super::restore::SHARES;
use super::route::{json, part, read_json, route};
use super::{body, prpc};
use crate::api::Service;
use crate::api::recovery::{CreateSet, DrillAccepted, DrillStatus, MadeSet, RecoveryService};
use crate::api::routes::Route;
use crate::error::Result;

const SHOW: &str = "/api/v1/recovery";
const SETS: &str = "/api/v1/recovery/sets";
const SET: &str = "/api/v1/recovery/sets/{id}";
const DRILL: &str = "/api/v1/recovery/drill";
const STATUS: &str = "/recovery";

/// The routes of operators.
pub(super) fn admin(service: Arc<RecoveryService>) -> Router {
    let [created, one, drill] = std::array::from_fn(|_| Arc::clone(&service));
    route(Service::Admin, SHOW, move || async move { json(Ok(service.show())) })
        .merge(route(Service::Admin, SETS, move |request: Request| async move {
            json(create(created, request).await)
        }))
        .merge(route(Service::Admin, SET, move |request: Request| async move {
            json(one.set(part(request.uri().path(), 0)))
        }))
        .merge(route(Service::Admin, DRILL, move |request: Request| async move {
            json(drilled(drill, request).await)
        }))
}

/// The routes of officers, on the main listener of a KMS with keys.
pub(super) fn officers(service: Arc<RecoveryService>) -> Router {
    let shared = Arc::clone(&service);
    route(Service::Kms, STATUS, move || async move { json(Ok(service.public_status())) }).merge(route(
        Service::Kms,
        SHARES,
        move |request: Request| async move { json(share(shared, request).await) },
    ))
}

async fn create(service: Arc<RecoveryService>, request: Request) -> Result<MadeSet> {
    let caller = prpc::caller(request.extensions())?.clone();
    let request: CreateSet = read_json(SETS, request).await?;
    service.create(&caller, request).await
}

async fn drilled(service: Arc<RecoveryService>, request: Request) -> Result<DrillStatus> {
    let caller = prpc::caller(request.extensions())?.clone();
    match *request.method() {
        Verb::POST => service.start_drill(&caller).await,
        Verb::DELETE => service.cancel_drill(&caller).await,
        _ => Ok(service.drill_status()),
    }
}

async fn share(service: Arc<RecoveryService>, request: Request) -> Result<DrillAccepted> {
    let caller = prpc::caller(request.extensions())?.clone();
    let limit = Route::at(Service::Kms, SHARES).body_limit;
    let body = body::read(request.into_body(), limit).await.map_err(|error| error.cause)?;
    let body = body::Wiped(body);
    service.take_share(&caller, body.as_ref()).await
}
