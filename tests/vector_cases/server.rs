//! Servers on loopback: one that responds from a table, and an authorization backend.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cvm_kms::config::{AuthApi, Endpoint, Webhook};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kms_attest::identity::BootInfo;
use kms_policy::{Decision, Policy, Subject};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::json::{Check, Failure, ensure};

/// One response.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// A received request.
#[derive(Clone)]
pub(super) struct Arrived {
    /// `METHOD path?query`
    pub(super) line: String,
    pub(super) body: Bytes,
}

type Arrivals = Arc<Mutex<Vec<Arrived>>>;

/// A server that responds from a table, and with 404 otherwise.
pub(super) struct Server {
    runtime: Runtime,
    base: String,
    arrivals: Arrivals,
}

impl Server {
    pub(super) fn start(routes: HashMap<String, Route>) -> Check<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let base = format!("http://{}", listener.local_addr()?);
        let arrivals = Arrivals::default();
        runtime.spawn(serve(listener, Arc::new(routes), Arc::clone(&arrivals)));
        Ok(Self { runtime, base, arrivals })
    }

    /// `http://127.0.0.1:PORT`
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Runs a client against the server; returns its result and the requests.
    pub(super) fn talk<T>(&self, client: impl Future<Output = T>) -> (T, Vec<Arrived>) {
        lock(&self.arrivals).clear();
        let outcome = self.runtime.block_on(client);
        (outcome, lock(&self.arrivals).clone())
    }
}

async fn serve(listener: TcpListener, routes: Arc<HashMap<String, Route>>, arrivals: Arrivals) {
    while let Ok((stream, _)) = listener.accept().await {
        let (routes, arrivals) = (Arc::clone(&routes), Arc::clone(&arrivals));
        let service = hyper::service::service_fn(move |request| {
            answer(request, Arc::clone(&routes), Arc::clone(&arrivals))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(
    request: Request<Incoming>,
    routes: Arc<HashMap<String, Route>>,
    arrivals: Arrivals,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let line = format!("{} {path}", request.method());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    lock(&arrivals).push(Arrived { line, body });
    let nothing = Route { status: 404, headers: Vec::new(), body: Vec::new() };
    let Route { status, headers, body } = routes.get(&path).cloned().unwrap_or(nothing);
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(body)).unwrap_or_else(|_| {
        let mut response = Response::default();
        *response.status_mut() = hyper::StatusCode::NOT_IMPLEMENTED;
        response
    }))
}

fn lock(arrivals: &Arrivals) -> MutexGuard<'_, Vec<Arrived>> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An authorization backend that allows everything, and a policy that uses it.
pub(super) struct BackEnd {
    server: Server,
    policy: Policy,
}

impl BackEnd {
    pub(super) fn start() -> Check<Self> {
        let body = br#"{"isAllowed":true,"gatewayAppId":"","reason":""}"#.to_vec();
        let allowed = Route { status: 200, headers: Vec::new(), body };
        let server = Server::start([("/bootAuth/app".to_owned(), allowed)].into())?;
        let url = Endpoint::parse(server.base()).map_err(Failure)?;
        Ok(Self { server, policy: Policy::from_config(&AuthApi::Webhook(Box::new(Webhook::at(url))))? })
    }

    /// The backend receives the boot info unchanged, followed by the older name of `teeVariant`.
    pub(super) fn is_asked(&self, boot_info: &BootInfo) -> Check {
        let (decision, arrived) = self.server.talk(self.policy.decide(Subject::App(boot_info)));
        ensure!(matches!(decision?, Decision::Allowed { .. }), "the backend was not understood");
        let text = serde_json::to_string(boot_info)?;
        let variant = &boot_info.tee_variant;
        let expected = format!(r#"{},"attestationMode":"{variant}"}}"#, text.trim_end_matches('}'));
        let [Arrived { line, body }] = arrived.as_slice() else {
            return Err(Failure(format!("the backend was asked {} times", arrived.len())));
        };
        ensure!(line == "POST /bootAuth/app", "the backend was asked {line}");
        ensure!(body == expected.as_bytes(), "the backend was asked {}", String::from_utf8_lossy(body));
        Ok(())
    }
}
