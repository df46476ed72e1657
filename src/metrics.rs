//! Counters, gauges and histograms of this service, in a registry of their own, rendered for Prometheus.

mod errors;
mod exposition;
mod process;
mod recent;
mod requests;
mod stages;
mod upstreams;
mod watched;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use kms_policy::{ChainState, ShedBy, WebhookObserver};

use self::errors::Errors;
pub use self::errors::ToldError;
use self::exposition::Exposition;
use self::process::ProcessMetrics;
pub use self::process::ProcessState;
pub use self::recent::Percentiles;
pub use self::requests::{InFlight, Kind, Observed};
use self::requests::{Method, Requests};
use self::stages::{BUCKETS, Series, Stages};
pub use self::stages::{Durations, RequestStage, StageTimer};
use self::upstreams::Upstreams;
pub use self::upstreams::{LastError, Upstream, UpstreamState};
use self::watched::Watched;
pub use self::watched::{CacheState, QueueState};
use crate::request::Tracer;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The state of the collateral cache at the time of a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CollateralState {
    /// Cached entries.
    pub entries: u64,
    /// Age of the oldest entry.
    pub oldest_age: Duration,
    /// Time until the first entry expires.
    pub expires_in: Duration,
    /// Fetches so far.
    pub fetches: u64,
    /// Failed fetches so far.
    pub failures: u64,
    /// Responses that were refused because they are older than an earlier one, by kind.
    pub refused_as_older: [(&'static str, u64); 4],
    /// How often the lowest accepted numbers could not be saved.
    pub floors_unsaved: u64,
}

/// What Intel's early TCB set says about recently seen platforms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcbForecastState {
    /// Kinds of platforms that it rates worse.
    pub falling_behind: u64,
    /// Unix seconds of the first TCB recovery behind that.
    pub recovery: Option<u64>,
    /// Models whose early set is newer than the standard one.
    pub newer: u64,
    /// Models whose early set is the standard one.
    pub same: u64,
    /// Models whose early set is not available.
    pub unavailable: u64,
}

/// All metrics of one service.
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    stages: Stages,
    ledger_sync: Series,
    upstreams: Upstreams,
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
    policy_answers: IntCounterVec,
    shed: IntCounterVec,
    relaxed_decisions: IntCounterVec,
    tcb_falling_behind: IntGauge,
    tcb_recovery: IntGauge,
    early_tcb_sets: IntGaugeVec,
    breaker_open: IntGauge,
    breaker_openings: IntCounter,
    failed_credentials: IntCounter,
    failed_onboarding_tokens: IntCounter,
    audit_failures: IntCounter,
    audit_records: IntCounter,
    audit_writable: IntGauge,
    audit_free: IntGauge,
    audit_space_low: IntGauge,
    audit_damaged: IntGauge,
    log_dropped: IntCounter,
    /// Denials and wrong credentials together; not shown.
    refusals: AtomicU64,
    notifications: IntCounterVec,
    notifications_waiting: IntGaugeVec,
    connections: IntGauge,
    ready: IntGauge,
    not_ready: IntGaugeVec,
    frozen: IntGaugeVec,
    relaxed: IntGaugeVec,
    collateral_entries: IntGauge,
    collateral_age: Gauge,
    collateral_expiry: Gauge,
    collateral_fetches: IntCounter,
    collateral_failures: IntCounter,
    collateral_rollbacks: IntCounterVec,
    collateral_floors_unsaved: IntCounter,
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
            ledger_sync: {
                let help = "Time of a sync of audit records to the disk, with their signed tree.";
                let opts = HistogramOpts::new("cvm_kms_ledger_sync_seconds", help);
                Series::new(register(r, Histogram::with_opts(opts.buckets(BUCKETS.to_vec()))?)?)
            },
            upstreams: Upstreams::register(r)?,
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
            tcb_falling_behind: gauge(
                r,
                "cvm_kms_tcb_falling_behind",
                "Kinds of platform seen recently that Intel's early TCB set judges worse than the standard one.",
            )?,
            tcb_recovery: gauge(
                r,
                "cvm_kms_tcb_recovery_timestamp_seconds",
                "Date of the TCB recovery behind it, Unix time; 0 without one.",
            )?,
            early_tcb_sets: {
                let opts = Opts::new(
                    "cvm_kms_early_tcb_sets",
                    "Platform models seen recently by what their early TCB set is: newer, same or unavailable.",
                );
                register(r, IntGaugeVec::new(opts, &["state"])?)?
            },
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
            audit_records: counter(r, "cvm_kms_audit_records_total", "Releases recorded in the audit log.")?,
            audit_writable: gauge(
                r,
                "cvm_kms_audit_writable",
                "1 while the audit log can be written, 0 while it cannot and no key is released.",
            )?,
            audit_free: gauge(r, "cvm_kms_audit_free_bytes", "Free bytes on the disk of the audit log.")?,
            audit_space_low: gauge(
                r,
                "cvm_kms_audit_space_low",
                "1 while the disk of the audit log is nearly full, or its reserve is spent.",
            )?,
            audit_damaged: gauge(
                r,
                "cvm_kms_audit_damaged_bytes",
                "Bytes at the end of audit files that were found since the start and are not records.",
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
            audit_failures: counter(
                r,
                "cvm_kms_audit_failures_total",
                "Releases that could not be recorded, and so did not happen.",
            )?,
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
            relaxed: {
                let opts =
                    Opts::new("cvm_kms_relaxed", "1 for each setting that weakens this service, by code.");
                register(r, IntGaugeVec::new(opts, &["code"])?)?
            },
            collateral_entries: gauge(
                r,
                "cvm_kms_collateral_entries",
                "Platforms whose collateral is cached.",
            )?,
            collateral_age: seconds(
                r,
                "cvm_kms_collateral_age_seconds",
                "Age of the oldest cached collateral.",
            )?,
            collateral_expiry: seconds(
                r,
                "cvm_kms_collateral_expires_seconds",
                "Time until the first cached collateral expires.",
            )?,
            collateral_fetches: counter(r, "cvm_kms_collateral_fetches_total", "Fetches of collateral.")?,
            collateral_failures: counter(
                r,
                "cvm_kms_collateral_failures_total",
                "Fetches of collateral that failed.",
            )?,
            collateral_rollbacks: counters(
                r,
                "cvm_kms_collateral_rollbacks_total",
                "Collateral refused because it is older than what was seen, or than the minimum, by kind.",
                &["kind"],
            )?,
            collateral_floors_unsaved: counter(
                r,
                "cvm_kms_collateral_floors_unsaved_total",
                "Times that the lowest collateral numbers could not be saved.",
            )?,
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

    /// Counts a decision of the policy: `allowed`, `denied` or `unavailable`.
    pub fn policy_answer(&self, answer: &'static str) {
        self.policy_answers.with_label_values(&[answer]).inc();
    }

    /// Counts a decision that needed a relaxed TCB rule. The configuration bounds the number of labels.
    pub fn relaxed_decision(&self, relaxation: &str) {
        self.relaxed_decisions.with_label_values(&[relaxation]).inc();
    }

    /// Sets the gauges of Intel's early TCB set.
    pub fn set_tcb_forecast(&self, state: TcbForecastState) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.tcb_falling_behind.set(number(state.falling_behind));
        self.tcb_recovery.set(number(state.recovery.unwrap_or(0)));
        for (name, count) in
            [("newer", state.newer), ("same", state.same), ("unavailable", state.unavailable)]
        {
            self.early_tcb_sets.with_label_values(&[name]).set(number(count));
        }
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

    /// Counts a release that is recorded.
    pub fn audit_recorded(&self) {
        self.audit_records.inc();
    }

    /// Counts a release that could not be recorded.
    pub fn audit_failed(&self) {
        self.audit_failures.inc();
    }

    /// Sets whether the audit log can be written.
    pub fn set_audit_writable(&self, is_writable: bool) {
        self.audit_writable.set(i64::from(is_writable));
    }

    /// Sets the free space for the audit log, and whether it is low.
    pub fn set_audit_space(&self, free: u64, is_low: bool) {
        self.audit_free.set(i64::try_from(free).unwrap_or(i64::MAX));
        self.audit_space_low.set(i64::from(is_low));
    }

    /// Sets how many bytes of audit files are not records.
    pub fn set_audit_damaged(&self, bytes: u64) {
        self.audit_damaged.set(i64::try_from(bytes).unwrap_or(i64::MAX));
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

    /// Sets what is relaxed, by code.
    pub fn set_relaxed(&self, codes: impl IntoIterator<Item = &'static str>) {
        self.relaxed.reset();
        for code in codes {
            self.relaxed.with_label_values(&[code]).set(1);
        }
    }

    /// Sets the gauges of the collateral cache.
    pub fn set_collateral(&self, state: CollateralState) {
        self.collateral_entries.set(i64::try_from(state.entries).unwrap_or(i64::MAX));
        self.collateral_age.set(state.oldest_age.as_secs_f64());
        self.collateral_expiry.set(state.expires_in.as_secs_f64());
        raise(&self.collateral_fetches, state.fetches);
        raise(&self.collateral_failures, state.failures);
        for (kind, refused) in state.refused_as_older {
            raise(&self.collateral_rollbacks.with_label_values(&[kind]), refused);
        }
        raise(&self.collateral_floors_unsaved, state.floors_unsaved);
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
