//! The one place that knows how each part is built from its section of the configuration. Building changes nothing.

use std::{fs, io, path::Path, sync::Arc};

use kms_attest::{
    attester::{Attester, ConfigfsTsm, GuestAgent},
    collateral::{CacheOptions, Clock, CollateralCache, Floors},
    outgoing, state_file,
    tcb::SeenPlatforms,
    trust::TrustAnchors,
    verify::Verifier,
};

use rustls_pki_types::CertificateDer;

use super::AppError;
use crate::{
    admission::{ImageCheck, TcbTolerance, WATCHED_FOR},
    audit::{Audit, Event, Storage},
    clock::Floor,
    config::{self, Config, Core},
    metrics::Metrics,
    operator::{BadHtpasswd, Credentials, OperatorToken, Users},
    os_image::{self, ImageCache, Listener, OsImages, Progress},
    policy::{Policy, SetupError},
    store::Permissions,
};

/// Largest htpasswd file and trust anchor in bytes.
const SMALL_FILE: u64 = 1024 * 1024;

pub(super) fn attester(core: &Core) -> Result<Attester, AppError> {
    Ok(match &core.attester {
        config::Attester::GuestAgent { address: Some(address) } => Attester::at(address)?,
        // The configuration has looked at the environment already.
        config::Attester::GuestAgent { address: None } => Attester::GuestAgent(GuestAgent::usual()),
        config::Attester::ConfigfsTsm { event_log } => {
            Attester::ConfigfsTsm(ConfigfsTsm::new(event_log.clone(), String::new()))
        }
        config::Attester::None => Attester::None,
    })
}

pub(super) fn verifier(core: &Core, floor: Floor) -> Result<Verifier, AppError> {
    let anchors = match &core.attestation.tdx_root {
        None => TrustAnchors::intel(),
        Some(path) => TrustAnchors::with_tdx_root(&read_small("core.attestation.root_ca.tdx", path)?)?,
    };
    let endpoints: Vec<&str> = core.attestation.pccs.iter().map(config::Endpoint::as_str).collect();
    let floors_file = core.tcb.floors_file.clone();
    let options = CacheOptions {
        clock: Clock::system().above(floor),
        extra_tls_roots: ca_file("core.attestation.ca_file", core.attestation.ca_file.as_deref())?,
        floors: Floors::open(floors_file, anchors.tdx_root(), core.tcb.min_evaluation_number)?,
        ..CacheOptions::default()
    };
    let cache = CollateralCache::new(&endpoints, &anchors, options)?;
    Ok(Verifier::new(anchors, cache).remembering(SeenPlatforms::new(WATCHED_FOR)))
}

pub(super) fn tolerance(core: &Core, verifier: &Verifier, metrics: &Arc<Metrics>) -> TcbTolerance {
    TcbTolerance::new(core.tcb.clone(), verifier.cache().clock().clone(), Arc::clone(metrics))
}

pub(super) fn policy(core: &Core) -> Result<Policy, SetupError> {
    Policy::from_config(&core.auth_api)
}

pub(super) fn image_check(
    core: &Core,
    cache: &ImageCache,
    listener: Listener,
) -> Result<ImageCheck, AppError> {
    let image = &core.image;
    if !image.verify {
        return Ok(ImageCheck::Waived);
    }
    let settings = os_image::Settings {
        download_url: image.download_url.clone(),
        download_timeout: image.download_timeout,
        lite: image.lite,
        acpi_tables: image.acpi_tables.clone(),
        acpi_digests: image.acpi_digests.clone(),
        extra_roots: ca_file("core.image.ca_file", image.ca_file.as_deref())?,
    };
    Ok(ImageCheck::Required(OsImages::heard_by(settings, cache.clone(), listener)?))
}

pub(super) fn audit_storage(core: &Core) -> Storage {
    let config::Ledger { segment_size, segment_age } = core.ledger;
    Storage { reserve: core.audit.reserve, segment_size, segment_age }
}

