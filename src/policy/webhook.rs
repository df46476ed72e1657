//! The policy of an HTTP service, in the peer's protocol.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use kms_attest::identity::BootInfo;
use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};

use super::{Decision, Denial, Info, PolicyError, SetupError, Subject, contract};
use crate::config::Endpoint;

/// Bounds of one question.
#[derive(Clone, Copy)]
struct Bounds {
    connect: Duration,
    total: Duration,
    body: usize,
    concurrent: usize,
}

const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(3),
    total: Duration::from_secs(10),
    body: 64 << 10,
    concurrent: 64,
};

/// How much of a backend's words reaches the log or the caller, in characters.
const MAX_QUOTE: usize = 512;

/// Shorter than what common servers allow a connection (5 s).
const IDLE: Duration = Duration::from_secs(4);

/// An info answer this young serves everyone who asks.
const FRESH: Duration = Duration::from_secs(1);

/// Asks `<base>/bootAuth/app` and `<base>/bootAuth/kms`, each time anew.
pub struct Webhook {
    base: Endpoint,
    client: Client,
    bounds: Bounds,
    in_flight: Semaphore,
    /// One asks for the info, the others wait and find the answer.
    asking: Mutex<()>,
    info: ArcSwapOption<Answered>,
    last_error: ArcSwapOption<String>,
}

struct Answered {
    info: Arc<Info>,
    at: Instant,
}

impl Webhook {
    /// A client for the service at `base`: pooled connections, no redirects.
    pub fn new(base: Endpoint) -> Result<Self, SetupError> {
        Self::with_bounds(base, BOUNDS)
    }

