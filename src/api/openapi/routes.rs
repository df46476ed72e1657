//! The routes as operations. Each row of [`ROUTES`](crate::api::routes::ROUTES) has its lines here; a test names those that
//! have none.

mod credentials;
mod domains;
mod epochs;
mod health;
mod log;
mod onboarding;
mod policy;
mod recovery;
mod views;

use serde_json::json;

use self::credentials::{approvals, credentials};
use self::domains::domains;
use self::epochs::epochs;
use self::health::health;
use self::log::{events, log};
use self::onboarding::onboarding;
use self::policy::policy;
use self::recovery::recovery;
use self::views::views;
use super::operation::{Answer, Bodies, Operation, Verb, get, post};
use crate::api::Service;
use crate::api::actions::{ActionRequest, Actions, Done};
use crate::api::reload::Reloaded;
use crate::api::restart::Restarting;
use crate::api::settings::Settings;

const TEXT: &[&str] = &["text/plain; charset=utf-8"];
const PAGE: &[&str] = &["text/html; charset=utf-8"];
const FILES: &[&str] = &["text/css; charset=utf-8", "text/javascript; charset=utf-8", "image/svg+xml"];

/// All routes of the admin listener, and those that only the main listener has.
pub(super) fn operations(bodies: &mut Bodies) -> Vec<Operation> {
    let mut all = pages();
    all.extend(health(bodies));
    all.extend(log(bodies));
    all.extend(events(bodies));
    all.extend(credentials(bodies));
    all.extend(actions(bodies));
    all.extend(policy(bodies));
    all.extend(approvals(bodies));
    all.extend(epochs(bodies));
    all.extend(domains(bodies));
    all.extend(recovery(bodies));
    all.extend(views(bodies));
    all.extend(settings(bodies));
    all.extend(onboarding(bodies));
    all
}

fn pages() -> Vec<Operation> {
    vec![
        get(Service::Admin, "/", "The console", Answer::Other(PAGE)),
        get(Service::Admin, "/assets/console/{*file}", "A file of the console", Answer::Other(FILES))
            .or(404, Answer::Other(TEXT)),
        get(Service::Admin, "/assets/vendor/{*file}", "A library of the console", Answer::Other(FILES))
            .or(404, Answer::Other(TEXT)),
        get(Service::Admin, "/openapi.json", "This description", Answer::Json(json!({ "type": "object" }))),
        get(Service::Admin, "/docs", "This description as a page", Answer::Other(PAGE)),
        get(Service::Admin, "/assets/docs/{*file}", "A file of that page", Answer::Other(FILES))
            .or(404, Answer::Other(TEXT)),
    ]
}

fn actions(bodies: &mut Bodies) -> Vec<Operation> {
    let done = Answer::Json(bodies.of::<Done>());
    let path = "/api/v1/actions/{name}";
    vec![
        get(
            Service::Admin,
            "/api/v1/actions",
            "The actions that operators can run",
            Answer::Json(bodies.of::<Actions>()),
        ),
        get(Service::Admin, path, "Run an action", done.clone())
            .described("Not for browsers, which use POST."),
        post(Service::Admin, path, "Run an action", done)
            .taking("application/json", bodies.request::<ActionRequest>())
            .described("Only `drain` and `undrain` read the body, which may be empty."),
    ]
}

fn settings(bodies: &mut Bodies) -> Vec<Operation> {
    let path = "/api/v1/settings";
    let all = Answer::Json(bodies.of::<Settings>());
    let change =
        Operation { verb: Verb::Patch, ..post(Service::Admin, path, "Change settings", all.clone()) };
    vec![
        get(Service::Admin, path, "The settings in force", all),
        change
            .taking("application/json", json!({ "type": "object", "minProperties": 1 }))
            .described("The body has a new value for each key. Needs the role owner."),
        post(Service::Admin, "/api/v1/reload", "Read files again", Answer::Json(bodies.of::<Reloaded>())),
        post(
            Service::Admin,
            "/api/v1/restart",
            "Restart the process",
            Answer::Json(bodies.of::<Restarting>()),
        ),
    ]
}
