//! A route of the table: its handler behind the access that its row asks for, its body, and its answer.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::on;
use bytes::Bytes;
use http::{HeaderValue, Method as Verb, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{body, prpc, verbs};
use crate::api::routes::Route;
use crate::api::{Access, Service};
use crate::error::{Error, Result};

/// Adds the handler of a row of [`ROUTES`](crate::api::routes::ROUTES).
pub(super) fn route<T: 'static>(service: Service, path: &str, handler: impl Handler<T, ()>) -> Router {
    let row = Route::at(service, path);
    let served = Router::new().route(row.path, on(verbs::served(row), handler));
    let by_credential = |access: Access| match access {
        Access::Operator(_) | Access::OperatorAndAttestedCertificate(_) | Access::Invitation => true,
        Access::Open
        | Access::Onboarding
        | Access::AttestedCertificate
        | Access::AttestedMessage
        | Access::TokenInMessage => false,
    };
    // Where it says nothing, there is nothing to wait for.
    match row.verbs.iter().any(|(_, access)| by_credential(*access)) {
        true => served.layer(middleware::from_fn(move |request, next| authorized(row, request, next))),
        false => served,
    }
}

/// Lets operators pass whose credential has the role that is needed for the verb, and still has it when the body is there.
async fn authorized(row: &Route, request: Request, next: Next) -> Response {
    let refused = |error: Error| uncached(Err(error));
    let access = verbs::needed(row, request.method());
    let caller = match prpc::caller(request.extensions()) {
        Ok(caller) => caller.clone(),
        Err(missing) => return refused(missing),
    };
    if let Err(error) = caller.admit(access, row.reach) {
        return refused(error);
    }
    if !matches!(*request.method(), Verb::POST | Verb::PATCH | Verb::PUT | Verb::DELETE) {
        return next.run(request).await;
    }
    let (parts, incoming) = request.into_parts();
    let body = match body::read(incoming, row.body_limit).await {
        Ok(body) => body,
        Err(error) => return refused(error.cause),
    };
    match caller.admit(access, row.reach) {
        Ok(()) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(error) => refused(error),
    }
}

/// The response of a route of operators, which no cache may keep; errors are JSON.
pub(super) fn uncached(result: Result<Response>) -> Response {
    let mut answer = result.unwrap_or_else(|error| prpc::route_error(&error).map(Body::new));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The body of a request to the route of `service` at `path`.
pub(super) async fn read_body(service: Service, path: &str, body: Body) -> Result<Bytes> {
    let limit = Route::at(service, path).body_limit;
    body::read(body, limit).await.map_err(|error| error.cause)
}

/// The body of a request to the route of operators at `path` as JSON.
pub(super) async fn read_json<T: DeserializeOwned>(path: &str, request: Request) -> Result<T> {
    from_object(&read_body(Service::Admin, path, request.into_body()).await?)
}

/// The same, where an empty body is an empty object.
pub(super) async fn read_optional_json<T: DeserializeOwned>(path: &str, request: Request) -> Result<T> {
    let body = read_body(Service::Admin, path, request.into_body()).await?;
    from_object(if body.is_empty() { b"{}" } else { &body })
}

/// The JSON object in a body. A list is refused: it would be read as the fields in their order.
pub(super) fn from_object<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Error::invalid("the body must be a JSON object"));
    }
    kms_attest::json::from_utf8(body).map_err(|error| Error::invalid(error.to_string()))
}

/// Whether the query says `name=true`. It may say nothing else.
pub(super) fn flag(query: Option<&str>, name: &str) -> Result<bool> {
    let mut flag = None;
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let value = match &*value {
            "true" => true,
            "false" => false,
            _ => return Err(Error::invalid(format!("{name} must be true or false"))),
        };
        if key != name {
            let key: String = key.chars().filter(|character| !character.is_control()).take(100).collect();
            return Err(Error::invalid(format!("there is no parameter {key}; the only one is {name}")));
        }
        if flag.replace(value).is_some() {
            return Err(Error::invalid(format!("{name} is given more than once")));
        }
    }
    Ok(flag.unwrap_or(false))
}

/// A JSON document for operators, which no cache may keep.
pub(super) fn json(result: Result<impl Serialize>) -> Response {
    uncached(result.and_then(|value| {
        let body =
            serde_json::to_vec_pretty(&value).map_err(|error| Error::internal("internal error", error))?;
        let mut answer = Response::new(Body::from(body));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(answer)
    }))
}

/// A part of a path, counted from its end. It is not decoded, which `extract::Path` would do again: the name must be the
/// one that access control has seen, and no name and no id needs it.
pub(super) fn part(path: &str, from_end: usize) -> &str {
    path.rsplit('/').nth(from_end).unwrap_or_default()
}
