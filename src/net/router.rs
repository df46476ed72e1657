//! The routes of each listener and phase.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, on};
use bytes::Bytes;
use http::{HeaderValue, Method as Verb, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::onboarding_auth::{self, OnboardingAuth};
use super::probes::{self, Reader};
use super::prpc::{self, Dispatch, Encoding};
use super::{
    actions, approvals, attestation, body, credentials, diagnostics, domains, epochs, events, fleet, grpc,
    joins, ledger, me, operations, policy, policy_bundles, recovery, restart, restore, rollout, settings,
    setup, status, uploads, verbs, views, web,
};
use crate::api::actions::ActionService;
use crate::api::admin::AdminService;
use crate::api::approvals::ApprovalService;
use crate::api::attestation::AttestationService;
use crate::api::credentials::CredentialService;
use crate::api::diagnostics::DiagnosticsService;
use crate::api::domains::DomainService;
use crate::api::epochs::EpochService;
use crate::api::events::EventService;
use crate::api::fleet::FleetService;
use crate::api::health::HealthService;
use crate::api::joins::JoinService;
use crate::api::kms::KmsService;
use crate::api::me::MeService;
use crate::api::onboard::{Finished, OnboardService};
use crate::api::operations::OperationService;
use crate::api::policy::{BundleService, PolicyService};
use crate::api::recovery::RecoveryService;
use crate::api::reload::ReloadService;
use crate::api::restart::RestartService;
use crate::api::rollout::RolloutService;
use crate::api::routes::Route;
use crate::api::settings::SettingsService;
use crate::api::setup::SetupService;
use crate::api::uploads::UploadService;
use crate::api::views::Views;
use crate::api::{Access, Method, Service};
use crate::audit::Audit;
use crate::config::BodyLimits;
use crate::error::{Code, Error, Result};
use crate::metrics::Metrics;

/// The services of the main listener in the KMS phase.
#[derive(Debug)]
pub struct KmsServices {
    /// The methods.
    pub kms: Arc<KmsService>,
    /// Metrics, if they are shown.
    pub metrics: Option<Arc<Metrics>>,
    /// Health and readiness.
    pub health: Arc<HealthService>,
    /// The audit log's tree.
    pub audit: Arc<Audit>,
    /// Where officers bring their shares.
    pub recovery: Arc<RecoveryService>,
    /// The proof for outsiders.
    pub attestation: Arc<AttestationService>,
}

/// The routes of the KMS phase on the main listener.
pub fn kms(services: KmsServices, limits: &BodyLimits) -> Router {
    let KmsServices { kms: service, metrics, health, audit, recovery, attestation } = services;
    let readiness = Arc::clone(health.readiness());
    let mut router = prpc_routes(Arc::clone(&service), limits)
        .merge(probes::routes(Service::Kms, health, Reader::Anyone))
        .merge(ledger::routes(Service::Kms, audit, Reader::Anyone))
        .merge(attestation::routes(attestation))
        .merge(recovery::officers(recovery));
    if let Some(metrics) = metrics {
        let readiness = Arc::clone(&readiness);
        let metrics = route(Service::Kms, "/metrics", move || async move {
            // Checks now, so that the metrics are current and not of the last check.
            readiness.report();
            exposition(&metrics)
        });
        router = router.merge(metrics);
    }
    router.merge(grpc::kms(service, limits, readiness)).fallback(not_found)
}

/// The routes of the onboarding phase on the main listener; `auth` guards all but the page and the files
/// it loads.
pub fn onboarding(
    service: Arc<OnboardService>,
    setup: Arc<SetupService>,
    limits: &BodyLimits,
    auth: OnboardingAuth,
    health: Arc<HealthService>,
) -> Router {
    let readiness = Arc::clone(health.readiness());
    let finish = {
        let service = Arc::clone(&service);
        route(Service::Onboard, "/finish", move || async move {
            match service.finish_onboarding().await {
                Ok(Finished::NoKeys) => {
                    let text =
                        "there are no keys yet, so nothing is finished: Bootstrap or Onboard comes first";
                    prpc::error(Encoding::Json, &Error::new(Code::NotReady, text)).map(Body::new)
                }
                Ok(Finished::Yes) => prpc::plain(StatusCode::OK, "OK").map(Body::new),
                Err(error) => prpc::error(Encoding::Json, &error).map(Body::new),
            }
        })
    };
    let finished = service.finished();
    let router = prpc_routes(Arc::clone(&service), limits)
        .merge(restore::routes(&service))
        .merge(web::onboarding())
        .merge(setup::routes(setup))
        .merge(probes::routes(Service::Onboard, health, Reader::Anyone))
        .merge(finish)
        .merge(grpc::onboarding(service, limits, readiness))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(finished, not_yet));
    router.layer(middleware::from_fn_with_state(Arc::new(auth), onboarding_auth::pass))
}

