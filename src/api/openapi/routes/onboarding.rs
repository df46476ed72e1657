//! Routes of a KMS without keys.

use serde_json::json;

use super::super::operation::{Answer, Bodies, Operation, get, post};
use super::recovery::restore;
use super::{FILES, TEXT};
use crate::api::Service;

pub(super) fn onboarding(bodies: &mut Bodies) -> Vec<Operation> {
    let status = Answer::Json(json!({ "type": "object" }));
    let path = "/api/v1/setup/validate/{check}";
    let about = json!({
        "type": "object",
        "properties": {
            "source_url": { "type": ["string", "null"] },
            "source_listener": { "enum": ["main", "admin"] },
            "domain": { "type": ["string", "null"] },
        },
    });
    let mut all = vec![
        get(Service::Onboard, "/assets/{file}", "A file of the setup page", Answer::Other(FILES)),
        get(Service::Admin, "/api/v1/setup/status", "What this KMS waits for", status.clone())
            .described("Also during onboarding, with the onboarding token."),
        post(Service::Onboard, path, "Run a check before setup", status.clone())
            .taking("application/json", about),
        get(Service::Onboard, "/finish", "End onboarding, if there are keys", Answer::Other(TEXT)),
    ];
    all.extend(restore(bodies));
    for path in ["/prpc/GetSetupStatus", "/prpc/Onboard.GetSetupStatus"] {
        all.push(get(Service::Onboard, path, "As /api/v1/setup/status", status.clone()));
        all.push(post(Service::Onboard, path, "As /api/v1/setup/status", status.clone()));
    }
    all
}
