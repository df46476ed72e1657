//! The setup service over HTTP: JSON for the onboarding page, `curl` and other tools.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, header};
use serde::Serialize;

use super::prpc;
use super::route::{from_object, part, read_body, route};
use crate::api::Service;
use crate::api::setup::{About, Check, Finding, SetupService, Status};
use crate::error::{Error, Result};

pub(super) const STATUS: &str = "/api/v1/setup/status";
const CHECK: &str = "/api/v1/setup/validate/{check}";

pub(super) fn routes(service: Arc<SetupService>) -> Router {
    let of_status = |path| {
        let service = Arc::clone(&service);
        route(Service::Onboard, path, move |request| status(Arc::clone(&service), request))
    };
    of_status(STATUS)
        .merge(of_status("/prpc/GetSetupStatus"))
        .merge(of_status("/prpc/Onboard.GetSetupStatus"))
        .merge(route(Service::Onboard, CHECK, move |request| validate(Arc::clone(&service), request)))
}

async fn status(service: Arc<SetupService>, request: Request) -> Response {
    answer(asked_status(&service, request.uri().query()).await)
}

async fn asked_status(service: &SetupService, query: Option<&str>) -> Result<Status> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let wait = match pairs.find(|(key, _)| key == "wait") {
        None => Duration::ZERO,
        Some((_, seconds)) => seconds
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| Error::invalid("wait must be a whole number of seconds"))?,
    };
    service.status(wait).await
}

async fn validate(service: Arc<SetupService>, request: Request) -> Response {
    answer(validated(&service, request).await)
}

async fn validated(service: &SetupService, request: Request) -> Result<Finding> {
    let check = Check::named(part(request.uri().path(), 0))?;
    let body = read_body(Service::Onboard, CHECK, request.into_body()).await?;
    let about = match body.trim_ascii() {
        b"" => About::default(),
        json => from_object(json)?,
    };
    service.validate(check, about).await
}

fn answer<A: Serialize>(result: Result<A>) -> Response {
    let mut answer = match result {
        Ok(value) => {
            let json = serde_json::to_vec(&value).expect("texts, numbers and lists of them");
            let mut answer = Response::new(Body::from(json));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer
        }
        Err(error) => prpc::route_error(&error).map(Body::new),
    };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
