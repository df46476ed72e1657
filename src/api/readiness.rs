//! Whether this KMS can release keys now, and if not, why. `/readyz`, gRPC health, `GetMeta`, the metrics and
//! the log report what is decided here.

mod domains;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kms_attest::collateral::{CacheStats, CollateralCache};
use kms_attest::identity::DomainName;
use kms_policy::bundle::{Bundled, Expiry};
use kms_policy::{DenialCode, Policy};
use tokio::sync::watch;

use super::epochs::LostEpochs;
use super::recovery::RecoveryService;
use crate::admission::{Foundation, Missing, SelfDenialCode, SelfRefusal};
use crate::audit::{FailureReason, Health};
use crate::clock::{CLOCK_REMEDY, rfc3339, unix_now};
use crate::config::WhenStale;
use crate::metrics::Metrics;
use crate::operator::DomainScope;
use crate::proto::ReadinessReason;
use crate::state::shared::{SplitKind, Standing, View};

/// How often the state is checked when no one requests it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a policy is asked for its description, where it is not asked about this KMS.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Collateral is reported when less time than this is left, in seconds.
const COLLATERAL_LEFT: u64 = 24 * 60 * 60;
/// The same where no service is asked: somebody has to bring a file.
const COLLATERAL_LEFT_OFFLINE: u64 = 7 * COLLATERAL_LEFT;

/// What stops the release of keys, or will soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Onboarding is not finished.
    NoKeys,
    /// The policy does not respond.
    PolicyUnavailable,
    /// The allowlist is missing or invalid.
    AllowlistUnusable,
    /// The policy denies this KMS.
    KmsNotAllowed,
    /// The attester gives no usable evidence of this KMS.
    OwnEvidenceUnavailable,
    /// The evidence of this KMS does not verify.
    OwnEvidenceRefused,
    /// No collateral to verify evidence with.
    CollateralUnavailable,
    /// Releases cannot be recorded.
    AuditLogUnavailable,
    /// The clock is behind dates that have certainly passed.
    Clock,
    /// An operator has frozen everything.
    Frozen,
    /// An operator drains this KMS.
    Draining,
    /// The disk of the audit log is nearly full.
    DiskNearlyFull,
    /// The key directory is older than the audit log says.
    EpochsLost,
    /// There is no recovery set, it lacks root keys, or it was not proved for long.
    Recovery,
    /// The signed bundle in force expires soon, or has expired.
    PolicyExpires,
    /// A signed bundle came that contradicts what was seen before.
    PolicyFork,
    /// A new signed bundle would deny what is allowed, so it waits for an operator.
    PolicyHeld,
    /// The policy of a domain cannot decide; the others can.
    DomainPolicyUnavailable,
    /// No service gives newer collateral; what is kept is used.
    CollateralNotRefreshed,
    /// What was changed on other nodes may be unknown here.
    StateStale,
    /// The same, where the configuration says that releases go on.
    StateNotFresh,
    /// The shared state is not as it was.
    StateRolledBack,
    /// There is something in the fleet that must not be.
    Fleet(SplitKind),
}

/// The effect of a cause on the release of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is released.
    Stops,
    /// Keys are released to callers that still arrive; load balancers send them elsewhere.
    Drains,
    /// Keys are released, but an operator should act.
    Warns,
}

impl Cause {
    /// All causes, in the order in which they are reported.
    pub const ALL: [Self; 28] = [
        Self::NoKeys,
        Self::Frozen,
        Self::AllowlistUnusable,
        Self::PolicyUnavailable,
        Self::KmsNotAllowed,
        Self::OwnEvidenceUnavailable,
        Self::OwnEvidenceRefused,
        Self::CollateralUnavailable,
        Self::AuditLogUnavailable,
        Self::Clock,
        Self::StateStale,
        Self::EpochsLost,
        Self::Draining,
        Self::DiskNearlyFull,
        Self::Recovery,
        Self::DomainPolicyUnavailable,
        Self::PolicyFork,
        Self::PolicyHeld,
        Self::PolicyExpires,
        Self::StateRolledBack,
        Self::Fleet(SplitKind::Roots),
        Self::Fleet(SplitKind::Domains),
        Self::Fleet(SplitKind::Policies),
        Self::Fleet(SplitKind::Ledger),
        Self::Fleet(SplitKind::Cloned),
        Self::Fleet(SplitKind::Clock),
        Self::StateNotFresh,
        Self::CollateralNotRefreshed,
    ];

