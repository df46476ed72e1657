//! Requests by method or route: how many, with what result, how long, and how many run now.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use kms_wire::code::Code;
use kms_wire::method::Access;
use prometheus::core::Metric as _;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::{Metrics, counter, counters, register};
use crate::request;

/// A method, with its most used metrics after their first use: before that they are not shown.
pub(super) struct Method {
    pub(super) name: &'static str,
    kind: Kind,
    ok: OnceLock<(IntCounter, IntCounter)>,
    latency: OnceLock<Histogram>,
    in_flight: OnceLock<IntGauge>,
}

impl Method {
    pub(super) fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, ok: OnceLock::new(), latency: OnceLock::new(), in_flight: OnceLock::new() }
    }
}

/// The labels for a request, from its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// The index of its method.
    pub(super) method: Option<usize>,
    pub(super) is_attestation: bool,
}

/// Whether the peer's two counters count a method, below `/prpc/`, with or without the prefix `KMS.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Yes: its callers bring an attestation, for keys or a certificate.
    Attestation,
    /// No, only our own metrics do.
    Other,
}

impl From<Access> for Kind {
    fn from(access: Access) -> Self {
        match access.takes_evidence() {
            true => Self::Attestation,
            false => Self::Other,
        }
    }
}

/// The metrics of requests.
pub(super) struct Requests {
    methods: Vec<Method>,
    /// The first method of each name.
    by_name: HashMap<&'static str, usize>,
    /// For paths that are not methods.
    other: Method,
    attestation_requests: IntCounter,
    attestation_failures: IntCounter,
    by_status: IntCounterVec,
    by_code: IntCounterVec,
    latency: HistogramVec,
    in_flight: IntGaugeVec,
}

impl Requests {
    pub(super) fn register(r: &Registry, methods: Vec<Method>) -> prometheus::Result<Self> {
        let mut by_name = HashMap::new();
        for (index, method) in methods.iter().enumerate() {
            by_name.entry(method.name).or_insert(index);
        }
        Ok(Self {
            methods,
            by_name,
            other: Method::new("other", Kind::Other),
            attestation_requests: counter(
                r,
                "dstack_kms_attestation_requests_total",
                "Total number of KMS attestation requests.",
            )?,
            attestation_failures: counter(
                r,
                "dstack_kms_attestation_failures_total",
                "Total number of failed KMS attestation requests.",
            )?,
            by_status: counters(
                r,
                "cvm_kms_requests_total",
                "Requests by method and HTTP status of the response.",
                &["method", "status"],
            )?,
            by_code: counters(
                r,
                "cvm_kms_results_total",
                "Requests by method and result: ok, or the code of the error.",
                &["method", "code"],
            )?,
            latency: {
                let opts =
                    HistogramOpts::new("cvm_kms_request_seconds", "Time from request to response by method.");
                let buckets =
                    vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
                register(r, HistogramVec::new(opts.buckets(buckets), &["method"])?)?
            },
            in_flight: {
                let opts =
                    Opts::new("cvm_kms_requests_in_flight", "Requests that are being served, by method.");
                register(r, IntGaugeVec::new(opts, &["method"])?)?
            },
        })
    }

    pub(super) fn method(&self, index: Option<usize>) -> &Method {
        index.and_then(|index| self.methods.get(index)).unwrap_or(&self.other)
    }
}

