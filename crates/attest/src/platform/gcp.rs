//! Google's TDX guests: besides TDX they have a virtual TPM, whose registers identify the guest.

use super::events::{Events, EventsError, sha256};
use crate::identity::{AppInfo, Registers};
use crate::measurement::{self, RuntimeEvent};
use crate::vm_config::VmConfig;

/// A TPM quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmQuote {
    /// The TPMS_ATTEST structure.
    pub message: Vec<u8>,
    /// Signature over `message`.
    pub signature: Vec<u8>,
    /// The PCR values that the digest in the quote covers.
    pub pcr_values: Vec<PcrValue>,
    /// Certificate of the attestation key.
    pub ak_cert: Vec<u8>,
    /// The TPM's environment.
    pub platform: TpmPlatform,
    /// The extensions of the PCRs.
    pub event_log: Vec<TpmEvent>,
}

/// The value of one PCR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrValue {
    /// Index of the PCR.
    pub index: u32,
    /// Bank, such as `sha256`.
    pub algorithm: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// An extension of a PCR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmEvent {
    /// Index of the PCR.
    pub pcr_index: u32,
    /// The digest that extended it.
    pub digest: Vec<u8>,
}

/// The environment of a TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TpmPlatform {
    /// dstack on its own host.
    Dstack,
    /// Google Cloud.
    Gcp,
    /// AWS Nitro Enclave.
    NitroEnclave,
    /// AWS EC2.
    AwsEc2,
}

/// Why the evidence of a Google TDX guest has no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GcpError {
    /// The runtime events have none.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// The TPM quote has no such PCR.
    #[error("the TPM quote has no SHA-256 value of PCR {0}")]
    NoPcr(u32),
}

/// `mr_system = SHA-256(os_image_hash ‖ mr_key_provider)`; `mr_aggregated = SHA-256(PCR0 ‖ PCR2 ‖ PCR14 replayed)`.
pub(super) fn identity(
    tpm: &TpmQuote,
    runtime_events: &[RuntimeEvent],
    registers: Registers,
    config: &VmConfig,
    ppid: &[u8],
) -> Result<AppInfo, GcpError> {
    let events = Events::decode(runtime_events, registers)?;
    let pcr = |index| {
        let mut values = tpm.pcr_values.iter();
        let value = values.find(|pcr| pcr.index == index && pcr.algorithm == "sha256");
        value.map(|pcr| pcr.value.as_slice()).ok_or(GcpError::NoPcr(index))
    };
    let replayed = measurement::replay_pcr14_sha256(runtime_events, registers.until());
    let system = sha256(&[&config.os_image_hash, &events.mr_key_provider()]);
    let aggregated = sha256(&[pcr(0)?, pcr(2)?, &replayed]);
    Ok(events.into_app_info(system, aggregated, config, ppid))
}