    /// The stable name, which is also the code of a refusal for this cause.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoKeys => "no_keys",
            Self::PolicyUnavailable => "policy_unavailable",
            Self::AllowlistUnusable => DenialCode::AllowlistUnusable.name(),
            Self::KmsNotAllowed => "kms_not_allowed",
            Self::OwnEvidenceUnavailable => "own_evidence_unavailable",
            Self::OwnEvidenceRefused => "own_evidence_refused",
            Self::CollateralUnavailable => "collateral_unavailable",
            Self::AuditLogUnavailable => "audit_log_unavailable",
            Self::Clock => "clock",
            Self::Frozen => "frozen",
            Self::Draining => "draining",
            Self::DiskNearlyFull => "disk_nearly_full",
            Self::EpochsLost => "epochs_lost",
            Self::Recovery => "recovery",
            Self::PolicyExpires => "policy_expires",
            Self::PolicyFork => "policy_fork",
            Self::PolicyHeld => "policy_held",
            Self::DomainPolicyUnavailable => "domain_policy_unavailable",
            Self::CollateralNotRefreshed => "collateral_not_refreshed",
            Self::StateStale => "state_stale",
            Self::StateNotFresh => "state_not_fresh",
            Self::StateRolledBack => "state_rolled_back",
            Self::Fleet(kind) => kind.name(),
        }
    }

    /// A sentence that anyone may read: it contains no address, path or other internal.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoKeys => "this KMS does not serve keys yet: onboarding is not finished",
            Self::PolicyUnavailable => "the authorization backend does not answer",
            Self::AllowlistUnusable => "the allowlist is missing or invalid, so everything is denied",
            Self::KmsNotAllowed => "the policy does not allow this KMS itself",
            Self::OwnEvidenceUnavailable => "the attester of this KMS gives no usable evidence",
            Self::OwnEvidenceRefused => "the evidence of this KMS itself does not verify",
            Self::CollateralUnavailable => "there is no valid collateral to verify evidence with",
            Self::AuditLogUnavailable => "the audit log cannot be written, so nothing is released",
            Self::Clock => "the clock is wrong: it is behind what is known to be past",
            Self::Frozen => "an operator has frozen this KMS",
            Self::Draining => "an operator drains this KMS: send requests to another one",
            Self::DiskNearlyFull => "little disk space is left for the audit log",
            Self::EpochsLost => {
                "the key directory is older than the audit log: root epochs are missing, or retired ones are back"
            }
            Self::Recovery => "the recovery of the root keys needs an owner: a set, or a drill of it",
            Self::PolicyExpires => "the signed policy expires soon, or has expired",
            Self::PolicyHeld => {
                "a new signed policy would deny what is allowed now, so it waits for an operator"
            }
            Self::PolicyFork => {
                "signers of the policy have signed two that contradict each other; the one in force stays"
            }
            Self::StateStale => {
                "this KMS does not know what operators changed on other nodes, so it releases nothing"
            }
            Self::StateNotFresh => "this KMS may not know what operators changed on other nodes",
            Self::StateRolledBack => "the state that the nodes share is not as it was, so it is not believed",
            Self::Fleet(SplitKind::Roots) => "nodes of the fleet have different root keys",
            Self::Fleet(SplitKind::Domains) => {
                "nodes of the fleet have different domains, so they give apps different keys"
            }
            Self::Fleet(SplitKind::Policies) => "nodes of the fleet decide by different policies",
            Self::Fleet(SplitKind::Ledger) => {
                "the audit log of a node of the fleet is not the one that it was"
            }
            Self::Fleet(SplitKind::Cloned) => {
                "two nodes of the fleet have one id: the disk of a node was copied"
            }
            Self::Fleet(SplitKind::Clock) => "the clocks of nodes of the fleet differ",
            Self::DomainPolicyUnavailable => {
                "the policy of a domain cannot decide, so nothing is released in that domain"
            }
            Self::CollateralNotRefreshed => {
                "no newer collateral is available: what is kept is used until it expires"
            }
        }
    }

    /// Its effect.
    pub fn effect(self) -> Effect {
        match self {
            // Another replica has the newer keys, where there is one.
            Self::Draining | Self::EpochsLost => Effect::Drains,
            Self::DiskNearlyFull
            | Self::Recovery
            | Self::PolicyExpires
            | Self::PolicyFork
            | Self::StateNotFresh
            | Self::StateRolledBack
            | Self::Fleet(_)
            | Self::PolicyHeld
            // Other domains are served: a load balancer must not take this KMS from them.
            | Self::DomainPolicyUnavailable
            | Self::CollateralNotRefreshed => Effect::Warns,
            Self::NoKeys
            | Self::PolicyUnavailable
            | Self::AllowlistUnusable
            | Self::KmsNotAllowed
            | Self::OwnEvidenceUnavailable
            | Self::OwnEvidenceRefused
            | Self::CollateralUnavailable
            | Self::AuditLogUnavailable
            | Self::Clock
            | Self::StateStale
            | Self::Frozen => Effect::Stops,
        }
    }
}

