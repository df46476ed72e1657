//! Changes of the epochs of the root keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::rfc3339;

/// Changes the epochs of the root keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum EpochAction {
    /// Makes new root keys.
    Prepare {
        /// The number that they get.
        epoch: u32,
    },
    /// Lets apps get keys of an epoch.
    Activate {
        /// Its number.
        epoch: u32,
        /// SHA-256 of its public secp256k1 key, hex: the owners see which keys they mean.
        fingerprint: String,
        /// From when on, Unix seconds; absent for the time at which it is carried out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<u64>,
        /// The ids of replicas that do not have it and are left out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
    /// Lets nobody get keys of an epoch any more.
    Retire {
        /// Its number.
        epoch: u32,
        /// As above.
        fingerprint: String,
    },
    /// Overwrites the keys of an epoch.
    Destroy {
        /// Its number.
        epoch: u32,
        /// As above.
        fingerprint: String,
    },
    /// Accepts a state of epochs that the KMS warns of.
    Accept {
        /// Which.
        what: Accepted,
        /// What the owners see: what is lost, or the SHA-256 of the choices in hex.
        seen: Vec<String>,
    },
    /// Takes over the states that another KMS says its epochs have.
    Follow {
        /// The address of that KMS.
        source: String,
        /// What changes here, in order of the epochs.
        epochs: Vec<FollowedEpoch>,
        /// As above.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
}

/// What owners accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accepted {
    /// The key directory is older than the audit log, and nothing newer exists.
    LostEpochs,
    /// The epochs chosen for apps are complete, after a restore or a handover that did not bring all.
    AppEpochs,
}

impl Accepted {
    /// Its name, as in JSON and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::LostEpochs => "lost_epochs",
            Self::AppEpochs => "app_epochs",
        }
    }
}

/// What another KMS says of an epoch, where it is further than here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowedEpoch {
    /// Its number.
    pub epoch: u32,
    /// SHA-256 of its public secp256k1 key, hex.
    pub fingerprint: String,
    /// Its state there.
    pub to: FollowedState,
}

/// The state to take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowedState {
    /// In force from this time on, Unix seconds.
    ActiveFrom(u64),
    /// Nobody gets its keys any more.
    Retired,
}

impl EpochAction {
    /// As a sentence for the owner who approves it.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Prepare { epoch } => {
                format!("make new root keys, epoch {epoch}; no app gets keys of them yet")
            }
            Self::Activate { epoch, fingerprint, at, except } => {
                let from = at
                    .map_or_else(|| "when this is approved".to_owned(), |at| format!("from {}", rfc3339(at)));
                let mut text =
                    format!("let apps that follow get keys of epoch {epoch} (SHA-256 {fingerprint}) {from}");
                if !except.is_empty() {
                    text.push_str(&format!("; these replicas do not have it: {}", except.join(", ")));
                }
                text
            }
            Self::Retire { epoch, fingerprint } => {
                format!(
                    "let nobody get keys of epoch {epoch} (SHA-256 {fingerprint}) any more, which is final"
                )
            }
            Self::Destroy { epoch, fingerprint } => format!(
                "overwrite the keys of epoch {epoch} (SHA-256 {fingerprint}): what was encrypted with them is lost"
            ),
            Self::Accept { what: Accepted::LostEpochs, seen } => format!(
                "accept that the key directory is older than the audit log, and that nothing newer exists: {}",
                seen.join("; ")
            ),
            Self::Accept { what: Accepted::AppEpochs, seen } => format!(
                "say that the epochs chosen for apps are complete (SHA-256 {}); compare kmsctl epoch apps",
                seen.join(", ")
            ),
            Self::Follow { source, epochs, except } => {
                let change = |followed: &FollowedEpoch| {
                    let FollowedEpoch { epoch, fingerprint, to } = followed;
                    match to {
                        FollowedState::ActiveFrom(at) => {
                            format!(
                                "epoch {epoch} (SHA-256 {fingerprint}) is in force from {} on",
                                rfc3339(*at)
                            )
                        }
                        FollowedState::Retired => format!(
                            "nobody gets keys of epoch {epoch} (SHA-256 {fingerprint}) any more, which is final"
                        ),
                    }
                };
                let changes: Vec<String> = epochs.iter().map(change).collect();
                let mut text = format!("follow the KMS at {source}: {}", changes.join("; "));
                if !except.is_empty() {
                    text.push_str(&format!("; these replicas lack an epoch: {}", except.join(", ")));
                }
                text
            }
        }
    }
}
