//! SEV-SNP: a guest's launch measurement, computed from a document that the image hash covers, without the
//! image.

mod document;
mod error;
mod launch;
mod vmsa;

use serde::Deserialize;

use self::error::DOCUMENT;
pub use self::error::{LaunchError, MAX_PAGES, MAX_SECTIONS, MAX_VCPUS, SevSnpError};
pub use self::launch::{Image, Launch, Section};
pub use self::vmsa::CpuModel;
use crate::identity::mr_config;
use crate::measurement::base64_text;
use crate::platform::manifest;
use crate::vm_config::{self, Layout};

/// Maximum length of a configuration with those nested in it, bytes.
const MAX_CONFIG: usize = 1 << 20;

/// The launch that a SEV-SNP guest's configuration claims, until it is compared with a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// SHA-256 of the image's manifest.
    pub os_image_hash: [u8; 32],
    /// The launch parameters.
    pub launch: Launch,
    /// The document whose hash is HOST_DATA, byte for byte.
    pub mr_config: String,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default, with = "hex::serde")]
    os_image_hash: Vec<u8>,
    sev_snp_measurement: Option<String>,
    mr_config: Option<String>,
}

/// `sev_snp_measurement`: JSON inside a string.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Measurement {
    #[serde(with = "base64_text")]
    checksum_file: Vec<u8>,
    #[serde(with = "base64_text")]
    measurement: Vec<u8>,
    vcpus: u32,
    vcpu_type: String,
    guest_features: u64,
}

impl Claim {
    /// Parses a configuration, or one nested as text in the key `vm_config`.
    ///
    /// # Errors
    /// Every [`SevSnpError`] except the two mismatches.
    pub fn parse(vm_config: &str) -> Result<Self, SevSnpError> {
        let config = Config::read(vm_config)?;
        let os_image_hash: [u8; 32] =
            config.os_image_hash.try_into().map_err(|_| SevSnpError::Config("os_image_hash"))?;
        let mr_config = config.mr_config.ok_or(SevSnpError::Config("mr_config"))?;
        let measurement = config.sev_snp_measurement.ok_or(SevSnpError::Config("sev_snp_measurement"))?;
        let measurement: Measurement = serde_json::from_str(&measurement)
            .map_err(|_| SevSnpError::Config("sev_snp_measurement of known keys only"))?;
        let document = manifest::vouched(
            &os_image_hash,
            &measurement.checksum_file,
            DOCUMENT,
            &measurement.measurement,
        )?;
        let launch = Launch {
            image: document::parse(document)?,
            vcpus: measurement.vcpus,
            cpu: CpuModel::parse(&measurement.vcpu_type)?,
            guest_features: measurement.guest_features,
        };
        Ok(Self { os_image_hash, launch, mr_config })
    }

    /// Checks that a report with this measurement and HOST_DATA is of a guest launched as claimed. The report
    /// itself must have been verified.
    ///
    /// # Errors
    /// [`SevSnpError::Launch`], [`SevSnpError::Measurement`], [`SevSnpError::HostData`].
    pub fn compare(&self, measurement: &[u8; 48], host_data: &[u8; 32]) -> Result<(), SevSnpError> {
        if self.launch.measurement()? != *measurement {
            return Err(SevSnpError::Measurement);
        }
        if mr_config::host_data(&self.mr_config) != *host_data {
            return Err(SevSnpError::HostData);
        }
        Ok(())
    }
}

impl Config {
    fn read(text: &str) -> Result<Self, SevSnpError> {
        let parse = |text: &str| -> Result<Self, SevSnpError> {
            serde_json::from_str(text).map_err(|_| SevSnpError::Config("the form of JSON"))
        };
        if text.len() > MAX_CONFIG {
            return Err(SevSnpError::Config("1 MiB at most"));
        }
        match vm_config::layout(text).map_err(|_| SevSnpError::Config("the form of JSON"))? {
            Layout::Plain => parse(text),
            Layout::Nested(nested) => parse(&nested),
        }
    }
}

#[cfg(test)]
mod tests;