/// One cause with its details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The cause.
    pub cause: Cause,
    /// Details for operators only: may name hosts and files, and quote a backend. Empty if the cause says
    /// everything, and if only domains are concerned.
    pub detail: String,
    /// The domains with a policy of their own that are concerned, each with its details.
    pub domains: BTreeMap<DomainName, String>,
}

impl Reason {
    fn new(cause: Cause, detail: String) -> Self {
        Self { cause, detail, domains: BTreeMap::new() }
    }

    /// Whether it is about domains with a policy of their own, and not about the KMS.
    pub fn is_of_domains_only(&self) -> bool {
        self.detail.is_empty() && !self.domains.is_empty()
    }

    /// The details that an operator may read: of domains only those in `scope`.
    pub fn detail_for(&self, scope: &DomainScope) -> String {
        let own = Some(self.detail.clone()).filter(|detail| !detail.is_empty());
        let domains = self.domains.iter().filter(|(name, _)| scope.has(name));
        let of_domains = domains.map(|(name, detail)| format!("domain {name}: {detail}"));
        own.into_iter().chain(of_domains).collect::<Vec<_>>().join("; ")
    }

    /// The cause with the names of the domains, for notifications and the log.
    pub fn sentence(&self) -> String {
        let text = self.cause.text();
        let names: Vec<_> = self.domains.keys().map(DomainName::as_str).collect();
        match (names.is_empty(), self.is_of_domains_only()) {
            (true, _) => text.to_owned(),
            (false, true) => format!("{text} (domain {})", names.join(", ")),
            (false, false) => format!("{text} (also in the domain {})", names.join(", ")),
        }
    }
}

/// Why the policy cannot decide, in words that a record may have: a backend's own words may name hosts.
pub(in crate::api) fn policy_problem(policy: &Policy) -> Option<String> {
    let problem = policy.last_error()?;
    Some(match policy {
        Policy::Allowlist(_) | Policy::Bundled(_) => problem,
        Policy::AllowAll(_) | Policy::Webhook(_) | Policy::Ethereum(_) => {
            Cause::PolicyUnavailable.text().to_owned()
        }
    })
}

/// The state at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    reasons: Vec<Reason>,
}

