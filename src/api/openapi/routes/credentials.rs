//! Routes of credentials and of changes that need a second owner.

use serde_json::json;

use super::super::operation::{Answer, Bodies, Operation, get, object, post};
use crate::api::Service;
use crate::api::approvals::{self, ApproveRequest};
use crate::api::credentials::{BasicAuth, CreateRequest, Revoked, Shown};
use crate::api::me::Me;

pub(super) fn credentials(bodies: &mut Bodies) -> Vec<Operation> {
    let shown = bodies.of::<Shown>();
    let listed = object(json!({ "credentials": { "type": "array", "items": shown.clone() } }));
    let created = Answer::Json(shown);
    let path = "/api/v1/credentials";
    vec![
        get(Service::Admin, "/api/v1/me", "The credential of the caller", Answer::Json(bodies.of::<Me>())),
        get(Service::Admin, path, "All named credentials", Answer::Json(listed)),
        post(Service::Admin, path, "Create a credential", created.clone())
            .taking("application/json", bodies.request::<CreateRequest>())
            .described("The response has the token, which is not shown again."),
        post(
            Service::Admin,
            "/api/v1/credentials/{name}/rotate",
            "Replace the token of a credential",
            created.clone(),
        ),
        post(
            Service::Admin,
            "/api/v1/credentials/{name}/revoke",
            "Revoke a credential",
            Answer::Json(bodies.of::<Revoked>()),
        ),
        post(
            Service::Admin,
            "/api/v1/set-basic-auth",
            "Set the password of admin",
            Answer::Json(bodies.of::<BasicAuth>()),
        )
        .taking("text/plain", json!({ "type": "string" }))
        .described("The body is the secret."),
        post(Service::Admin, "/api/v1/activate", "Exchange an invitation for a token", created),
    ]
}

pub(super) fn approvals(bodies: &mut Bodies) -> Vec<Operation> {
    let one = Answer::Json(bodies.of::<approvals::Shown>());
    let all = Answer::Json(bodies.of::<approvals::Listed>());
    let path = "/api/v1/approvals/{id}";
    let mut approve = post(Service::Admin, "/api/v1/approvals/{id}/approve", "Approve a change", one.clone())
        .taking("application/json", bodies.request::<ApproveRequest>());
    if let Some(request) = &mut approve.request {
        request.is_required = false;
    }
    vec![
        get(Service::Admin, "/api/v1/approvals", "Changes that wait for a second owner", all),
        get(Service::Admin, path, "One of them, with its document", one.clone()),
        approve,
        post(Service::Admin, "/api/v1/approvals/{id}/reject", "Reject a change", one),
    ]
}
