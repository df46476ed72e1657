//! Identity: who a CVM is, decoded from its evidence.

mod app_info;
mod boot_info;
pub(crate) mod cbor;
pub mod mr_config;
mod nitro;
mod quoted;
mod sev_snp;

use std::fmt;

use sha2::{Digest, Sha256};

use crate::evidence::{Evidence, Platform, Stack, TpmQuote};
use crate::measurement::{self, RuntimeEvent, Until};
use crate::vm_config::{VmConfig, VmConfigError};

pub use app_info::{AppInfo, AppInfoError, MAX_INIT_SCRIPTS};
pub use boot_info::BootInfo;
pub use mr_config::MrConfigError;
pub use nitro::NitroError;
pub use quoted::{Quoted, QuotedError};
pub use sev_snp::SevSnpError;

/// The name of an app: the first 20 bytes of its compose file's SHA-256, or an address on chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub [u8; 20]);

/// Bytes of another length than an app id's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("app_id must be 20 bytes, got {0}")]
pub struct AppIdLength(pub usize);

impl TryFrom<&[u8]> for AppId {
    type Error = AppIdLength;

    fn try_from(bytes: &[u8]) -> Result<Self, AppIdLength> {
        bytes.try_into().map(Self).map_err(|_| AppIdLength(bytes.len()))
    }
}

impl AsRef<[u8]> for AppId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppId({self})")
    }
}

/// Which moment of a guest's life its registers stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// After `boot-mr-done`, when the guest has no key provider yet.
    BootTime,
    /// Now.
    RunTime,
}

