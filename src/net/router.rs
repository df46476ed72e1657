//! The routes of each listener and phase.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::any;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::watch;

use super::onboarding_auth::{self, OnboardingAuth};
use super::probes::{self, Reader};
use super::prpc::{self, Dispatch, Encoding};
use super::route::{part, route};
use super::{
    actions, approvals, attestation, credentials, diagnostics, domains, epochs, events, fleet, grpc, joins,
    ledger, me, operations, policy, policy_bundles, recovery, restart, restore, rollout, settings, setup,
    status, uploads, views, web,
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
use crate::api::settings::SettingsService;
use crate::api::setup::SetupService;
use crate::api::uploads::UploadService;
use crate::api::views::Views;
use crate::api::{Method, Service};
use crate::audit::Audit;
use crate::config::BodyLimits;
use crate::error::{Code, Error};
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
