//! OS images: whether the registers in a quote are those of the image that the VM claims to have booted.
//!
//! Files are downloaded, cached and measured here; [`kms_attest::platform::tdx::image`] computes the
//! registers.

mod archive;
mod cache;
mod download;
mod lookups;
mod measure;
mod origin;
mod program;
mod progress;
#[cfg(test)]
mod tests;
mod work;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kms_attest::evidence::Platform;
use kms_attest::identity::OsImageHash;
use kms_attest::measurement::TdxEvent;
use kms_attest::platform::tdx::Quoted;
use kms_attest::platform::tdx::image::acpi::{AcpiDigests, Shape, ShapeError};
use kms_attest::platform::tdx::image::legacy::LegacyError;
use kms_attest::platform::tdx::image::lite::{self, LiteError};
use kms_attest::platform::tdx::image::qemu::MachineError;
use kms_attest::platform::tdx::image::{BootRegisters, Mismatch};
use kms_attest::single_flight::{SingleFlight, Unfinished};
use kms_attest::verify::Verified;
use kms_attest::vm_config::{TdxAttestationVariant, VmConfig, VmConfigError};
use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;

pub use self::archive::ArchiveError;
pub use self::cache::{CacheError, ImageCache};
use self::cache::{Measured, measurement_key};
pub use self::download::DownloadError;
use self::download::Source;
use self::origin::Origin;
use self::program::AcpiProgram;
pub use self::program::{ProgramError, is_installed};
use self::progress::TELL_EVERY;
pub use self::progress::{Progress, ProgressListener};
use self::work::blocking;

const MAX_DOWNLOADS: usize = 4;
/// Images whose kind is remembered.
const MAX_KINDS: usize = 1024;
/// The most configurations that are waited for.
const MAX_MEASUREMENTS: usize = 64;
/// The most images measured at a time, because each needs its kernel and firmware in memory.
const MEASURED_AT_ONCE: usize = 2;

/// The part of `[core.image]` for the verification of images.
#[derive(Debug, Clone)]
pub struct Settings {
    /// URL with the placeholder `{OS_IMAGE_HASH}`.
    pub download_url: String,
    /// The time limit of a whole download: fetching, unpacking, checking. `None` is no limit.
    pub download_timeout: Option<Duration>,
    /// Whether digests in the evidence may replace the image's files.
    pub lite: LiteAttestation,
    /// A program that prints ACPI tables, instead of the computed ones: a path, or a name to look up in
    /// `PATH`.
    pub acpi_tables: Option<PathBuf>,
    /// Which ACPI tables an image may run with.
    pub acpi_digests: AcpiPins,
    /// Certificates that are trusted for the image server, besides the public roots.
    pub extra_roots: Vec<CertificateDer<'static>>,
}

/// `core.image.lite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiteAttestation {
    /// It is accepted like legacy attestation.
    Allow,
    /// Guests that use it are refused.
    Refuse,
}

/// By image hash: SHA-384 of the ACPI tables that the image may run with. An image that is not listed may run
/// with any.
pub type AcpiPins = HashMap<[u8; 32], Vec<[u8; 48]>>;

/// Why images cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The trusted certificates are unusable.
    #[error("the client for image downloads cannot be made: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client cannot be built.
    #[error("the client for image downloads cannot be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a VM cannot be shown to have booted its image. The texts contain no address or path; the sources may.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OsImageError {
    /// The configuration does not parse.
    #[error(transparent)]
    VmConfig(Arc<VmConfigError>),
    /// Only TDX evidence has the registers.
    #[error("OS images of {0} evidence cannot be verified")]
    Platform(&'static str),
    /// No image hash, or an invalid one.
    #[error("legacy TDX attestation requires os_image_hash = sha256(sha256sum.txt)")]
    NoHash,
    /// The configuration describes no machine that can be measured.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The ACPI tables of such a VM cannot be computed.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Lite attestation is switched off.
    #[error("lite TDX attestation is not accepted by this KMS (core.image.lite)")]
    LiteRefused,
    /// The image is pinned to other ACPI tables.
    #[error("the ACPI tables of this VM are not pinned for its image (core.image.acpi_digests): SHA-384 {0}")]
    NotPinned(String),
    /// Lite verification has nothing to compare with.
    #[error(transparent)]
    Lite(#[from] LiteError),
    /// The image cannot be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The archive is not the image.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file of the image cannot be read, or is invalid.
    #[error("the OS image has no usable {what}")]
    File {
        /// Which file.
        what: &'static str,
        /// The cause, for the log.
        #[source]
        source: Arc<io::Error>,
    },
    /// The ACPI program gave no tables.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The registers of the image cannot be computed.
    #[error(transparent)]
    Legacy(#[from] LegacyError),
    /// The VM booted something else.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// Too many images are being verified.
    #[error("too many OS images are being verified, try again")]
    Busy,
    /// The work was cancelled.
    #[error("the OS image could not be verified, try again")]
    Stopped,
}

impl OsImageError {
    /// Whether the failure says nothing about the VM, so that a retry may succeed.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Download(_) | Self::Program(_) | Self::Busy | Self::Stopped => true,
            Self::Archive(error) => error.is_unavailable(),
            Self::VmConfig(_)
            | Self::Platform(_)
            | Self::NoHash
            | Self::Machine(_)
            | Self::Shape(_)
            | Self::LiteRefused
            | Self::NotPinned(_)
            | Self::Lite(_)
            | Self::File { .. }
            | Self::Legacy(_)
            | Self::Mismatch(_) => false,
        }
    }
}

