//! The routes as operations. Each row of [`ROUTES`](crate::api::routes::ROUTES) has its lines here; a test names those that
//! have none.

use kms_wire::bundles::{BundleList, BundleOutcome};
use kms_wire::rollout::RolloutView;
use serde_json::{Value, json};

use super::operation::{Answer, Bodies, Content, Operation, Parameter, Verb};
use crate::api::Service;
use crate::api::actions::{ActionRequest, Actions, Done};
use crate::api::approvals::{self, ApproveRequest};
use crate::api::attestation::Document;
use crate::api::credentials::{BasicAuth, CreateRequest, Revoked, Shown};
use crate::api::diagnostics::KeyFlow;
use crate::api::domains::{
    AssignApp, CreateDomain, DomainDetail, DomainList, MoveBody, NoContent, PlacedApp,
};
use crate::api::epochs::{
    AcceptBody, ActivateEpochBody, AppEpochsBody, AppEpochsList, AppEpochsShown, EpochBody, EpochPreview,
    Epochs, FetchBody,
};
use crate::api::fleet::{FleetView, ForgetBody};
use crate::api::health::Health;
use crate::api::joins::{InviteBody, InvitedShown, JoinList, JoinShown};
use crate::api::me::Me;
use crate::api::onboard::{RestoreStatus, ShareAccepted};
use crate::api::operations::{self, OperationList};
use crate::api::policy::{
    ActivateRequest, BundleRequest, CheckRequest, Checked, FetchRequest, Placed, PolicyState,
};
use crate::api::recovery::{CreateSet, DrillAccepted, DrillStatus, MadeSet, RecoveryShown};
use crate::api::reload::Reloaded;
use crate::api::restart::Restarting;
use crate::api::rollout::{OrderRequest, StartRequest, StepRequest};
use crate::api::settings::Settings;
use crate::api::views::freezes::Lifted;
use crate::api::views::{
    BundleQuery, CollateralPage, CvmList, CvmQuery, CvmShown, DenialList, DenialQuery, ExplainedDenial,
    FreezeBody, FreezeList, FreezeShown, History, HistoryQuery, KeptCollateral, Ledger, LiftBody,
    OverviewShown, Platforms, Preview, PreviewBody, ReleaseDetail, ReleaseList, ReleaseQuery, Replicas,
    ResolveQuery, Resolved,
};

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

fn get(service: Service, path: &str, summary: &str, response: Answer) -> Operation {
    Operation {
        service,
        verb: Verb::Get,
        path: path.to_owned(),
        method: None,
        summary: summary.to_owned(),
        description: String::new(),
        parameters: path_parameters(path),
        request: None,
        response,
        others: Vec::new(),
    }
}

fn post(service: Service, path: &str, summary: &str, response: Answer) -> Operation {
    Operation { verb: Verb::Post, ..get(service, path, summary, response) }
}

