//! What requests wait for, and what fails: a picture of this moment for operators.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::admission::Foundation;
use crate::clock::{rfc3339, unix_now};
use crate::metrics::{Durations, LastError, Metrics, ProcessState, ToldError, Upstream, UpstreamState};

/// Looks at the parts that a key passes on its way to a CVM.
#[derive(Debug)]
pub struct DiagnosticsService {
    foundation: Arc<Foundation>,
}

/// The body of `/api/v1/diagnostics/key-flow`. Percentiles are of the last 256 times, and null without any. Counts are
/// since the start of the process.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyFlow {
    /// Methods with requests that are being served.
    in_flight: Vec<Running>,
    /// Where requests and records wait.
    queues: Vec<Queue>,
    /// What is remembered, so that it need not be asked for or computed again.
    caches: Vec<Cache>,
    /// The services that were asked since the start, by kind.
    upstreams: Vec<Service>,
    /// How long each stage of a release takes.
    stages: Vec<Stage>,
    /// Errors that callers got and that were not their fault; the newest is first.
    last_errors: Vec<CallerError>,
    /// The clock of the KMS.
    clock: Clock,
    /// The process; null where the kernel does not say it.
    process: Option<Process>,
}

/// The requests to a method that are being served.
#[derive(Debug, Serialize, JsonSchema)]
struct Running {
    /// `other` for all that is not a method.
    method: &'static str,
    count: u64,
}

/// A queue.
#[derive(Debug, Serialize, JsonSchema)]
struct Queue {
    name: &'static str,
    waiting: u64,
    /// How much may wait; null where the limits of connections bound it.
    limit: Option<u64>,
    /// What was turned away or dropped because it was full.
    shed: u64,
}

/// A cache.
#[derive(Debug, Serialize, JsonSchema)]
struct Cache {
    name: &'static str,
    entries: u64,
    /// Null where nothing but memory limits it.
    limit: Option<u64>,
    hits: u64,
    misses: u64,
}

/// A kind of service that this KMS depends on.
#[derive(Debug, Serialize, JsonSchema)]
struct Service {
    /// `collateral`, `webhook`, `chain`, `os_images`, `own_evidence`, `witness`, `notification` or `traces`.
    name: &'static str,
    /// Whether the last request succeeded.
    ok: bool,
    count: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// The last failure; null if there was none.
    last_error: Option<ServiceError>,
    /// Whether requests to it fail at once because it has stopped responding; null for services without a breaker.
    breaker: Option<Breaker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Breaker {
    /// Requests are sent.
    Closed,
    /// They fail at once, but for some that try whether it responds again.
    Open,
}

/// The last failure of a service.
#[derive(Debug, Serialize, JsonSchema)]
struct ServiceError {
    /// RFC 3339 in UTC.
    at: String,
    message: String,
}

/// A stage of a release.
#[derive(Debug, Serialize, JsonSchema)]
struct Stage {
    /// `handshake`, `verification`, `self_authorization`, `policy`, `os_image`, `record`, `ledger_sync` or
    /// `key_derivation`.
    name: &'static str,
    count: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

/// An error that callers got.
#[derive(Debug, Serialize, JsonSchema)]
struct CallerError {
    /// When it happened last, RFC 3339 in UTC.
    at: String,
    method: &'static str,
    code: &'static str,
    /// The beginning of what the caller was told.
    message: String,
    /// The last request that got it, as in the log.
    request_id: String,
    /// How often it happened.
    count: u64,
}

/// The clock. RFC 3339 in UTC.
#[derive(Debug, Serialize, JsonSchema)]
struct Clock {
    now: String,
    /// The newest date that is known to be past; null if none is.
    floor: Option<String>,
    /// How far the clock is behind that date, if it is too far behind to release keys; 0 otherwise.
    behind_s: u64,
}

/// The process.
#[derive(Debug, Serialize, JsonSchema)]
struct Process {
    rss_bytes: u64,
    open_files: u64,
    /// Null without a limit.
    max_files: Option<u64>,
    threads: u64,
    cpu_s: f64,
    uptime_s: u64,
}

impl DiagnosticsService {
    /// The service over the parts that all requests share.
    pub fn new(foundation: Arc<Foundation>) -> Self {
        Self { foundation }
    }

