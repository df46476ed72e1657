//! A file of the configuration is replaced: staged beside the old one, recorded, and put into its place by one rename.

use std::path::Path;
use std::sync::Arc;

use kms_attest::small_file::small_file;
use sha2::{Digest as _, Sha256};

use crate::audit::{Audit, Event, Receipt};
use crate::control::Author;
use crate::error::{Code, Error, Result};
use crate::state::{Durability, StagedFile};

/// Larger than any of the files: of an old one only the digest counts.
const MAX_OLD: u64 = 64 << 20;

/// Content that was checked, and what it replaces.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    /// The name in events.
    pub(super) name: &'static str,
    pub(super) path: &'a Path,
    /// The permissions of a file that did not exist.
    pub(super) mode: u32,
    pub(super) content: Arc<[u8]>,
    pub(super) sha256: [u8; 32],
    /// SHA-256 of the old file.
    pub(super) replaces: Option<[u8; 32]>,
}

impl Exchange<'_> {
    /// Does it. One caller at a time may do it for a file.
    ///
    /// # Errors
    /// The disk or the audit log refuses it; the old file stays.
    pub(super) async fn run(self, author: &Author, audit: &Audit) -> Result<Durability> {
        let Self { name, path, mode, content, sha256, replaces } = self;
        let (path, bytes) = (path.to_owned(), content.len() as u64);
        let staged = blocking(move || StagedFile::write(&path, &content, mode)).await;
        let staged = staged.map_err(|error| refused("the file cannot be written", &error))?;
        let sha256 = hex::encode(sha256);
        let uploaded = Event::FileUploaded {
            name,
            bytes,
            sha256: sha256.clone(),
            replaces: replaces.map(hex::encode),
            by: author.by.clone(),
            remote: author.remote,
        };
        let _recorded: Receipt = audit.record(uploaded).await.map_err(|error| {
            Error::unavailable("the audit log does not take the record; nothing was changed", error)
        })?;
        match blocking(move || staged.commit()).await {
            Ok(durability) => {
                tracing::info!(name, sha256, by = author.by, "a file was uploaded");
                Ok(durability)
            }
            Err(error) => {
                let (by, remote, reason) = (author.by.clone(), author.remote, error.to_string());
                audit.note(Event::FileUploadFailed { name, sha256, reason, by, remote });
                Err(refused("the file cannot be put into its place", &error))
            }
        }
    }
}

/// What an answer adds where a crash may undo a change.
pub(super) fn note_of(durability: Durability) -> &'static str {
    match durability {
        Durability::Synced => "",
        Durability::Unconfirmed => "; the disk has not confirmed it, so a crash may bring the old one back",
    }
}

/// SHA-256 of a file; `None` if it cannot be read.
pub(super) async fn digest_of(path: &Path) -> Option<[u8; 32]> {
    content_of(path).await.map(|content| Sha256::digest(&content).into())
}

/// The content of a file; `None` if it cannot be read.
pub(super) async fn content_of(path: &Path) -> Option<Vec<u8>> {
    let path = path.to_owned();
    blocking(move || small_file(&path, MAX_OLD)).await.ok()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// Operators see the system's error, which names no path.
fn refused(what: &str, error: &std::io::Error) -> Error {
    Error::new(Code::Unavailable, format!("{what}: {error}; nothing was changed"))
}
