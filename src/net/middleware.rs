//! What every request passes first: identifies the caller, limits its rate, normalizes the path, catches
//! panics.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, StatusCode, Uri, header};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tower::Service as _;

use super::admin_auth::AdminAuth;
use super::answer::{Answer, refusal};
use super::body::{HeldBody, RequestBody, Rest};
use super::cors::Cors;
use super::lanes::{Asks, Lanes, in_lane};
use super::limit::{MessageLimit, RequestLimit};
use super::memory::{Arrival, Exhausted, Holder, RequestMemory, Reservation};
use super::oidc::Issuer;
use super::refusal_log::RefusalLog;
use super::restore::SHARES;
use super::same_site::OwnNames;
use super::slots::{Activity, PeerTrust, Use};
use super::{events, grpc, probes, status, verbs};
use crate::api::routes::Route;
use crate::api::{Access, Caller, METHODS, Method, Role, Service};
use crate::audit::Audit;
use crate::control::Domains;
use crate::error::{Code, Error};
use crate::metrics::{Metrics, Observed};
use crate::operator::{Credentials, Operator};
use crate::request::{self, Asked, Context, ErrorBody, Ids, Tracer};
use crate::state::shared::View;

/// How many requests wait for a turn where their number follows from no setting.
const MAX_WAITING: usize = 4096;

/// The middleware of one phase of one listener.
#[derive(Debug)]
pub struct Middleware {
    router: Router,
    limit: Option<Arc<RequestLimit>>,
    guard: Option<AdminAuth>,
    cors: Option<Cors>,
    headers: HeaderMap,
    memory: Arc<RequestMemory>,
    lanes: Lanes,
    /// Whose callers share the turns; `None` where all are one.
    domains: Option<Arc<Domains>>,
    metrics: Arc<Metrics>,
    log: RefusalLog,
    ids: Ids,
    tracer: Option<Tracer>,
}

