//! Test support: vectors, the collateral of the development PKI, and a collateral server in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

use super::Collateral;
pub(crate) use crate::test_vectors::{bytes as bytes_of, file as vector, json};
use crate::trust::TrustAnchors;

/// A time at which the development collateral is valid.
pub(crate) const NOW: u64 = 1_750_000_000;

pub(crate) fn mock_root_der() -> Vec<u8> {
    bytes_of(&json("tdx_quotes.json")["root_ca"]["mock"]["der"])
}

pub(crate) fn mock_root_pem() -> String {
    json("tdx_quotes.json")["root_ca"]["mock"]["pem"].as_str().unwrap().to_owned()
}

pub(crate) fn mock_anchors() -> TrustAnchors {
    TrustAnchors::with_tdx_root(&mock_root_der()).unwrap()
}

pub(crate) fn other_anchors() -> TrustAnchors {
    let root = bytes_of(&json("tdx_quotes.json")["root_ca"]["other"]["der"]);
    TrustAnchors::with_tdx_root(&root).unwrap()
}

/// PEM of the certificate that signs the development TCB info. It is not a CA.
pub(crate) fn leaf_pem() -> String {
    let chain = collateral_set("good").parts().tcb_info_issuer_chain.clone();
    let end = "-----END CERTIFICATE-----\n";
    chain.split_inclusive(end).next().unwrap().to_owned()
}

pub(crate) fn collateral_sets() -> Vec<(String, Value)> {
    let vectors = json("tdx_quotes.json");
    vectors["collateral"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

pub(crate) fn collateral_set(name: &str) -> Collateral {
    Collateral::from_json(json("tdx_quotes.json")["collateral"][name].to_string().as_bytes()).unwrap()
}

pub(crate) fn real_collateral() -> Collateral {
    Collateral::from_json(&vector("fixtures/dcap-qvl/tdx_quote_collateral.json")).unwrap()
}

pub(crate) fn real_quote() -> Vec<u8> {
    vector("fixtures/dcap-qvl/tdx_quote.bin")
}

pub(crate) fn mock_quote() -> Vec<u8> {
    bytes_of(&json("pccs.json")["quote"])
}

/// The version 4 `quote` with its certificate chain replaced by an encrypted PPID of `length` bytes.
pub(crate) fn with_encrypted_ppid(quote: &[u8], kind: u16, length: usize) -> Vec<u8> {
    let mut inner = vec![0xEE; length];
    inner.extend_from_slice(&[7; 16]);
    inner.extend_from_slice(&0x0102_u16.to_le_bytes());
    inner.extend_from_slice(&[3, 4]);
    with_certification(quote, kind, &inner)
}

/// The version 4 `quote` with other certification data. The result is not signed.
pub(crate) fn with_certification(quote: &[u8], kind: u16, inner: &[u8]) -> Vec<u8> {
    const SIGNED: usize = 632;
    const BEFORE_INNER: usize = 64 + 64 + 6 + 384 + 64 + 2 + 32;
    let mut signature_data = quote[SIGNED + 4..SIGNED + 4 + BEFORE_INNER].to_vec();
    signature_data.extend_from_slice(&kind.to_le_bytes());
    signature_data.extend_from_slice(&(inner.len() as u32).to_le_bytes());
    signature_data.extend_from_slice(inner);
    let content = signature_data.len() as u32 - 64 - 64 - 6;
    signature_data[130..134].copy_from_slice(&content.to_le_bytes());
    let mut changed = quote[..SIGNED].to_vec();
    changed.extend_from_slice(&(signature_data.len() as u32).to_le_bytes());
    changed.extend_from_slice(&signature_data);
    changed
}

/// `collateral` with other version numbers. Its signatures no longer verify.
pub(crate) fn numbered(collateral: Collateral, numbers: super::Numbers) -> Collateral {
    collateral.with_numbers(numbers)
}

/// One response of the server.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) delay: Duration,
}

impl Route {
    pub(crate) fn of(value: &Value) -> Self {
        let headers = value["headers"].as_array().unwrap().iter();
        let headers =
            headers.map(|pair| (pair[0].as_str().unwrap().into(), pair[1].as_str().unwrap().into()));
        let body = match value["body"].get("hex") {
            Some(hex) => bytes_of(hex),
            None => value["body"]["utf8"].as_str().unwrap().as_bytes().to_vec(),
        };
        Self {
            status: value["status"].as_u64().unwrap() as u16,
            headers: headers.collect(),
            body,
            delay: Duration::ZERO,
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), delay: Duration::ZERO }
    }
}

