//! Takes bundles, keeps them, and puts them in force.

mod activate;
mod offer;
mod open;
mod shadow;
mod source;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use kms_attest::state_file::Replaced;
use kms_policy::Policy;
use kms_policy::bundle::source::Fetcher;
use kms_policy::bundle::{Bundle, BundleDigest, Bundled};
use kms_policy::settings::PinnedKeys;

use super::OfferError;
use super::fleet::{InFleet, OfFleet};
use super::serials::highest;
use super::unattended::Unattended;
use crate::audit::{Audit, BundleFacts};
use crate::clock::{rfc3339, unix_now};
use crate::metrics::{BundleMeasured, Metrics};
use crate::state::{BundleFileError, BundleFiles, BundleRecord};

/// Where a bundle came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The source of the configuration is a file.
    File,
    /// The source of the configuration is a server.
    Server,
    /// An operator.
    Operators,
    /// Another node, which has it in force.
    Fleet,
}

impl Origin {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Server => "server",
            Self::Operators => "operators",
            Self::Fleet => "fleet",
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "file" => Self::File,
            "server" => Self::Server,
            "fleet" => Self::Fleet,
            _ => Self::Operators,
        }
    }
}

/// What became of a bundle that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is in force already.
    InForce,
    /// It waits.
    Waits,
}

/// A bundle that was put in force.
#[derive(Debug, Clone)]
pub struct Activated {
    /// Whether it was in force before.
    pub changed: bool,
    /// Its serial.
    pub serial: u64,
}

/// A bundle that waits.
#[derive(Debug, Clone)]
pub struct PendingBundle(Bundle);

impl PendingBundle {
    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.0
    }
}

/// What is known of a domain's bundles.
#[derive(Debug, Clone)]
pub struct BundleView {
    /// The domain.
    pub domain: String,
    /// What was seen.
    pub record: BundleRecord,
    /// The bundle that waits.
    pub pending: Option<PendingBundle>,
}

struct State {
    record: BundleRecord,
    pending: Option<Bundle>,
    /// The bundle that waits is tried.
    unattended: Option<Unattended>,
}

/// The bundles of one domain.
pub struct BundleKeeper {
    domain: String,
    policy: Arc<Policy>,
    files: BundleFiles,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    state: tokio::sync::Mutex<State>,
    /// The times of shadows are counted from here.
    started: Instant,
    source: tokio::sync::Mutex<Fetcher>,
    /// What the fleet has in force, and this node not yet.
    pub(super) of_fleet: tokio::sync::Mutex<Option<OfFleet>>,
    /// What the fleet has in force.
    pub(super) in_fleet: Mutex<InFleet>,
    /// SHA-256 of what the source gave and was refused, so that it is recorded once.
    refused: Mutex<Option<[u8; 32]>>,
}

impl fmt::Debug for BundleKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleKeeper").field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// Why bundles cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The record.
    #[error(transparent)]
    File(#[from] BundleFileError),
    /// The record is gone, and so are the serials in the audit log.
    #[error(
        "the record of policy bundles is gone, and the audit log with the last serials cannot be read: {0}"
    )]
    Log(#[source] io::Error),
    /// The source.
    #[error(transparent)]
    Source(#[from] kms_policy::SetupError),
}

impl BundleKeeper {
    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The policy that has the bundle in force.
    pub fn bundled(&self) -> &Bundled {
        self.policy.bundled().expect("a keeper is made for such a policy only")
    }

    /// The serial of the bundle in force.
    pub(super) fn serial_in_force(&self) -> Option<u64> {
        self.bundled().bundle().map(|in_force| in_force.bundle.header().serial())
    }

    /// The bundle in force, with its signatures.
    pub(super) fn bytes_in_force(&self) -> Option<Vec<u8>> {
        self.bundled().bundle().map(|in_force| in_force.bundle.bytes().to_vec())
    }

    /// The highest serial that was seen here; `None` while it may change.
    pub(super) fn highest_seen(&self) -> Option<u64> {
        Some(highest(&self.state.try_lock().ok()?.record))
    }

    /// Takes no bundle with a lower serial from now on, unless the fleet has it in force.
    pub(super) async fn others_have_seen(&self, serial: u64) -> io::Result<()> {
        let mut state = self.state.lock().await;
        if serial <= state.record.seen_by_fleet.max(highest(&state.record)) {
            return Ok(());
        }
        state.record.seen_by_fleet = serial;
        let kept = self.replace(&state.record).await;
        let kept = kept.and_then(|it| it.safely().map_err(OfferError::Unsynced));
        kept.map_err(|error| io::Error::other(error.to_string()))
    }

    /// The keys that sign bundles.
    pub(super) fn keys(&self) -> PinnedKeys {
        self.bundled().settings().keys.clone()
    }

    /// What is known.
    pub async fn view(&self) -> BundleView {
        let state = self.state.lock().await;
        let mut record = state.record.clone();
        if let (Some(unattended), Some(pending)) = (&state.unattended, &state.pending) {
            let seen = self.bundled().differences(pending.digest()).unwrap_or_default();
            record.shadow = Some(unattended.so_far(self.started.elapsed(), seen));
        }
        BundleView { domain: self.domain.clone(), record, pending: state.pending.clone().map(PendingBundle) }
    }

    fn measure(&self) {
        let in_force = self.bundled().bundle();
        let header = in_force.as_ref().map(|in_force| in_force.bundle.header());
        let left = header.map(|header| header.expires().cast_signed() - unix_now().cast_signed());
        self.metrics.set_policy_bundle(
            &self.domain,
            BundleMeasured {
                serial: header.map_or(0, |header| header.serial()),
                expires_in: left,
                is_forked: self.bundled().is_forked(),
            },
        );
    }

    fn facts(&self, bundle: &Bundle, origin: Origin) -> BundleFacts {
        let header = bundle.header();
        BundleFacts {
            domain: self.domain.clone(),
            bundle: header.name().to_owned(),
            serial: header.serial(),
            policy_sha256: bundle.digest().to_string(),
            signers: bundle.signers().to_vec(),
            expires: rfc3339(header.expires()),
            origin: origin.name(),
        }
    }

    async fn keep(&self, bundle: &Bundle) -> Result<(), OfferError> {
        let (files, bundle) = (self.files.clone(), bundle.clone());
        let kept = tokio::task::spawn_blocking(move || files.keep(bundle.digest(), bundle.bytes())).await;
        kept.map_err(|_| OfferError::Panic)?.map_err(OfferError::Disk)
    }

    /// Removes the bundles that the record does not need.
    async fn forget_others(&self, record: &BundleRecord) {
        let needed = [&record.in_force, &record.pending].into_iter().flatten();
        let needed: Vec<_> = needed.filter_map(|digest| BundleDigest::parse(digest)).collect();
        let files = self.files.clone();
        let _ = tokio::task::spawn_blocking(move || files.forget_others(&needed)).await;
    }

    async fn replace(&self, record: &BundleRecord) -> Result<Replaced, OfferError> {
        let (files, record) = (self.files.clone(), record.clone());
        let replaced = tokio::task::spawn_blocking(move || files.replace(&record)).await;
        replaced.map_err(|_| OfferError::Panic)?.map_err(OfferError::Disk)
    }
}

#[cfg(test)]
mod tests;