    fn with_bounds(base: Endpoint, bounds: Bounds) -> Result<Self, SetupError> {
        let client = Client::builder()
            .user_agent(concat!("dstack-kms/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls())
            .redirect(redirect::Policy::none())
            .connect_timeout(bounds.connect)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(bounds.concurrent);
        // Whoever runs a proxy would decide; a service on this machine needs none.
        let client = if base.is_loopback() { client.no_proxy() } else { client };
        let client = client.build().map_err(SetupError)?;
        Ok(Self {
            base,
            client,
            bounds,
            in_flight: Semaphore::new(bounds.concurrent),
            asking: Mutex::new(()),
            info: ArcSwapOption::empty(),
            last_error: ArcSwapOption::empty(),
        })
    }

    pub(super) async fn decide(&self, subject: Subject<'_>) -> Result<Decision, PolicyError> {
        let path = match subject {
            Subject::App(_) => "bootAuth/app",
            Subject::Kms(_) => "bootAuth/kms",
        };
        let boot_info = subject.boot_info();
        let request = BootRequest { boot_info, attestation_mode: &boot_info.tee_variant };
        let body = serde_json::to_vec(&request).map_err(|error| unavailable(error.to_string()))?;
        let post = self.client.post(self.url(path)).header("content-type", "application/json").body(body);
        let answer: BootResponse = self.ask(post).await?;
        Ok(answer.into())
    }

    pub(super) async fn info(&self) -> Result<Arc<Info>, PolicyError> {
        if let Some(info) = self.fresh_info() {
            return Ok(info);
        }
        let _asking = self.asking.lock().await;
        if let Some(info) = self.fresh_info() {
            return Ok(info);
        }
        let answer: InfoResponse = self.ask(self.client.get(self.base.as_str())).await?;
        let info = Arc::new(Info::from(answer));
        self.info.store(Some(Arc::new(Answered { info: info.clone(), at: Instant::now() })));
        Ok(info)
    }

    pub(super) fn last_info(&self) -> Option<Arc<Info>> {
        self.info.load().as_ref().map(|answered| answered.info.clone())
    }

    /// Why the last question was not answered; `None` once one is.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.load_full().map(Arc::unwrap_or_clone)
    }

    fn fresh_info(&self) -> Option<Arc<Info>> {
        let answered = self.info.load();
        answered
            .as_ref()
            .filter(|answered| answered.at.elapsed() < FRESH)
            .map(|answered| answered.info.clone())
    }

    /// Plain joining, as the peer does it.
    fn url(&self, path: &str) -> String {
        let base = self.base.as_str();
        let slash = if base.ends_with('/') { "" } else { "/" };
        format!("{base}{slash}{path}")
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, PolicyError> {
        let answer = tokio::time::timeout(self.bounds.total, self.answer(request)).await;
        let answer = answer.unwrap_or_else(|_| Err("the webhook did not answer in time".to_owned()));
        self.last_error.store(answer.as_ref().err().cloned().map(Arc::new));
        answer.map_err(unavailable)
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, String> {
        let _turn = self.in_flight.acquire().await.map_err(|error| error.to_string())?;
        let at = "the webhook";
        let mut response = send(request)
            .await
            .map_err(|error| format!("error sending request to {at}: {}", causes(error)))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| format!("error reading from {at}: {}", causes(error)))?
        {
            if body.len() + chunk.len() > self.bounds.body {
                return Err(format!("{at} answered {status} with more than {} bytes", self.bounds.body));
            }
            body.extend_from_slice(&chunk);
        }
        decode(status, &body).map_err(|problem| format!("{at} {problem}"))
    }
}

/// Sends, and once more if the connection broke: a backend may close an idle one just when it is used again, and a
/// question may be asked twice.
async fn send(request: RequestBuilder) -> reqwest::Result<Response> {
    let again = request.try_clone();
    match (request.send().await, again) {
        (Err(error), Some(again)) if !error.is_connect() && !error.is_timeout() => again.send().await,
        (answer, _) => answer,
    }
}

fn decode<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, String> {
    if !status.is_success() {
        return Err(format!("returned {status}: {}", quote(body)));
    }
    // Serde would take an array for an object.
    let object = if body.trim_ascii_start().starts_with(b"{") { body } else { b"" };
    serde_json::from_slice(object)
        .map_err(|error| format!("returned {status} but not the expected JSON, {error}: {}", quote(body)))
}

fn unavailable(detail: String) -> PolicyError {
    PolicyError::Unavailable { detail }
}

/// The error with its causes and without the URL, which may hold credentials.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    printable(&text)
}

fn quote(body: &[u8]) -> String {
    printable(&String::from_utf8_lossy(body))
}

/// The first characters, never bytes: a cut inside of a character once killed a KMS.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_QUOTE)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

fn tls() -> rustls::ClientConfig {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider supports TLS 1.3 and 1.2")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// The boot info, and once more the name that `teeVariant` had up to 0.5.11.
#[derive(Serialize)]
struct BootRequest<'a> {
    #[serde(flatten)]
    boot_info: &'a BootInfo,
    #[serde(rename = "attestationMode")]
    attestation_mode: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BootResponse {
    is_allowed: bool,
    gateway_app_id: String,
    reason: String,
}

impl From<BootResponse> for Decision {
    fn from(answer: BootResponse) -> Self {
        if answer.is_allowed {
            return Self::Allowed { gateway_app_id: answer.gateway_app_id };
        }
        let reason = printable(&answer.reason);
        Self::Denied(Denial { code: contract::code_of(&reason), reason, expected: None, actual: None })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InfoResponse {
    #[serde(rename = "status")]
    _status: String,
    kms_contract_addr: String,
    gateway_app_id: String,
    chain_id: u64,
    app_implementation: String,
    #[serde(default)]
    eth_rpc_url: String,
}

impl From<InfoResponse> for Info {
    fn from(answer: InfoResponse) -> Self {
        Self {
            gateway_app_id: Some(answer.gateway_app_id),
            kms_contract_address: Some(answer.kms_contract_addr),
            chain_id: Some(answer.chain_id),
            app_auth_implementation: Some(answer.app_implementation),
            eth_rpc_url: Some(answer.eth_rpc_url),
        }
    }
}

#[cfg(test)]
mod tests;
