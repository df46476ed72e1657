//! The TEE platforms: a folder for each, and the only place that dispatches on the platform.

pub mod command_line;
mod events;
mod gcp;
pub mod manifest;
mod nitro;
pub mod sev_snp;
pub mod tdx;

pub use events::EventsError;
pub use gcp::{GcpError, PcrValue, TpmEvent, TpmPlatform, TpmQuote};
pub use nitro::NitroError;
use sev_snp::SevSnpError;
use tdx::{Quoted, QuotedError, Tdx, tdx_identity};

use crate::identity::{AppInfo, Registers};
use crate::measurement::RuntimeEvent;
use crate::vm_config::{VmConfig, VmConfigError};

/// A platform's part of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Intel TDX.
    Tdx(Tdx),
    /// Intel TDX with a virtual TPM, on Google Cloud.
    GcpTdx {
        /// The TDX part.
        tdx: Tdx,
        /// The TPM part.
        tpm: TpmQuote,
    },
    /// AWS Nitro Enclave.
    NitroEnclave {
        /// COSE_Sign1 document.
        nsm_quote: Vec<u8>,
    },
    /// AMD SEV-SNP.
    SevSnp {
        /// Attestation report, 1184 bytes.
        report: Vec<u8>,
        /// The certificates of the key that signed it; empty if they must be fetched.
        cert_chain: Vec<Vec<u8>>,
        /// The document whose hash is in the report.
        mr_config: String,
    },
    /// AWS EC2 with a NitroTPM.
    AwsNitroTpm {
        /// COSE_Sign1 document.
        attestation_doc: Vec<u8>,
    },
}

impl Platform {
    /// The platform's name in the V1 wire form.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tdx(_) => "tdx",
            Self::GcpTdx { .. } => "gcp-tdx",
            Self::NitroEnclave { .. } => "nitro-enclave",
            Self::SevSnp { .. } => "sev-snp",
            Self::AwsNitroTpm { .. } => "aws-nitro-tpm",
        }
    }

    /// The platform's name in boot info.
    pub fn tee_variant(&self) -> &'static str {
        match self {
            Self::Tdx(_) => "dstack-tdx",
            Self::GcpTdx { .. } => "dstack-gcp-tdx",
            Self::NitroEnclave { .. } => "dstack-nitro-enclave",
            Self::SevSnp { .. } => "dstack-amd-sev-snp",
            Self::AwsNitroTpm { .. } => "dstack-aws-nitro-tpm",
        }
    }
}

/// Why evidence has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The configuration does not parse.
    #[error(transparent)]
    VmConfig(#[from] VmConfigError),
    /// The TDX quote does not parse.
    #[error(transparent)]
    Quote(#[from] QuotedError),
    /// The SEV-SNP report does not parse.
    #[error(transparent)]
    SevSnp(#[from] SevSnpError),
    /// The Nitro document or the runtime events have none.
    #[error(transparent)]
    Nitro(#[from] NitroError),
    /// The TPM quote or the runtime events have none.
    #[error(transparent)]
    Gcp(#[from] GcpError),
    /// The runtime events have none.
    #[error(transparent)]
    Events(#[from] EventsError),
}

/// The identity that evidence of any platform claims, with the raw device id that verification gave (not used
/// for SEV-SNP, whose report has the id).
pub fn decode(
    platform: &Platform,
    runtime_events: &[RuntimeEvent],
    registers: Registers,
    config: &VmConfig,
    device: &[u8],
) -> Result<AppInfo, IdentityError> {
    match platform {
        Platform::Tdx(tdx) => {
            Ok(tdx_identity(&Quoted::parse(&tdx.quote)?, runtime_events, registers, config, device)?)
        }
        Platform::GcpTdx { tpm, .. } => Ok(gcp::identity(tpm, runtime_events, registers, config, device)?),
        Platform::SevSnp { report, mr_config, .. } => Ok(sev_snp::identity(report, mr_config, config)?),
        Platform::NitroEnclave { nsm_quote } => {
            Ok(nitro::enclave_identity(nsm_quote, runtime_events, registers, config, device)?)
        }
        Platform::AwsNitroTpm { attestation_doc } => {
            Ok(nitro::tpm_identity(attestation_doc, runtime_events, registers, config, device)?)
        }
    }
}

#[cfg(test)]
mod tests;
