//! The shadow of a bundle: it judges live requests beside the bundle in force, without deciding.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kms_attest::identity::BootInfo;

use super::policy::Bundled;
use super::{Bundle, BundleDigest};
use crate::decision::{Decision, Subject};

/// A bundle with what it would have changed so far.
#[derive(Debug)]
pub(super) struct Shadow {
    bundle: Bundle,
    compared: AtomicU64,
    newly_allowed: AtomicU64,
    newly_denied: AtomicU64,
    denies_this_kms: AtomicBool,
}

/// What a bundle would have changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Differences {
    /// Requests that both have judged.
    pub compared: u64,
    /// Requests that only it allows.
    pub newly_allowed: u64,
    /// Requests that only the bundle in force allows.
    pub newly_denied: u64,
    /// Whether it denies this KMS itself, which is allowed now.
    pub denies_this_kms: bool,
}

impl Bundled {
    /// Lets `bundle` judge live requests from now on, in place of another one.
    pub fn begin_shadow(&self, bundle: Bundle) {
        self.shadow.store(Some(Arc::new(Shadow {
            bundle,
            compared: AtomicU64::new(0),
            newly_allowed: AtomicU64::new(0),
            newly_denied: AtomicU64::new(0),
            denies_this_kms: AtomicBool::new(false),
        })));
    }

    /// No bundle judges beside the one in force from now on.
    pub fn end_shadow(&self) {
        self.shadow.store(None);
    }

    /// What the bundle with this digest would have changed so far.
    pub fn differences(&self, digest: BundleDigest) -> Option<Differences> {
        let shadow = self.shadow.load();
        let it = shadow.as_ref().filter(|it| it.bundle.digest() == digest)?;
        Some(Differences {
            compared: it.compared.load(Ordering::Relaxed),
            newly_allowed: it.newly_allowed.load(Ordering::Relaxed),
            newly_denied: it.newly_denied.load(Ordering::Relaxed),
            denies_this_kms: it.denies_this_kms.load(Ordering::Relaxed),
        })
    }

    /// Compares the decision about a live request with that of the bundle that judges beside. `releases` says whether keys are
    /// released by a decision, which depends on the guest's stage and the epochs too.
    pub fn observe(&self, subject: Subject<'_>, active: &Decision, releases: impl Fn(&Decision) -> bool) {
        let shadow = self.shadow.load();
        let Some(it) = shadow.as_ref() else { return };
        let candidate = it.bundle.rules.decide(subject, self.settings().empty_devices);
        match (releases(active), releases(&candidate)) {
            (true, false) => it.newly_denied.fetch_add(1, Ordering::Relaxed),
            (false, true) => it.newly_allowed.fetch_add(1, Ordering::Relaxed),
            (true, true) | (false, false) => 0,
        };
        it.compared.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Bundled::observe`], for this KMS itself. Where it is not known whether it will be allowed, it counts as denied.
    pub(crate) fn observe_own(&self, own: &BootInfo, active: &Decision) {
        let shadow = self.shadow.load();
        let Some(it) = shadow.as_ref() else { return };
        let candidate = it.bundle.rules.decide(Subject::Kms(own), self.settings().empty_devices);
        let is_denied = match (active, &candidate) {
            (Decision::Denied(_), _) | (_, Decision::Allowed { .. }) => false,
            (_, Decision::Denied(_)) | (Decision::Allowed { .. }, Decision::IfImage(_)) => true,
            (Decision::IfImage(before), Decision::IfImage(after)) => before.image() != after.image(),
        };
        if is_denied {
            it.denies_this_kms.store(true, Ordering::Relaxed);
        }
    }
}
