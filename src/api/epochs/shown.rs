//! Epochs as operators see them.

use kms_client::text::count;
use kms_policy::RootChoice;
use schemars::JsonSchema;
use serde::Serialize;

use super::{EpochService, number};
use crate::clock::{rfc3339, unix_now};
use crate::error::Result;
use crate::events::Handover;
use crate::keys::keyring::{EpochInfo, EpochState, EpochTimes};
use crate::lifecycle::Ready;

/// How far back a preview looks, in milliseconds.
const RECENTLY: u64 = 30 * 86_400_000;

/// The epochs of the root keys of this KMS.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Epochs {
    /// The newest one that is in force: apps that follow get keys of it.
    current: u32,
    /// The one whose root signs certificates, statements and the log, since the start of this process.
    identity: u32,
    /// The one that will sign them after the next start.
    next_identity: u32,
    /// Whether that is another one.
    restart_required: bool,
    /// From 0 on.
    epochs: Vec<EpochShown>,
}

/// One epoch. Times are RFC 3339.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EpochShown {
    epoch: u32,
    /// `prepared`, `active`, `retired` or `destroyed`.
    state: &'static str,
    is_current: bool,
    is_identity: bool,
    prepared_at: Option<String>,
    /// From when on it is in force; it can be ahead. Null for epoch 0, which always was, and before it is activated.
    active_from: Option<String>,
    retired_at: Option<String>,
    destroyed_at: Option<String>,
    /// SubjectPublicKeyInfo DER of its root CA, hexadecimal.
    ca_pubkey: String,
    /// Its secp256k1 root key, compressed, hexadecimal.
    k256_pubkey: String,
    /// SHA-256 of `ca_pubkey`, hexadecimal.
    ca_fingerprint: String,
    /// SHA-256 of `k256_pubkey`, hexadecimal.
    k256_fingerprint: String,
    /// How many apps an operator lets stay at it.
    apps_staying: usize,
    /// The ids of replicas that have received root keys from this KMS, but not these; null if it is not known.
    replicas_without: Option<Vec<String>>,
}

/// The epochs in short, for the overview.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EpochSummary {
    current: u32,
    identity: u32,
    restart_required: bool,
    /// How many there are, whatever their state.
    count: usize,
    /// Those that are not in force yet.
    prepared: Vec<u32>,
    /// When the next of them comes into force; RFC 3339.
    next_at: Option<String>,
}

/// What the end of an epoch would stop.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EpochPreview {
    #[serde(flatten)]
    epoch: EpochShown,
    /// CVMs whose last keys, in the last 30 days, were of it.
    cvms_30d: u64,
    /// Their apps.
    apps_30d: u64,
    /// What to know before it is retired or destroyed.
    warnings: Vec<String>,
    /// Why it cannot be retired now; null if it can be.
    not_retirable: Option<String>,
    /// Why it cannot be destroyed now; null if it can be.
    not_destroyable: Option<String>,
}

impl EpochSummary {
    /// That of a KMS.
    pub fn of(ready: &Ready) -> Self {
        let now = unix_now();
        let epochs = ready.epochs();
        let prepared = || epochs.iter().filter(|info| info.state == EpochState::Prepared);
        let (identity, next) = (ready.identity_epoch(), ready.next_identity_epoch(now));
        Self {
            current: ready.current_epoch(now).0,
            identity: identity.0,
            restart_required: identity != next,
            count: epochs.len(),
            prepared: prepared().map(|info| info.epoch.0).collect(),
            next_at: prepared().filter_map(|info| info.times.activate_at).min().map(rfc3339),
        }
    }
}

impl EpochService {
    /// All epochs.
    ///
    /// # Errors
    /// None today: without the index it is not known which replicas lack one.
    pub async fn list(&self) -> Result<Epochs> {
        let replicas = self.replicas().await.ok();
        let (now, identity) = (unix_now(), self.ready.identity_epoch());
        let next = self.ready.next_identity_epoch(now);
        Ok(Epochs {
            current: self.ready.current_epoch(now).0,
            identity: identity.0,
            next_identity: next.0,
            restart_required: identity != next,
            epochs: self.ready.epochs().iter().map(|info| self.shown(info, replicas.as_deref())).collect(),
        })
    }

    /// One epoch, and what its end would stop.
    ///
    /// # Errors
    /// No such epoch; no index.
    pub async fn preview(&self, epoch: &str) -> Result<EpochPreview> {
        use crate::keys::keyring::EpochChange::{Destroy, Retire};
        let info = self.info(number(epoch)?)?;
        let root = info.epoch.0;
        let since = (unix_now() * 1000).saturating_sub(RECENTLY);
        let used = self.events.ask_index(move |index| index.inventory()?.used_epoch(root, since)).await?;
        let replicas = self.replicas().await.ok();
        let now = std::time::SystemTime::now();
        let refusal = |change| self.ready.foresee_epochs(change, now).err().map(|error| error.to_string());
        let epoch = self.shown(&info, replicas.as_deref());
        let mut warnings = Vec::new();
        if epoch.is_identity {
            warnings.push(format!(
                "this KMS signs its certificates and its log with epoch {root}: after the retirement and the next start it \
                 signs with another one, and guests and clients that pinned this root must pin the new one"
            ));
        }
        if epoch.apps_staying > 0 {
            warnings.push(format!(
                "apps that were told to stay at epoch {root} get no keys after its retirement: {}",
                epoch.apps_staying
            ));
        }
        if root == 0 {
            warnings.push(
                "apps of which neither the policy nor an operator says an epoch are at epoch 0: they get no keys after its \
                 retirement"
                    .to_owned(),
            );
        }
        if used.cvms > 0 {
            warnings.push(format!(
                "{} of {} got keys of epoch {root} in the last 30 days: what they have encrypted with them cannot be \
                 read after its retirement, unless it was encrypted again",
                count(used.cvms, "CVM"),
                count(used.apps, "app")
            ));
        }
        Ok(EpochPreview {
            epoch,
            cvms_30d: used.cvms,
            apps_30d: used.apps,
            warnings,
            not_retirable: refusal(Retire(info.epoch)),
            not_destroyable: refusal(Destroy(info.epoch)),
        })
    }

    fn shown(&self, info: &EpochInfo, replicas: Option<&[Handover]>) -> EpochShown {
        let EpochTimes { prepared_at, activate_at, retired_at, destroyed_at } = info.times;
        let root = info.epoch.0;
        let stays = |choice: &RootChoice| *choice == RootChoice::Fixed(root);
        let without = replicas.map(|replicas| {
            let lacking = replicas.iter().filter(|replica| replica.up_to_epoch < root);
            lacking.map(Handover::id).collect()
        });
        EpochShown {
            epoch: root,
            state: info.state.name(),
            is_current: info.is_current,
            is_identity: info.epoch == self.ready.identity_epoch(),
            prepared_at: prepared_at.map(rfc3339),
            active_from: activate_at.filter(|at| *at > 0).map(rfc3339),
            retired_at: retired_at.map(rfc3339),
            destroyed_at: destroyed_at.map(rfc3339),
            ca_pubkey: hex::encode(info.ca_spki),
            k256_pubkey: hex::encode(info.k256_public),
            ca_fingerprint: hex::encode(info.ca_fingerprint),
            k256_fingerprint: hex::encode(info.k256_fingerprint),
            apps_staying: self.foundation.app_epochs.list().iter().filter(|(_, it)| stays(&it.root)).count(),
            replicas_without: without,
        }
    }
}
