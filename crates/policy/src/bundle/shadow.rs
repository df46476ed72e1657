//! The shadow of a bundle: it judges live requests beside the bundle in force, without deciding.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kms_attest::identity::BootInfo;

use super::{Bundle, BundleDigest};
use crate::decision::{Decision, Subject};
use crate::settings::EmptyDevices;

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

impl Shadow {
    pub(super) fn new(bundle: Bundle) -> Self {
        Self {
            bundle,
            compared: AtomicU64::new(0),
            newly_allowed: AtomicU64::new(0),
            newly_denied: AtomicU64::new(0),
            denies_this_kms: AtomicBool::new(false),
        }
    }

    pub(super) fn digest(&self) -> BundleDigest {
        self.bundle.digest()
    }

    /// What the bundle would have changed so far.
    pub(super) fn differences(&self) -> Differences {
        Differences {
            compared: self.compared.load(Ordering::Relaxed),
            newly_allowed: self.newly_allowed.load(Ordering::Relaxed),
            newly_denied: self.newly_denied.load(Ordering::Relaxed),
            denies_this_kms: self.denies_this_kms.load(Ordering::Relaxed),
        }
    }

    /// Compares the decision about a live request with that of the bundle. `releases` says whether keys are released by a
    /// decision.
    pub(super) fn observe(
        &self,
        subject: Subject<'_>,
        empty_devices: EmptyDevices,
        active: &Decision,
        releases: impl Fn(&Decision) -> bool,
    ) {
        let candidate = self.bundle.rules.decide(subject, empty_devices);
        match (releases(active), releases(&candidate)) {
            (true, false) => self.newly_denied.fetch_add(1, Ordering::Relaxed),
            (false, true) => self.newly_allowed.fetch_add(1, Ordering::Relaxed),
            (true, true) | (false, false) => 0,
        };
        self.compared.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Shadow::observe`], for this KMS itself. Where it is not known whether it will be allowed, it counts as denied.
    pub(super) fn observe_own(&self, own: &BootInfo, empty_devices: EmptyDevices, active: &Decision) {
        let candidate = self.bundle.rules.decide(Subject::Kms(own), empty_devices);
        let is_denied = match (active, &candidate) {
            (Decision::Denied(_), _) | (_, Decision::Allowed { .. }) => false,
            (_, Decision::Denied(_)) | (Decision::Allowed { .. }, Decision::IfImage(_)) => true,
            (Decision::IfImage(before), Decision::IfImage(after)) => before.image() != after.image(),
        };
        if is_denied {
            self.denies_this_kms.store(true, Ordering::Relaxed);
        }
    }
}