pub(crate) type Routes = HashMap<String, Route>;

/// The responses of the exchange named `normal`, changed by those of `exchange`.
pub(crate) fn routes_of(vectors: &Value, exchange: &Value) -> Routes {
    let normal = &vectors["exchanges"][0]["routes"];
    let changes = &exchange["routes_differing_from_normal"];
    [normal, changes]
        .iter()
        .filter_map(|routes| routes.as_object())
        .flatten()
        .map(|(path, route)| (path.clone(), Route::of(route)))
        .collect()
}

pub(crate) fn normal_routes() -> Routes {
    let vectors = json("pccs.json");
    routes_of(&vectors, &vectors["exchanges"][0])
}

/// The responses of a service that has `collateral` for the model `fmspc` and the Platform CA.
pub(crate) fn routes_serving(collateral: &Collateral, fmspc: &str) -> Routes {
    let parts = collateral.parts();
    let chain = |name: &str, pem: &str| {
        let escaped = percent_encoding::utf8_percent_encode(pem, percent_encoding::NON_ALPHANUMERIC);
        vec![(name.to_owned(), escaped.to_string())]
    };
    let signed = |key: &str, document: &str, signature: &[u8]| {
        format!("{{\"{key}\":{document},\"signature\":\"{}\"}}", hex::encode(signature)).into_bytes()
    };
    let route = |headers, body| Route { status: 200, headers, body, delay: Duration::ZERO };
    [
        (
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der".to_owned(),
            route(chain("SGX-PCK-CRL-Issuer-Chain", &parts.pck_crl_issuer_chain), parts.pck_crl.clone()),
        ),
        (
            format!("/tdx/certification/v4/tcb?fmspc={fmspc}"),
            route(
                chain("TCB-Info-Issuer-Chain", &parts.tcb_info_issuer_chain),
                signed("tcbInfo", &parts.tcb_info, &parts.tcb_info_signature),
            ),
        ),
        (
            "/tdx/certification/v4/qe/identity?update=standard".to_owned(),
            route(
                chain("SGX-Enclave-Identity-Issuer-Chain", &parts.qe_identity_issuer_chain),
                signed("enclaveIdentity", &parts.qe_identity, &parts.qe_identity_signature),
            ),
        ),
        (
            "/sgx/certification/v4/rootcacrl".to_owned(),
            route(Vec::new(), hex::encode(&parts.root_ca_crl).into_bytes()),
        ),
    ]
    .into()
}

/// A collateral server on its own port.
pub(crate) struct Server {
    pub(crate) base: String,
    state: Arc<Mutex<ServerState>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct ServerState {
    routes: Routes,
    requests: Vec<String>,
}

impl Server {
    pub(crate) async fn start(routes: Routes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(ServerState { routes, requests: Vec::new() }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(|request| answer(Arc::clone(&shared), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .max_buf_size(1 << 20)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { base, state, task }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(crate) fn set_routes(&self, routes: Routes) {
        self.state.lock().unwrap().routes = routes;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    state: Arc<Mutex<ServerState>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let route = {
        let mut state = state.lock().unwrap();
        state.requests.push(format!("{} {path}", request.method()));
        state.routes.get(&path).cloned().unwrap_or(Route::status(404))
    };
    tokio::time::sleep(route.delay).await;
    let mut response = Response::builder().status(route.status);
    for (name, value) in &route.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from(route.body))).unwrap())
}