impl Report {
    fn new(mut reasons: Vec<Reason>) -> Self {
        let place = |cause: Cause| Cause::ALL.iter().position(|other| *other == cause);
        reasons.sort_by_key(|reason| place(reason.cause));
        reasons.dedup_by(|next, first| {
            let is_same = next.cause == first.cause;
            if is_same {
                if first.detail.is_empty() {
                    first.detail = std::mem::take(&mut next.detail);
                }
                first.domains.append(&mut next.domains);
            }
            is_same
        });
        Self { reasons }
    }

    /// Whether requests should come here: keys are released, and no operator drains this KMS.
    pub fn is_ready(&self) -> bool {
        self.releases() && self.with(Effect::Drains).next().is_none()
    }

    /// Whether keys can be released.
    pub fn releases(&self) -> bool {
        self.with(Effect::Stops).next().is_none()
    }

    /// All reasons, in the order of [`Cause::ALL`].
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// The reasons with this effect.
    pub fn with(&self, effect: Effect) -> impl Iterator<Item = &Reason> {
        self.reasons.iter().filter(move |reason| reason.cause.effect() == effect)
    }

    /// Why [`Report::is_ready`] says no.
    pub fn not_ready(&self) -> impl Iterator<Item = &Reason> {
        self.with(Effect::Stops).chain(self.with(Effect::Drains))
    }

    /// Reasons in the public form that `GetMeta` shows.
    pub fn shown<'a>(reasons: impl Iterator<Item = &'a Reason>) -> Vec<ReadinessReason> {
        let shown = |reason: &Reason| ReadinessReason {
            code: reason.cause.name().to_owned(),
            text: reason.cause.text().to_owned(),
        };
        reasons.map(shown).collect()
    }

    /// Whether both have the same causes in the same domains, with whatever details.
    fn has_causes_of(&self, other: &Self) -> bool {
        let causes = |report: &Self| report.reasons.iter().map(Reason::sentence).collect::<Vec<_>>();
        causes(self) == causes(other)
    }
}

/// The state of this KMS, shared by all that report it.
#[derive(Debug)]
pub struct Readiness {
    /// `None` while onboarding.
    foundation: Option<Arc<Foundation>>,
    recovery: Option<Arc<RecoveryService>>,
    lost: Option<Arc<LostEpochs>>,
    metrics: Arc<Metrics>,
    current: watch::Sender<Report>,
    /// Since when each report said that it is ready.
    ready_since: Mutex<Option<Instant>>,
}

impl Readiness {
    /// For a KMS without keys.
    pub fn onboarding(metrics: Arc<Metrics>) -> Self {
        Self::new(None, None, None, metrics)
    }

    /// For a KMS with keys.
    pub fn serving(
        foundation: Arc<Foundation>,
        recovery: Arc<RecoveryService>,
        lost: Arc<LostEpochs>,
    ) -> Self {
        let metrics = Arc::clone(&foundation.metrics);
        Self::new(Some(foundation), Some(recovery), Some(lost), metrics)
    }

    fn new(
        foundation: Option<Arc<Foundation>>,
        recovery: Option<Arc<RecoveryService>>,
        lost: Option<Arc<LostEpochs>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (current, ready_since) = (watch::Sender::default(), Mutex::default());
        Self { foundation, recovery, lost, metrics, current, ready_since }
    }

    /// Whether this is the phase without keys.
    pub fn is_onboarding(&self) -> bool {
        self.foundation.is_none()
    }

    /// The current state, from memory and without waiting.
    pub fn report(&self) -> Report {
        let mut reasons = match &self.foundation {
            None => vec![plain(Cause::NoKeys)],
            Some(foundation) => reasons(foundation),
        };
        let advice = self.recovery.as_ref().and_then(|recovery| recovery.standing().sentence());
        reasons.extend(advice.map(|detail| Reason::new(Cause::Recovery, detail)));
        let lost = self.lost.as_ref().and_then(|lost| lost.sentence());
        reasons.extend(lost.map(|detail| Reason::new(Cause::EpochsLost, detail)));
        let report = Report::new(reasons);
        self.metrics.set_ready(report.is_ready());
        self.note_ready(report.is_ready(), Instant::now());
        for cause in Cause::ALL {
            let applies = report.reasons.iter().any(|reason| reason.cause == cause);
            self.metrics.set_not_ready(cause.name(), applies);
        }
        self.current.send_if_modified(|known| {
            let is_news = !known.has_causes_of(&report);
            if is_news {
                tell(known, &report);
                known.clone_from(&report);
            }
            is_news
        });
        report
    }

