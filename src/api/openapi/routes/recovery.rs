//! Routes of recovery sets, drills and restores.

use serde_json::{Value, json};

use super::super::operation::{Answer, Bodies, Operation, Verb, get, object, post, query};
use crate::api::Service;
use crate::api::onboard::{RestoreStatus, ShareAccepted};
use crate::api::recovery::{CreateSet, DrillAccepted, DrillStatus, MadeSet, RecoveryShown};

/// The body that brings a share.
fn share() -> Value {
    let text = json!({ "type": "string" });
    object(json!({
        "version": { "const": 1 },
        "set": text,
        "index": { "type": "integer" },
        "officer": text,
        "share": text,
    }))
}

pub(super) fn recovery(bodies: &mut Bodies) -> Vec<Operation> {
    let made = Answer::Json(bodies.of::<MadeSet>());
    let status = Answer::Json(bodies.of::<DrillStatus>());
    let drill = "/api/v1/recovery/drill";
    let owner = "Needs the role owner.";
    let share = share();
    vec![
        get(
            Service::Admin,
            "/api/v1/recovery",
            "Recovery sets, and how the last drills ended",
            Answer::Json(bodies.of::<RecoveryShown>()),
        ),
        post(Service::Admin, "/api/v1/recovery/sets", "Split the root keys among officers", made.clone())
            .taking("application/json", bodies.request::<CreateSet>()),
        get(Service::Admin, "/api/v1/recovery/sets/{id}", "The files of the set that counts", made),
        get(Service::Admin, drill, "How far a drill is", status.clone()),
        post(Service::Admin, drill, "Start a drill", status.clone()).described(owner),
        Operation { verb: Verb::Delete, ..post(Service::Admin, drill, "End a drill", status.clone()) }
            .described(owner),
        get(Service::Kms, "/recovery", "How far a drill is", status),
        post(
            Service::Kms,
            "/recovery/shares",
            "Send the share of an officer",
            Answer::Json(bodies.of::<DrillAccepted>()),
        )
        .taking("application/json", share)
        .described("Over TLS only. kmsctl verifies the KMS before it sends a share."),
    ]
}

pub(super) fn restore(bodies: &mut Bodies) -> Vec<Operation> {
    let status = Answer::Json(bodies.of::<RestoreStatus>());
    let accepted = Answer::Json(bodies.of::<ShareAccepted>());
    let share = share();
    vec![
        get(Service::Onboard, "/recovery", "How far a restore is", status.clone()),
        post(Service::Onboard, "/recovery/restore", "Open a restore", status.clone())
            .taking("application/json", json!({ "type": "object" }))
            .with_query(vec![query(
                "domain",
                "the name of the restored KMS, if it is not that of the manifest",
                json!({ "type": "string" }),
            )])
            .described("The body is the manifest of a recovery set, recovery-SET.json."),
        post(Service::Onboard, "/recovery/cancel", "Cancel a restore", status),
        post(Service::Onboard, "/recovery/shares", "Send the share of an officer", accepted)
            .taking("application/json", share)
            .described("Over TLS only. kmsctl verifies the KMS before it sends a share."),
    ]
}