fn epochs(bodies: &mut Bodies) -> Vec<Operation> {
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

fn domains(bodies: &mut Bodies) -> Vec<Operation> {
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

fn path_parameters(path: &str) -> Vec<Parameter> {
    let names = [
        ("{name}", "name", "its name"),
        ("{id}", "id", "its id"),
        ("{app}", "app", "the app id in hexadecimal"),
        ("{seq}", "seq", "its number in the audit log"),
        ("{*file}", "file", "the path of a file"),
        ("{file}", "file", "the name of a file"),
        ("{*tile}", "tile", "the path of a tile, as C2SP tlog-tiles has it"),
        ("{check}", "check", "the name of a check"),
        ("{order}", "order", "pause, resume, retry, skip or cancel"),
    ];
    let found = names.into_iter().filter(|(mark, ..)| path.contains(mark));
    let parameter = |(_, name, description)| Parameter {
        place: "path",
        name: String::from(name),
        description: String::from(description),
        schema: json!({ "type": "string", "minLength": 1 }),
    };
    found.map(parameter).collect()
}

fn query(name: &str, description: &str, schema: Value) -> Parameter {
    Parameter { place: "query", name: name.to_owned(), description: description.to_owned(), schema }
}

impl Operation {
    fn described(self, description: &str) -> Self {
        Self { description: description.to_owned(), ..self }
    }

    fn with_query(mut self, parameters: Vec<Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    fn taking(self, kind: &'static str, schema: Value) -> Self {
        Self { request: Some(Content { kind, schema, is_required: true }), ..self }
    }

    fn or(mut self, status: u16, answer: Answer) -> Self {
        self.others.push((status, answer));
        self
    }
}

fn object(properties: Value) -> Value {
    let names: Vec<String> =
        properties.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
    json!({ "type": "object", "properties": properties, "required": names })
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

fn health(bodies: &mut Bodies) -> Vec<Operation> {
    let reason = json!({
        "type": "object",
        "properties": {
            "code": { "type": "string" },
            "text": { "type": "string" },
            "detail": { "type": "string", "description": "on the admin listener only" },
        },
        "required": ["code", "text"],
    });
    let ready = object(json!({
        "status": { "enum": ["ready", "not_ready"] },
        "reasons": { "type": "array", "items": reason.clone() },
        "warnings": { "type": "array", "items": reason },
    }));
    let both = "Also on the main listener, open to anyone.";
    let health = bodies.of::<Health>();
    vec![
        get(
            Service::Admin,
            "/livez",
            "Whether the process answers",
            Answer::Json(object(json!({ "status": { "const": "ok" } }))),
        )
        .described(both),
        get(
            Service::Admin,
            "/readyz",
            "Whether keys can be released, and why not",
            Answer::Json(ready.clone()),
        )
        .described(both)
        .or(503, Answer::Json(ready)),
        get(Service::Admin, "/api/v1/health", "The health of this KMS", Answer::Json(health.clone())),
        get(
            Service::Kms,
            "/health",
            "OK, or with `Accept: application/json` the health",
            Answer::Either(health, TEXT[0]),
        ),
        get(
            Service::Kms,
            "/metrics",
            "Metrics in the text format of Prometheus",
            Answer::Other(&["text/plain; version=0.0.4; charset=utf-8"]),
        ),
    ]
}

fn log(bodies: &mut Bodies) -> Vec<Operation> {
    let bytes = Answer::Other(&["application/octet-stream"]);
    let both = "Also on the main listener, open to anyone.";
    vec![
        get(
            Service::Kms,
            "/attestation.json",
            "A quote about this KMS, with all that verifies it",
            Answer::Json(bodies.of::<Document>()),
        )
        .described("Without a nonce at most a minute old. What a statement says counts only where the quote verifies.")
        .with_query(vec![query(
            "nonce",
            "64 lower-case hexadecimal digits, which the statement repeats",
            json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
        )]),
        get(Service::Admin, "/log/checkpoint", "The signed checkpoint of the audit log", Answer::Other(TEXT))
            .described(both)
            .or(503, Answer::Other(TEXT)),
        get(Service::Admin, "/log/tile/{*tile}", "A tile of hashes", bytes.clone())
            .described(both)
            .or(403, Answer::Other(TEXT))
            .or(404, Answer::Other(TEXT))
            .or(503, Answer::Other(TEXT)),
        get(Service::Admin, "/log/tile/entries/{*tile}", "A bundle of entries", bytes)
            .or(404, Answer::Other(TEXT))
            .or(503, Answer::Other(TEXT)),
    ]
}

fn events(bodies: &mut Bodies) -> Vec<Operation> {
    let _ = bodies;
    let text = |name, description| query(name, description, json!({ "type": "string" }));
    let filter = || {
        vec![
            text("since", "the earliest time: RFC 3339, a date, or an age such as 2h"),
            text("until", "the latest time"),
            query("type", "the type of the events", json!({ "type": "string" })),
            text("app_id", "the app in hexadecimal"),
            query("source", "where they come from", json!({ "enum": ["kms", "pipe", "api"] })),
            query("limit", "the most events", json!({ "type": "integer", "minimum": 0, "maximum": 1000 })),
            query("cursor", "only events before this number", json!({ "type": "integer", "minimum": 0 })),
            query("format", "the form of the answer", json!({ "enum": ["json", "text"] })),
        ]
    };
    let event = json!({
        "type": "object",
        "properties": {
            "seq": { "type": "integer", "description": "its number in the audit log" },
            "received_at": { "type": "string", "description": "RFC 3339 in UTC" },
            "source": { "type": "string" },
            "type": { "type": "string" },
            "severity": { "enum": ["info", "warning", "critical"] },
            "message": { "type": "string", "description": "a sentence" },
            "app_id": { "type": "string" },
            "details": { "type": "object", "description": "the fields of the record" },
        },
        "required": ["seq", "received_at", "source", "type", "severity", "message", "details"],
    });
    let list = json!({ "type": "array", "items": event });
    let paged = "The header X-Next-Cursor has the cursor of the next, older page, if there is one.";
    let reported =
        object(json!({ "seq": { "type": "integer", "description": "its number in the audit log" } }));
    let message = query("message", "the event, at most 2 KiB", json!({ "type": "string" }));
    vec![
        get(Service::Admin, "/logs", "Events as text, newest first", Answer::Either(list.clone(), TEXT[0]))
            .with_query(filter())
            .described(paged),
        get(Service::Admin, "/api/v1/events", "Events, newest first", Answer::Either(list.clone(), TEXT[0]))
            .with_query(filter())
            .described(paged),
        get(
            Service::Admin,
            "/api/v1/audit-logs",
            "Events with the places of their proofs",
            Answer::Either(list, TEXT[0]),
        )
        .with_query(filter())
        .described(paged),
        get(
            Service::Admin,
            "/api/v1/events/stream",
            "Events as they happen",
            Answer::Other(&["text/event-stream"]),
        )
        .with_query(
            filter().into_iter().filter(|it| !["until", "cursor", "format"].contains(&&*it.name)).collect(),
        )
        .described("Server-sent events, which do not end."),
        get(Service::Admin, "/api/v1/new_event", "Report an event", Answer::Json(reported.clone()))
            .with_query(vec![message])
            .described("Not for browsers, which use POST."),
        post(Service::Admin, "/api/v1/new_event", "Report an event", Answer::Json(reported))
            .taking("text/plain", json!({ "type": "string" }))
            .described("The body is the event: text, a form field `message`, or JSON with `message`."),
    ]
}

fn credentials(bodies: &mut Bodies) -> Vec<Operation> {
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

fn policy(bodies: &mut Bodies) -> Vec<Operation> {
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

fn approvals(bodies: &mut Bodies) -> Vec<Operation> {
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

fn views(bodies: &mut Bodies) -> Vec<Operation> {
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

fn recovery(bodies: &mut Bodies) -> Vec<Operation> {
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

fn restore(bodies: &mut Bodies) -> Vec<Operation> {
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

fn onboarding(bodies: &mut Bodies) -> Vec<Operation> {
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