    fn note_ready(&self, is_ready: bool, now: Instant) {
        let mut since = self.ready_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = is_ready.then(|| since.unwrap_or(now));
    }

    /// How long it has been ready without a gap in what was reported; `None` if it is not.
    pub fn ready_for(&self) -> Option<Duration> {
        let since = self.ready_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed())
    }

    /// Notifies when the causes change.
    pub fn watch(&self) -> watch::Receiver<Report> {
        self.current.subscribe()
    }

    /// Checks the state periodically, until dropped.
    pub async fn refresh_loop(&self) {
        let Some(foundation) = &self.foundation else { return };
        let look = async {
            let mut tick = tokio::time::interval(LOOK_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                self.report();
            }
        };
        tokio::join!(look, probe(foundation));
    }
}

/// What stops the release of keys now, or will soon.
pub(super) fn reasons(foundation: &Foundation) -> Vec<Reason> {
    let Foundation { self_authorization, policy, freezes, drain, verifier, audit, .. } = foundation;
    let mut reasons = Vec::new();
    if let Some(frozen) = freezes.of_kms() {
        let detail = format!("by {}: {}", frozen.author.by, frozen.reason);
        reasons.push(Reason::new(Cause::Frozen, detail));
    }
    if let Some(view) = freezes.view() {
        reasons.extend(of_view(view));
    }
    if let Err(behind) = verifier.cache().clock().check() {
        reasons.push(Reason::new(Cause::Clock, format!("{behind}. {CLOCK_REMEDY}")));
    }
    if let Err(refusal) = self_authorization.last_outcome() {
        reasons.push(of_self_authorization(refusal));
    }
    if let Some(detail) = policy.last_error().filter(|_| !self_authorization.is_enforced()) {
        let cause = match **policy {
            Policy::Allowlist(_) | Policy::Bundled(_) => Cause::AllowlistUnusable,
            Policy::AllowAll(_) | Policy::Webhook(_) | Policy::Ethereum(_) => Cause::PolicyUnavailable,
        };
        reasons.push(Reason::new(cause, detail));
    }
    reasons.extend(policy.bundled().into_iter().flat_map(|bundled| of_bundle(bundled, unix_now())));
    reasons.extend(domains::of_domains(foundation, unix_now()));
    reasons.extend(of_collateral(verifier.cache()));
    if let Health::Failing { since, reason } = audit.health() {
        let cause = match reason {
            FailureReason::ClockBehind => Cause::Clock,
            FailureReason::DiskFull
            | FailureReason::Write
            | FailureReason::Sync
            | FailureReason::Stalled
            | FailureReason::FileChanged
            | FailureReason::NotAsSigned
            | FailureReason::Importing
            | FailureReason::NotImported
            | FailureReason::BuildingTree
            | FailureReason::Tree
            | FailureReason::Ended => Cause::AuditLogUnavailable,
        };
        let progress = audit.imported().map(|(record, of)| format!(" (record {record} of {of})"));
        let detail = format!("{reason}{}, since Unix time {since}", progress.unwrap_or_default());
        reasons.push(Reason::new(cause, detail));
    }
    if let Some(draining) = drain.current() {
        let detail = format!("by {} since {}", draining.by, rfc3339(draining.since));
        reasons.push(Reason::new(Cause::Draining, detail));
    }
    if let Some(detail) = audit.space().shortage() {
        reasons.push(Reason::new(Cause::DiskNearlyFull, detail));
    }
    reasons
}

