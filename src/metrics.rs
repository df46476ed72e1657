//! Counters, gauges and histograms of this service, in a registry of their own, rendered for Prometheus.

mod audit;
mod bundles;
mod collateral;
mod domains;
mod errors;
mod exposition;
mod lanes;
mod process;
mod recent;
mod recovery;
mod requests;
mod stages;
mod state;
mod upstreams;
mod watched;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use kms_policy::{ChainState, ShedBy, WebhookObserver};

use self::audit::AuditMetrics;
pub use self::bundles::BundleMeasured;
use self::bundles::BundleMetrics;
use self::collateral::CollateralMetrics;
pub use self::collateral::{CollateralState, TcbForecastState};
use self::domains::DomainMetrics;
use self::errors::Errors;
pub use self::errors::ToldError;
use self::exposition::Exposition;
use self::lanes::LaneMetrics;
pub use self::lanes::LaneState;
use self::process::ProcessMetrics;
pub use self::process::ProcessState;
pub use self::recent::Percentiles;
use self::recovery::RecoveryMetrics;
pub use self::recovery::RecoveryState;
pub use self::requests::{InFlight, Kind, Observed};
use self::requests::{Method, Requests};
use self::stages::Stages;
pub use self::stages::{Durations, RequestStage, StageTimer};
use self::state::StateMetrics;
use self::upstreams::Upstreams;
pub use self::upstreams::{LastError, Upstream, UpstreamState};
use self::watched::Watched;
pub use self::watched::{CacheState, QueueState};
use crate::request::Tracer;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// All metrics of one service.
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    stages: Stages,
    upstreams: Upstreams,
    audit: AuditMetrics,
    collateral: CollateralMetrics,
    recovery: RecoveryMetrics,
    bundles: BundleMetrics,
    domains: DomainMetrics,
    state: StateMetrics,
    lanes: LaneMetrics,
    errors: Errors,
    exposition: Exposition,
    watched: Watched,
    process: ProcessMetrics,
    /// `None` where nothing is traced.
    tracer: OnceLock<Tracer>,
    looked_at_process: Mutex<Option<Instant>>,
    denials: IntCounterVec,
    handshakes: IntCounterVec,
    handshake_cpu: Counter,
    key_exchanges: IntCounterVec,
    verifications: IntCounterVec,
    fresh_evidence: IntCounterVec,
    policy_answers: IntCounterVec,
    shed: IntCounterVec,
    relaxed_decisions: IntCounterVec,
    breaker_open: IntGauge,
    breaker_openings: IntCounter,
    failed_credentials: IntCounter,
    failed_onboarding_tokens: IntCounter,
    log_dropped: IntCounter,
    /// Denials and wrong credentials together; not shown.
    refusals: AtomicU64,
    notifications: IntCounterVec,
    notifications_waiting: IntGaugeVec,
    connections: IntGauge,
    ready: IntGauge,
    not_ready: IntGaugeVec,
    frozen: IntGaugeVec,
    root_epochs: IntGaugeVec,
    current_root_epoch: IntGauge,
    relaxed: IntGaugeVec,
    chain_block: IntGauge,
    chain_block_age: Gauge,
    chain_endpoints: IntGauge,
    chain_disagreements: IntCounter,
}

impl WebhookObserver for Metrics {
    fn request_shed(&self, by: ShedBy) {
        let limit = match by {
            ShedBy::Breaker => "webhook_breaker",
            ShedBy::Queue => "webhook_queue",
        };
        self.shed.with_label_values(&[limit]).inc();
    }

    fn breaker_opened(&self) {
        self.breaker_openings.inc();
        self.breaker_open.set(1);
    }

