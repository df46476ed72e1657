//! The policy that the bundle in force defines. What puts a bundle into force is not here: it keeps serials.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use kms_attest::clock::unix_now;
use kms_attest::identity::BootInfo;

use super::shadow::{Differences, Shadow};
use super::{Bundle, BundleDigest};
use crate::decision::{Decision, Denial, DenialCode, Ruling, Subject};
use crate::drop_in_background::drop_in_background;
use crate::epochs::AppEpochs;
use crate::examination::Examination;
use crate::info::{InForce, Info};
use crate::relaxation::Relaxation;
use crate::rules::Rules;
use crate::settings::{self, EmptyDevices, OnExpiry};

/// The problem of a KMS that has no bundle yet.
const NONE: &str = "no signed bundle is in force; push one, or look why the source gives none";

/// Decides by the bundle in force. Without one, everything is denied.
#[derive(Debug)]
pub struct Bundled {
    settings: settings::Bundle,
    in_force: ArcSwapOption<BundleInForce>,
    nothing: Rules,
    /// Why there is none, where that is known.
    missing: ArcSwapOption<String>,
    source_problem: ArcSwapOption<String>,
    is_forked: AtomicBool,
    /// Judges beside the bundle in force.
    shadow: ArcSwapOption<Shadow>,
    is_held: AtomicBool,
}

/// The bundle that decides.
#[derive(Debug)]
pub struct BundleInForce {
    /// The bundle.
    pub bundle: Bundle,
    /// When it was put into force.
    pub since: SystemTime,
}

/// Where a bundle is in the time of its validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It expires later than operators want to know.
    Far,
    /// It expires soon.
    Soon,
    /// It has expired.
    Expired,
}

