//! Sends traces of requests to a collector, by OTLP over HTTP. Requests never wait for it: what a slow or absent
//! collector does not take is dropped and counted.

mod otlp;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header};
use kms_attest::outgoing::{self, BodyError, Cause, RequestError, ResponseTimeout, Timeouts};
use prost::Message as _;
use reqwest::{Client, StatusCode, redirect};
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;

use crate::config::{self, TracesError};
use crate::metrics::{Metrics, QueueState, Upstream};
use crate::request::{MAX_WAITING, Trace, Tracer};

/// The most traces in one request.
const MAX_BATCH: usize = 64;
/// How long a trace waits for others before it is sent.
const GATHER: Duration = Duration::from_secs(1);
/// The most bytes that are read of a response, so that its connection can be used again.
const MAX_RESPONSE: usize = 64 * 1024;
/// The pause after the first failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file cannot be used.
    #[error(transparent)]
    Files(#[from] TracesError),
    /// The TLS configuration is impossible.
    #[error("core.traces: TLS cannot be used: {0}")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be built.
    #[error("core.traces: the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
}

/// Why a request to the collector failed, in words without host and address.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it did not answer in time")]
    TimedOut,
    #[error("{0}")]
    Connection(Cause),
}

/// Sends what the tracer finishes.
pub struct Exporter {
    client: Client,
    url: url::Url,
    headers: HeaderMap,
    tracer: Tracer,
    finished: Receiver<Trace>,
    boot_id: String,
}

/// Checks `[core.traces]` without sending anything.
///
/// # Errors
/// [`SetupError`].
pub fn check(traces: &config::Traces) -> Result<(), SetupError> {
    Exporter::new(traces, String::new()).map(drop)
}

impl Exporter {
    /// The exporter of the process `boot_id`; `None` if no collector is configured.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(traces: &config::Traces, boot_id: String) -> Result<Option<Self>, SetupError> {
        let Some(endpoint) = &traces.endpoint else { return Ok(None) };
        let tls = outgoing::client_config(&traces.certificates()?).map_err(SetupError::Tls)?;
        let timeouts = Timeouts { connect: traces.timeout, response: ResponseTimeout::Total(traces.timeout) };
        let client = outgoing::client(endpoint, tls, timeouts, redirect::Policy::none());
        let mut headers = traces.headers()?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let (tracer, finished) = Tracer::new(traces.sample_ratio);
        Ok(Some(Self {
            client: client.pool_max_idle_per_host(1).build().map_err(SetupError::Client)?,
            url: endpoint.url().clone(),
            headers,
            tracer,
            finished,
            boot_id,
        }))
    }

    /// What decides which requests are traced.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Sends traces until dropped.
    pub async fn run(mut self, metrics: Arc<Metrics>) {
        let tracer = self.tracer.clone();
        metrics.watch_queue("traces", move || {
            let (waiting, shed) = (tracer.waiting() as u64, tracer.dropped());
            Some(QueueState { waiting, limit: Some(MAX_WAITING as u64), shed })
        });
        let mut pause = Duration::ZERO;
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while self.gather(&mut batch).await {
            let body = otlp::encoded(&batch, &self.boot_id).encode_to_vec();
            let begin = Instant::now();
            let sent = self.send(body).await;
            let failure = sent.as_ref().err().map(ToString::to_string);
            metrics.asked(Upstream::Traces, begin.elapsed(), failure.as_deref());
            match sent {
                Ok(()) => {
                    if !pause.is_zero() {
                        tracing::info!("the collector takes traces again");
                    }
                    pause = Duration::ZERO;
                }
                Err(error) => {
                    if pause.is_zero() {
                        tracing::warn!(%error, "the collector does not take traces; they are dropped");
                    }
                    self.tracer.drop_traces(batch.len() as u64);
                    pause = (pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
                    sleep(pause).await;
                }
            }
            batch.clear();
        }
    }

    /// Waits for traces. False when there will be none.
    async fn gather(&mut self, batch: &mut Vec<Trace>) -> bool {
        if self.finished.recv_many(batch, MAX_BATCH).await == 0 {
            return false;
        }
        let more = async {
            while batch.len() < MAX_BATCH {
                if self.finished.recv_many(batch, MAX_BATCH - batch.len()).await == 0 {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(GATHER, more).await;
        true
    }

    async fn send(&self, body: Vec<u8>) -> Result<(), ExportError> {
        let failed = |error: reqwest::Error| match error.into() {
            RequestError::Timeout => ExportError::TimedOut,
            RequestError::Connection(cause) => ExportError::Connection(cause),
        };
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let mut response = request.send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(ExportError::Status(response.status()));
        }
        // What it says is not needed. A response that is too long ends the connection.
        match outgoing::read_at_most(&mut response, MAX_RESPONSE).await {
            Ok(_) | Err(BodyError::TooLarge) => Ok(()),
            Err(BodyError::Connection(error)) => Err(failed(error)),
        }
    }
}
