//! Routes of the policy and its signed bundles.

use kms_wire::bundles::{BundleList, BundleOutcome};
use serde_json::json;

use super::super::operation::{Answer, Bodies, Operation, get, post, query};
use crate::api::Service;
use crate::api::policy::{
    ActivateRequest, BundleRequest, CheckRequest, Checked, FetchRequest, Placed, PolicyState,
};

pub(super) fn policy(bodies: &mut Bodies) -> Vec<Operation> {
    let placed = Answer::Json(bodies.of::<Placed>());
    let bundle = Answer::Json(bodies.of::<BundleOutcome>());
    let dry_run = query("dry_run", "only check it", json!({ "type": "boolean" }));
    vec![
        get(
            Service::Admin,
            "/api/v1/policy",
            "The policy in force",
            Answer::Json(bodies.of::<PolicyState>()),
        ),
        post(
            Service::Admin,
            "/api/v1/policy/check",
            "Check an allowlist",
            Answer::Json(bodies.of::<Checked>()),
        )
        .taking("application/json", bodies.request::<CheckRequest>()),
        post(
            Service::Admin,
            "/api/v1/policy/activate",
            "Put the candidate in shadow in force",
            placed.clone(),
        )
        .taking("application/json", bodies.request::<ActivateRequest>()),
        get(
            Service::Admin,
            "/api/v1/policy/bundles",
            "Signed policy bundles of each domain",
            Answer::Json(bodies.of::<BundleList>()),
        ),
        post(Service::Admin, "/api/v1/policy/bundles", "Bring a signed policy bundle", bundle.clone())
            .taking("application/octet-stream", json!({}))
            .described("It is verified and waits to be put in force. Needs the role operator."),
        post(
            Service::Admin,
            "/api/v1/policy/bundles/fetch",
            "Ask the source of policy bundles now",
            bundle.clone(),
        )
        .taking("application/json", bodies.request::<FetchRequest>()),
        post(
            Service::Admin,
            "/api/v1/policy/bundles/shadow",
            "Evaluate the policy bundle that waits on live requests",
            bundle.clone(),
        )
        .taking("application/json", bodies.request::<BundleRequest>()),
        post(
            Service::Admin,
            "/api/v1/policy/bundles/activate",
            "Put the policy bundle that waits in force",
            bundle,
        )
        .taking("application/json", bodies.request::<BundleRequest>()),
        post(Service::Admin, "/api/v1/file-upload/{name}", "Replace a file", placed)
            .with_query(vec![dry_run])
            .taking("application/octet-stream", json!({}))
            .described("The name is `auth-config`: the allowlist."),
    ]
}
