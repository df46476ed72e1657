//! Requests to the services that this KMS depends on, by kind of service: a label never names a host.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_attest::clock::unix_now;
use kms_attest::collateral::{FetchFailure, FetchObserver};
use prometheus::{IntCounter, Registry};

use super::stages::{Durations, Series, histograms};
use super::{Metrics, counters};
use crate::request::SpanKind;

/// A kind of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// A PCCS, or Intel's PCS.
    Collateral,
    /// The webhook that decides.
    Webhook,
    /// The nodes of the chain that decides.
    Chain,
    /// The server of OS images.
    OsImages,
    /// The guest agent, or the kernel, that makes our own evidence.
    OwnEvidence,
    /// The witnesses of the audit log.
    Witness,
    /// The targets of notifications.
    Notification,
    /// The collector of traces.
    Traces,
}

impl Upstream {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Collateral,
        Self::Webhook,
        Self::Chain,
        Self::OsImages,
        Self::OwnEvidence,
        Self::Witness,
        Self::Notification,
        Self::Traces,
    ];

    /// The name in metrics and diagnostics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collateral => "collateral",
            Self::Webhook => "webhook",
            Self::Chain => "chain",
            Self::OsImages => "os_images",
            Self::OwnEvidence => "own_evidence",
            Self::Witness => "witness",
            Self::Notification => "notification",
            Self::Traces => "traces",
        }
    }
}

/// The longest kept text of an error, in bytes.
const MAX_ERROR: usize = 200;

/// The last failed request to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// Unix seconds.
    pub at: u64,
    /// The cause, without hosts and addresses.
    pub message: String,
}

/// What is known of one kind of service.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamState {
    /// Which kind.
    pub upstream: Upstream,
    /// Whether the last request succeeded.
    pub is_ok: bool,
    /// How long its responses take.
    pub durations: Durations,
    /// The last failure since the start.
    pub last_error: Option<LastError>,
}

#[derive(Debug)]
struct Service {
    series: Series,
    ok: IntCounter,
    failed: IntCounter,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    has_failed: bool,
    error: Option<LastError>,
}

#[derive(Debug)]
pub(super) struct Upstreams([Service; Upstream::ALL.len()]);

impl Upstreams {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help = "Time of requests to services that this KMS depends on, by kind of service.";
        let durations = histograms(registry, "cvm_kms_upstream_seconds", help, "upstream")?;
        let help = "Requests to services that this KMS depends on, by kind of service and result.";
        let requests = counters(registry, "cvm_kms_upstream_requests_total", help, &["upstream", "result"])?;
        Ok(Self(Upstream::ALL.map(|upstream| {
            let name = upstream.name();
            Service {
                series: Series::new(durations.with_label_values(&[name])),
                ok: requests.with_label_values(&[name, "ok"]),
                failed: requests.with_label_values(&[name, "failed"]),
                last: Mutex::default(),
            }
        })))
    }
}

impl Metrics {
    /// Counts a request to a service that took `took`, with the cause if it failed, in words without host and
    /// address.
    pub fn asked(&self, upstream: Upstream, took: Duration, failure: Option<&str>) {
        let Service { series, ok, failed, last } = &self.upstreams.0[upstream as usize];
        series.observe(took);
        // A trace of the sending of traces would not come to an end.
        if upstream != Upstream::Traces {
            self.trace(upstream.name(), SpanKind::Client, took, failure.is_some());
        }
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        last.has_failed = failure.is_some();
        match failure {
            None => ok.inc(),
            Some(cause) => {
                failed.inc();
                let message = cause[..cause.floor_char_boundary(MAX_ERROR)].to_owned();
                last.error = Some(LastError { at: unix_now(), message });
            }
        }
    }

    /// Sends a request to a service, and counts it. `cause` says why it failed, without host and address.
    pub async fn ask<T, E>(
        &self,
        upstream: Upstream,
        request: impl Future<Output = Result<T, E>>,
        cause: impl FnOnce(&E) -> String,
    ) -> Result<T, E> {
        let begin = Instant::now();
        let result = request.await;
        let failure = result.as_ref().err().map(cause);
        self.asked(upstream, begin.elapsed(), failure.as_deref());
        result
    }

    /// The services that were asked since the start.
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        let states = Upstream::ALL.into_iter().zip(&self.upstreams.0).map(|(upstream, service)| {
            let last = service.last.lock().unwrap_or_else(PoisonError::into_inner);
            UpstreamState {
                upstream,
                is_ok: !last.has_failed,
                durations: service.series.durations(),
                last_error: last.error.clone(),
            }
        });
        states.filter(|state| state.durations.count > 0).collect()
    }

    /// Whether the webhook counts as down.
    pub fn is_breaker_open(&self) -> bool {
        self.breaker_open.get() != 0
    }
}

impl FetchObserver for Metrics {
    fn fetched(&self, took: Duration, failure: Option<&FetchFailure>) {
        self.asked(Upstream::Collateral, took, failure.map(ToString::to_string).as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_is_well_again_after_a_success_and_its_last_error_stays() {
        let metrics = Metrics::new([]);
        assert!(metrics.upstreams().is_empty());
        let failed = metrics
            .ask(Upstream::Webhook, async { Err::<(), _>(503) }, |status| format!("answered {status}"));
        assert_eq!(failed.await, Err(503));
        let [state] = &metrics.upstreams()[..] else { panic!("one was asked") };
        assert!(!state.is_ok && state.upstream == Upstream::Webhook && state.durations.recent.is_some());
        assert_eq!(state.last_error.as_ref().map(|error| &*error.message), Some("answered 503"));
        metrics.asked(Upstream::Webhook, Duration::from_millis(2), None);
        metrics.asked(Upstream::Chain, Duration::ZERO, Some(&"é".repeat(1000)));
        let states = metrics.upstreams();
        assert!(states[0].is_ok && states[0].last_error.is_some());
        assert_eq!(states[1].last_error.as_ref().map(|error| error.message.len()), Some(MAX_ERROR));
        let text = metrics.render();
        for line in [
            r#"cvm_kms_upstream_requests_total{result="failed",upstream="webhook"} 1"#,
            r#"cvm_kms_upstream_requests_total{result="ok",upstream="webhook"} 1"#,
            r#"cvm_kms_upstream_seconds_count{upstream="webhook"} 2"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
}
