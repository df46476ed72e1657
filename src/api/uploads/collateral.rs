//! Collateral in a file: for machines that reach no collateral service.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kms_attest::collateral::{Collateral, CollateralBundle};
use kms_attest::small_file::small_file;
use kms_attest::verify::Verifier;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::exchange::{Exchange, digest_of, note_of};
use super::{Intent, MAX_UPLOAD, UploadName};
use crate::api::policy::Placed;
use crate::audit::Audit;
use crate::control::Author;
use crate::error::{Error, Result};
use crate::request;

/// How long a request waits for another one.
const MAX_TURN: Duration = Duration::from_secs(10);
/// The permissions of the file. Collateral is public, but its place is the key directory.
const MODE: u32 = 0o600;

/// Takes collateral, and keeps it for the next start.
#[derive(Debug)]
pub struct CollateralFile {
    path: PathBuf,
    verifier: Arc<Verifier>,
    audit: Arc<Audit>,
    turn: Mutex<()>,
}

impl CollateralFile {
    /// Collateral that is kept at `path`.
    pub fn new(path: PathBuf, verifier: Arc<Verifier>, audit: Arc<Audit>) -> Self {
        Self { path, verifier, audit, turn: Mutex::default() }
    }

    /// Uses what was kept, as far as it is still valid.
    pub async fn load(&self) {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || small_file(&path, MAX_UPLOAD as u64)).await;
        let Ok(Ok(content)) = read else { return };
        match CollateralBundle::parse(&content) {
            Ok(bundle) => {
                let used = self.verifier.cache().import_valid(bundle).await;
                tracing::info!(models = used, "uploaded collateral is in use");
            }
            Err(error) => tracing::error!(%error, "the kept collateral cannot be used"),
        }
    }

    /// Checks collateral, and uses it if that is the intent.
    ///
    /// # Errors
    /// `invalid_file`; a disk or an audit log that does not take it.
    pub async fn upload(self: Arc<Self>, author: Author, content: Vec<u8>, intent: Intent) -> Result<Placed> {
        let change = request::spawn(async move { self.put(author, content, intent).await });
        change.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    async fn put(&self, author: Author, content: Vec<u8>, intent: Intent) -> Result<Placed> {
        let invalid = |error: kms_attest::collateral::BundleError| {
            Error::invalid(format!("the file {error}")).because("invalid_file")
        };
        let (verifier, content): (_, Arc<[u8]>) = (Arc::clone(&self.verifier), content.into());
        let parsed = Arc::clone(&content);
        // Signatures over large documents take a while.
        let examined =
            tokio::task::spawn_blocking(move || verifier.cache().examine(CollateralBundle::parse(&parsed)?));
        let examined =
            examined.await.map_err(|error| Error::internal("the check ended in a panic", error))?;
        let examined: Vec<Collateral> = examined.map_err(invalid)?;
        let sha256: [u8; 32] = Sha256::digest(&content).into();
        let models = examined.len();
        let slow = |error| Error::unavailable("another file is being put into its place; try again", error);
        let _turn = tokio::time::timeout(MAX_TURN, self.turn.lock()).await.map_err(slow)?;
        let replaces = digest_of(&self.path).await;
        let changed = replaces != Some(sha256);
        let placed = |message| Placed {
            name: UploadName::CollateralBundle.name(),
            bytes: content.len() as u64,
            sha256: hex::encode(sha256),
            changed,
            dry_run: intent == Intent::Check,
            message,
            problems: Vec::new(),
        };
        match (intent, changed) {
            (Intent::Check, true) => Ok(placed(format!("it could be used: {models} models"))),
            (Intent::Check | Intent::Replace, false) => {
                Ok(placed("it is the file that was uploaded last; nothing was changed".to_owned()))
            }
            (Intent::Replace, true) => {
                let name = UploadName::CollateralBundle.name();
                let content = Arc::clone(&content);
                let exchange = Exchange { name, path: &self.path, mode: MODE, content, sha256, replaces };
                let durability = exchange.run(&author, &self.audit).await?;
                let used = self.verifier.cache().import(examined).await.map_err(invalid)?;
                let note = note_of(durability);
                Ok(placed(format!(
                    "{used} of {models} models are in use; for the others there is later collateral{note}"
                )))
            }
        }
    }
}
