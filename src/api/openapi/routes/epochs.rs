//! Routes of the epochs of the root keys.

use serde_json::Value;

use super::super::operation::{Answer, Bodies, Content, Operation, Verb, get, post};
use crate::api::Service;
use crate::api::epochs::{
    AcceptBody, ActivateEpochBody, AppEpochsBody, AppEpochsList, AppEpochsShown, EpochBody, EpochPreview,
    Epochs, FetchBody,
};

pub(super) fn epochs(bodies: &mut Bodies) -> Vec<Operation> {
    let apps = "/api/v1/epochs/apps";
    let app = "/api/v1/epochs/apps/{app}";
    let shown = Answer::Json(bodies.of::<AppEpochsShown>());
    let all = Answer::Json(bodies.of::<Epochs>());
    let nothing = bodies.request::<EpochBody>();
    let optional = |operation: Operation, schema: Value| Operation {
        request: Some(Content { kind: "application/json", schema, is_required: false }),
        ..operation
    };
    vec![
        get(Service::Admin, "/api/v1/epochs", "The epochs of the root keys", all.clone()),
        optional(post(Service::Admin, "/api/v1/epochs", "Make new root keys", all.clone()), nothing.clone())
            .described("No app gets keys of them before they are activated."),
        get(
            Service::Admin,
            "/api/v1/epochs/{id}",
            "An epoch, and what its end would stop",
            Answer::Json(bodies.of::<EpochPreview>()),
        ),
        optional(
            post(Service::Admin, "/api/v1/epochs/{id}/activate", "Put an epoch in force", all.clone()),
            bodies.request::<ActivateEpochBody>(),
        ),
        optional(
            post(
                Service::Admin,
                "/api/v1/epochs/{id}/retire",
                "Let nobody get keys of an epoch",
                all.clone(),
            ),
            nothing.clone(),
        ),
        optional(
            post(
                Service::Admin,
                "/api/v1/epochs/{id}/destroy",
                "Overwrite the keys of an epoch",
                all.clone(),
            ),
            nothing,
        ),
        post(Service::Admin, "/api/v1/epochs/fetch", "Receive the epochs of another KMS", all.clone())
            .taking("application/json", bodies.request::<FetchBody>()),
        post(Service::Admin, "/api/v1/epochs/accept", "Accept a state of epochs that this KMS warns of", all)
            .taking("application/json", bodies.request::<AcceptBody>()),
        get(
            Service::Admin,
            apps,
            "The apps whose epochs an operator chose",
            Answer::Json(bodies.of::<AppEpochsList>()),
        ),
        get(Service::Admin, app, "What an operator chose for an app", shown.clone()),
        Operation {
            verb: Verb::Put,
            ..get(Service::Admin, app, "Let an app follow the current epoch, or stay at one", shown.clone())
        }
        .taking("application/json", bodies.request::<AppEpochsBody>())
        .described("It counts where the policy says nothing about the epochs of the app."),
        Operation { verb: Verb::Delete, ..get(Service::Admin, app, "Take the choice back", shown) },
    ]
}