/// A request that is being served, counted until dropped.
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// The labels for a request to `path`: `/prpc/GetMeta`, `/prpc/KMS.GetMeta`, `/kms.KMS/GetMeta`.
    pub fn observe(&self, path: &str) -> Observed {
        let path = path.trim_start_matches('/');
        let name = path.rsplit(['/', '.']).next().unwrap_or_default();
        let name = name.rsplit_once("%2E").or_else(|| name.rsplit_once("%2e")).map_or(name, |(_, name)| name);
        let below_prpc = path.strip_prefix("prpc/").map(|rest| rest.trim_start_matches('/'));
        let is_kms = below_prpc.is_some_and(|rest| rest.len() == name.len() || rest.starts_with("KMS"));
        let method = self.requests.by_name.get(name).copied();
        let kind = self.requests.method(method).kind;
        Observed { method, is_attestation: is_kms && kind == Kind::Attestation }
    }

    /// The labels for a request to the route of this name.
    pub fn observe_route(&self, name: &str) -> Observed {
        let method = self.requests.by_name.get(name).copied();
        Observed { method, is_attestation: false }
    }

    /// The label of the method.
    pub fn label(&self, observed: Observed) -> &'static str {
        self.requests.method(observed.method).name
    }

    /// Counts a request as being served until the result is dropped.
    pub fn serving(&self, observed: Observed) -> InFlight {
        let method = self.requests.method(observed.method);
        let gauge =
            method.in_flight.get_or_init(|| self.requests.in_flight.with_label_values(&[method.name]));
        gauge.inc();
        InFlight(gauge.clone())
    }

    /// Counts a response by its HTTP status, and by the error of this task's request. For the peer's two counters
    /// 400 and above is a failure, also before dispatch.
    pub fn answered(&self, observed: Observed, status: u16, took: Duration) {
        let requests = &self.requests;
        if observed.is_attestation {
            requests.attestation_requests.inc();
            if status >= 400 {
                requests.attestation_failures.inc();
            }
        }
        let method = requests.method(observed.method);
        let answers = |status| requests.by_status.with_label_values(&[method.name, label(status)]);
        let results = |result| requests.by_code.with_label_values(&[method.name, result]);
        match status {
            200 => {
                let (answers, results) = method.ok.get_or_init(|| (answers(200), results("ok")));
                answers.inc();
                results.inc();
            }
            other => {
                answers(other).inc();
                let code =
                    request::current(|context| context.failure().map(|failure| failure.code)).flatten();
                results(code.map_or_else(|| result(other), Code::name)).inc();
                self.errors.note(method.name);
            }
        }
        let latency = || requests.latency.with_label_values(&[method.name]);
        method.latency.get_or_init(latency).observe(took.as_secs_f64());
    }

    /// How many requests for keys and certificates took at most so long since the start: upper bounds in seconds, the
    /// last of them infinite, and the number in each bucket.
    pub fn release_latency(&self) -> Vec<(f64, u64)> {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        let releasing = |method: &&Method| method.kind == Kind::Attestation;
        for histogram in
            self.requests.methods.iter().filter(releasing).filter_map(|method| method.latency.get())
        {
            let metric = histogram.metric();
            let histogram = metric.get_histogram();
            let total = (f64::INFINITY, histogram.get_sample_count());
            let bounds = histogram.get_bucket().iter().map(|it| (it.upper_bound(), it.cumulative_count()));
            let mut below = 0;
            for (index, (bound, cumulative)) in bounds.chain([total]).enumerate() {
                let within = cumulative.saturating_sub(below);
                below = cumulative;
                match buckets.get_mut(index) {
                    Some((_, count)) => *count += within,
                    None => buckets.push((bound, within)),
                }
            }
        }
        buckets
    }

    /// How many requests to each method are being served; methods without any are left out.
    pub fn in_flight(&self) -> Vec<(&'static str, u64)> {
        let requests = &self.requests;
        let methods = requests.methods.iter().chain([&requests.other]);
        let counted = methods.filter_map(|method| Some((method.name, method.in_flight.get()?.get())));
        counted
            .filter_map(|(name, count)| Some((name, u64::try_from(count).ok()?)))
            .filter(|one| one.1 > 0)
            .collect()
    }
}

/// The status if it has a label of its own, otherwise its class, so that there are few label values.
fn label(status: u16) -> &'static str {
    match (status, status / 100) {
        (200, _) => "200",
        (400, _) => "400",
        (401, _) => "401",
        (403, _) => "403",
        (404, _) => "404",
        (413, _) => "413",
        (429, _) => "429",
        (500, _) => "500",
        (503, _) => "503",
        (_, 2) => "2xx",
        (_, 4) => "4xx",
        (_, 5) => "5xx",
        _ => "other",
    }
}

/// The result of a response that is no error of ours, such as one of a library or without a body.
fn result(status: u16) -> &'static str {
    match (status, status / 100) {
        (401, _) => Code::Unauthenticated,
        (403, _) => Code::Denied,
        (404 | 405, _) => Code::UnknownMethod,
        (413, _) => Code::TooLarge,
        (429, _) => Code::TooManyRequests,
        (503, _) => Code::Unavailable,
        (_, 4) => Code::InvalidRequest,
        (_, 5) => Code::Internal,
        _ => return "ok",
    }
    .name()
}
