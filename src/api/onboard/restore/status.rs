//! How far a restore is.

use kms_recovery::{Checkpoint, SignedManifest};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::ceremony::CeremonyStatus;

/// The answer of `GET /recovery` of a KMS without keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RestoreStatus {
    /// The restore that is open. `None` if there is none.
    pub ceremony: Option<CeremonyStatus>,
    /// What the restore that is open would give this KMS.
    pub plan: Option<RestorePlan>,
    /// What this KMS is, to which officers send: agree on it before.
    pub kms: EmptyKms,
    /// What was restored in this run of the process.
    pub restored: Option<Restored>,
}

/// What a restore gives a KMS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RestorePlan {
    /// The name that the KMS gets.
    pub domain: String,
    /// When the set was made, RFC 3339 in UTC.
    pub made_at: String,
    /// The epochs of the root keys in the set.
    pub epochs: Vec<u32>,
}

/// What decides at a KMS without keys who will get keys, and how strictly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EmptyKms {
    /// The kind of its policy: `allowlist`, `webhook`, `ethereum` or `dev`.
    pub policy: &'static str,
    /// What identifies the rules, hexadecimal: SHA-256 of an allowlist, or of the key of a webhook's decisions. `None` if nothing
    /// does.
    pub policy_digest: Option<String>,
    /// Codes of the settings that are relaxed.
    pub relaxed: Vec<&'static str>,
}

/// Keys that officers have restored. They are saved; `Finish` serves them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Restored {
    /// The number of the recovery set.
    pub set: String,
    /// When the set was made, RFC 3339 in UTC. What operators chose later is not restored.
    pub made_at: String,
    /// For how many apps the set has epochs that operators chose; they are in force again. `None` if the set does not tell.
    pub apps_with_epochs: Option<usize>,
    /// The name of this KMS.
    pub domain: String,
    /// Who brought a share.
    pub officers: Vec<String>,
    /// The root keys, in order of their epochs.
    pub epochs: Vec<RestoredEpoch>,
}

/// The root keys of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RestoredEpoch {
    /// The epoch.
    pub epoch: u32,
    /// SHA-256 of the root CA's SubjectPublicKeyInfo, hexadecimal.
    pub ca_spki_sha256: String,
    /// The secp256k1 root public key, compressed, hexadecimal.
    pub k256_pubkey: String,
}

/// The answer to a share that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShareAccepted {
    /// Whose it is.
    pub officer: String,
    /// Its index.
    pub index: u8,
    /// How far the restore is now.
    #[serde(flatten)]
    pub status: RestoreStatus,
}

/// Size and root hash of a checkpoint: the second and the third line of the note.
pub(super) fn head(ledger: &Checkpoint) -> Option<String> {
    let mut lines = ledger.checkpoint.lines().skip(1);
    let size: u64 = lines.next()?.parse().ok()?;
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let root = lines.next().filter(|root| root.len() <= 64 && root.chars().all(is_base64))?;
    Some(format!("{size} {root}"))
}

pub(super) fn epochs(manifest: &SignedManifest) -> Vec<RestoredEpoch> {
    let epochs = manifest.manifest().epochs.iter();
    let restored = epochs.map(|epoch| RestoredEpoch {
        epoch: epoch.epoch,
        ca_spki_sha256: epoch.ca_spki_sha256.to_string(),
        k256_pubkey: epoch.k256_public.to_string(),
    });
    restored.collect()
}
