//! The slow work on OS images: downloads and measurements, each done once for all who wait, even while
//! operators clear the cache.

use std::sync::Arc;
use std::time::Instant;

use kms_attest::vm_config::VmConfig;

use super::archive::{self, Deadline};
use super::cache::Measured;
use super::download::DownloadError;
use super::origin::Origin;
use super::progress::{Meter, Progress};
use super::{OsImageError, Shared, measure};

/// The most attempts while operators clear the cache.
const MAX_ATTEMPTS: usize = 16;

impl Shared {
    /// Measures, and caches the result for `origin`, unless the measuring program was changed meanwhile.
    pub(super) async fn measure(
        self: Arc<Self>,
        config: VmConfig,
        hash: [u8; 32],
        key: &str,
        origin: Option<Origin>,
    ) -> Result<Measured, OsImageError> {
        let mut attempts = 0;
        let (measured, clearings) = loop {
            let clearings = self.clearings().await?;
            self.image(hash).await?;
            match self.measured(&config, hash).await {
                Ok(measured) => break (measured, clearings),
                Err(error) => {
                    // An operator may have cleared the cache meanwhile.
                    attempts += 1;
                    let is_whole = self.clearings().await? == clearings && self.has_image(hash).await?;
                    if is_whole {
                        return Err(error);
                    }
                    if attempts == MAX_ATTEMPTS {
                        return Err(OsImageError::Stopped);
                    }
                }
            }
        };
        let (shared, name) = (Arc::clone(&self), key.to_owned());
        let kept = blocking(move || match origin {
            Some(origin) if Origin::of(shared.program.as_ref()).as_ref() == Some(&origin) => {
                shared.cache.write(&name, &origin, measured, clearings)
            }
            _ => Ok(()),
        });
        let kept = kept.await?;
        if let Err(error) = kept {
            tracing::warn!(%error, "the registers of an OS image cannot be kept");
        }
        Ok(measured)
    }

    /// The cache's clear count, after waiting for a clear in progress.
    async fn clearings(self: &Arc<Self>) -> Result<u64, OsImageError> {
        let shared = Arc::clone(self);
        blocking(move || shared.cache.clearings_done()).await
    }

    async fn has_image(self: &Arc<Self>, hash: [u8; 32]) -> Result<bool, OsImageError> {
        let shared = Arc::clone(self);
        blocking(move || shared.cache.has_image(&hash)).await
    }

    /// Measures with an image that is cached.
    async fn measured(self: &Arc<Self>, config: &VmConfig, hash: [u8; 32]) -> Result<Measured, OsImageError> {
        let _slot = self.measuring.acquire().await.map_err(|_| OsImageError::Stopped)?;
        let (directory, program, config) = (self.cache.image(&hash), self.program.clone(), config.clone());
        let measured =
            blocking(move || measure::measured(&directory, &hash, &config, program.as_ref())).await??;
        tracing::info!(image = hex::encode(hash), "an OS image was measured");
        Ok(measured)
    }

    /// Waits until an image is cached.
    pub(super) async fn image(self: &Arc<Self>, hash: [u8; 32]) -> Result<(), OsImageError> {
        let shared = Arc::clone(self);
        self.downloads.join(hash, || shared.ensure_image(hash))?.result().await?
    }

    /// Downloads an image unless it is cached.
    async fn ensure_image(self: Arc<Self>, hash: [u8; 32]) -> Result<(), OsImageError> {
        let shared = Arc::clone(&self);
        if blocking(move || shared.cache.find_image(&hash)).await? {
            return Ok(());
        }
        let image = hex::encode(hash);
        self.listener.tell(&image, &Progress::Started);
        let started = Instant::now();
        let deadline = self.download_timeout.and_then(|timeout| started.checked_add(timeout));
        let download = self.downloaded(hash, Deadline(deadline));
        let outcome = match deadline {
            None => download.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), download)
                .await
                .unwrap_or_else(|_| Err(DownloadError::Timeout.into())),
        };
        let last = match &outcome {
            Ok(()) => Progress::Done { seconds: started.elapsed().as_secs() },
            Err(error) => {
                if let Some(cause) = std::error::Error::source(error) {
                    tracing::warn!(image, %cause, "why an OS image could not be downloaded");
                }
                Progress::Failed { reason: error.to_string() }
            }
        };
        self.listener.tell(&image, &last);
        outcome
    }

    /// Downloads an image, and again if an operator cleared the cache, including workspaces, meanwhile.
    async fn downloaded(self: &Arc<Self>, hash: [u8; 32], deadline: Deadline) -> Result<(), OsImageError> {
        let mut attempts = 0;
        loop {
            let clearings = self.clearings().await?;
            let outcome = Arc::clone(self).download(hash, deadline).await;
            attempts += 1;
            if outcome.is_ok() || attempts == MAX_ATTEMPTS || self.clearings().await? == clearings {
                return outcome;
            }
        }
    }

    async fn download(self: Arc<Self>, hash: [u8; 32], deadline: Deadline) -> Result<(), OsImageError> {
        let shared = Arc::clone(&self);
        let workspace = blocking(move || shared.cache.workspace()).await?.map_err(DownloadError::from)?;
        let workspace = Workspace(Some(workspace));
        let archive = workspace.path().join("image.tar.gz");
        let (image, mut meter) = (hex::encode(hash), Meter::new(self.tell_every));
        let fetched = self.source.save(&hash, &archive, |chunk, of| {
            if meter.add(chunk) {
                self.listener.tell(&image, &Progress::Fetching { bytes: meter.bytes(), of });
            }
        });
        fetched.await?;
        self.listener.tell(&image, &Progress::Unpacking { bytes: meter.bytes() });
        blocking(move || {
            let extracted = workspace.path().join("extracted");
            std::fs::create_dir(&extracted).map_err(DownloadError::from)?;
            archive::unpack(&archive, &extracted, deadline)?;
            archive::check(&extracted, &hash, deadline)?;
            archive::install(&extracted, &self.cache.image(&hash), &workspace.path().join("replaced"))?;
            self.cache.recount();
            Ok(())
        })
        .await?
    }
}

/// The directory of a download, removed on a blocking thread.
struct Workspace(Option<tempfile::TempDir>);

impl Workspace {
    fn path(&self) -> &std::path::Path {
        self.0.as_ref().map_or(std::path::Path::new(""), tempfile::TempDir::path)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let directory = self.0.take();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(directory))),
            Err(_) => drop(directory),
        }
    }
}

/// Runs blocking work: disk access or a long computation.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OsImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| OsImageError::Stopped)
}