/// After `Finish`, until keys are served, a method of the KMS phase is not unknown but not ready.
async fn not_yet(State(finished): State<watch::Receiver<bool>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let name = path.rsplit(['/', '.']).next().unwrap_or_default();
    let is_method = path.starts_with("/prpc/") || path.starts_with("/kms.KMS/");
    let comes = Method::find(Service::Kms, name).is_some() && Method::find(Service::Onboard, name).is_none();
    if !(*finished.borrow() && is_method && comes) {
        return next.run(request).await;
    }
    let cause = Error::new(Code::NotReady, "onboarding is over, and keys are not served yet; try again");
    if grpc::is_grpc(&request) {
        return status::grpc_answer(&cause);
    }
    prpc::refuse(request, &cause).await.map(Body::new)
}

/// The services of the admin listener.
#[derive(Debug)]
pub struct AdminServices {
    /// The methods.
    pub admin: Arc<AdminService>,
    /// The event log.
    pub events: Arc<EventService>,
    /// Health and readiness.
    pub health: Arc<HealthService>,
    /// The audit log's tree.
    pub audit: Arc<Audit>,
    /// The caller's own credential.
    pub me: Arc<MeService>,
    /// What operators read of this KMS.
    pub views: Arc<Views>,
    /// What requests wait for.
    pub diagnostics: Arc<DiagnosticsService>,
    /// Named actions.
    pub actions: Arc<ActionService>,
    /// The policy.
    pub policy: Arc<PolicyService>,
    /// Signed bundles of policies.
    pub bundles: Arc<BundleService>,
    /// Files of owners.
    pub uploads: Arc<UploadService>,
    /// Changes that wait for a second owner.
    pub approvals: Arc<ApprovalService>,
    /// The epochs of keys.
    pub epochs: Arc<EpochService>,
    /// The domains.
    pub domains: Arc<DomainService>,
    /// The nodes that share their state.
    pub fleet: Arc<FleetService>,
    /// Rollouts.
    pub rollout: Arc<RolloutService>,
    /// The invitations of replicas.
    pub joins: Arc<JoinService>,
    /// What goes on for longer than a request.
    pub operations: OperationService,
    /// The settings.
    pub settings: Arc<SettingsService>,
    /// Reload.
    pub reload: Arc<ReloadService>,
    /// Restart.
    pub restart: Arc<RestartService>,
    /// Recovery sets and drills.
    pub recovery: Arc<RecoveryService>,
    /// Named credentials; `None` where the configuration has none.
    pub credentials: Option<Arc<CredentialService>>,
}

/// The routes of the admin listener.
pub fn admin(services: AdminServices, limits: &BodyLimits) -> Router {
    let AdminServices {
        admin,
        events,
        health,
        audit,
        me,
        views,
        diagnostics,
        actions,
        policy,
        bundles,
        uploads,
        approvals,
        epochs,
        domains,
        fleet,
        rollout,
        joins,
        operations,
        credentials,
        settings,
        reload,
        restart,
        recovery,
    } = services;
    let credentials = credentials.map_or_else(Router::new, credentials::routes);
    let grpc = grpc::admin(Arc::clone(&admin), limits, Arc::clone(health.readiness()));
    prpc_routes(admin, limits)
        .merge(restart::routes(restart, Arc::clone(&health)))
        .merge(settings::routes(settings, reload))
        .merge(probes::routes(Service::Admin, health, Reader::Operator))
        .merge(ledger::routes(Service::Admin, audit, Reader::Operator))
        .merge(events::routes(events))
        .merge(me::routes(me))
        .merge(views::routes(&views))
        .merge(diagnostics::routes(diagnostics))
        .merge(actions::routes(actions))
        .merge(policy::routes(policy))
        .merge(policy_bundles::routes(bundles))
        .merge(uploads::routes(uploads))
        .merge(approvals::routes(approvals))
        .merge(epochs::routes(epochs))
        .merge(domains::routes(domains))
        .merge(fleet::routes(fleet))
        .merge(rollout::routes(rollout))
        .merge(joins::routes(joins))
        .merge(operations::routes(Arc::new(operations)))
        .merge(recovery::admin(recovery))
        .merge(credentials)
        .merge(grpc)
        .fallback(not_found)
}

/// A service that is called by prpc, and the limits of its request bodies.
struct Prpc<D> {
    dispatch: Arc<D>,
    limits: BodyLimits,
}

fn prpc_routes<D: Dispatch + Send + Sync + 'static>(dispatch: Arc<D>, limits: &BodyLimits) -> Router {
    Router::new()
        .route(
            "/prpc/",
            any(|| async { prpc::plain(StatusCode::UNPROCESSABLE_ENTITY, "no method named").map(Body::new) }),
        )
        .route("/prpc/{name}", any(prpc_call::<D>))
        .with_state(Arc::new(Prpc { dispatch, limits: limits.clone() }))
}

async fn prpc_call<D: Dispatch + Send + Sync>(
    State(prpc): State<Arc<Prpc<D>>>,
    request: Request,
) -> Response {
    let name = part(request.uri().path(), 0).to_owned();
    prpc::serve(&*prpc.dispatch, &prpc.limits, &name, request).await.map(Body::new)
}

