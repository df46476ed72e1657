//! Identity of a SEV-SNP guest: the measurement in its report, and the document whose hash is HOST_DATA.

use crate::identity::mr_config::{MrConfigDocument, MrConfigError};
use crate::identity::{AppInfo, MAX_INIT_SCRIPTS};
use crate::platform::events::sha256;
use crate::vm_config::VmConfig;

const REPORT_LENGTH: usize = 1184;

/// Why SEV-SNP evidence has no identity.
#[derive(Debug, thiserror::Error)]
pub enum SevSnpError {
    /// A report of the wrong length.
    #[error("a SEV-SNP report must be {REPORT_LENGTH} bytes, got {0}")]
    ReportLength(usize),
    /// A report of another version.
    #[error("a SEV-SNP report must be of version 2 or 3, got {0}")]
    ReportVersion(u32),
    /// The document does not parse.
    #[error(transparent)]
    MrConfig(#[from] MrConfigError),
    /// More init scripts than an identity holds.
    #[error("at most {MAX_INIT_SCRIPTS} init script hashes are allowed in mr_config, got {0}")]
    TooManyInitScripts(usize),
}

/// The fields of a report that identify the guest.
struct Report {
    measurement: [u8; 48],
    host_data: [u8; 32],
    chip_id: [u8; 64],
}

impl Report {
    fn parse(report: &[u8]) -> Result<Self, SevSnpError> {
        let report: &[u8; REPORT_LENGTH] =
            report.try_into().map_err(|_| SevSnpError::ReportLength(report.len()))?;
        let version = u32::from_le_bytes(at(report, 0));
        if !(2..=3).contains(&version) {
            return Err(SevSnpError::ReportVersion(version));
        }
        Ok(Self { measurement: at(report, 144), host_data: at(report, 192), chip_id: at(report, 416) })
    }
}

fn at<const N: usize>(report: &[u8; REPORT_LENGTH], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&report[offset..offset + N]);
    field
}

/// `mr_system = SHA-256(measurement)`, `mr_aggregated = SHA-256(measurement ‖ HOST_DATA)`,
/// `device_id = SHA-256(chip id)`; boot time and run time are the same.
pub(crate) fn identity(report: &[u8], mr_config: &str, config: &VmConfig) -> Result<AppInfo, SevSnpError> {
    let Report { measurement, host_data, chip_id } = Report::parse(report)?;
    let document = MrConfigDocument::parse(mr_config)?;
    let hashes = document.init_script_hashes;
    if let Some(hashes) = hashes.as_ref().filter(|hashes| hashes.len() > MAX_INIT_SCRIPTS) {
        return Err(SevSnpError::TooManyInitScripts(hashes.len()));
    }
    let key_provider_id = hex::encode(document.key_provider_id.unwrap_or_default());
    let key_provider_info =
        format!(r#"{{"name":"{}","id":"{key_provider_id}"}}"#, document.key_provider.name());
    Ok(AppInfo {
        app_id: document.app_id.unwrap_or_default(),
        compose_hash: document.compose_hash,
        instance_id: document.instance_id.unwrap_or_default(),
        device_id: sha256(&[&chip_id]).to_vec(),
        mr_system: sha256(&[&measurement]),
        mr_aggregated: sha256(&[&measurement, &host_data]),
        os_image_hash: config.os_image_hash.clone(),
        key_provider_info: key_provider_info.into_bytes(),
        init_script_hashes: hashes.map(|hashes| hashes.into_iter().map(|hash| hash.0).collect()),
    })
}