impl From<VmConfigError> for OsImageError {
    fn from(error: VmConfigError) -> Self {
        Self::VmConfig(Arc::new(error))
    }
}

impl From<Unfinished> for OsImageError {
    fn from(error: Unfinished) -> Self {
        match error {
            Unfinished::Busy => Self::Busy,
            Unfinished::Abandoned => Self::Stopped,
        }
    }
}

/// Proof that the registers of a guest are those of an OS image. Only [`OsImages::verify`] makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootedImage(OsImageHash);

impl BootedImage {
    /// The hash of the image.
    pub fn hash(&self) -> &OsImageHash {
        &self.0
    }
}

/// What an OS image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// To run apps: nobody can log in.
    Release,
    /// For development: its makers can log in (`is_dev` of its metadata).
    Development,
    /// That is not known, because the image itself was not looked at.
    Unknown,
}

/// Verifies OS images. Clones share their caches and their work.
#[derive(Debug, Clone)]
pub struct OsImages(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cache: ImageCache,
    source: Source,
    download_timeout: Option<Duration>,
    program: Option<AcpiProgram>,
    lite: LiteAttestation,
    acpi_digests: AcpiPins,
    downloads: SingleFlight<[u8; 32], Result<(), OsImageError>>,
    measurements: SingleFlight<String, Result<Measured, OsImageError>>,
    measuring: Semaphore,
    listener: ProgressListener,
    tell_every: Duration,
    /// By the hash of the image, which covers it.
    kinds: Cache<[u8; 32], ImageKind>,
}

