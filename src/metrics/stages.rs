//! How long each stage of a request takes.

use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use super::Metrics;
use super::recent::{Percentiles, Recent};
use super::register;
use crate::request::{self, SpanKind, Tracer};

/// A stage of a request, or of the connection that it comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestStage {
    /// The TLS handshake.
    Handshake,
    /// The verification of evidence, with its collateral.
    Verification,
    /// The answer of the policy about this KMS itself.
    SelfAuthorization,
    /// The answer of the policy about the caller.
    Policy,
    /// The comparison with the OS image.
    OsImage,
    /// The record of a release, until it is on the disk and cosigned as far as required.
    Record,
    /// The derivation of keys, and the signature of a certificate.
    KeyDerivation,
}

impl RequestStage {
    /// All stages, in order.
    pub const ALL: [Self; 7] = [
        Self::Handshake,
        Self::Verification,
        Self::SelfAuthorization,
        Self::Policy,
        Self::OsImage,
        Self::Record,
        Self::KeyDerivation,
    ];

    /// The name in metrics and diagnostics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Verification => "verification",
            Self::SelfAuthorization => "self_authorization",
            Self::Policy => "policy",
            Self::OsImage => "os_image",
            Self::Record => "record",
            Self::KeyDerivation => "key_derivation",
        }
    }
}

/// Durations as a histogram, and the last ones.
#[derive(Debug)]
pub(super) struct Series {
    histogram: Histogram,
    recent: Recent,
}

/// What is known of the durations of some work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Durations {
    /// How often it was done since the start.
    pub count: u64,
    /// Of the last times; `None` if it was not done yet.
    pub recent: Option<Percentiles>,
}

impl Series {
    pub(super) fn new(histogram: Histogram) -> Self {
        Self { histogram, recent: Recent::default() }
    }

    pub(super) fn observe(&self, took: Duration) {
        self.histogram.observe(took.as_secs_f64());
        self.recent.note(took);
    }

    pub(super) fn durations(&self) -> Durations {
        Durations { count: self.histogram.get_sample_count(), recent: self.recent.percentiles() }
    }
}

/// Buckets from what a cached decision takes to what a slow service takes, in seconds.
pub(super) const BUCKETS: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The histogram of one name with one label.
pub(super) fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<HistogramVec> {
    let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
    register(registry, HistogramVec::new(opts, &[label])?)
}

/// The durations of every stage.
#[derive(Debug)]
pub(super) struct Stages([Series; RequestStage::ALL.len()]);

impl Stages {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help = "Time that each stage of a request takes.";
        let durations = histograms(registry, "cvm_kms_stage_seconds", help, "stage")?;
        Ok(Self(RequestStage::ALL.map(|stage| Series::new(durations.with_label_values(&[stage.name()])))))
    }

    pub(super) fn of(&self, stage: RequestStage) -> &Series {
        &self.0[stage as usize]
    }
}

/// Measures a stage until it is dropped.
#[derive(Debug)]
pub struct StageTimer<'a> {
    metrics: &'a Metrics,
    stage: RequestStage,
    begin: Instant,
}

impl Drop for StageTimer<'_> {
    fn drop(&mut self) {
        let took = self.begin.elapsed();
        self.metrics.stages.of(self.stage).observe(took);
        self.metrics.trace(self.stage.name(), SpanKind::Internal, took, false);
    }
}

impl Metrics {
    /// Measures `stage` until the result is dropped.
    pub fn stage(&self, stage: RequestStage) -> StageTimer<'_> {
        StageTimer { metrics: self, stage, begin: Instant::now() }
    }

    /// Traces what belongs to no request by `tracer` too. The first one stays.
    pub fn trace_by(&self, tracer: Tracer) {
        let _ = self.tracer.set(tracer);
    }

    /// Adds work that ends now to the trace of this task's request, or makes a trace of it.
    pub(super) fn trace(&self, name: &'static str, kind: SpanKind, took: Duration, is_failed: bool) {
        if !request::record(name, kind, took, is_failed)
            && let Some(tracer) = self.tracer.get()
        {
            tracer.single(name, kind, took, is_failed);
        }
    }

    /// How long each stage takes.
    pub fn stages(&self) -> impl Iterator<Item = (RequestStage, Durations)> + '_ {
        RequestStage::ALL.into_iter().map(|stage| (stage, self.stages.of(stage).durations()))
    }
}
