//! Making a recovery set.

use std::sync::Arc;
use std::time::Duration;

use kms_attest::state_file::Replaced;
use kms_recovery::{Checkpoint, Named, NewSet, SplitError, check};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{RecoveryService, not_recorded};
use crate::api::Caller;
use crate::audit::Event;
use crate::clock::unix_now;
use crate::control::{Approved, CreateRecoverySet};
use crate::error::{Code, Error, Result};
use crate::request;

/// The largest request for a set: 32 officers with the longest recipients.
pub const MAX_CREATE: usize = 192 * 1024;

/// How long the plugins of age have for all shares of a set.
const MAX_MAKING: Duration = Duration::from_secs(120);

/// The body of `POST /api/v1/recovery/sets`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSet {
    /// The officers, each with a recipient of `age`.
    pub recipients: Vec<Named>,
    /// How many of them restore, at least 2.
    pub threshold: u8,
}

/// A new set. Nothing of it is secret: each file opens with its officer's own key only.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MadeSet {
    /// Its number.
    pub set: String,
    /// The name of the manifest's file.
    pub manifest_name: String,
    /// The manifest's file.
    pub manifest: String,
    /// SHA-256 of the manifest in its canonical form (RFC 8785), hex.
    pub manifest_sha256: String,
    /// One file for each officer; empty after a restart of this KMS, because they are kept nowhere.
    pub files: Vec<MadeFile>,
    /// The number of the set that it replaced. The shares of that set still open the root keys that it was made of.
    pub retires: Option<String>,
}

/// An officer's file.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MadeFile {
    /// Whose.
    pub officer: String,
    /// `NAME-of-SET.age`
    pub name: String,
    /// Armored.
    pub content: String,
}

impl RecoveryService {
    /// Splits the root keys among officers, after a second owner has approved it where that is needed.
    ///
    /// # Errors
    /// Officers or threshold make no set; a second owner is needed; a share cannot be encrypted; the audit log or the disk does
    /// not take it. The previous set stays the current one then.
    pub async fn create(self: Arc<Self>, caller: &Caller, request: CreateSet) -> Result<MadeSet> {
        let CreateSet { recipients: officers, threshold } = request;
        check(threshold.into(), &officers).map_err(refused)?;
        let approved = self.gate.pass(caller, CreateRecoverySet { officers, threshold }).await?;
        self.create_approved(approved).await
    }

    /// The same after the approval.
    ///
    /// # Errors
    /// As [`RecoveryService::create`].
    pub async fn create_approved(self: Arc<Self>, approved: Approved<CreateRecoverySet>) -> Result<MadeSet> {
        // A task of its own: what is recorded is also kept if the client disconnects.
        let made = request::spawn(async move { self.make(approved).await });
        made.await.map_err(|error| Error::internal("the set ended in a panic", error))?
    }

    async fn make(self: Arc<Self>, approved: Approved<CreateRecoverySet>) -> Result<MadeSet> {
        let busy = "another recovery set is being made; a plugin of age may wait for something";
        let _turn = self.making.try_acquire().map_err(|_| Error::new(Code::Conflict, busy))?;
        let audit = &self.foundation.audit;
        let ledger = audit.head().map(|head| Checkpoint {
            origin: head.key.split('+').next().unwrap_or_default().to_owned(),
            checkpoint: head.checkpoint.to_string(),
        });
        let ready = Arc::clone(&self.ready);
        let author = approved.author().clone();
        // First: what is chosen from now on is later than the time in the manifest.
        let created_at = unix_now();
        let (digest, choices) = (self.foundation.choices_digest(), self.foundation.choices());
        let split = move || ready.make_recovery_set(&approved, created_at, ledger, &choices);
        // Each plugin is ended after a while, and several may be slow. What comes later is dropped, in no record and with nobody.
        let made = tokio::time::timeout(MAX_MAKING, tokio::task::spawn_blocking(split)).await;
        let made = made.map_err(|_| {
            let text = "no set was made: a plugin of age did not answer in time";
            Error::new(Code::NotReady, text).because("plugin_timeout")
        })?;
        let made = made.map_err(|error| Error::internal("the set ended in a panic", error))?;
        let unrecorded = made.map_err(refused)?;
        let manifest = unrecorded.manifest().clone();
        let described = manifest.manifest();
        let (set, manifest_sha256) = (described.set.to_string(), hex::encode(described.sha256()));
        let before = self.sets.state();
        let retires = before.current().map(|current| current.manifest.manifest().set.to_string());
        let event = Event::RecoverySetCreated {
            set: set.clone(),
            threshold: described.threshold,
            officers: described.officers.iter().map(|officer| officer.name.to_string()).collect(),
            recipients_sha256: described
                .officers
                .iter()
                .map(|officer| hex::encode(Sha256::digest(officer.recipient.to_string())))
                .collect(),
            epochs: described.epochs.iter().map(|epoch| epoch.epoch).collect(),
            manifest_sha256: manifest_sha256.clone(),
            retires: retires.clone(),
            by: author.by.clone(),
            remote: author.remote,
        };
        let receipt = audit.record(event).await.map_err(not_recorded)?;
        let NewSet { files, .. } = unrecorded.recorded(&receipt);
        match self.sets.replace(manifest.clone(), author.by.clone(), Some(digest)).await {
            Ok(Replaced::Safely) => {}
            // It is the current set, and its officers need their files.
            Ok(Replaced::Unsynced(error)) => {
                tracing::error!(%error, set, "a machine stop now may bring the previous recovery set back");
            }
            Err(error) => {
                let reason = "recovery.json cannot be written".to_owned();
                audit.note(Event::RecoverySetFailed { set, reason });
                let text = "no set was made: the disk does not take its file";
                return Err(Error::unavailable(text, error).because("disk_unavailable"));
            }
        }
        tracing::warn!(set, by = author.by, "a recovery set was made; it is the current one now");
        let files = files.into_iter().map(|file| MadeFile {
            officer: file.officer.to_string(),
            name: file.name,
            content: file.content,
        });
        let made = MadeSet {
            manifest_name: manifest_name(&set),
            set,
            manifest: manifest.to_text(),
            manifest_sha256,
            files: files.collect(),
            retires,
        };
        self.made.store(Some(Arc::new(made.clone())));
        Ok(made)
    }

    /// The current set, with its officers' files if this process made it.
    ///
    /// # Errors
    /// There is none with this number.
    pub fn set(&self, id: &str) -> Result<MadeSet> {
        let state = self.sets.state();
        let current = state.current().map(|current| &current.manifest);
        let Some(manifest) = current.filter(|manifest| manifest.manifest().set.to_string() == id) else {
            return Err(Error::invalid("no recovery set with this number counts").because("unknown_set"));
        };
        if let Some(made) = self.made.load_full().filter(|made| made.set == id) {
            return Ok(MadeSet::clone(&made));
        }
        Ok(MadeSet {
            set: id.to_owned(),
            manifest_name: manifest_name(id),
            manifest: manifest.to_text(),
            manifest_sha256: hex::encode(manifest.manifest().sha256()),
            files: Vec::new(),
            retires: None,
        })
    }
}

fn manifest_name(set: &str) -> String {
    format!("recovery-{set}.json")
}

/// Owners see the cause: it contains nothing of the keys.
fn refused(error: SplitError) -> Error {
    match &error {
        SplitError::Threshold(_) | SplitError::Officers(_) | SplitError::Encrypt { .. } => {
            Error::invalid(error.to_string()).because("recovery_set_refused")
        }
        SplitError::Material(_) | SplitError::Manifest(_) => {
            Error::internal("the root keys cannot be split", error)
        }
    }
}
