//! OS images: whether the registers in a quote are those of the image that the VM claims to have booted.
//!
//! Files are downloaded, kept and measured here; what they measure to is computed by [`kms_attest::os_image`].

mod archive;
mod cache;
mod download;
mod flights;
mod measure;
mod program;
mod progress;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kms_attest::{
    evidence::Platform,
    identity::Quoted,
    measurement::TdxEvent,
    os_image::{
        BootRegisters, Mismatch,
        legacy::LegacyError,
        lite::{self, LiteError},
        qemu::MachineError,
    },
    verify::Verified,
    vm_config::{TdxAttestationVariant, VmConfig, VmConfigError},
};
use tokio::sync::Semaphore;

pub use self::{
    archive::ArchiveError,
    cache::{CacheError, ImageCache},
    download::DownloadError,
    program::{ProgramError, is_installed},
    progress::{Listener, Progress},
};
use self::{
    archive::Deadline,
    cache::measurement_key,
    download::Source,
    flights::{Flights, NoLanding},
    program::AcpiProgram,
    progress::{Meter, TELL_EVERY},
};

/// Most images that are downloaded at a time.
const MOST_DOWNLOADS: usize = 4;
/// Most configurations that are waited for.
const MOST_MEASUREMENTS: usize = 64;
/// Most attempts to measure an image while operators clear the cache.
const MOST_ATTEMPTS: usize = 16;
/// Most images that are measured at a time: each needs its kernel and firmware in memory.
const MEASURED_AT_ONCE: usize = 2;

/// `[core.image]`, as far as images are verified.
#[derive(Debug, Clone)]
pub struct Settings {
    /// URL with the placeholder `{OS_IMAGE_HASH}`.
    pub download_url: String,
    /// For a whole download: fetching, unpacking, checking. `None` is without end.
    pub download_timeout: Option<Duration>,
    /// The program that prints ACPI tables: a path, or a name that is looked for in `PATH`.
    pub acpi_tables: PathBuf,
}

/// Why images cannot be verified at all.
#[derive(Debug, thiserror::Error)]
#[error("the client for image downloads cannot be made: {0}")]
pub struct SetupError(String);

/// Why a VM is not known to have booted its image. The texts name no address and no path; the sources may.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OsImageError {
    /// The configuration does not parse.
    #[error("{0}")]
    VmConfig(String),
    /// Only TDX evidence has the registers.
    #[error("OS images of {0} evidence cannot be verified")]
    Platform(&'static str),
    /// No image hash, or one that is none.
    #[error("legacy TDX attestation requires os_image_hash = sha256(sha256sum.txt)")]
    NoHash,
    /// The configuration describes no machine that can be measured.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Lite verification has nothing to compare with.
    #[error(transparent)]
    Lite(#[from] LiteError),
    /// The image cannot be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The archive is not the image.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file of the image cannot be read, or is not what it has to be.
    #[error("the OS image has no usable {what}")]
    File {
        /// Which.
        what: &'static str,
        /// Why, for the log.
        #[source]
        source: Arc<io::Error>,
    },
    /// The ACPI program gave nothing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The image has no registers.
    #[error(transparent)]
    Legacy(#[from] LegacyError),
    /// The VM booted something else.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// Too many images at a time.
    #[error("too many OS images are being verified, try again")]
    Busy,
    /// The work was torn down.
    #[error("the OS image could not be verified, try again")]
    Stopped,
}

impl OsImageError {
    /// Whether nothing is known about the VM: not its fault, and worth another try.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Download(_) | Self::Program(_) | Self::Busy | Self::Stopped => true,
            Self::Archive(error) => matches!(error, ArchiveError::Store(_) | ArchiveError::Timeout),
            _ => false,
        }
    }
}

impl From<VmConfigError> for OsImageError {
    fn from(error: VmConfigError) -> Self {
        Self::VmConfig(error.to_string())
    }
}

