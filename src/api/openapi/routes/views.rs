//! Routes of what the console shows: the overview, the fleet, releases, CVMs and freezes.

use kms_wire::rollout::RolloutView;
use serde_json::json;

use super::super::operation::{Answer, Bodies, Operation, Verb, get, post};
use crate::api::Service;
use crate::api::diagnostics::KeyFlow;
use crate::api::fleet::{FleetView, ForgetBody};
use crate::api::joins::{InviteBody, InvitedShown, JoinList, JoinShown};
use crate::api::operations::{self, OperationList};
use crate::api::rollout::{OrderRequest, StartRequest, StepRequest};
use crate::api::views::freezes::Lifted;
use crate::api::views::{
    BundleQuery, CollateralPage, CvmList, CvmQuery, CvmShown, DenialList, DenialQuery, ExplainedDenial,
    FreezeBody, FreezeList, FreezeShown, History, HistoryQuery, KeptCollateral, Ledger, LiftBody,
    OverviewShown, Platforms, Preview, PreviewBody, ReleaseDetail, ReleaseList, ReleaseQuery, Replicas,
    ResolveQuery, Resolved,
};

pub(super) fn views(bodies: &mut Bodies) -> Vec<Operation> {
    let (history, releases, denials) =
        (bodies.query::<HistoryQuery>(), bodies.query::<ReleaseQuery>(), bodies.query::<DenialQuery>());
    let admin = |path, summary, response| get(Service::Admin, path, summary, Answer::Json(response));
    let mut order = post(
        Service::Admin,
        "/api/v1/rollout/{order}",
        "pause, resume, retry, skip or cancel it",
        Answer::Json(bodies.of::<RolloutView>()),
    )
    .taking("application/json", bodies.request::<OrderRequest>());
    if let Some(request) = &mut order.request {
        request.is_required = false;
    }
    vec![
        admin(
            "/api/v1/overview",
            "The state of this KMS, and what needs attention",
            bodies.of::<OverviewShown>(),
        ),
        admin(
            "/api/v1/diagnostics/key-flow",
            "What requests wait for, and what fails",
            bodies.of::<KeyFlow>(),
        ),
        admin("/api/v1/fleet", "The nodes that share their state", bodies.of::<FleetView>()),
        post(
            Service::Admin,
            "/api/v1/fleet/repair",
            "Write the state of this node over that of its fleet",
            Answer::Json(bodies.of::<FleetView>()),
        ),
        admin("/api/v1/rollout", "The rollout over the nodes", bodies.of::<RolloutView>()),
        post(
            Service::Admin,
            "/api/v1/rollout",
            "Start a rollout, or show its plan",
            Answer::Json(bodies.of::<RolloutView>()),
        )
        .taking("application/json", bodies.request::<StartRequest>())
        .described("Needs the role owner."),
        post(
            Service::Admin,
            "/api/v1/rollout/step",
            "Take the next steps, for a program that replaces nodes",
            Answer::Json(bodies.of::<RolloutView>()),
        )
        .taking("application/json", bodies.request::<StepRequest>()),
        order,
        post(
            Service::Admin,
            "/api/v1/fleet/forget",
            "Forget a node that is no longer in the fleet",
            Answer::Json(bodies.of::<FleetView>()),
        )
        .taking("application/json", bodies.request::<ForgetBody>()),
        admin("/api/v1/replica-joins", "Invitations of replicas", bodies.of::<JoinList>()),
        post(
            Service::Admin,
            "/api/v1/replica-joins",
            "Invite a replica",
            Answer::Json(bodies.of::<InvitedShown>()),
        )
        .taking("application/json", bodies.request::<InviteBody>())
        .described("The token is shown only now."),
        admin("/api/v1/replica-joins/{id}", "How far an invited replica has come", bodies.of::<JoinShown>()),
        Operation {
            verb: Verb::Delete,
            ..admin("/api/v1/replica-joins/{id}", "Cancel an invitation", bodies.of::<JoinShown>())
        },
        admin(
            "/api/v1/operations",
            "What goes on for longer than a request: invited replicas and the rollout",
            bodies.of::<OperationList>(),
        ),
        admin(
            "/api/v1/operations/{id}",
            "How far something has come that takes long",
            bodies.of::<operations::Operation>(),
        ),
        admin("/status/{id}", "The same, by another name", bodies.of::<operations::Operation>()),
        admin("/api/v1/history", "Releases, denials and latencies over time", bodies.of::<History>())
            .with_query(history),
        admin("/api/v1/releases", "Releases, newest first", bodies.of::<ReleaseList>()).with_query(releases),
        admin("/api/v1/releases/{seq}", "A release with its record and proof", bodies.of::<ReleaseDetail>()),
        admin("/api/v1/denials", "Refused requests, latest first", bodies.of::<DenialList>())
            .with_query(denials),
        admin(
            "/api/v1/denials/{id}",
            "A refused request, each check of it, and what would allow it",
            bodies.of::<ExplainedDenial>(),
        ),
    ]
    .into_iter()
    .chain(inventory(bodies))
    .chain(freezes(bodies))
    .collect()
}

