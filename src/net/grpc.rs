//! gRPC: the same services through tonic's generated traits, with health, reflection and gRPC-web.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request as HttpRequest, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use kms_wire::media;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::grpc_health::Probe;
use super::limit::MessageLimit;
use super::refusal_log::RefusalLog;
use super::{body, probes, prpc, status};
use crate::api::admin::AdminService;
use crate::api::kms::KmsService;
use crate::api::onboard::OnboardService;
use crate::api::prepared::Reply;
use crate::api::readiness::Readiness;
use crate::api::{Caller, METHODS, Method, Service};
use crate::config::BodyLimits;
use crate::error::Result;
use crate::proto::{self, DESCRIPTORS};

/// The most bytes read of the body of a request that is not gRPC, before it is refused. More is drained.
const UNTYPED_BODY: usize = 16 * 1024;

/// The bytes before each message: a flag and the length.
const FRAME_HEADER: usize = 5;
/// The largest message to the health or reflection service, which holds a name.
const MAX_STREAM_MESSAGE: usize = 16 * 1024;
/// The most bytes of all messages on one such stream.
const MAX_STREAM: usize = 1024 * 1024;

pub(super) type GrpcResult<T> = std::result::Result<Response<T>, Status>;

/// The routes of the KMS phase.
pub fn kms(service: Arc<KmsService>, limits: &BodyLimits, readiness: Arc<Readiness>) -> axum::Router {
    let server = proto::kms_server::KmsServer::new(Served(service))
        .max_decoding_message_size(largest(Service::Kms, limits));
    let health = Probe::server(readiness, Service::Kms);
    finish(Routes::new(server).add_service(health), Service::Kms, limits)
}

/// The routes of the onboarding phase.
pub fn onboarding(
    service: Arc<OnboardService>,
    limits: &BodyLimits,
    readiness: Arc<Readiness>,
) -> axum::Router {
    let server = proto::onboard_server::OnboardServer::new(Served(service))
        .max_decoding_message_size(largest(Service::Onboard, limits));
    let health = Probe::server(readiness, Service::Onboard);
    finish(Routes::new(server).add_service(health), Service::Onboard, limits)
}

/// The routes of the admin listener.
pub fn admin(service: Arc<AdminService>, limits: &BodyLimits, readiness: Arc<Readiness>) -> axum::Router {
    let server = proto::admin_server::AdminServer::new(Served(service))
        .max_decoding_message_size(largest(Service::Admin, limits));
    let health = Probe::server(readiness, Service::Admin);
    finish(Routes::new(server).add_service(health), Service::Admin, limits)
}

/// The largest message that any method of a service takes, because tonic allocates the length that a frame
/// announces. The limit of each method is enforced on its body.
fn largest(service: Service, limits: &BodyLimits) -> usize {
    let rows = METHODS.iter().filter(|row| row.service == service);
    rows.map(|row| limits.of(row.name).unwrap_or(row.body_limit)).max().unwrap_or(0)
}

fn finish(routes: Routes, service: Service, limits: &BodyLimits) -> axum::Router {
    let limits = Arc::new(limits.clone());
    let reflection = || {
        // A listener lists the services that it serves; the descriptors describe all of them.
        let served = [
            format!("kms.{}", service.name()),
            "grpc.health.v1.Health".to_owned(),
            "grpc.reflection.v1.ServerReflection".to_owned(),
            "grpc.reflection.v1alpha.ServerReflection".to_owned(),
        ];
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false);
        served.into_iter().fold(builder, |builder, name| builder.with_service_name(name))
    };
    let v1 = reflection().build_v1().expect("our descriptors are valid: the build made them");
    let v1alpha = reflection().build_v1alpha().expect("our descriptors are valid: the build made them");
    let is_guarded = service == Service::Admin;
    let routes = routes.add_service(v1).add_service(v1alpha).prepare().into_axum_router();
    // Before the layer of gRPC-web, which encodes trailers.
    let routes = if is_guarded { routes.layer(axum::middleware::from_fn(ending)) } else { routes };
    routes
        .layer(axum::middleware::map_request(move |request| limited(service, Arc::clone(&limits), request)))
        // Before the limit, so that the limit applies to the message and not to its gRPC-web encoding.
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(axum::middleware::from_fn(typed))
        .layer(axum::middleware::from_fn(move |request, next| authorized(is_guarded, request, next)))
}