    /// The picture of this moment. It asks no other service.
    pub fn key_flow(&self) -> KeyFlow {
        let Foundation { verifier, metrics, .. } = &*self.foundation;
        let stages = metrics.stages().map(|(stage, durations)| Stage::of(stage.name(), durations));
        let sync = Stage::of("ledger_sync", metrics.ledger_syncs());
        let queues = metrics.queues().into_iter();
        let caches = metrics.caches().into_iter();
        KeyFlow {
            in_flight: metrics
                .in_flight()
                .into_iter()
                .map(|(method, count)| Running { method, count })
                .collect(),
            queues: queues
                .map(|(name, state)| Queue {
                    name,
                    waiting: state.waiting,
                    limit: state.limit,
                    shed: state.shed,
                })
                .collect(),
            caches: caches
                .map(|(name, state)| Cache {
                    name,
                    entries: state.entries,
                    limit: state.limit,
                    hits: state.hits,
                    misses: state.misses,
                })
                .collect(),
            upstreams: metrics.upstreams().into_iter().map(|state| Service::of(state, metrics)).collect(),
            stages: stages.chain([sync]).collect(),
            last_errors: metrics.last_errors().into_iter().map(CallerError::from).collect(),
            clock: Clock::of(verifier.cache().clock()),
            process: ProcessState::now().map(Process::from),
        }
    }
}

/// A number of milliseconds to three digits behind the point.
fn rounded(millis: f64) -> f64 {
    (millis * 1000.0).round() / 1000.0
}

impl Stage {
    fn of(name: &'static str, Durations { count, recent }: Durations) -> Self {
        let [p50_ms, p99_ms] =
            [recent.map(|recent| rounded(recent.p50_ms)), recent.map(|recent| rounded(recent.p99_ms))];
        Self { name, count, p50_ms, p99_ms }
    }
}

impl Service {
    fn of(state: UpstreamState, metrics: &Metrics) -> Self {
        let UpstreamState { upstream, is_ok, durations, last_error } = state;
        let Stage { name, count, p50_ms, p99_ms } = Stage::of(upstream.name(), durations);
        let breaker = match upstream {
            Upstream::Webhook if metrics.is_breaker_open() => Some(Breaker::Open),
            Upstream::Webhook => Some(Breaker::Closed),
            Upstream::Collateral
            | Upstream::Chain
            | Upstream::OsImages
            | Upstream::OwnEvidence
            | Upstream::Witness
            | Upstream::Notification
            | Upstream::Traces => None,
        };
        let last_error =
            last_error.map(|LastError { at, message }| ServiceError { at: rfc3339(at), message });
        Self { name, ok: is_ok, count, p50_ms, p99_ms, last_error, breaker }
    }
}

impl From<ToldError> for CallerError {
    fn from(error: ToldError) -> Self {
        let ToldError { at, method, code, message, request_id, count } = error;
        Self { at: rfc3339(at), method, code: code.name(), message, request_id, count }
    }
}

impl Clock {
    fn of(clock: &kms_attest::collateral::Clock) -> Self {
        let newest = clock.floor().newest();
        Self {
            now: rfc3339(clock.now()),
            floor: (newest > 0).then(|| rfc3339(newest)),
            behind_s: clock.check().err().map_or(0, |behind| behind.seconds),
        }
    }
}

impl From<ProcessState> for Process {
    fn from(state: ProcessState) -> Self {
        Self {
            rss_bytes: state.resident,
            open_files: state.open_files,
            max_files: state.max_files,
            threads: state.threads,
            cpu_s: state.cpu.as_secs_f64(),
            uptime_s: unix_now().saturating_sub(state.started as u64),
        }
    }
}