impl Registers {
    fn until(self) -> Until {
        match self {
            Self::BootTime => Until::BootMrDone,
            Self::RunTime => Until::End,
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
    /// The Nitro document does not parse.
    #[error(transparent)]
    Nitro(#[from] NitroError),
    /// The TPM quote has no such PCR.
    #[error("the TPM quote has no SHA-256 value of PCR {0}")]
    NoPcr(u32),
    /// An `init-script-hash` event that is not a hash.
    #[error("an init-script-hash event must be 32 bytes, got {0}")]
    InitScriptHash(usize),
    /// More `init-script-hash` events than an identity has room for.
    #[error("at most {MAX_INIT_SCRIPTS} init-script-hash events are allowed, got {0}")]
    TooManyInitScripts(usize),
}

/// What evidence of any platform says, taken at its word: with its own configuration, and without a device, which only
/// verification knows (so that `device_id` is the SHA-256 of nothing, except for SEV-SNP, whose report has it). This is
/// what the app info extension holds.
pub fn decode_unverified(evidence: &Evidence, registers: Registers) -> Result<AppInfo, IdentityError> {
    decode(evidence, registers, "", &[])
}

/// What evidence says, with the request's configuration if it is not empty, on the device that verification found (its
/// raw id; not used for SEV-SNP).
pub fn decode(
    evidence: &Evidence,
    registers: Registers,
    requested_vm_config: &str,
    device: &[u8],
) -> Result<AppInfo, IdentityError> {
    let Evidence { platform, stack, .. } = evidence;
    let config = VmConfig::effective(requested_vm_config, &stack.config)?;
    match platform {
        Platform::Tdx(tdx) => {
            tdx_identity(&Quoted::parse(&tdx.quote)?, &stack.runtime_events, registers, &config, device)
        }
        Platform::GcpTdx { tpm, .. } => gcp_identity(tpm, stack, registers, &config, device),
        Platform::SevSnp { report, mr_config, .. } => Ok(sev_snp::identity(report, mr_config, &config)?),
        Platform::NitroEnclave { nsm_quote } => {
            let image = nitro::enclave_image(nsm_quote)?;
            let events = Events::decode(&stack.runtime_events, registers)?;
            let image_hash = config.os_image_hash.clone();
            let app_info = events.into_app_info(image, image, &config, device);
            Ok(AppInfo { compose_hash: image_hash, ..app_info })
        }
        Platform::AwsNitroTpm { attestation_doc } => {
            let boot = nitro::tpm_boot_registers(attestation_doc)?;
            let events = Events::decode(&stack.runtime_events, registers)?;
            let replayed = measurement::replay_pcr14_sha384(&stack.runtime_events, registers.until());
            let system = sha256(&[&boot, &events.mr_key_provider()]);
            let aggregated = sha256(&[&boot, &replayed]);
            Ok(events.into_app_info(system, aggregated, &config, device))
        }
    }
}

/// The identity of a TDX guest, from its registers and the runtime events that RTMR3 replays to.
///
/// `mr_system = SHA-256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ mr_key_provider)`;
/// `mr_aggregated = SHA-256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ rtmr3 [‖ MRCONFIGID ‖ MROWNER ‖ MROWNERCONFIG])`, with the
/// last three if any of them is not zero.
pub fn tdx_identity(
    quoted: &Quoted,
    runtime_events: &[RuntimeEvent],
    registers: Registers,
    config: &VmConfig,
    ppid: &[u8],
) -> Result<AppInfo, IdentityError> {
    let events = Events::decode(runtime_events, registers)?;
    let Quoted { mr_td, rt_mr0, rt_mr1, rt_mr2, .. } = quoted;
    let rt_mr3 = measurement::replay_rtmr3(runtime_events, registers.until());
    let system = sha256(&[mr_td, rt_mr0, rt_mr1, rt_mr2, &events.mr_key_provider()]);
    let launch = [quoted.mr_config_id, quoted.mr_owner, quoted.mr_owner_config].concat();
    let launch: &[u8] = if launch.iter().all(|byte| *byte == 0) { &[] } else { &launch };
    let aggregated = sha256(&[mr_td, rt_mr0, rt_mr1, rt_mr2, &rt_mr3, launch]);
    Ok(events.into_app_info(system, aggregated, config, ppid))
}

/// `mr_system = SHA-256(os_image_hash ‖ mr_key_provider)`; `mr_aggregated = SHA-256(PCR0 ‖ PCR2 ‖ PCR14 replayed)`.
fn gcp_identity(
    tpm: &TpmQuote,
    stack: &Stack,
    registers: Registers,
    config: &VmConfig,
    ppid: &[u8],
) -> Result<AppInfo, IdentityError> {
    let events = Events::decode(&stack.runtime_events, registers)?;
    let pcr = |index| {
        let mut values = tpm.pcr_values.iter();
        let value = values.find(|pcr| pcr.index == index && pcr.algorithm == "sha256");
        value.map(|pcr| pcr.value.as_slice()).ok_or(IdentityError::NoPcr(index))
    };
    let replayed = measurement::replay_pcr14_sha256(&stack.runtime_events, registers.until());
    let system = sha256(&[&config.os_image_hash, &events.mr_key_provider()]);
    let aggregated = sha256(&[pcr(0)?, pcr(2)?, &replayed]);
    Ok(events.into_app_info(system, aggregated, config, ppid))
}

/// What runtime events say.
struct Events {
    app_id: Vec<u8>,
    compose_hash: Vec<u8>,
    instance_id: Vec<u8>,
    key_provider_info: Vec<u8>,
    init_script_hashes: Vec<[u8; 32]>,
}

impl Events {
    fn decode(events: &[RuntimeEvent], registers: Registers) -> Result<Self, IdentityError> {
        let first = |name| measurement::first_payload(events, name).to_vec();
        let init_script_hashes = measurement::payloads(events, "init-script-hash")
            .map(|hash| hash.try_into().map_err(|_| IdentityError::InitScriptHash(hash.len())))
            .collect::<Result<Vec<_>, _>>()?;
        if init_script_hashes.len() > MAX_INIT_SCRIPTS {
            return Err(IdentityError::TooManyInitScripts(init_script_hashes.len()));
        }
        Ok(Self {
            app_id: first("app-id"),
            compose_hash: first("compose-hash"),
            instance_id: first("instance-id"),
            key_provider_info: match registers {
                Registers::BootTime => Vec::new(),
                Registers::RunTime => first("key-provider"),
            },
            init_script_hashes,
        })
    }

    /// 32 zero bytes without a key provider, else its SHA-256.
    fn mr_key_provider(&self) -> [u8; 32] {
        if self.key_provider_info.is_empty() { [0; 32] } else { sha256(&[&self.key_provider_info]) }
    }

    fn into_app_info(
        self,
        mr_system: [u8; 32],
        mr_aggregated: [u8; 32],
        config: &VmConfig,
        device: &[u8],
    ) -> AppInfo {
        AppInfo {
            app_id: self.app_id,
            compose_hash: self.compose_hash,
            instance_id: self.instance_id,
            device_id: sha256(&[device]).to_vec(),
            mr_system,
            mr_aggregated,
            os_image_hash: config.os_image_hash.clone(),
            key_provider_info: self.key_provider_info,
            init_script_hashes: Some(self.init_script_hashes),
        }
    }
}

/// `SHA-256(parts[0] ‖ parts[1] ‖ …)`
fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

#[cfg(test)]
mod tests;