/// On the admin listener, looks at the caller's role before a message is decoded.
async fn authorized(
    is_guarded: bool,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    if !is_guarded {
        return next.run(request).await;
    }
    let path = request.uri().path();
    let row = path.strip_prefix("/kms.Admin/").and_then(|name| Method::find(Service::Admin, name));
    let (access, reach) = match row {
        Some(row) => (row.access, row.reach),
        None => probes::over_grpc(Service::Admin),
    };
    let refused = match prpc::caller(request.extensions()) {
        Ok(caller) => match caller.admit(access, reach) {
            Ok(()) => return next.run(request).await,
            Err(refused) => {
                if let (Some(log), Some(row)) = (request.extensions().get::<RefusalLog>(), row) {
                    log.tell(row.name, caller.remote(), &refused);
                }
                refused
            }
        },
        Err(missing) => missing,
    };
    status::grpc_answer(&refused)
}

/// Ends the response of a stream once the caller's credential is no longer valid.
async fn ending(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    // A method that has changed something says so, whatever has become of the credential.
    let is_method = request.uri().path().starts_with("/kms.Admin/");
    let caller = request.extensions().get::<Caller>().filter(|_| !is_method).cloned();
    let answer = next.run(request).await;
    match caller {
        Some(caller) => answer.map(|body| axum::body::Body::new(EndingBody::new(body, caller))),
        None => answer,
    }
}

