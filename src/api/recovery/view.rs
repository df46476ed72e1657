//! Recovery as operators see it.

use kms_recovery::Manifest;
use schemars::JsonSchema;
use serde::Serialize;

use super::{DrillResult, RecoveryService};
use crate::api::ceremony::CeremonyStatus;
use crate::clock::{rfc3339, unix_now};
use crate::control::{CurrentSet, RetiredSet};

/// The response to `GET /api/v1/recovery`. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RecoveryShown {
    /// The current set.
    pub set: Option<SetShown>,
    /// Sets that were replaced, latest first. Their shares still open the root keys that they were made of.
    pub retired: Vec<RetiredShown>,
    /// Drills that ended, latest first.
    pub drills: Vec<DrillResult>,
    /// The drill that is open.
    pub ceremony: Option<CeremonyStatus>,
    /// When the current set last gave the root keys in a drill.
    pub proved_at: Option<String>,
    /// When the next drill is due.
    pub drill_due_at: Option<String>,
    /// Whether the set has the root keys of every epoch.
    pub covers_all_epochs: bool,
    /// Epochs whose root keys it does not have.
    pub not_covered: Vec<u32>,
    /// Epochs whose state has changed since the set was made: a restore would bring the old one back.
    pub out_of_date: Vec<u32>,
    /// Whether other epochs were chosen for apps since the set was made; null if that is not known.
    pub app_epochs_changed: Option<bool>,
    /// What to do now.
    pub advice: Option<String>,
}

/// A set.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SetShown {
    /// Its number.
    pub set: String,
    /// When it was made.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
    /// How many officers restore.
    pub threshold: u8,
    /// The officers.
    pub officers: Vec<OfficerShown>,
    /// The epochs of root keys in it.
    pub epochs: Vec<u32>,
    /// SHA-256 of the manifest in its canonical form (RFC 8785), hex.
    pub manifest_sha256: String,
}

/// An officer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OfficerShown {
    /// Of the share.
    pub index: u8,
    /// The name.
    pub name: String,
    /// The recipient of `age`.
    pub recipient: String,
}

/// A set that was replaced.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RetiredShown {
    /// Its number.
    pub set: String,
    /// When it was made.
    pub created_at: String,
    /// When another replaced it.
    pub retired_at: String,
    /// How many of its officers restore.
    pub threshold: u8,
    /// The officers' names.
    pub officers: Vec<String>,
    /// The epochs of root keys in it.
    pub epochs: Vec<u32>,
}

impl RecoveryService {
    /// What is known of recovery.
    pub fn show(&self) -> RecoveryShown {
        let (state, own, now) = (self.sets.state(), self.ready.recovery_epochs(), unix_now());
        let choices = self.foundation.choices_digest();
        let not_covered = state.not_covered(&own);
        RecoveryShown {
            set: state.current().map(|set| SetShown::of(set)),
            retired: state.retired().iter().rev().map(RetiredShown::of).collect(),
            drills: state.drills().iter().rev().map(DrillResult::from).collect(),
            ceremony: self.drill_status().ceremony,
            proved_at: state.last_proved().map(rfc3339),
            drill_due_at: state.drill_due().map(rfc3339),
            covers_all_epochs: not_covered.is_empty(),
            not_covered,
            out_of_date: state.out_of_date(&own),
            app_epochs_changed: state
                .current()
                .and_then(|set| set.choices)
                .map(|_| state.choices_changed(&choices)),
            advice: state.standing_with(&own, &choices, now).sentence(),
        }
    }
}

impl SetShown {
    fn of(set: &CurrentSet) -> Self {
        let manifest: &Manifest = set.manifest.manifest();
        let officers = manifest.officers.iter().map(|officer| OfficerShown {
            index: officer.index,
            name: officer.name.to_string(),
            recipient: officer.recipient.to_string(),
        });
        Self {
            set: manifest.set.to_string(),
            created_at: rfc3339(manifest.created_at),
            created_by: set.by.clone(),
            threshold: manifest.threshold,
            officers: officers.collect(),
            epochs: manifest.epochs.iter().map(|epoch| epoch.epoch).collect(),
            manifest_sha256: hex::encode(manifest.sha256()),
        }
    }
}

impl RetiredShown {
    fn of(set: &RetiredSet) -> Self {
        let RetiredSet { set, created_at, retired_at, threshold, officers, epochs } = set.clone();
        Self {
            set,
            created_at: rfc3339(created_at),
            retired_at: rfc3339(retired_at),
            threshold,
            officers,
            epochs,
        }
    }
}