    fn breaker_closed(&self) {
        self.breaker_open.set(0);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// A registry with everything at zero. Requests to methods other than `methods` are counted together.
    pub fn new(methods: impl IntoIterator<Item = (&'static str, Kind)>) -> Self {
        Self::register(methods.into_iter().map(|(name, kind)| Method::new(name, kind)).collect())
            .expect("the names below are valid and distinct")
    }

    fn register(methods: Vec<Method>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            requests: Requests::register(r, methods)?,
            stages: Stages::register(r)?,
            upstreams: Upstreams::register(r)?,
            audit: AuditMetrics::register(r)?,
            collateral: CollateralMetrics::register(r)?,
            recovery: RecoveryMetrics::register(r)?,
            bundles: BundleMetrics::register(r)?,
            domains: DomainMetrics::register(r)?,
            state: StateMetrics::register(r)?,
            lanes: LaneMetrics::register(r)?,
            errors: Errors::default(),
            exposition: Exposition::default(),
            watched: Watched::register(r)?,
            process: ProcessMetrics::register(r)?,
            tracer: OnceLock::new(),
            looked_at_process: Mutex::default(),
            denials: counters(r, "cvm_kms_denials_total", "Decisions against a caller by code.", &["code"])?,
            handshakes: counters(
                r,
                "cvm_kms_tls_handshakes_total",
                "TLS handshakes by result.",
                &["result"],
            )?,
            handshake_cpu: {
                let opts = Opts::new(
                    "cvm_kms_handshake_cpu_seconds_total",
                    "CPU time of TLS handshakes, including failed ones.",
                );
                register(r, Counter::with_opts(opts)?)?
            },
            key_exchanges: counters(
                r,
                "cvm_kms_key_exchanges_total",
                "TLS handshakes by the negotiated key exchange group.",
                &["group"],
            )?,
            fresh_evidence: counters(
                r,
                "cvm_kms_fresh_evidence_total",
                "Callers with a verified identity by their fresh evidence: fresh, absent or refused.",
                &["result"],
            )?,
            verifications: counters(
                r,
                "cvm_kms_verifications_total",
                "Verified evidence by result.",
                &["result"],
            )?,
            policy_answers: counters(
                r,
                "cvm_kms_policy_answers_total",
                "Requests to the policy by result.",
                &["answer"],
            )?,
            relaxed_decisions: counters(
                r,
                "cvm_kms_relaxed_decisions_total",
                "Allowed callers and sources that needed a relaxed TCB rule, by rule.",
                &["relaxation"],
            )?,
            shed: counters(
                r,
                "cvm_kms_shed_total",
                "Requests and connections turned away by limit.",
                &["limit"],
            )?,
            breaker_open: gauge(
                r,
                "cvm_kms_webhook_breaker_open",
                "1 while the webhook does not respond and requests to it fail at once.",
            )?,
            breaker_openings: counter(
                r,
                "cvm_kms_webhook_breaker_openings_total",
                "How often the webhook has stopped responding.",
            )?,
            failed_credentials: counter(
                r,
                "cvm_kms_failed_credentials_total",
                "Wrong credentials of operators.",
            )?,
            failed_onboarding_tokens: counter(
                r,
                "cvm_kms_failed_onboarding_tokens_total",
                "Wrong onboarding tokens shown before there were keys.",
            )?,
            log_dropped: counter(
                r,
                "cvm_kms_log_dropped_total",
                "Lines of the process log that were not written: it is not read, the disk is full, or there \
                 were too many.",
            )?,
            notifications: counters(
                r,
                "cvm_kms_notifications_total",
                "Notifications by target and outcome: delivered, failed (an attempt), dropped (never delivered).",
                &["target", "outcome"],
            )?,
            notifications_waiting: {
                let opts =
                    Opts::new("cvm_kms_notifications_waiting", "Notifications that wait for a target.");
                register(r, IntGaugeVec::new(opts, &["target"])?)?
            },
            connections: gauge(r, "cvm_kms_connections", "Open connections.")?,
            ready: gauge(r, "cvm_kms_ready", "1 while keys can be released, as /readyz says.")?,
            not_ready: {
                let opts = Opts::new(
                    "cvm_kms_not_ready",
                    "1 for each reason why keys cannot be released, or soon cannot, by code.",
                );
                register(r, IntGaugeVec::new(opts, &["reason"])?)?
            },
            frozen: {
                let opts = Opts::new("cvm_kms_frozen", "Freezes in force by scope; `kms` stops everything.");
                register(r, IntGaugeVec::new(opts, &["scope"])?)?
            },
            root_epochs: {
                let opts = Opts::new("cvm_kms_root_epoch", "Epochs of the root keys by state.");
                register(r, IntGaugeVec::new(opts, &["state"])?)?
            },
            current_root_epoch: register(
                r,
                IntGauge::new(
                    "cvm_kms_current_root_epoch",
                    "The newest epoch of the root keys that is in force.",
                )?,
            )?,
            relaxed: {
                let opts =
                    Opts::new("cvm_kms_relaxed", "1 for each setting that weakens this service, by code.");
                register(r, IntGaugeVec::new(opts, &["code"])?)?
            },
            chain_block: gauge(r, "cvm_kms_chain_block", "Number of the block whose state decides.")?,
            chain_block_age: seconds(
                r,
                "cvm_kms_chain_block_age_seconds",
                "Age of the block whose state decides; infinite while a chain decides and no block is known.",
            )?,
            chain_endpoints: gauge(
                r,
                "cvm_kms_chain_endpoints_usable",
                "Chain endpoints that could be used when they were last tried.",
            )?,
            chain_disagreements: counter(
                r,
                "cvm_kms_chain_disagreements_total",
                "How often chain endpoints contradicted each other.",
            )?,
            refusals: AtomicU64::new(0),
            registry: registry.clone(),
        };
        let build =
            Opts::new("cvm_kms_build_info", "Version of this program.").const_label("version", VERSION);
        register(r, IntGauge::with_opts(build)?)?.set(1);
        Ok(metrics)
    }

    /// Counts a denial by its stable code.
    pub fn denied(&self, code: &'static str) {
        self.denials.with_label_values(&[code]).inc();
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a TLS handshake: `ok`, `failed` or `timeout`.
    pub fn handshake(&self, result: &'static str) {
        self.handshakes.with_label_values(&[result]).inc();
    }

    /// Counts the CPU time of TLS handshakes.
    pub fn handshake_worked(&self, time: Duration) {
        self.handshake_cpu.inc_by(time.as_secs_f64());
    }

    /// Counts a TLS handshake by its key exchange group, a name of the TLS registry.
    pub fn key_exchange(&self, group: &'static str) {
        self.key_exchanges.with_label_values(&[group]).inc();
    }

    /// Counts a verification of evidence: `verified`, `refused`, or `unavailable` without collateral.
    pub fn verification(&self, result: &'static str) {
        self.verifications.with_label_values(&[result]).inc();
    }

    /// Counts a caller with a verified identity by its fresh evidence: `fresh`, `absent`, or `refused`, also if it is required and
    /// absent.
    pub fn fresh_evidence(&self, result: &'static str) {
        self.fresh_evidence.with_label_values(&[result]).inc();
    }

    /// Counts a decision of the policy: `allowed`, `denied` or `unavailable`.
    pub fn policy_answer(&self, answer: &'static str) {
        self.policy_answers.with_label_values(&[answer]).inc();
    }

    /// Counts a decision that needed a relaxed TCB rule. The configuration bounds the number of labels.
    pub fn relaxed_decision(&self, relaxation: &str) {
        self.relaxed_decisions.with_label_values(&[relaxation]).inc();
    }

    /// Counts a connection that was closed because of the connection limit.
    pub fn connection_shed(&self) {
        self.shed.with_label_values(&["max_connections"]).inc();
    }

    /// Counts a request over the rate of its address.
    pub fn address_limited(&self) {
        self.shed.with_label_values(&["unauthenticated_per_second"]).inc();
    }

    /// Counts a request that was refused for lack of memory.
    pub fn memory_refused(&self) {
        self.shed.with_label_values(&["max_request_memory"]).inc();
    }

    /// Counts an idle connection that was closed for a new one.
    pub fn connection_evicted(&self) {
        self.shed.with_label_values(&["idle_connection"]).inc();
    }

    /// Counts a request of an allowed caller over the rate of its app or instance.
    pub fn release_limited(&self, limit: &'static str) {
        self.shed.with_label_values(&[limit]).inc();
    }

    /// Counts wrong credentials on the admin listener.
    pub fn credentials_failed(&self) {
        self.failed_credentials.inc();
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a wrong onboarding token.
    pub fn onboarding_token_failed(&self) {
        self.failed_onboarding_tokens.inc();
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a password that was not checked because too many others are being hashed.
    pub fn password_shed(&self) {
        self.shed.with_label_values(&["passwords"]).inc();
    }

    /// Sets how many lines of the process log were dropped.
    pub fn set_log_dropped(&self, lines: u64) {
        raise(&self.log_dropped, lines);
    }

    /// How many decisions against a caller and wrong credentials there were so far.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Counts notifications to a target: `delivered`, `failed` for an attempt, or `dropped`.
    pub fn notified(&self, target: &str, outcome: &'static str, count: u64) {
        self.notifications.with_label_values(&[target, outcome]).inc_by(count);
    }

    /// Shows how many notifications wait for a target.
    pub fn set_notifications_waiting(&self, target: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.notifications_waiting.with_label_values(&[target]).set(count);
    }

    /// Counts a connection until the result is dropped.
    pub fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// Sets whether keys can be released.
    pub fn set_ready(&self, is_ready: bool) {
        self.ready.set(is_ready.into());
    }

    /// Sets whether a cause stops the release of keys, or will soon.
    pub fn set_not_ready(&self, reason: &'static str, applies: bool) {
        self.not_ready.with_label_values(&[reason]).set(applies.into());
    }

    /// Sets how many freezes of a scope are in force.
    pub fn set_frozen(&self, scope: &'static str, count: usize) {
        self.frozen.with_label_values(&[scope]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets how many epochs of the root keys are in each state, and which is current.
    pub fn set_epochs<'a>(&self, states: impl IntoIterator<Item = &'a str>, current: u32) {
        let mut counts = [("prepared", 0), ("active", 0), ("retired", 0), ("destroyed", 0)];
        for state in states {
            counts.iter_mut().filter(|(name, _)| *name == state).for_each(|(_, count)| *count += 1);
        }
        for (state, count) in counts {
            self.root_epochs.with_label_values(&[state]).set(count);
        }
        self.current_root_epoch.set(current.into());
    }

    /// Sets what is relaxed, by code.
    pub fn set_relaxed(&self, codes: impl IntoIterator<Item = &'static str>) {
        self.relaxed.reset();
        for code in codes {
            self.relaxed.with_label_values(&[code]).set(1);
        }
    }

    /// Sets the gauges of the chain.
    pub fn set_chain(&self, state: ChainState) {
        self.chain_block.set(state.block.and_then(|block| i64::try_from(block).ok()).unwrap_or(0));
        self.chain_block_age.set(state.block_age.map_or(f64::INFINITY, |age| age.as_secs_f64()));
        self.chain_endpoints.set(i64::try_from(state.endpoints).unwrap_or(i64::MAX));
        raise(&self.chain_disagreements, state.disagreements);
    }

    /// All metrics in the text format.
    pub fn render(&self) -> String {
        self.look_at_process();
        self.look_at_watched();
        self.look_at_lanes();
        let mut text = Vec::new();
        // Writing to memory does not fail; a metric that cannot be encoded is left out.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

/// An open connection, counted until dropped.
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    register(registry, IntCounter::new(name, help)?)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::new(name, help)?)
}

fn seconds(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Gauge> {
    register(registry, Gauge::new(name, help)?)
}

#[cfg(test)]
mod tests;