/// Adds the handler of a row of [`ROUTES`](crate::api::routes::ROUTES).
pub(super) fn route<T: 'static>(service: Service, path: &str, handler: impl Handler<T, ()>) -> Router {
    let row = Route::at(service, path);
    let served = Router::new().route(row.path, on(verbs::served(row), handler));
    let by_credential = |access: Access| match access {
        Access::Operator(_) | Access::OperatorAndAttestedCertificate(_) | Access::Invitation => true,
        Access::Open
        | Access::Onboarding
        | Access::AttestedCertificate
        | Access::AttestedMessage
        | Access::TokenInMessage => false,
    };
    // Where it says nothing, there is nothing to wait for.
    match row.verbs.iter().any(|(_, access)| by_credential(*access)) {
        true => served.layer(middleware::from_fn(move |request, next| authorized(row, request, next))),
        false => served,
    }
}

/// Lets operators pass whose credential has the role that is needed for the verb, and still has it when the body is there.
async fn authorized(row: &Route, request: Request, next: Next) -> Response {
    let refused = |error: Error| uncached(Err(error));
    let access = verbs::needed(row, request.method());
    let caller = match prpc::caller(request.extensions()) {
        Ok(caller) => caller.clone(),
        Err(missing) => return refused(missing),
    };
    if let Err(error) = caller.admit(access, row.reach) {
        return refused(error);
    }
    if !matches!(*request.method(), Verb::POST | Verb::PATCH | Verb::PUT | Verb::DELETE) {
        return next.run(request).await;
    }
    let (parts, incoming) = request.into_parts();
    let body = match body::read(incoming, row.body_limit).await {
        Ok(body) => body,
        Err(error) => return refused(error.cause),
    };
    match caller.admit(access, row.reach) {
        Ok(()) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(error) => refused(error),
    }
}

/// The response of a route of operators, which no cache may keep; errors are JSON.
pub(super) fn uncached(result: Result<Response>) -> Response {
    let mut answer = result.unwrap_or_else(|error| prpc::route_error(&error).map(Body::new));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The body of a request to the route of `service` at `path`.
pub(super) async fn read_body(service: Service, path: &str, body: Body) -> Result<Bytes> {
    let limit = Route::at(service, path).body_limit;
    body::read(body, limit).await.map_err(|error| error.cause)
}

/// The body of a request to the route of operators at `path` as JSON.
pub(super) async fn read_json<T: DeserializeOwned>(path: &str, request: Request) -> Result<T> {
    from_object(&read_body(Service::Admin, path, request.into_body()).await?)
}

/// The same, where an empty body is an empty object.
pub(super) async fn read_optional_json<T: DeserializeOwned>(path: &str, request: Request) -> Result<T> {
    let body = read_body(Service::Admin, path, request.into_body()).await?;
    from_object(if body.is_empty() { b"{}" } else { &body })
}

/// The JSON object in a body. A list is refused: it would be read as the fields in their order.
pub(super) fn from_object<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Error::invalid("the body must be a JSON object"));
    }
    kms_attest::json::from_utf8(body).map_err(|error| Error::invalid(error.to_string()))
}

/// Whether the query says `name=true`. It may say nothing else.
pub(super) fn flag(query: Option<&str>, name: &str) -> Result<bool> {
    let mut flag = None;
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let value = match &*value {
            "true" => true,
            "false" => false,
            _ => return Err(Error::invalid(format!("{name} must be true or false"))),
        };
        if key != name {
            let key: String = key.chars().filter(|character| !character.is_control()).take(100).collect();
            return Err(Error::invalid(format!("there is no parameter {key}; the only one is {name}")));
        }
        if flag.replace(value).is_some() {
            return Err(Error::invalid(format!("{name} is given more than once")));
        }
    }
    Ok(flag.unwrap_or(false))
}

/// A JSON document for operators, which no cache may keep.
pub(super) fn json(result: Result<impl Serialize>) -> Response {
    uncached(result.and_then(|value| {
        let body =
            serde_json::to_vec_pretty(&value).map_err(|error| Error::internal("internal error", error))?;
        let mut answer = Response::new(Body::from(body));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(answer)
    }))
}

fn exposition(metrics: &Metrics) -> Response {
    let mut answer = Response::new(Body::from(metrics.exposition()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

async fn not_found(request: Request) -> Response {
    if grpc::is_grpc(&request) {
        return tonic::Status::unimplemented("no such service").into_http();
    }
    let wants_json = request.headers().get(header::ACCEPT).is_some_and(|accept| accept == "application/json");
    if wants_json {
        let unknown = Error::new(Code::UnknownMethod, "not found");
        return prpc::error(Encoding::Json, &unknown).map(Body::new);
    }
    prpc::plain(StatusCode::NOT_FOUND, "not found").map(Body::new)
}

/// A part of a path, counted from its end. It is not decoded, which `extract::Path` would do again: the name must be the
/// one that access control has seen, and no name and no id needs it.
pub(super) fn part(path: &str, from_end: usize) -> &str {
    path.rsplit('/').nth(from_end).unwrap_or_default()
}