impl From<NoLanding> for OsImageError {
    fn from(error: NoLanding) -> Self {
        match error {
            NoLanding::Busy => Self::Busy,
            NoLanding::Stopped => Self::Stopped,
        }
    }
}

/// Verifies OS images. Clones share their caches and their work.
#[derive(Debug, Clone)]
pub struct OsImages(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cache: ImageCache,
    source: Source,
    download_timeout: Option<Duration>,
    program: AcpiProgram,
    downloads: Flights<Result<(), OsImageError>>,
    measurements: Flights<Result<BootRegisters, OsImageError>>,
    measuring: Semaphore,
    listener: Listener,
    tell_every: Duration,
}

impl OsImages {
    /// Verification with the caches in `cache`.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(settings: Settings, cache: ImageCache) -> Result<Self, SetupError> {
        Self::heard_by(settings, cache, Listener::default())
    }

    /// The same; `listener` is told how downloads go on.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn heard_by(settings: Settings, cache: ImageCache, listener: Listener) -> Result<Self, SetupError> {
        let program = AcpiProgram::new(settings.acpi_tables.clone());
        Self::with_program(settings, cache, program, listener, TELL_EVERY)
    }

    fn with_program(
        settings: Settings,
        cache: ImageCache,
        program: AcpiProgram,
        listener: Listener,
        tell_every: Duration,
    ) -> Result<Self, SetupError> {
        Ok(Self(Arc::new(Shared {
            cache,
            source: Source::new(settings.download_url)?,
            download_timeout: settings.download_timeout,
            program,
            downloads: Flights::new(MOST_DOWNLOADS),
            measurements: Flights::new(MOST_MEASUREMENTS),
            measuring: Semaphore::new(MEASURED_AT_ONCE),
            listener,
            tell_every,
        })))
    }

    /// Whether the guest booted the image that `vm_config` (empty: the configuration in its evidence) names.
    ///
    /// # Errors
    /// Any [`OsImageError`].
    pub async fn verify(&self, verified: &Verified, vm_config: &str) -> Result<(), OsImageError> {
        let evidence = verified.evidence();
        let Platform::Tdx(tdx) = &evidence.platform else {
            return Err(OsImageError::Platform(evidence.platform.kind()));
        };
        let config = VmConfig::effective(vm_config, &evidence.stack.config)?;
        self.check(config, &tdx.event_log, &verified.td().quoted()).await
    }

    /// Downloads an image into the cache, unless it is there.
    ///
    /// # Errors
    /// [`OsImageError::Download`], [`OsImageError::Archive`], [`OsImageError::Busy`], [`OsImageError::Stopped`].
    pub async fn fetch(&self, hash: [u8; 32]) -> Result<(), OsImageError> {
        self.0.image(hash).await
    }

    async fn check(
        &self,
        config: VmConfig,
        event_log: &[TdxEvent],
        quoted: &Quoted,
    ) -> Result<(), OsImageError> {
        let registers = match config.tdx_attestation_variant {
            TdxAttestationVariant::Lite => lite::boot_registers(&config, event_log)?,
            TdxAttestationVariant::Legacy => self.legacy(config).await?,
        };
        Ok(registers.compare(quoted)?)
    }

    /// The registers of a VM by its image: kept, or computed once for all who wait.
    async fn legacy(&self, config: VmConfig) -> Result<BootRegisters, OsImageError> {
        let hash = config.os_image_hash.as_slice().try_into().map_err(|_| OsImageError::NoHash)?;
        measure::is_measurable(&config)?;
        let key = measurement_key(&config);
        if let Some(registers) = self.kept(&key).await? {
            return Ok(registers);
        }
        let shared = Arc::clone(&self.0);
        // What was begun before the cache was cleared is for those who asked before: it may rest on what had to go.
        let flight = format!("{} {key}", shared.cache.clearings());
        self.0
            .measurements
            .join(&flight, || async move { shared.registers(config, hash, &key).await })
            .await?
    }

    async fn kept(&self, key: &str) -> Result<Option<BootRegisters>, OsImageError> {
        let (shared, key) = (Arc::clone(&self.0), key.to_owned());
        blocking(move || shared.cache.read_registers(&key)).await
    }
}