/// A body that ends with the gRPC status for a credential that is no longer valid.
struct EndingBody {
    body: axum::body::Body,
    ended: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl EndingBody {
    fn new(body: axum::body::Body, caller: Caller) -> Self {
        Self { body, ended: Some(Box::pin(async move { caller.ended().await })) }
    }
}

impl Body for EndingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let Some(ended) = &mut this.ended else { return Poll::Ready(None) };
        if ended.as_mut().poll(context).is_ready() {
            this.ended = None;
            let status = Status::unauthenticated("the credential does not count any more");
            let mut trailers = http::HeaderMap::new();
            let added = status.add_header(&mut trailers);
            return Poll::Ready(added.is_ok().then_some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The media types of gRPC and gRPC-web, exactly as `tonic` and `tonic-web` compare them.
const MEDIA_TYPES: [&str; 6] = [
    "application/grpc",
    "application/grpc+proto",
    WEB,
    "application/grpc-web+proto",
    WEB_TEXT,
    WEB_TEXT_PROTO,
];
const WEB: &str = "application/grpc-web";
const WEB_TEXT: &str = "application/grpc-web-text";
const WEB_TEXT_PROTO: &str = "application/grpc-web-text+proto";

/// Lets only requests of gRPC and gRPC-web through, with the media types that the layers below expect.
async fn typed(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    let (mut parts, body) = request.into_parts();
    if parts.method != http::Method::POST {
        let mut answer = untyped(body, StatusCode::METHOD_NOT_ALLOWED, "gRPC is served by POST").await;
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    let kind = media::of_body(&parts.headers);
    let Some(kind) = MEDIA_TYPES.into_iter().find(|known| *known == kind) else {
        let text = "gRPC needs the content type application/grpc or application/grpc-web";
        return untyped(body, StatusCode::UNSUPPORTED_MEDIA_TYPE, text).await;
    };
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if kind.starts_with(WEB) {
        // Without an `Accept` for a form of gRPC-web, the response has the form of the request.
        let asked = media::accepted(&parts.headers).find(|accepted| accepted.starts_with(WEB));
        let is_text = asked.as_deref().unwrap_or(kind).starts_with(WEB_TEXT);
        let form = if is_text { WEB_TEXT_PROTO } else { WEB };
        parts.headers.insert(header::ACCEPT, HeaderValue::from_static(form));
    }
    next.run(axum::extract::Request::from_parts(parts, body)).await
}

/// Refuses a request that is not gRPC. Its body is read first, because HTTP/2 loses responses that come
/// before the end of the body.
async fn untyped(body: axum::body::Body, status: StatusCode, text: &'static str) -> axum::response::Response {
    let _ = body::read(body, UNTYPED_BODY).await;
    prpc::plain(status, text).map(axum::body::Body::new)
}

/// Limits the body of a request: to the limit of its method, or message by message for health and reflection,
/// which may stream.
async fn limited(
    service: Service,
    limits: Arc<BodyLimits>,
    request: axum::extract::Request,
) -> axum::extract::Request {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    let bounds = match Method::find(service, method) {
        Some(row) => {
            let message = limits.of(row.name).unwrap_or(row.body_limit);
            Bounds { message, body: message + FRAME_HEADER, rate: None }
        }
        // Health and reflection.
        None => {
            let rate = request.extensions().get().cloned();
            Bounds { message: MAX_STREAM_MESSAGE, body: MAX_STREAM, rate }
        }
    };
    request.map(|body| axum::body::Body::new(LimitedBody { body, bounds, frame: Frames::default() }))
}

struct Bounds {
    message: usize,
    /// How many more bytes may come.
    body: usize,
    /// Counts each message after the first, which was counted with the request.
    rate: Option<MessageLimit>,
}

/// A body that fails with the gRPC status for an oversized one: as soon as a frame announces too long a
/// message, before tonic allocates it, and when more arrives than was announced.
struct LimitedBody {
    body: axum::body::Body,
    bounds: Bounds,
    frame: Frames,
}

/// The position in the gRPC frames of a body.
#[derive(Default)]
struct Frames {
    /// Flag and length of the current frame, as far as they have arrived.
    header: Vec<u8>,
    /// How many bytes of its message are missing.
    missing: usize,
    /// How many frames have begun.
    begun: u64,
}

impl Frames {
    /// Advances over `data`, and calls `begin` with the length that each new frame announces.
    fn read(
        &mut self,
        mut data: &[u8],
        mut begin: impl FnMut(u64, usize) -> std::result::Result<(), Status>,
    ) -> std::result::Result<(), Status> {
        while !data.is_empty() {
            if self.missing > 0 {
                let (_, rest) = data.split_at(self.missing.min(data.len()));
                self.missing -= data.len() - rest.len();
                data = rest;
                continue;
            }
            let (header, rest) = data.split_at((FRAME_HEADER - self.header.len()).min(data.len()));
            self.header.extend_from_slice(header);
            data = rest;
            if let [_, a, b, c, d] = self.header[..] {
                self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
                self.header.clear();
                self.begun += 1;
                begin(self.begun, self.missing)?;
            }
        }
        Ok(())
    }
}

impl LimitedBody {
    fn admit(&mut self, data: &[u8]) -> std::result::Result<(), Status> {
        let large = || Status::resource_exhausted("failed to read data: payload too large");
        let Bounds { message, body, rate } = &mut self.bounds;
        *body = body.checked_sub(data.len()).ok_or_else(large)?;
        self.frame.read(data, |number, announced| {
            if announced > *message {
                return Err(large());
            }
            match rate {
                Some(rate) if number > 1 && !rate.admits() => Err(Status::resource_exhausted(rate.refusal())),
                _ => Ok(()),
            }
        })
    }
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| status::grpc(&body::broken(&error)))?;
            frame.data_ref().map_or(Ok(()), |data| this.admit(data))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A service, for which `dispatch.rs` implements the generated trait.
pub(super) struct Served<S>(pub(super) Arc<S>);

/// Calls a method of a service, and logs why it gives no result.
pub(super) async fn unary<Q, M, A: Reply<M>>(
    method: Method,
    request: Request<Q>,
    call: impl AsyncFnOnce(&Caller, Q) -> Result<A>,
) -> GrpcResult<M> {
    let missing = || Status::internal("no connection information");
    let caller: Caller = request.extensions().get().cloned().ok_or_else(missing)?;
    let log: RefusalLog = request.extensions().get().cloned().ok_or_else(missing)?;
    let answer = match caller.admit(method.row().access, method.row().reach) {
        Ok(()) => call(&caller, request.into_inner()).await,
        Err(refused) => Err(refused),
    };
    answer.map(|reply| Response::new(reply.into_message())).map_err(|error| {
        log.tell(method.row().name, caller.remote(), &error);
        status::grpc(&error)
    })
}

/// Whether a request is gRPC or gRPC-web, by its content type.
pub fn is_grpc<B>(request: &HttpRequest<B>) -> bool {
    media::of_body(request.headers()).starts_with("application/grpc")
}
