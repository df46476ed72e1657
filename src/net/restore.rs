//! Restoring over HTTP, while there are no keys: `/recovery`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use bytes::Bytes;

use super::body::Wiped;
use super::prpc;
use super::route::{json, read_body, route};
use crate::api::Service;
use crate::api::onboard::{OnboardService, RestoreStatus, ShareAccepted};
use crate::error::{Error, Result};

/// The paths below which responses are JSON, errors too.
pub(super) const PATHS: &str = "/recovery";

const STATUS: &str = "/recovery";
const OPEN: &str = "/recovery/restore";
const CANCEL: &str = "/recovery/cancel";
/// Where officers bring their shares, in both phases.
pub(super) const SHARES: &str = "/recovery/shares";

pub(super) fn routes(service: &Arc<OnboardService>) -> Router {
    let [status, open, cancel, shares] = std::array::from_fn(|_| Arc::clone(service));
    route(Service::Onboard, STATUS, move || async move { json(Ok(status.restore_status())) })
        .merge(route(Service::Onboard, OPEN, move |request: Request| async move {
            json(opened(open, request).await)
        }))
        .merge(route(Service::Onboard, CANCEL, move |request: Request| async move {
            json(cancelled(cancel, request).await)
        }))
        .merge(route(Service::Onboard, SHARES, move |request: Request| async move {
            json(shared(shares, request).await)
        }))
}

async fn opened(service: Arc<OnboardService>, request: Request) -> Result<RestoreStatus> {
    let caller = prpc::caller(request.extensions())?.clone();
    let domain = domain(request.uri().query())?;
    let manifest = read(OPEN, request).await?;
    service.open_restore(&caller, manifest, domain.as_deref()).await
}

async fn cancelled(service: Arc<OnboardService>, request: Request) -> Result<RestoreStatus> {
    let caller = prpc::caller(request.extensions())?.clone();
    read(CANCEL, request).await?;
    service.cancel_restore(&caller).await
}

async fn shared(service: Arc<OnboardService>, request: Request) -> Result<ShareAccepted> {
    let caller = prpc::caller(request.extensions())?.clone();
    let share = Wiped(read(SHARES, request).await?);
    service.take_share(&caller, share).await
}

async fn read(path: &str, request: Request) -> Result<Bytes> {
    read_body(Service::Onboard, path, request.into_body()).await
}

/// The name that the restored KMS gets, if the query has one. It may say nothing else.
fn domain(query: Option<&str>) -> Result<Option<String>> {
    let mut domain = None;
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if key != "domain" {
            return Err(Error::invalid("the only parameter is domain"));
        }
        if domain.replace(value.into_owned()).is_some() {
            return Err(Error::invalid("domain is given more than once"));
        }
    }
    Ok(domain)
}
