//! Actions of operators over HTTP: `/api/v1/actions`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use http::Method as Verb;

use super::route::{json, part, read_optional_json, route};
use super::{prpc, same_site, verbs};
use crate::api::Service;
use crate::api::actions::{Action, ActionRequest, ActionService, Done};
use crate::api::routes::Route;
use crate::error::{Error, Result};

const LIST: &str = "/api/v1/actions";
const RUN: &str = "/api/v1/actions/{name}";

/// The routes of actions.
pub(super) fn routes(service: Arc<ActionService>) -> Router {
    let listed = Arc::clone(&service);
    route(Service::Admin, LIST, move || async move { json(Ok(listed.list())) }).merge(route(
        Service::Admin,
        RUN,
        move |request: Request| async move { json(run(service, request).await) },
    ))
}

/// By GET too, as `curl` users type it, but not for a page in a browser.
async fn run(service: Arc<ActionService>, request: Request) -> Result<Done> {
    let is_refused = match *request.method() {
        Verb::GET => same_site::is_by_browser(request.headers()),
        Verb::HEAD => true,
        _ => false,
    };
    if is_refused {
        return Err(Error::invalid("an action changes something: ask for it by POST"));
    }
    let access = verbs::needed(Route::at(Service::Admin, RUN), request.method());
    let caller = prpc::caller(request.extensions())?.clone();
    let action = Action::parse(part(request.uri().path(), 0))?;
    let mut asked = ActionRequest::default();
    if action.has_body() {
        asked = read_optional_json(RUN, request).await?;
        // That of a GET is read only here: the credential may have been revoked meanwhile.
        caller.authorize(access)?;
    }
    service.run(&caller, action, asked).await
}
