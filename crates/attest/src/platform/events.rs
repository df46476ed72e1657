//! The identity in a guest's runtime events, for all platforms that have them.

use sha2::{Digest, Sha256};

use crate::identity::{AppInfo, MAX_INIT_SCRIPTS, Registers};
use crate::measurement::{self, RuntimeEvent};
use crate::vm_config::VmConfig;

/// Why runtime events have no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// An `init-script-hash` event whose payload is not a hash.
    #[error("an init-script-hash event must be 32 bytes, got {0}")]
    InitScriptHash(usize),
    /// More `init-script-hash` events than an identity holds.
    #[error("at most {MAX_INIT_SCRIPTS} init-script-hash events are allowed, got {0}")]
    TooManyInitScripts(usize),
}

/// The identity in runtime events.
pub(super) struct Events {
    app_id: Vec<u8>,
    compose_hash: Vec<u8>,
    instance_id: Vec<u8>,
    key_provider_info: Vec<u8>,
    init_script_hashes: Vec<[u8; 32]>,
}

impl Events {
    pub(super) fn decode(events: &[RuntimeEvent], registers: Registers) -> Result<Self, EventsError> {
        let first = |name| measurement::first_payload(events, name).to_vec();
        let init_script_hashes = measurement::payloads(events, "init-script-hash")
            .map(|hash| hash.try_into().map_err(|_| EventsError::InitScriptHash(hash.len())))
            .collect::<Result<Vec<_>, _>>()?;
        if init_script_hashes.len() > MAX_INIT_SCRIPTS {
            return Err(EventsError::TooManyInitScripts(init_script_hashes.len()));
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

    /// SHA-256 of the key provider info; 32 zero bytes without a key provider.
    pub(super) fn mr_key_provider(&self) -> [u8; 32] {
        if self.key_provider_info.is_empty() { [0; 32] } else { sha256(&[&self.key_provider_info]) }
    }

    pub(super) fn into_app_info(
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
pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}