/// What is wrong with the view of the state that the nodes share.
fn of_view(view: &View) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(alarm) = view.alarm() {
        let detail = format!("{alarm}. {}", alarm.remedy());
        reasons.push(Reason::new(Cause::StateRolledBack, detail));
    }
    for split in view.splits() {
        let detail = format!("{}. {}", split.text, split.kind.remedy());
        reasons.push(Reason::new(Cause::Fleet(split.kind), detail));
    }
    if let Standing::Stale(stale) = view.standing() {
        let cause = match view.when_stale() {
            WhenStale::Refuse => Cause::StateStale,
            WhenStale::Warn => Cause::StateNotFresh,
        };
        reasons.push(Reason::new(cause, stale.with_remedy()));
    }
    reasons
}

/// The seconds until the first cached collateral expires, where less than a day is left, or a week where no service is asked: it
/// should have been replaced before.
pub fn collateral_left(cache: &CollateralCache) -> Option<u64> {
    let expires = cache.stats().entries.iter().map(|entry| entry.expires).min()?;
    let notice = if cache.is_offline() { COLLATERAL_LEFT_OFFLINE } else { COLLATERAL_LEFT };
    Some(expires.saturating_sub(cache.clock().now())).filter(|left| *left < notice)
}

/// Asks otherwise idle policies for their description, to learn whether they respond. Each at its own pace, so that one that
/// hangs delays no other.
async fn probe(foundation: &Foundation) {
    // That of the KMS is asked about the KMS itself otherwise.
    let own = (!foundation.self_authorization.is_enforced()).then_some(&*foundation.policy);
    let of_domains = foundation.domain_policies.keys();
    let own = own.into_iter().map(|policy| probe_policy(foundation, None, policy));
    let of_domains =
        of_domains.map(|domain| probe_policy(foundation, Some(domain), foundation.policy_of(domain)));
    join_all(own.chain(of_domains)).await;
}

async fn probe_policy(foundation: &Foundation, domain: Option<&DomainName>, policy: &Policy) {
    let mut tick = tokio::time::interval(PROBE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let is_used = |domain| domains::in_use(foundation).iter().any(|(name, _)| *name == domain);
        if domain.is_none_or(is_used) {
            // The result is in `last_error`.
            let _ = policy.info().await;
        }
    }
}

fn plain(cause: Cause) -> Reason {
    Reason::new(cause, String::new())
}

fn of_self_authorization(refusal: SelfRefusal) -> Reason {
    match refusal {
        SelfRefusal::Unknown { missing, detail } => {
            let cause = match missing {
                Missing::Policy => Cause::PolicyUnavailable,
                // The detail says which.
                Missing::Evidence | Missing::OsImage => Cause::OwnEvidenceUnavailable,
                Missing::Collateral => Cause::CollateralUnavailable,
                Missing::Clock => Cause::Clock,
            };
            Reason::new(cause, detail)
        }
        SelfRefusal::Denied(denial) => {
            let cause = match denial.code {
                SelfDenialCode::NotAllowed => Cause::KmsNotAllowed,
                SelfDenialCode::AllowlistUnusable => Cause::AllowlistUnusable,
                SelfDenialCode::EvidenceRefused => Cause::OwnEvidenceRefused,
            };
            // Nobody's measurements were judged, so only the cause says something.
            if denial.code == SelfDenialCode::AllowlistUnusable
                && let Some(problem) = denial.expected
            {
                return Reason::new(cause, problem);
            }
            let mut detail = denial.reason();
            for (what, value) in [("expected", &denial.expected), ("found", &denial.actual)] {
                if let Some(value) = value {
                    detail.push_str(&format!("; {what} {value}"));
                }
            }
            Reason::new(cause, detail)
        }
    }
}