impl Shared {
    async fn registers(
        self: Arc<Self>,
        config: VmConfig,
        hash: [u8; 32],
        key: &str,
    ) -> Result<BootRegisters, OsImageError> {
        let mut attempts = 0;
        let (registers, clearings) = loop {
            let clearings = self.clearings().await?;
            self.image(hash).await?;
            match self.measured(&config, hash).await {
                Ok(registers) => break (registers, clearings),
                Err(error) => {
                    // An operator may have cleared the cache under our hands: once more.
                    attempts += 1;
                    let is_whole = self.clearings().await? == clearings && self.has_image(hash).await?;
                    if is_whole {
                        return Err(error);
                    }
                    if attempts == MOST_ATTEMPTS {
                        return Err(OsImageError::Stopped);
                    }
                }
            }
        };
        let (shared, name) = (Arc::clone(&self), key.to_owned());
        let kept = blocking(move || shared.cache.write_registers(&name, registers, clearings)).await?;
        if let Err(error) = kept {
            tracing::warn!(%error, "the registers of an OS image cannot be kept");
        }
        Ok(registers)
    }

    /// How often the cache was cleared, once a clearing that is under way has ended.
    async fn clearings(self: &Arc<Self>) -> Result<u64, OsImageError> {
        let shared = Arc::clone(self);
        blocking(move || shared.cache.clearings_done()).await
    }

    async fn has_image(self: &Arc<Self>, hash: [u8; 32]) -> Result<bool, OsImageError> {
        let shared = Arc::clone(self);
        blocking(move || shared.cache.has_image(&hash)).await
    }

    /// The registers by an image that is there.
    async fn measured(
        self: &Arc<Self>,
        config: &VmConfig,
        hash: [u8; 32],
    ) -> Result<BootRegisters, OsImageError> {
        let _slot = self.measuring.acquire().await.map_err(|_| OsImageError::Stopped)?;
        let (directory, program, config) = (self.cache.image(&hash), self.program.clone(), config.clone());
        let registers = blocking(move || measure::registers(&directory, &hash, &config, &program)).await??;
        tracing::info!(image = hex::encode(hash), "an OS image was measured");
        Ok(registers)
    }

    /// Waits for an image to be there.
    async fn image(self: &Arc<Self>, hash: [u8; 32]) -> Result<(), OsImageError> {
        let shared = Arc::clone(self);
        self.downloads.join(&hex::encode(hash), || shared.ensure_image(hash)).await?
    }

    /// Downloads an image unless it is there.
    async fn ensure_image(self: Arc<Self>, hash: [u8; 32]) -> Result<(), OsImageError> {
        if self.has_image(hash).await? {
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
                    tracing::warn!(image, %cause, "why an OS image could not be had");
                }
                Progress::Failed { reason: error.to_string() }
            }
        };
        self.listener.tell(&image, &last);
        outcome
    }

    /// Downloads an image, again if an operator cleared the cache, workspaces included, meanwhile.
    async fn downloaded(self: &Arc<Self>, hash: [u8; 32], deadline: Deadline) -> Result<(), OsImageError> {
        let mut attempts = 0;
        loop {
            let clearings = self.clearings().await?;
            let outcome = Arc::clone(self).download(hash, deadline).await;
            attempts += 1;
            if outcome.is_ok() || attempts == MOST_ATTEMPTS || self.clearings().await? == clearings {
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
            Ok(())
        })
        .await?
    }
}

/// The directory of a download, removed by a thread that may wait for the disk.
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

/// Runs what waits for the disk or computes for long.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OsImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| OsImageError::Stopped)
}