fn inventory(bodies: &mut Bodies) -> Vec<Operation> {
    let (cvms, resolve) = (bodies.query::<CvmQuery>(), bodies.query::<ResolveQuery>());
    let bundle = bodies.query::<BundleQuery>();
    let admin = |path, summary, response| get(Service::Admin, path, summary, Answer::Json(response));
    let resolved = bodies.of::<Resolved>();
    let message = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    vec![
        admin("/api/v1/cvms", "CVMs that asked for keys, latest first", bodies.of::<CvmList>())
            .with_query(cvms),
        admin("/api/v1/cvms/{id}", "A CVM", bodies.of::<CvmShown>()),
        admin("/api/v1/resolve/{app}", "Whether requests may be sent to an app", resolved.clone())
            .with_query(resolve.clone()),
        admin("/v1/resolve/{app}", "The same, for proxies", resolved).with_query(resolve),
        admin(
            "/api/v1/platforms",
            "Collateral, and what Intel says of the platforms",
            bodies.of::<Platforms>(),
        ),
        admin("/api/v1/collateral", "The collateral that is kept", bodies.of::<KeptCollateral>()),
        admin("/api/v1/collateral/bundle", "It as a file for another KMS", bodies.of::<CollateralPage>())
            .with_query(bundle),
        admin("/api/v1/ledger", "The audit log, its checkpoint and its witnesses", bodies.of::<Ledger>()),
        admin("/api/v1/replicas", "This KMS, and those that received its root keys", bodies.of::<Replicas>()),
        post(
            Service::Admin,
            "/api/v1/explain",
            "Why a caller is refused",
            Answer::Json(message("prpc.ExplainResponse")),
        )
        .taking("application/json", message("prpc.request.ExplainRequest")),
    ]
}

fn freezes(bodies: &mut Bodies) -> Vec<Operation> {
    let path = "/api/v1/freezes";
    let frozen = Answer::Json(bodies.of::<FreezeShown>());
    let preview = Answer::Json(bodies.of::<Preview>());
    let lifted = Answer::Json(bodies.of::<Lifted>());
    let mut lift = post(Service::Admin, "/api/v1/freezes/{id}/lift", "End a freeze", lifted)
        .taking("application/json", bodies.request::<LiftBody>());
    if let Some(request) = &mut lift.request {
        request.is_required = false;
    }
    vec![
        get(Service::Admin, path, "What is frozen", Answer::Json(bodies.of::<FreezeList>())),
        post(Service::Admin, path, "Stop releases", frozen)
            .taking("application/json", bodies.request::<FreezeBody>())
            .described("Needs the role operator."),
        post(Service::Admin, "/api/v1/freezes/preview", "What a freeze would have stopped", preview)
            .taking("application/json", bodies.request::<PreviewBody>()),
        lift,
    ]
}