/// What operators must know of the signed bundle in force of the KMS's own policy.
fn of_bundle(bundled: &Bundled, now: u64) -> Vec<Reason> {
    let fork = bundled.is_forked().then(|| {
        Reason::new(Cause::PolicyFork, "core.auth_api.bundle: see kmsctl policy history".to_owned())
    });
    let end = ending(bundled, now).map(|detail| Reason::new(Cause::PolicyExpires, detail));
    let held = bundled.is_held().then(|| {
        Reason::new(Cause::PolicyHeld, "core.auth_api.bundle: see kmsctl policy history".to_owned())
    });
    fork.into_iter().chain(held).chain(end).collect()
}

/// A text if the bundle in force expires soon, or has expired.
fn ending(bundled: &Bundled, now: u64) -> Option<String> {
    let in_force = bundled.bundle()?;
    let header = in_force.bundle.header();
    let word = match bundled.expiry(now)? {
        Expiry::Far => return None,
        Expiry::Soon => "expires",
        Expiry::Expired => "has expired",
    };
    let (name, serial, end) = (header.name(), header.serial(), rfc3339(header.expires()));
    Some(format!("bundle {name} with serial {serial} {word} at {end}"))
}

/// What is wrong with collateral: none is valid, or nothing replaces what is kept.
fn of_collateral(cache: &CollateralCache) -> Option<Reason> {
    let stats = cache.stats();
    if stats.stored.is_loading {
        return None;
    }
    let now = cache.clock().now();
    let ends = || stats.entries.iter().map(|entry| entry.expires).filter(|end| *end > now);
    let (Some(first), Some(last)) = (ends().min(), ends().max()) else {
        let none_comes = stats.endpoints.iter().all(|endpoint| endpoint.paused);
        let is_gone = none_comes || !stats.entries.is_empty();
        let offline =
            if cache.is_offline() { "core.attestation.offline: import newer collateral. " } else { "" };
        let detail = || format!("{offline}{}", of_expired(&stats)).trim_end().to_owned();
        return is_gone.then(|| Reason::new(Cause::CollateralUnavailable, detail()));
    };
    let kept = format!(
        "the collateral of {} models is used; the first expires at {}, the last at {}",
        ends().count(),
        rfc3339(first),
        rfc3339(last)
    );
    let detail = if cache.is_offline() {
        collateral_left(cache)?;
        format!("core.attestation.offline: {kept}. Import newer collateral")
    } else if stats.endpoints.iter().all(|endpoint| endpoint.is_failing) {
        format!("no collateral service gives a usable answer: {kept}")
    } else {
        return None;
    };
    Some(Reason::new(Cause::CollateralNotRefreshed, detail))
}

/// What is known of collateral that has expired.
fn of_expired(stats: &CacheStats) -> String {
    let Some((model, end)) = stats.expired.iter().max_by_key(|(_, end)| *end) else { return String::new() };
    format!(
        "the collateral of {} models has expired, the last ({} of the {} CA) at {}",
        stats.expired.len(),
        hex::encode(model.fmspc),
        model.ca.as_str(),
        rfc3339(*end)
    )
}

