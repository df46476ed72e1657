//! The routes of each listener and phase.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
    routing::{any, get},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::watch;

use super::{
    entrance::{self, Entrance},
    grpc,
    probes::{self, Reader},
    prpc::{self, Call, Dispatch, Encoding},
    setup, status, web,
};
use crate::{
    config::BodyLimits,
    error::{Code, Error, Result},
    metrics::Metrics,
    proto::{AppId, BootstrapRequest, OnboardRequest},
    service::{
        Caller, Method, Service,
        admin::AdminService,
        kms::KmsService,
        onboard::{Finished, OnboardService},
        prepared::Prepared,
        readiness::Readiness,
        setup::SetupService,
    },
};

/// The KMS phase of the main listener.
pub fn kms(
    service: Arc<KmsService>,
    limits: &BodyLimits,
    metrics: Option<Arc<Metrics>>,
    readiness: Arc<Readiness>,
) -> Router {
    let mut router = prpc_routes(Arc::clone(&service), limits)
        .route("/health", get(health))
        .merge(probes::routes(Arc::clone(&readiness), Reader::Anyone));
    if let Some(metrics) = metrics {
        let readiness = Arc::clone(&readiness);
        let metrics = get(move || async move {
            // So that they say how it is, not how it was when it was last looked at.
            readiness.report();
            exposition(&metrics)
        });
        router = router.route("/metrics", metrics);
    }
    router.merge(grpc::kms(service, limits, readiness)).fallback(not_found)
}

/// The onboarding phase of the main listener; `entrance` guards all but the page and what it shows of this KMS.
pub fn onboarding(
    service: Arc<OnboardService>,
    setup: Arc<SetupService>,
    limits: &BodyLimits,
    entrance: Entrance,
    readiness: Arc<Readiness>,
) -> Router {
    let finish = {
        let service = Arc::clone(&service);
        get(move || async move {
            match service.finish().await {
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
        .merge(web::onboarding())
        .merge(setup::routes(setup))
        .route("/health", get(health))
        .merge(probes::routes(Arc::clone(&readiness), Reader::Anyone))
        .route("/finish", finish)
        .merge(grpc::onboarding(service, limits, readiness))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(finished, not_yet));
    router.layer(middleware::from_fn_with_state(Arc::new(entrance), entrance::pass))
}

/// After `Finish`, until keys are served, a method of the KMS phase is not unknown but about to come.
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

/// The admin listener.
pub fn admin(service: Arc<AdminService>, limits: &BodyLimits, readiness: Arc<Readiness>) -> Router {
    let grpc = grpc::admin(Arc::clone(&service), limits, Arc::clone(&readiness));
    prpc_routes(service, limits)
        .merge(probes::routes(readiness, Reader::Operator))
        .merge(grpc)
        .fallback(not_found)
}

/// What serves prpc, and how large its requests may be.
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
    // Not `extract::Path`: it decodes once more, to a name that the entrance has not seen.
    let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    prpc::serve(&*prpc.dispatch, &prpc.limits, &name, request).await.map(Body::new)
}

async fn health() -> &'static str {
    "OK"
}

fn exposition(metrics: &Metrics) -> Response {
    let mut answer = Response::new(Body::from(metrics.render()));
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

fn prepared<M: prost::Message + serde::Serialize>(call: &Call, answer: &Prepared<M>) -> Bytes {
    match call.encoding() {
        Encoding::Json | Encoding::SniffedJson => answer.json(),
        Encoding::Protobuf => answer.protobuf(),
    }
}

/// The answer `google.protobuf.Empty`, whatever came in the body.
fn nothing(call: &Call) -> Bytes {
    prpc::encode(call.encoding(), &())
}

impl Dispatch for KmsService {
    const SERVICE: Service = Service::Kms;

    async fn call(&self, method: Method, caller: &Caller, call: Call) -> Result<Bytes> {
        match method {
            Method::GetAppKey => call.unary(async |request| self.get_app_key(caller, request).await).await,
            Method::GetKmsKey => call.unary(async |request| self.get_kms_key(caller, request).await).await,
            Method::GetAppEnvEncryptPubKey => {
                let request: AppId = call.decode()?;
                Ok(prepared(&call, &*self.get_app_env_encrypt_pub_key(caller, request).await?))
            }
            Method::GetMeta => Ok(prepared(&call, &*self.get_meta())),
            Method::GetTempCaCert => Ok(prpc::encode(call.encoding(), &self.get_temp_ca_cert(caller).await?)),
            Method::SignCert => call.unary(async |request| self.sign_cert(caller, request).await).await,
            Method::LegacyClearImageCache => {
                call.unary(async |request| self.clear_image_cache(caller, request).await).await
            }
            other => Err(elsewhere(other)),
        }
    }
}

impl Dispatch for OnboardService {
    const SERVICE: Service = Service::Onboard;

    async fn call(&self, method: Method, _: &Caller, call: Call) -> Result<Bytes> {
        match method {
            Method::Bootstrap => {
                call.unary(async |request: BootstrapRequest| self.bootstrap(request).await).await
            }
            Method::Onboard => call.unary(async |request: OnboardRequest| self.onboard(request).await).await,
            Method::GetAttestationInfo => {
                Ok(prpc::encode(call.encoding(), &self.get_attestation_info().await?))
            }
            Method::Finish => {
                // As by the peer's service, it is an answer without content in both cases.
                let _: Finished = self.finish().await?;
                Ok(nothing(&call))
            }
            other => Err(elsewhere(other)),
        }
    }
}

impl Dispatch for AdminService {
    const SERVICE: Service = Service::Admin;

    async fn call(&self, method: Method, caller: &Caller, call: Call) -> Result<Bytes> {
        match method {
            Method::ClearImageCache => {
                call.unary(async |request| self.clear_image_cache(caller, request).await).await
            }
            Method::AdminGetKmsKey => {
                call.unary(async |request| self.get_kms_key(caller, request).await).await
            }
            Method::Explain => call.unary(async |request| self.explain(caller, request).await).await,
            Method::ListDenials => call.unary(async |request| self.list_denials(&request)).await,
            Method::Freeze => call.unary(async |request| self.freeze(caller, request).await).await,
            Method::Unfreeze => call.unary(async |request| self.unfreeze(caller, request).await).await,
            Method::ListFrozen => Ok(prpc::encode(call.encoding(), &self.list_frozen())),
            Method::StartShadow => call.unary(async |request| self.start_shadow(caller, request).await).await,
            Method::ShadowReport => Ok(prpc::encode(call.encoding(), &self.shadow_report())),
            Method::RefreshCollateral => {
                Ok(prpc::encode(call.encoding(), &self.refresh_collateral(caller).await?))
            }
            Method::LowerClockFloor => {
                call.unary(async |request| self.lower_clock_floor(caller, request).await).await
            }
            Method::RecentReleases => Ok(prpc::encode(call.encoding(), &self.recent_releases())),
            Method::StopShadow => Ok(prpc::encode(call.encoding(), &self.stop_shadow(caller).await?)),
            other => Err(elsewhere(other)),
        }
    }
}

/// The table found the method in another service: [`Method::find`] does not do that.
fn elsewhere(method: Method) -> Error {
    Error::new(Code::UnknownMethod, format!("Service not found: {}", method.row().name))
}
