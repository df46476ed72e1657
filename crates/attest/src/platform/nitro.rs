//! Registers in AWS Nitro documents, of enclaves and of NitroTPM. Signatures are not checked here.

use std::collections::BTreeMap;

use super::events::{Events, EventsError, sha256};
use crate::codec::cbor::{CborError, Reader};
use crate::identity::{AppInfo, Registers};
use crate::measurement::{self, RuntimeEvent};
use crate::vm_config::VmConfig;

type Pcr = [u8; 48];

/// Why Nitro evidence has no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NitroError {
    /// The document does not parse.
    #[error("the Nitro attestation document does not parse: {0}")]
    Malformed(CborError),
    /// The PCR is missing or not 48 bytes long.
    #[error("the Nitro attestation document has no 48-byte PCR {0}")]
    NoPcr(u64),
    /// The runtime events have none.
    #[error(transparent)]
    Events(#[from] EventsError),
}

impl From<CborError> for NitroError {
    fn from(error: CborError) -> Self {
        Self::Malformed(error)
    }
}

/// `mr_system = mr_aggregated = image`; the compose hash is the image hash that the configuration claims.
pub(super) fn enclave_identity(
    document: &[u8],
    runtime_events: &[RuntimeEvent],
    registers: Registers,
    config: &VmConfig,
    device: &[u8],
) -> Result<AppInfo, NitroError> {
    let image = enclave_image(document)?;
    let events = Events::decode(runtime_events, registers)?;
    let image_hash = config.os_image_hash.clone();
    let app_info = events.into_app_info(image, image, config, device);
    Ok(AppInfo { compose_hash: image_hash, ..app_info })
}

/// `mr_system = SHA-256(boot ‖ mr_key_provider)`; `mr_aggregated = SHA-256(boot ‖ PCR14 replayed)`, where
/// `boot = PCR4 ‖ PCR7 ‖ PCR12`.
pub(super) fn tpm_identity(
    document: &[u8],
    runtime_events: &[RuntimeEvent],
    registers: Registers,
    config: &VmConfig,
    device: &[u8],
) -> Result<AppInfo, NitroError> {
    let boot = tpm_boot_registers(document)?;
    let events = Events::decode(runtime_events, registers)?;
    let replayed = measurement::replay_pcr14_sha384(runtime_events, registers.until());
    let system = sha256(&[&boot, &events.mr_key_provider()]);
    let aggregated = sha256(&[&boot, &replayed]);
    Ok(events.into_app_info(system, aggregated, config, device))
}

/// The image of an enclave: `SHA-256(PCR0 ‖ PCR1 ‖ PCR2)`.
fn enclave_image(document: &[u8]) -> Result<[u8; 32], NitroError> {
    let pcrs = pcrs(document, "pcrs")?;
    Ok(sha256(&[pcr(&pcrs, 0)?, pcr(&pcrs, 1)?, pcr(&pcrs, 2)?]))
}

/// The boot registers of an instance with a NitroTPM: `PCR4 ‖ PCR7 ‖ PCR12`.
fn tpm_boot_registers(document: &[u8]) -> Result<Vec<u8>, NitroError> {
    let pcrs = pcrs(document, "nitrotpm_pcrs")?;
    Ok([pcr(&pcrs, 4)?, pcr(&pcrs, 7)?, pcr(&pcrs, 12)?].concat())
}

fn pcr(pcrs: &BTreeMap<u64, Pcr>, index: u64) -> Result<&[u8], NitroError> {
    pcrs.get(&index).map(|pcr| pcr.as_slice()).ok_or(NitroError::NoPcr(index))
}

/// The PCRs under `name` in the payload of a COSE_Sign1 document.
fn pcrs(document: &[u8], name: &str) -> Result<BTreeMap<u64, Pcr>, CborError> {
    let mut document = Reader::new(document);
    document.cose_sign1()?;
    document.bytes()?;
    document.skip()?;
    let mut pcrs = BTreeMap::new();
    Reader::new(document.bytes()?).map(|payload| {
        if payload.text()? != name {
            return payload.skip();
        }
        payload.map(|entry| {
            let index = entry.unsigned()?;
            if let Ok(value) = entry.bytes()?.try_into() {
                pcrs.insert(index, value);
            }
            Ok(())
        })
    })?;
    document.bytes()?;
    Ok(pcrs)
}