/// Logs each change once.
fn tell(before: &Report, now: &Report) {
    let names = |effect| {
        let name = |reason: &Reason| {
            let domains: Vec<_> = reason.domains.keys().map(DomainName::as_str).collect();
            match domains.is_empty() {
                true => reason.cause.name().to_owned(),
                false => format!("{} (domain {})", reason.cause.name(), domains.join(", ")),
            }
        };
        let names: Vec<_> = now.with(effect).map(name).collect();
        names.join(", ")
    };
    let (reasons, warnings) = (names(Effect::Stops), names(Effect::Warns));
    match (before.is_ready(), now.is_ready()) {
        (_, false) if now.releases() => {
            tracing::warn!(
                "DRAINING: load balancers are told to send requests elsewhere; those that come are served"
            );
        }
        (_, false) => tracing::warn!(reasons, "NOT READY: nothing is released"),
        (false, true) => tracing::info!(warnings, "ready again: keys are released"),
        (true, true) if warnings.is_empty() => tracing::info!("the warnings are over"),
        (true, true) => tracing::warn!(warnings, "keys are released, but something needs an operator"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_cause_is_reported_once_under_a_name_of_its_own() {
        let names: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            assert!(!cause.text().is_empty() && !cause.text().contains('/'), "{cause:?}");
        }
    }

    #[test]
    fn a_warning_does_not_stop_anything_and_a_reason_does() {
        let report = |causes: &[Cause]| Report::new(causes.iter().map(|cause| plain(*cause)).collect());
        for (causes, is_ready) in [
            (&[][..], true),
            (&[Cause::DiskNearlyFull][..], true),
            (&[Cause::DiskNearlyFull, Cause::AuditLogUnavailable][..], false),
            (&[Cause::Frozen][..], false),
            (&[Cause::Draining][..], false),
            (&[Cause::EpochsLost][..], false),
        ] {
            assert_eq!(report(causes).is_ready(), is_ready, "{causes:?}");
        }
        let both = report(&[Cause::DiskNearlyFull, Cause::PolicyUnavailable, Cause::Frozen, Cause::Frozen]);
        let codes: Vec<_> = Report::shown(both.not_ready()).into_iter().map(|reason| reason.code).collect();
        assert_eq!(codes, ["frozen", "policy_unavailable"]);
        assert_eq!(both.with(Effect::Warns).count(), 1);
        let draining = report(&[Cause::Draining]);
        assert!(draining.releases() && !report(&[Cause::Draining, Cause::Frozen]).releases());
    }

    #[test]
    fn what_is_wrong_in_domains_is_one_warning_that_names_them_to_those_who_may_know() {
        let [one, two]: [DomainName; 2] = ["team-a", "team-b"].map(|name| name.parse().expect("a name"));
        let of = |cause, domain: &DomainName| Reason {
            domains: BTreeMap::from([(domain.clone(), "unreadable".to_owned())]),
            ..plain(cause)
        };
        let broken = Cause::DomainPolicyUnavailable;
        let first = Report::new(vec![of(broken, &one)]);
        let both = Report::new(vec![of(broken, &two), of(broken, &one)]);
        assert!(both.is_ready() && both.releases() && both.reasons.len() == 1);
        assert!(!first.has_causes_of(&both), "another domain is news");
        let reason = &both.reasons[0];
        assert!(reason.is_of_domains_only());
        assert_eq!(
            reason.detail_for(&DomainScope::WHOLE_KMS),
            "domain team-a: unreadable; domain team-b: unreadable"
        );
        let limited = DomainScope::limited(two.clone(), crate::operator::scope::Others::Some);
        assert_eq!(reason.detail_for(&limited), "domain team-b: unreadable");
        assert!(reason.sentence().ends_with("in that domain (domain team-a, team-b)"));
        let fork = Reason::new(Cause::PolicyFork, "core".to_owned());
        let forks = Report::new(vec![of(Cause::PolicyFork, &two), fork]);
        assert_eq!(forks.reasons[0].detail_for(&DomainScope::WHOLE_KMS), "core; domain team-b: unreadable");
        assert!(forks.reasons[0].sentence().ends_with("(also in the domain team-b)"));
    }

    #[test]
    fn a_kms_without_keys_is_not_ready_and_the_metrics_say_so() {
        let metrics = Arc::new(Metrics::new([]));
        let readiness = Readiness::onboarding(Arc::clone(&metrics));
        let mut watch = readiness.watch();
        assert!(!readiness.report().is_ready());
        assert!(watch.has_changed().expect("a sender"));
        assert!(!watch.borrow_and_update().is_ready());
        readiness.report();
        assert!(!watch.has_changed().expect("a sender"), "the same again is no news");
        let text = metrics.render();
        assert!(text.contains("cvm_kms_ready 0"), "{text}");
        assert!(text.contains("cvm_kms_not_ready{reason=\"no_keys\"} 1"), "{text}");
    }
}