impl Middleware {
    /// Middleware before `router`; its requests share `memory` with those of other listeners.
    pub fn new(router: Router, memory: Arc<RequestMemory>, metrics: Arc<Metrics>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
            (HeaderName::from_static("permissions-policy"), "interest-cohort=()"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Self {
            router,
            limit: None,
            guard: None,
            cors: None,
            headers,
            memory,
            lanes: Lanes::new(threads, MAX_WAITING, Arc::clone(&metrics)),
            domains: None,
            metrics,
            log: RefusalLog::default(),
            ids: Ids::default(),
            tracer: None,
        }
    }

    /// Shows how many requests wait for a turn.
    #[must_use]
    pub fn watched(self) -> Self {
        self.lanes.report("costly_requests");
        self
    }

    /// Shares the turns between these domains. As many requests wait in all as there may be `connections`, and half as many in
    /// each domain if there are several.
    #[must_use]
    pub fn shared_by(mut self, domains: Arc<Domains>, connections: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        self.lanes = Lanes::new(threads, connections.max(2), Arc::clone(&self.metrics));
        self.domains = Some(domains);
        self
    }

    /// Limits the rate of addresses, and of apps on connections on which policy has given a permit.
    #[must_use]
    pub fn limited(mut self, limit: Arc<RequestLimit>) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Requires credentials with every request, or one of these names where none are needed.
    #[must_use]
    pub fn guarded(
        mut self,
        credentials: Arc<Credentials>,
        domains: Arc<Domains>,
        names: OwnNames,
        audit: Arc<Audit>,
    ) -> Self {
        self.guard = Some(AdminAuth::new(credentials, domains, names, audit, Arc::clone(&self.metrics)));
        self
    }

    /// Traces requests.
    #[must_use]
    pub fn traced(mut self, tracer: Option<Tracer>) -> Self {
        self.tracer = tracer;
        self
    }

    /// What is known of a request before it is served.
    fn context<B>(&self, request: &Request<B>) -> Arc<Context> {
        let asked = if self.guard.is_some() { Asked::ByOperators } else { Asked::ByNobody };
        let recording = self.tracer.as_ref().and_then(|tracer| tracer.begin(request.headers(), asked));
        Context::traced(self.ids.of(request.headers()), ErrorBody::of(request.uri().path()), recording)
    }

    /// The labels of a request to `path` in the metrics: those of a route of this listener, or else of a method.
    fn observed(&self, path: &str) -> Observed {
        let services = match self.guard {
            Some(_) => &[Service::Admin][..],
            None => &[Service::Kms, Service::Onboard],
        };
        match services.iter().find_map(|service| Route::serving(*service, path)) {
            Some(route) => self.metrics.observe_route(route.path),
            None => self.metrics.observe(path),
        }
    }

    /// Accepts the access tokens of this issuer too; after [`Middleware::guarded`].
    #[must_use]
    pub fn trusting(mut self, issuer: Option<Arc<Issuer>>) -> Self {
        if let Some(guard) = &mut self.guard {
            guard.trust(issuer);
        }
        self
    }

    /// Trusts named credentials of operators and owners only while this view of other nodes counts; after [`Middleware::guarded`].
    #[must_use]
    pub fn sharing(mut self, view: Option<Arc<View>>) -> Self {
        if let Some(guard) = &mut self.guard {
            guard.share(view);
        }
        self
    }

    /// Lets pages of these origins read responses.
    #[must_use]
    pub fn readable_by(mut self, origins: &[String]) -> Self {
        self.cors = Cors::of(origins);
        self
    }

    /// Names our version in every response.
    #[must_use]
    pub fn versioned(mut self) -> Self {
        let version = HeaderValue::from_static(env!("CVM_KMS_VERSION"));
        self.headers.insert(HeaderName::from_static("x-app-version"), version);
        self
    }

    /// The middleware for one connection; each request must be served within `limit`.
    pub(super) fn for_caller(
        self: &Arc<Self>,
        caller: Caller,
        activity: &Arc<Activity>,
        limit: Duration,
    ) -> ForCaller {
        ForCaller { middleware: Arc::clone(self), caller, activity: Arc::clone(activity), limit }
    }

    /// Memory for a request: its line and headers, and for a guest the decoded evidence of its certificate.
    fn reserve<B: http_body::Body>(
        &self,
        caller: &Caller,
        activity: &Arc<Activity>,
        request: &Request<B>,
        purpose: Use,
        now: Instant,
    ) -> Result<Arc<Reservation>, Exhausted> {
        let (uri, headers) = (request.uri(), request.headers());
        let holder = match caller.peer().admitted_as() {
            // A response of 503 would make an orchestrator stop a process that is only busy.
            _ if purpose == Use::Probe => Holder::Probe,
            _ if self.guard.as_ref().is_some_and(|guard| guard.knows_at_once(headers)) => Holder::Operator,
            Some(app) => Holder::Admitted(app),
            None if activity.is_known() => Holder::Known,
            None => Holder::Stranger,
        };
        let line = uri.path().len() + uri.query().map_or(0, str::len);
        let headers: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let arrival = if request.body().is_end_stream() { Arrival::Whole } else { Arrival::Head };
        let reservation = self.memory.reserve(activity, holder, (line + headers, arrival), now)?;
        if let Some(certificate) = caller.peer().certificate()
            && is_for_guests(uri.path())
        {
            reservation.decode(certificate.der().len())?;
        }
        Ok(reservation)
    }

    /// The refusal of a request over the rate of its address or app. Further messages of a stream are counted
    /// too.
    fn over_limit(&self, caller: &Caller, request: &mut Request<Body>, purpose: Use) -> Option<Answer> {
        let limit = self.limit.as_ref().filter(|_| purpose != Use::Probe)?;
        let limit = MessageLimit::new(Arc::clone(limit), caller.clone(), Arc::clone(&self.metrics));
        if !limit.admits() {
            let cause = Error::new(Code::TooManyRequests, limit.refusal());
            return Some(refusal(grpc::is_grpc(request), &cause));
        }
        // Only gRPC has more than one message in a request.
        if grpc::is_grpc(request) {
            request.extensions_mut().insert(limit);
        }
        None
    }

    async fn answer(
        &self,
        caller: &Caller,
        activity: &Activity,
        reservation: &Reservation,
        mut request: Request<Body>,
        purpose: Use,
    ) -> Answer {
        // On the admin listener valid credentials come first: others at the operator's address must not use
        // up the limit.
        if self.guard.is_none()
            && let Some(answer) = self.over_limit(caller, &mut request, purpose)
        {
            return answer;
        }
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors.preflight(&request)) {
            return answer;
        }
        let caller = match &self.guard {
            None => caller.clone(),
            // Files that are the same for everyone; a link on any page may lead to them.
            Some(_) if is_open_route(&request) => {
                if let Some(answer) = self.over_limit(caller, &mut request, purpose) {
                    return answer;
                }
                caller.clone()
            }
            Some(guard) => {
                let (verb, uri, headers) = (request.method(), request.uri(), request.headers());
                // Boxed, because most requests need no credentials and would still carry a future of this
                // size.
                let identified = guard.identify(verb, uri, headers, caller.remote(), &self.metrics);
                match Box::pin(identified).await {
                    Ok((operator, scope)) => {
                        // Without configured credentials every caller is an operator. Roles that only read or report
                        // are given to programs, which must not keep operators out.
                        let is_operator = operator.role().is_some_and(|role| role.includes(Role::Operator));
                        if operator != Operator::Anyone && is_operator {
                            activity.admit(PeerTrust::Operator);
                            request::trust_caller();
                            reservation.belongs_to_operator();
                        } else if let Some(answer) = self.over_limit(caller, &mut request, purpose) {
                            return answer;
                        }
                        caller.clone().identified_by(operator, scope, Arc::clone(guard.credentials()))
                    }
                    Err(refused) => return refused.answer(grpc::is_grpc(&request)),
                }
            }
        };
        let share = asks(request.uri().path())
            .map(|asks| self.lanes.of(self.domains.as_ref(), &caller, activity, asks));
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(self.log.clone());
        let is_grpc = grpc::is_grpc(&request);
        let answer = self.router.clone().call(request);
        let answer = match share {
            // Boxed, because most requests wait for no turn and would still carry a future of this size.
            Some(mut share) => {
                Box::pin(async move {
                    match in_lane(&mut share, answer).await {
                        Ok(Ok(answer)) => {
                            share.answered(status::counted(&answer));
                            Ok(answer)
                        }
                        Ok(Err(never)) => match never {},
                        Err(shed) => {
                            let mut answer =
                                refusal(is_grpc, &Error::new(Code::Unavailable, shed.to_string()));
                            retry_after(&mut answer, self.lanes.retry_after_in(share.lane()));
                            Ok(answer)
                        }
                    }
                })
                .await
            }
            None => answer.await,
        };
        match answer {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

/// Whether this asks for a route of the admin listener that needs no credential.
fn is_open_route(request: &Request<Body>) -> bool {
    let is_read = matches!(*request.method(), Verb::GET | Verb::HEAD);
    let row = Route::serving(Service::Admin, request.uri().path());
    is_read && row.is_some_and(|row| verbs::needed(row, request.method()) == Access::Open)
}

/// Whether the method at this path reads the evidence in the caller's certificate.
fn is_for_guests(path: &str) -> bool {
    let name = path.rsplit(['/', '.']).next().unwrap_or_default();
    METHODS.iter().any(|row| row.access == Access::AttestedCertificate && row.name == name)
}

/// What a method at this path asks for that verifies evidence or signs. Callers of one address or app take turns at
/// these, so that a flood of them delays others by at most one such request.
fn asks(path: &str) -> Option<Asks> {
    // Its check multiplies points of a curve.
    if path == SHARES {
        return Some(Asks::Anything);
    }
    let name = path.rsplit(['/', '.']).next().unwrap_or_default();
    METHODS.iter().filter(|row| row.name == name).find_map(|row| match row.access {
        Access::AttestedCertificate if row.method == Method::KmsGetKmsKey => Some(Asks::ItsKms),
        Access::AttestedCertificate => Some(Asks::ItsApp),
        Access::AttestedMessage => Some(Asks::Anything),
        Access::Open
        | Access::Onboarding
        | Access::TokenInMessage
        | Access::Operator(_)
        | Access::OperatorAndAttestedCertificate(_)
        | Access::Invitation => (row.method == Method::GetAppEnvEncryptPubKey).then_some(Asks::Anything),
    })
}

/// Tells a caller who was turned away to try again after so many seconds at the earliest, in the protocol of the request. A
/// longer time that the answer names already stays.
fn retry_after(answer: &mut Answer, seconds: u64) {
    let headers = answer.headers_mut();
    let is_grpc = headers.contains_key(tonic::Status::GRPC_STATUS);
    let named = headers.get(header::RETRY_AFTER).map(|value| value.to_str().ok()?.parse::<u64>().ok());
    // A probe that answers 503 says nothing of when, and is asked again anyway.
    if named.is_none() && !is_grpc {
        return;
    }
    let seconds = seconds.max(named.flatten().unwrap_or(0));
    headers.insert(header::RETRY_AFTER, seconds.into());
    if is_grpc {
        headers.insert(PUSHBACK, (1000 * seconds).into());
    }
}

/// How gRPC's own retries are told when to try again, in milliseconds (gRFC A6).
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Collapses repeated slashes and decodes `%2E`: clients append paths to a configured URL, and some encode
/// the dot of a method's prefix.
fn tidy(uri: &mut Uri) {
    let path = uri.path();
    if !path.contains("//") && !path.contains('%') {
        return;
    }
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let mut tidied = String::with_capacity(decoded.len());
    for character in decoded.chars() {
        if character != '/' || !tidied.ends_with('/') {
            tidied.push(character);
        }
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    // A path that is invalid after decoding stays as it came, and is not found.
    if let Ok(path_and_query) = format!("{tidied}{query}").parse() {
        parts.path_and_query = Some(path_and_query);
        if let Ok(rebuilt) = Uri::from_parts(parts) {
            *uri = rebuilt;
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ForCaller {
    middleware: Arc<Middleware>,
    caller: Caller,
    activity: Arc<Activity>,
    limit: Duration,
}

impl hyper::service::Service<Request<Incoming>> for ForCaller {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Self { middleware, caller, activity, limit } = self.clone();
        let context = middleware.context(&request);
        let served = Arc::clone(&context);
        Box::pin(context.scope(async move {
            let started = Instant::now();
            let is_grpc = grpc::is_grpc(&request);
            let is_head = request.method() == Verb::HEAD;
            let origin = middleware.cors.as_ref().map(|cors| cors.admitted(request.headers()));
            let waits_for_continue = request.headers().contains_key(header::EXPECT);
            let mut request = request;
            tidy(request.uri_mut());
            let purpose =
                if probes::PATHS.contains(&request.uri().path()) { Use::Probe } else { Use::Method };
            // gRPC health probes count towards the rate, but do not keep a connection from being idle.
            let is_health = request.uri().path().starts_with(probes::GRPC);
            let running = Arc::new(activity.begin(if is_health { Use::Probe } else { purpose }));
            let observed = middleware.observed(request.uri().path());
            let _serving = middleware.metrics.serving(observed);
            let (reservation, answer, rest) =
                match middleware.reserve(&caller, &activity, &request, purpose, started) {
                    Ok(reservation) => {
                        let (parts, body) = request.into_parts();
                        let (body, rest) = RequestBody::new(body, Arc::clone(&reservation), &running);
                        let mut request = Request::from_parts(parts, Body::new(body));
                        // The stream holds its request, so that its connection does not count as idle.
                        if request.uri().path() == events::STREAM {
                            request.extensions_mut().insert(Arc::clone(&running));
                        }
                        let answer = middleware.answer(&caller, &activity, &reservation, request, purpose);
                        let answer = AssertUnwindSafe(answer).catch_unwind();
                        let answer = timeout_at(started + limit, answer).await;
                        if reservation.was_refused() {
                            middleware.metrics.memory_refused();
                        }
                        (Some(reservation), answer, rest)
                    }
                    Err(exhausted) => {
                        middleware.metrics.memory_refused();
                        let cause = Error::new(Code::Unavailable, exhausted.to_string());
                        (None, Ok(Ok(refusal(is_grpc, &cause))), Rest::of(request.into_body()))
                    }
                };
            let mut answer = match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => {
                    tracing::error!("a request panicked; its response was an internal error");
                    refusal(is_grpc, &Error::new(Code::Internal, "internal error"))
                }
                Err(_) => {
                    tracing::warn!(?limit, "a request took too long and was cancelled");
                    refusal(is_grpc, &Error::new(Code::Unavailable, "the request took too long"))
                }
            };
            for (name, value) in &middleware.headers {
                answer.headers_mut().insert(name, value.clone());
            }
            answer.headers_mut().insert(request::HEADER, served.id().header());
            if let Some(origin) = origin {
                Cors::mark(origin, &mut answer);
            }
            let counted = status::counted(&answer);
            if matches!(counted, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
                retry_after(&mut answer, middleware.lanes.retry_after());
            }
            let ended = Instant::now();
            middleware.metrics.answered(observed, counted.as_u16(), ended - started);
            served.finish_trace(middleware.metrics.label(observed), counted.as_u16());
            if let Some(app) = caller.peer().admitted_as() {
                activity.admit(PeerTrust::Admitted(app));
            }
            if counted.is_client_error() || counted.is_server_error() {
                running.refused();
            }
            let answer = if is_head { without_body(answer) } else { answer };
            let answer = match reservation {
                Some(reservation) => answer.map(|body| Body::new(HeldBody::new(body, reservation, ended))),
                None => answer,
            };
            // What is discarded need not be counted.
            if waits_for_continue {
                rest.forget_unread();
            }
            rest.drain().await;
            Ok(answer)
        }))
    }
}

/// The response to HEAD: the headers of the response to GET.
fn without_body(answer: Answer) -> Answer {
    let length = http_body::Body::size_hint(answer.body()).exact();
    let mut answer = answer.map(|_| Body::empty());
    if let Some(length) = length {
        // The router has set the length where it has already dropped the body.
        answer.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_tidied_and_queries_kept() {
        for (given, expected) in [
            ("/prpc/GetMeta?json", "/prpc/GetMeta?json"),
            ("//prpc/GetMeta", "/prpc/GetMeta"),
            ("/prpc//GetMeta?a=//b", "/prpc/GetMeta?a=//b"),
            ("/prpc/KMS%2EGetMeta", "/prpc/KMS.GetMeta"),
            ("/prpc/%2e%2e/x", "/prpc/../x"),
            ("https://kms:8000//prpc/GetMeta", "https://kms:8000/prpc/GetMeta"),
        ] {
            let mut uri: Uri = given.parse().expect("uri");
            tidy(&mut uri);
            assert_eq!(uri.to_string(), expected);
        }
    }

    #[test]
    fn what_verifies_evidence_or_signs_is_done_in_turns() {
        for (path, asked) in [
            ("/prpc/GetAppKey", Some(Asks::ItsApp)),
            ("/prpc/KMS.KMS.SignCert", Some(Asks::Anything)),
            ("/kms.KMS/GetKmsKey", Some(Asks::ItsKms)),
            ("/prpc/GetAppEnvEncryptPubKey", Some(Asks::Anything)),
            ("/prpc/GetMeta", None),
            ("/kms.KMS/GetTempCaCert", None),
            ("/recovery/shares", Some(Asks::Anything)),
            ("/recovery", None),
            ("/metrics", None),
            ("/kms.Admin/Freeze", None),
        ] {
            assert_eq!(asks(path), asked, "{path}");
        }
    }

    #[test]
    fn a_path_that_decodes_to_no_path_stays_as_it_came() {
        let mut uri: Uri = "/prpc/%20%00".parse().expect("uri");
        tidy(&mut uri);
        assert_eq!(uri.path(), "/prpc/%20%00");
    }
}