impl OsImages {
    /// Verification with the caches in `cache`.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(settings: Settings, cache: ImageCache) -> Result<Self, SetupError> {
        Self::heard_by(settings, cache, ProgressListener::default())
    }

    /// The same; `listener` is told of the progress of downloads.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn heard_by(
        settings: Settings,
        cache: ImageCache,
        listener: ProgressListener,
    ) -> Result<Self, SetupError> {
        let program = settings.acpi_tables.clone().map(AcpiProgram::new);
        Self::with_program(settings, cache, program, listener, TELL_EVERY)
    }

    fn with_program(
        settings: Settings,
        cache: ImageCache,
        program: Option<AcpiProgram>,
        listener: ProgressListener,
        tell_every: Duration,
    ) -> Result<Self, SetupError> {
        Ok(Self(Arc::new(Shared {
            cache,
            source: Source::new(settings.download_url, &settings.extra_roots)?,
            download_timeout: settings.download_timeout,
            program,
            lite: settings.lite,
            acpi_digests: settings.acpi_digests,
            downloads: SingleFlight::new(MAX_DOWNLOADS),
            measurements: SingleFlight::new(MAX_MEASUREMENTS),
            measuring: Semaphore::new(MEASURED_AT_ONCE),
            listener,
            tell_every,
            kinds: Cache::new(MAX_KINDS),
        })))
    }

    /// Checks that the guest booted the image named in `vm_config`, or in its evidence if that is empty.
    ///
    /// # Errors
    /// [`OsImageError`].
    pub async fn verify(&self, verified: &Verified, vm_config: &str) -> Result<BootedImage, OsImageError> {
        let evidence = verified.evidence();
        let Platform::Tdx(tdx) = &evidence.platform else {
            return Err(OsImageError::Platform(evidence.platform.kind()));
        };
        let config = VmConfig::effective(vm_config, &evidence.stack.config)?;
        // What is compared below is computed from what this hash covers.
        let hash = config.os_image_hash.as_slice().try_into().map_err(|_| OsImageError::NoHash)?;
        self.check(config, &tdx.event_log, &verified.td().quoted).await?;
        Ok(BootedImage(OsImageHash(hash)))
    }

    /// The kind of the image that a guest has booted, of which [`OsImages::verify`] has found that it is the one that the guest
    /// names: by the image's `metadata.json`, which its hash covers.
    ///
    /// # Errors
    /// [`OsImageError`]
    pub async fn kind(&self, verified: &Verified, vm_config: &str) -> Result<ImageKind, OsImageError> {
        let config = VmConfig::effective(vm_config, &verified.evidence().stack.config)?;
        match config.tdx_attestation_variant {
            // The image itself is not looked at.
            TdxAttestationVariant::Lite => return Ok(ImageKind::Unknown),
            TdxAttestationVariant::Legacy => {}
        }
        let hash: [u8; 32] = config.os_image_hash.as_slice().try_into().map_err(|_| OsImageError::NoHash)?;
        if let Some(kind) = self.0.kinds.get(&hash) {
            return Ok(kind);
        }
        self.0.image(hash).await?;
        let directory = self.0.cache.image(&hash);
        let kind = blocking(move || measure::kind(&directory, &hash)).await??;
        self.0.kinds.insert(hash, kind);
        Ok(kind)
    }

    /// Downloads an image into the cache, unless it is cached.
    ///
    /// # Errors
    /// [`OsImageError::Download`], [`OsImageError::Archive`], [`OsImageError::Busy`],
    /// [`OsImageError::Stopped`].
    pub async fn fetch(&self, hash: [u8; 32]) -> Result<(), OsImageError> {
        self.0.image(hash).await
    }

    async fn check(
        &self,
        config: VmConfig,
        event_log: &[TdxEvent],
        quoted: &Quoted,
    ) -> Result<(), OsImageError> {
        let registers = match (config.tdx_attestation_variant, self.0.lite) {
            (TdxAttestationVariant::Lite, LiteAttestation::Refuse) => return Err(OsImageError::LiteRefused),
            (TdxAttestationVariant::Lite, LiteAttestation::Allow) => self.lite(config, event_log).await?,
            (TdxAttestationVariant::Legacy, _) => self.legacy(config).await?,
        };
        Ok(registers.compare(quoted)?)
    }

    /// The registers of a VM by the digests in its evidence. Those of its ACPI tables take milliseconds to
    /// compute.
    async fn lite(&self, config: VmConfig, event_log: &[TdxEvent]) -> Result<BootRegisters, OsImageError> {
        let (images, event_log) = (self.clone(), event_log.to_vec());
        blocking(move || {
            let registers = lite::boot_registers(&config, &event_log)?;
            images.is_pinned(&config)?;
            Ok(registers)
        })
        .await?
    }

    /// Checks that the image of a VM may run with the ACPI tables computed for that VM. Blocks.
    fn is_pinned(&self, config: &VmConfig) -> Result<(), OsImageError> {
        let hash: Option<[u8; 32]> = config.os_image_hash.as_slice().try_into().ok();
        match hash.filter(|hash| self.0.acpi_digests.contains_key(hash)) {
            None => Ok(()),
            Some(hash) => self.are_pinned(&hash, &AcpiDigests::of_vm(&Shape::of(config)?).tables),
        }
    }

    /// Checks that an image may run with ACPI tables of this SHA-384.
    fn are_pinned(&self, image: &[u8; 32], tables: &[u8; 48]) -> Result<(), OsImageError> {
        match self.0.acpi_digests.get(image) {
            Some(pins) if !pins.contains(tables) => Err(OsImageError::NotPinned(hex::encode(tables))),
            Some(_) | None => Ok(()),
        }
    }

    /// The registers of a VM by its image: cached, or computed once for all who wait. The tables that they
    /// were measured with, computed or from a program, must be pinned if any are.
    async fn legacy(&self, config: VmConfig) -> Result<BootRegisters, OsImageError> {
        let hash: [u8; 32] = config.os_image_hash.as_slice().try_into().map_err(|_| OsImageError::NoHash)?;
        let measured = self.measured(config, hash).await?;
        self.are_pinned(&hash, &measured.acpi_tables)?;
        Ok(measured.registers)
    }

    async fn measured(&self, config: VmConfig, hash: [u8; 32]) -> Result<Measured, OsImageError> {
        let (images, described) = (self.clone(), config.clone());
        let Known { key, origin, measured } = blocking(move || images.known(&described)).await??;
        if let Some(measured) = measured {
            return Ok(measured);
        }
        let shared = Arc::clone(&self.0);
        // Work that began before the cache was cleared, or with another program, is not shared with later
        // callers, because it may depend on files that were removed.
        let made_by = origin.as_ref().map_or("", Origin::as_str);
        let work = format!("{} {key} {made_by}", shared.cache.clearings());
        self.0
            .measurements
            .join(work, || async move { shared.measure(config, hash, &key, origin).await })?
            .result()
            .await?
    }

    /// The facts about a VM that need no image. Blocks.
    fn known(&self, config: &VmConfig) -> Result<Known, OsImageError> {
        let program = self.0.program.as_ref();
        measure::is_measurable(config, program)?;
        // The tables of a program are known only after it has run.
        if program.is_none() {
            self.is_pinned(config)?;
        }
        let (key, origin) = (measurement_key(config), Origin::of(program));
        let measured = origin.as_ref().and_then(|origin| self.0.cache.read(&key, origin));
        Ok(Known { key, origin, measured })
    }
}

/// The facts about a VM that need no image.
struct Known {
    /// The key of the configuration.
    key: String,
    /// What would measure it now; `None` if that is unknown, so that nothing is cached.
    origin: Option<Origin>,
    measured: Option<Measured>,
}