impl Bundled {
    /// Without a bundle.
    pub fn new(settings: settings::Bundle) -> Self {
        Self {
            settings,
            in_force: ArcSwapOption::empty(),
            nothing: Rules::deny_all(),
            missing: ArcSwapOption::empty(),
            source_problem: ArcSwapOption::empty(),
            is_forked: AtomicBool::new(false),
            shadow: ArcSwapOption::empty(),
            is_held: AtomicBool::new(false),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &settings::Bundle {
        &self.settings
    }

    /// Makes `bundle` decide from now on. The caller has made sure that it may.
    pub fn put_in_force(&self, bundle: Bundle, since: SystemTime) {
        tracing::info!(
            name = bundle.header().name(),
            serial = bundle.header().serial(),
            digest = %bundle.digest(),
            rules = bundle.summary(),
            "policy bundle in force"
        );
        if let Some(before) = self.in_force.swap(Some(Arc::new(BundleInForce { bundle, since }))) {
            drop_in_background(before);
        }
    }

    /// Lets `bundle` judge live requests from now on, in place of another one.
    pub fn begin_shadow(&self, bundle: Bundle) {
        self.shadow.store(Some(Arc::new(Shadow::new(bundle))));
    }

    /// No bundle judges beside the one in force from now on.
    pub fn end_shadow(&self) {
        self.shadow.store(None);
    }

    /// What the bundle with this digest would have changed so far.
    pub fn differences(&self, digest: BundleDigest) -> Option<Differences> {
        let shadow = self.shadow.load();
        Some(shadow.as_ref().filter(|shadow| shadow.digest() == digest)?.differences())
    }

    /// Compares the decision about a live request with that of the bundle that judges beside. `releases` says whether keys are
    /// released by a decision, which depends on the guest's stage and the epochs too.
    pub fn observe(&self, subject: Subject<'_>, active: &Decision, releases: impl Fn(&Decision) -> bool) {
        if let Some(shadow) = self.shadow.load().as_ref() {
            shadow.observe(subject, self.settings.empty_devices, active, releases);
        }
    }

    /// As [`Bundled::observe`], for this KMS itself.
    pub(crate) fn observe_own(&self, own: &BootInfo, active: &Decision) {
        if let Some(shadow) = self.shadow.load().as_ref() {
            shadow.observe_own(own, self.settings.empty_devices, active);
        }
    }

    /// Says why there is no bundle, for operators.
    pub fn say_why_none(&self, why: String) {
        self.missing.store(Some(Arc::new(why)));
    }

    /// Says why the source gives nothing that can be used, or that it does.
    pub fn set_source_problem(&self, problem: Option<String>) {
        self.source_problem.store(problem.map(Arc::new));
    }

    /// Why the source gives nothing that can be used, for operators.
    pub fn source_problem(&self) -> Option<String> {
        self.source_problem.load().as_deref().cloned()
    }

    /// Says whether a bundle came that contradicts what was known.
    pub fn set_forked(&self, is_forked: bool) {
        self.is_forked.store(is_forked, Ordering::Relaxed);
    }

    /// Whether a bundle came that contradicts what was known.
    pub fn is_forked(&self) -> bool {
        self.is_forked.load(Ordering::Relaxed)
    }

    /// Says whether a new bundle waits for an operator, because of what it would deny.
    pub fn set_held(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// Whether a new bundle waits for an operator, because of what it would deny.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    /// Whether the bundle in force can decide now.
    pub fn can_decide(&self) -> bool {
        self.last_error().is_none()
    }

    /// The bundle that decides.
    pub fn bundle(&self) -> Option<Arc<BundleInForce>> {
        self.in_force.load_full()
    }

    /// Where the bundle in force is in its validity at `now`, Unix seconds.
    pub fn expiry(&self, now: u64) -> Option<Expiry> {
        let in_force = self.in_force.load();
        let expires = in_force.as_ref()?.bundle.header().expires();
        Some(match expires.checked_sub(now) {
            None | Some(0) => Expiry::Expired,
            Some(left) if left <= self.settings.warn_before_expiry.as_secs() => Expiry::Soon,
            Some(_) => Expiry::Far,
        })
    }

    /// Why it cannot decide at `now`; `None` if it can.
    fn problem(&self, in_force: Option<&BundleInForce>, now: u64) -> Option<String> {
        let Some(BundleInForce { bundle, .. }) = in_force else {
            return Some(self.missing.load().as_ref().map_or_else(|| NONE.to_owned(), |why| (**why).clone()));
        };
        let is_over = bundle.header().expires() <= now;
        (is_over && self.settings.on_expiry == OnExpiry::Deny).then(|| {
            let serial = bundle.header().serial();
            format!("the bundle with serial {serial} has expired (core.auth_api.bundle.on_expiry = \"deny\")")
        })
    }

    pub(crate) fn decide(&self, subject: Subject<'_>) -> Ruling {
        self.decide_at(subject, unix_now())
    }

    /// As [`Bundled::decide`], at a time in Unix seconds.
    pub(super) fn decide_at(&self, subject: Subject<'_>, now: u64) -> Ruling {
        let in_force = self.in_force.load();
        let in_force = in_force.as_deref();
        let digest = in_force.map(|it| *it.bundle.digest().as_bytes());
        let decision = match (self.problem(in_force, now), in_force) {
            (None, Some(it)) => it.bundle.rules.decide(subject, self.settings.empty_devices),
            (problem, _) => match self.nothing.decide(subject, EmptyDevices::NoDevice) {
                Decision::Denied(denial) => Decision::Denied(Denial {
                    code: DenialCode::AllowlistUnusable,
                    expected: problem,
                    ..denial
                }),
                allowed @ (Decision::Allowed { .. } | Decision::IfImage(_)) => allowed,
            },
        };
        Ruling { decision, digest }
    }

    /// The decision, the outcome of each of its rules, and the nearest entry.
    pub(crate) fn examine(&self, subject: Subject<'_>) -> Examination {
        let Ruling { decision, digest } = self.decide(subject);
        let in_force = self.in_force.load();
        let rules = in_force.as_ref().map_or(&self.nothing, |it| &*it.bundle.rules);
        Examination {
            decision: Ok(decision),
            rules: rules.checks(subject, self.settings.empty_devices).collect(),
            nearest: rules.nearest(subject, self.settings.empty_devices),
            release_stage: rules.release_stage(subject),
            epochs: rules.epochs(subject),
            digest,
        }
    }

    pub(crate) fn in_force(&self) -> InForce {
        let in_force = self.in_force.load();
        let in_force = in_force.as_deref();
        InForce {
            digest: in_force.map(|it| *it.bundle.digest().as_bytes()),
            since: in_force.map(|it| it.since),
        }
    }

    pub(crate) fn app_epochs(&self, app_id: &[u8]) -> Option<Arc<AppEpochs>> {
        self.in_force.load().as_ref()?.bundle.rules.epochs_of(app_id)
    }

    pub(crate) fn info(&self) -> Info {
        self.in_force.load().as_ref().map_or_else(|| self.nothing.info(), |it| it.bundle.rules.info())
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.problem(self.in_force.load().as_deref(), unix_now())
    }

    pub(crate) fn relaxation(&self) -> Option<Relaxation> {
        match self.settings.empty_devices {
            EmptyDevices::AnyDevice => self.in_force.load().as_ref()?.bundle.rules.relaxation(),
            EmptyDevices::NoDevice => None,
        }
    }

    /// Whether `digest` identifies the bundle in force.
    pub fn is_in_force(&self, digest: BundleDigest) -> bool {
        self.in_force.load().as_ref().is_some_and(|it| it.bundle.digest() == digest)
    }
}
