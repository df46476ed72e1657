//! Routes of domains.

use serde_json::Value;

use super::super::operation::{Answer, Bodies, Content, Operation, get, post};
use crate::api::Service;
use crate::api::domains::{
    AssignApp, CreateDomain, DomainDetail, DomainList, MoveBody, NoContent, PlacedApp,
};

pub(super) fn domains(bodies: &mut Bodies) -> Vec<Operation> {
    let optional = |operation: Operation, schema: Value| Operation {
        request: Some(Content { kind: "application/json", schema, is_required: false }),
        ..operation
    };
    let (all, assign) = ("/api/v1/domains", "/api/v1/domains/{name}/apps");
    let detail = Answer::Json(bodies.of::<DomainDetail>());
    let placed = Answer::Json(bodies.of::<PlacedApp>());
    let nothing = bodies.request::<NoContent>();
    vec![
        get(Service::Admin, all, "The domains", Answer::Json(bodies.of::<DomainList>())),
        post(Service::Admin, all, "Make a domain", detail.clone())
            .taking("application/json", bodies.request::<CreateDomain>())
            .described("It has no apps at first, and the policy of the KMS."),
        get(Service::Admin, "/api/v1/domains/{name}", "A domain and its apps", detail.clone()),
        optional(
            post(
                Service::Admin,
                "/api/v1/domains/{name}/archive",
                "Let nothing be released in a domain",
                detail.clone(),
            ),
            nothing.clone(),
        ),
        optional(
            post(Service::Admin, "/api/v1/domains/{name}/restore", "Restore an archived domain", detail),
            nothing,
        ),
        post(Service::Admin, assign, "Put an app that has received no keys into a domain", placed.clone())
            .taking("application/json", bodies.request::<AssignApp>()),
        optional(
            post(
                Service::Admin,
                "/api/v1/domains/{name}/apps/{app}/move",
                "Move an app to this domain, with other keys",
                placed,
            ),
            bodies.request::<MoveBody>(),
        )
        .described("The answer says which keys the app loses, a preview which ones it would lose."),
    ]
}