/// Records how downloads of OS images go on.
pub(super) fn download_recorder(audit: &Arc<Audit>) -> Listener {
    let audit = Arc::clone(audit);
    Listener::new(move |image, progress| {
        if let Some(event) = download_event(image, progress) {
            audit.note(event);
        }
    })
}

/// What is recorded of a download.
fn download_event(image: &str, progress: &Progress) -> Option<Event> {
    let image = image.to_owned();
    Some(match progress {
        Progress::Started => Event::ImageDownloadStarted { image },
        Progress::Fetching { bytes, of } => {
            let percent = of.filter(|of| *of > 0).map(|of| bytes.saturating_mul(100) / of);
            Event::ImageDownloadProgress { image, bytes: *bytes, percent }
        }
        Progress::Unpacking { .. } => return None,
        Progress::Done { seconds } => Event::ImageDownloaded { image, seconds: *seconds },
        Progress::Failed { reason } => Event::ImageDownloadFailed { image, reason: reason.clone() },
    })
}

/// Who may use the admin listener; `None` where there is none.
pub(super) fn admin_credentials(core: &Core) -> Result<Option<Credentials>, AppError> {
    let admin = &core.admin;
    if !admin.enabled {
        return Ok(None);
    }
    let users = match &admin.htpasswd_file {
        Some(path) => Users::read(&read_small("core.admin.htpasswd_file", path)?)?,
        None => Users::default(),
    };
    let token = admin_token(core);
    if admin.htpasswd_file.is_some() && users.is_empty() && token.is_none() {
        return Err(BadHtpasswd::NoUsers.into());
    }
    // Without either, the configuration was refused unless it says so.
    Ok(Some(match (&token, &admin.htpasswd_file, admin.insecure_no_auth) {
        (None, None, true) => Credentials::NoneNeeded,
        _ => Credentials::Needed { token, users },
    }))
}

pub(super) fn admin_token(core: &Core) -> Option<OperatorToken> {
    core.admin.auth_token.as_ref().map(|token| OperatorToken::new(token.expose()))
}

/// What an empty device list of a candidate means, unless its operator says: what it means in the policy in force.
pub(super) fn empty_devices(core: &Core) -> config::EmptyDevices {
    match core.auth_api {
        config::AuthApi::Allowlist { empty_devices, .. } => empty_devices,
        config::AuthApi::Webhook(_) | config::AuthApi::Ethereum(_) | config::AuthApi::Dev { .. } => {
            config::EmptyDevices::NoDevice
        }
    }
}

/// Another KMS must not replace what operators have frozen here. In the key directory nobody else is.
pub(super) fn freeze_file(core: &Core) -> Result<Option<state_file::Lock>, AppError> {
    let file = &core.freeze.file;
    if file.parent() == Some(&*core.cert_dir) {
        return Ok(None);
    }
    match state_file::Lock::take(file) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(AppError::FreezeFileInUse),
        // Such as a full disk: freezes count in memory then, and a freeze says that it is not kept.
        Err(error) => {
            tracing::warn!(%error, "the file of core.freeze.file cannot be locked against other processes");
            Ok(None)
        }
    }
}

pub(super) fn key_permissions(config: &Config) -> Permissions {
    match config.core.insecure_world_readable_keys {
        true => Permissions::InsecureAllowLoose,
        false => Permissions::OwnerOnly,
    }
}

/// What servers are trusted besides the public roots: nothing where no file is named.
fn ca_file(key: &'static str, path: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, AppError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    outgoing::ca_file(&read_small(key, path)?).map_err(|problem| AppError::CaFile { key, problem })
}

pub(super) fn read_small(key: &'static str, path: &Path) -> Result<Vec<u8>, AppError> {
    let file = |source| AppError::File { key, source };
    let metadata = fs::metadata(path).map_err(file)?;
    // A pipe would be waited for.
    if !metadata.is_file() {
        return Err(file(io::Error::other("not a file")));
    }
    if metadata.len() > SMALL_FILE {
        return Err(file(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")));
    }
    fs::read(path).map_err(file)
}
