//! Collateral in a file: for machines that reach no collateral service.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kms_attest::collateral::{BundleError, Collateral, CollateralBundle};
use kms_attest::small_file::small_file;
use kms_attest::verify::Verifier;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::{Intent, MAX_UPLOAD, UploadName};
use crate::api::policy::Placed;
use crate::audit::{Audit, Event, Receipt};
use crate::control::Author;
use crate::error::{Error, Result};
use crate::request;

/// How long a request waits for another one.
const MAX_TURN: Duration = Duration::from_secs(10);

/// Takes collateral into the store of what services sent.
#[derive(Debug)]
pub struct CollateralFile {
    verifier: Arc<Verifier>,
    audit: Arc<Audit>,
    turn: Mutex<()>,
}

impl CollateralFile {
    /// Collateral for `verifier`.
    pub fn new(verifier: Arc<Verifier>, audit: Arc<Audit>) -> Self {
        Self { verifier, audit, turn: Mutex::default() }
    }

    /// Takes over the file at `path`, in which earlier versions kept what was uploaded, and removes it when all that is still
    /// valid is in the store.
    pub async fn take_over(self: Arc<Self>, path: PathBuf) {
        let from = path.clone();
        // A large file takes a while.
        let parsed = tokio::task::spawn_blocking(move || {
            let content = small_file(&from, MAX_UPLOAD as u64).ok()?;
            Some(CollateralBundle::parse(&content))
        });
        let bundle = match parsed.await {
            Ok(Some(Ok(bundle))) => bundle,
            Ok(Some(Err(error))) => return tracing::error!(%error, "the kept collateral cannot be used"),
            Ok(None) | Err(_) => return,
        };
        let cache = self.verifier.cache();
        cache.loaded().await;
        let _turn = self.turn.lock().await;
        let import = cache.import_valid(bundle).await;
        tracing::info!(models = import.used, "uploaded collateral is in use");
        for error in &import.refused {
            tracing::warn!(%error, "collateral that an earlier version kept is not used; its file stays");
        }
        if import.refused.is_empty() && cache.is_all_kept() {
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
        }
    }

    /// Checks collateral, and uses it if that is the intent.
    ///
    /// # Errors
    /// `invalid_file`; an audit log that does not take it.
    pub async fn upload(self: Arc<Self>, author: Author, content: Vec<u8>, intent: Intent) -> Result<Placed> {
        let change = request::spawn(async move { self.put(author, content, intent).await });
        change.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    async fn put(&self, author: Author, content: Vec<u8>, intent: Intent) -> Result<Placed> {
        let invalid =
            |error: BundleError| Error::invalid(format!("the file {error}")).because("invalid_file");
        let cache = self.verifier.cache();
        cache.loaded().await;
        let bytes = content.len() as u64;
        let sha256 = hex::encode(Sha256::digest(&content));
        let verifier = Arc::clone(&self.verifier);
        // Signatures over large documents take a while.
        let examined =
            tokio::task::spawn_blocking(move || verifier.cache().examine(CollateralBundle::parse(&content)?));
        let examined =
            examined.await.map_err(|error| Error::internal("the check ended in a panic", error))?;
        let examined: Vec<Collateral> = examined.map_err(invalid)?;
        let models = examined.len();
        let slow = |error| Error::unavailable("another file is being put into its place; try again", error);
        let _turn = tokio::time::timeout(MAX_TURN, self.turn.lock()).await.map_err(slow)?;
        let changed = !examined.iter().all(|collateral| cache.holds(collateral));
        let name = UploadName::CollateralBundle.name();
        let placed = |message| Placed {
            name,
            bytes,
            sha256: sha256.clone(),
            changed,
            dry_run: intent == Intent::Check,
            message,
            problems: Vec::new(),
        };
        match (intent, changed) {
            (Intent::Check, true) => Ok(placed(format!("it could be used: {models} models"))),
            (Intent::Check | Intent::Replace, false) => {
                Ok(placed("all of it is in use and kept already; nothing was changed".to_owned()))
            }
            (Intent::Replace, true) => {
                let uploaded = Event::FileUploaded {
                    name,
                    bytes,
                    sha256: sha256.clone(),
                    replaces: None,
                    by: author.by.clone(),
                    remote: author.remote,
                };
                let _recorded: Receipt = self.audit.record(uploaded).await.map_err(|error| {
                    Error::unavailable("the audit log does not take the record; nothing was changed", error)
                })?;
                let import = cache.import(examined).await;
                let used = import.used;
                let refused: String = import.refused.iter().map(|error| format!("; {error}")).collect();
                if let (0, Some(error)) = (used, import.refused.into_iter().next()) {
                    return Err(invalid(error));
                }
                tracing::info!(name, sha256, by = author.by, "a file was uploaded");
                let note = self.unsaved(&sha256, &author);
                Ok(placed(format!(
                    "{used} of {models} models are in use; for the others there is later collateral{refused}{note}"
                )))
            }
        }
    }

    /// What an answer adds, and the audit log, where the disk does not keep the collateral.
    fn unsaved(&self, sha256: &str, author: &Author) -> String {
        let Some(failure) = self.verifier.cache().stats().stored.write_failure else { return String::new() };
        self.audit.note(Event::FileUploadFailed {
            name: UploadName::CollateralBundle.name(),
            sha256: sha256.to_owned(),
            reason: failure.to_string(),
            by: author.by.clone(),
            remote: author.remote,
        });
        format!("; the disk does not keep it ({failure}), so it ends with this process")
    }
}
