//! Credentials of operators over HTTP: `/api/v1/credentials`, and the exchange of an invitation.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use http::Method as Verb;
use serde::Serialize;

use super::prpc;
use super::route::{json, part, read_body, read_json, route};
use crate::api::credentials::{CreateRequest, CredentialService};
use crate::api::{Caller, Service};
use crate::error::Result;

const LIST: &str = "/api/v1/credentials";
const ROTATE: &str = "/api/v1/credentials/{name}/rotate";
const REVOKE: &str = "/api/v1/credentials/{name}/revoke";
const BASIC_AUTH: &str = "/api/v1/set-basic-auth";
const ACTIVATE: &str = "/api/v1/activate";

/// The routes of credentials.
pub(super) fn routes(service: Arc<CredentialService>) -> Router {
    let [rotate, revoke, basic_auth, activate] = std::array::from_fn(|_| Arc::clone(&service));
    route(Service::Admin, LIST, move |request: Request| async move {
        match *request.method() {
            Verb::POST => json(created(&service, request).await),
            _ => json(
                prpc::caller(request.extensions())
                    .map(|caller| serde_json::json!({ "credentials": service.list(caller) })),
            ),
        }
    })
    .merge(route(Service::Admin, ROTATE, move |request: Request| async move {
        let rotated = match asked(&request) {
            Ok(Asked { caller, name }) => rotate.rotate(&caller, &name).await,
            Err(error) => Err(error),
        };
        json(rotated)
    }))
    .merge(route(Service::Admin, REVOKE, move |request: Request| async move {
        let revoked = match asked(&request) {
            Ok(Asked { caller, name }) => revoke.revoke(&caller, &name).await,
            Err(error) => Err(error),
        };
        json(revoked)
    }))
    .merge(route(Service::Admin, BASIC_AUTH, move |request: Request| async move {
        json(basic_auth_set(&basic_auth, request).await)
    }))
    .merge(route(Service::Admin, ACTIVATE, move |request: Request| async move {
        let activated = match asked(&request) {
            Ok(Asked { caller, .. }) => activate.activate(&caller).await,
            Err(error) => Err(error),
        };
        json(activated)
    }))
}

/// A request without parameters in its body.
struct Asked {
    caller: Caller,
    /// The part of the path before the last one. It is not decoded: no name of a credential needs it.
    name: String,
}

fn asked(request: &Request) -> Result<Asked> {
    let caller = prpc::caller(request.extensions())?.clone();
    let name = part(request.uri().path(), 1).to_owned();
    Ok(Asked { caller, name })
}

async fn created(service: &CredentialService, request: Request) -> Result<impl Serialize + use<>> {
    let caller = prpc::caller(request.extensions())?.clone();
    let request: CreateRequest = read_json(LIST, request).await?;
    service.create(&caller, request).await
}

async fn basic_auth_set(service: &CredentialService, request: Request) -> Result<impl Serialize + use<>> {
    let caller = prpc::caller(request.extensions())?.clone();
    let secret = read_body(Service::Admin, BASIC_AUTH, request.into_body()).await?;
    service.set_basic_auth(&caller, &secret).await
}
