//! Replicas: this KMS, and those that have received the root keys from it.

use std::cmp::Reverse;

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Views, at, some};
use crate::api::epochs::EpochSummary;
use crate::control::RefusalRecord;
use crate::error::Result;
use crate::events::Handover;

/// This KMS and its replicas.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Replicas {
    #[serde(rename = "self")]
    own: Own,
    /// The newest first; the refused ones are those since the last start.
    handovers: Vec<HandoverShown>,
}

/// This KMS.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Own {
    /// The domain of its certificate.
    name: String,
    /// SHA-256 of the compressed secp256k1 root key, hexadecimal: the same for all replicas.
    root_fingerprint: String,
    boot_id: String,
    version: &'static str,
    ready: bool,
    /// Its epochs of the root keys.
    epochs: EpochSummary,
}

/// A KMS that has asked for the root keys.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HandoverShown {
    /// Of its measurement and machine, by which an activation of an epoch can leave it out; null if it was refused.
    id: Option<String>,
    /// The highest epoch of the root keys that it has received from this KMS; null if it was refused.
    up_to_epoch: Option<u32>,
    /// The number of the last record; null if it was refused.
    seq: Option<u64>,
    /// The last time.
    at: String,
    first_at: String,
    mr_aggregated: Option<String>,
    os_image_hash: Option<String>,
    device_id: Option<String>,
    tcb_status: Option<String>,
    address: Option<String>,
    /// Whether it has received them.
    allowed: bool,
    count: u64,
    /// The denial, if it was refused.
    denial_id: Option<String>,
    #[serde(skip)]
    last: u64,
}

impl Views {
    /// This KMS, and those that have asked for its root keys.
    ///
    /// # Errors
    /// No index.
    pub async fn replicas(&self) -> Result<Replicas> {
        let sources = &self.sources;
        let recorded = self.inventory(|inventory| inventory.handovers()).await?;
        let is_replica = |record: &RefusalRecord| record.role == Some(kms_policy::Role::Kms);
        let (refused, _) = sources.kms.denials.page(None, usize::MAX, is_replica);
        let refused = refused.iter().map(|record| HandoverShown::refused(record));
        let mut handovers: Vec<_> = recorded.into_iter().map(HandoverShown::of).chain(refused).collect();
        handovers.sort_by_key(|handover| Reverse(handover.last));
        let own = Own {
            name: sources.ready.domain().as_str().to_owned(),
            root_fingerprint: hex::encode(Sha256::digest(sources.ready.k256_public_key())),
            boot_id: sources.boot_id.clone(),
            version: env!("CVM_KMS_VERSION"),
            ready: sources.readiness.report().is_ready(),
            epochs: EpochSummary::of(&sources.ready),
        };
        Ok(Replicas { own, handovers })
    }
}

impl HandoverShown {
    fn of(handover: Handover) -> Self {
        let id = Some(handover.id());
        let Handover { subject, times, up_to_epoch, .. } = handover;
        Self {
            id,
            up_to_epoch: Some(up_to_epoch),
            seq: Some(times.seq),
            at: at(times.last),
            first_at: at(times.first),
            mr_aggregated: some(&subject.mr_aggregated),
            os_image_hash: some(&subject.os_image_hash),
            device_id: some(&subject.device_id),
            tcb_status: some(&subject.tcb_status),
            address: some(&subject.remote),
            // A handover that was withheld did not happen.
            allowed: times.count > 0,
            count: times.count,
            denial_id: None,
            last: times.last,
        }
    }

    fn refused(record: &RefusalRecord) -> Self {
        let identity = record.identity.as_ref();
        let id = |bytes: &[u8]| some(&hex::encode(bytes));
        Self {
            id: None,
            up_to_epoch: None,
            seq: None,
            at: at(record.last * 1000),
            first_at: at(record.first * 1000),
            mr_aggregated: identity.and_then(|identity| id(identity.mr_aggregated.as_ref())),
            os_image_hash: identity.and_then(|identity| id(identity.os_image_bytes())),
            device_id: identity.and_then(|identity| id(identity.device_id.as_ref())),
            tcb_status: identity.map(|identity| identity.tcb_status.to_string()),
            address: some(&record.remote.to_string()),
            allowed: false,
            count: record.count,
            denial_id: Some(record.id.to_string()),
            last: record.last * 1000,
        }
    }
}
