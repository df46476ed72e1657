//! Builds a simulated CVM from chosen parts.

use std::sync::{Arc, Mutex};

use kms_attest::measurement::{EventVersion, RuntimeEvent, TdxEvent};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Cvm, KeyProvider, Stage};
use crate::event;
use crate::platform::Platform;
use crate::quote::{QuoteFormat, Registers, TdReport};
use crate::tcb::TcbLevel;

/// The parts of a CVM. Each has a plausible default that depends only on the other parts.
#[derive(Clone)]
#[must_use]
pub struct CvmBuilder {
    platform: Arc<Platform>,
    app_id: Option<[u8; 20]>,
    compose_hash: [u8; 32],
    instance_id: Option<Vec<u8>>,
    os_image_hash: [u8; 32],
    vm_config: Option<String>,
    tcb: TcbLevel,
    current_tcb: Option<TcbLevel>,
    td_attributes: u64,
    format: QuoteFormat,
    event_version: EventVersion,
    mr_config_id: Option<[u8; 48]>,
    registers: Option<Registers>,
    boot_log: Option<Vec<TdxEvent>>,
    key_provider: KeyProvider,
    stage: Stage,
    runtime_events: Option<Vec<RuntimeEvent>>,
}

impl CvmBuilder {
    pub(super) fn new(platform: &Arc<Platform>) -> Self {
        Self {
            platform: Arc::clone(platform),
            app_id: None,
            compose_hash: Sha256::digest("simulated compose file").into(),
            instance_id: None,
            os_image_hash: Sha256::digest("simulated os image").into(),
            vm_config: None,
            tcb: TcbLevel::UpToDate,
            current_tcb: None,
            td_attributes: TdReport::SEPT_VE_DISABLE,
            format: QuoteFormat::V4,
            event_version: EventVersion::V1,
            mr_config_id: None,
            registers: None,
            boot_log: None,
            key_provider: KeyProvider::None,
            stage: Stage::AwaitingKeys,
            runtime_events: None,
        }
    }

    /// The app's 20 bytes. Default: the first 20 of the compose hash.
    pub fn app_id(mut self, app_id: [u8; 20]) -> Self {
        self.app_id = Some(app_id);
        self
    }

    /// SHA-256 of the compose file.
    pub fn compose_hash(mut self, compose_hash: [u8; 32]) -> Self {
        self.compose_hash = compose_hash;
        self
    }

    /// Any bytes: usually 20; empty if instance ids are switched off. Default: derived from the app id.
    pub fn instance_id(mut self, instance_id: &[u8]) -> Self {
        self.instance_id = Some(instance_id.to_vec());
        self
    }

    /// Determines MRTD, RTMR0 to 2, the boot log, `os-image-hash` and the default vm_config.
    pub fn os_image_hash(mut self, os_image_hash: [u8; 32]) -> Self {
        self.os_image_hash = os_image_hash;
        self
    }

    /// The `config` of the evidence, verbatim.
    pub fn vm_config(mut self, vm_config: impl Into<String>) -> Self {
        self.vm_config = Some(vm_config.into());
        self
    }

    /// The TCB level at launch. Default: up to date.
    pub fn tcb(mut self, level: TcbLevel) -> Self {
        self.tcb = level;
        self
    }

    /// TD 1.5: the current level (TEE_TCB_SVN2). Default: the level at launch.
    pub fn current_tcb(mut self, level: TcbLevel) -> Self {
        self.current_tcb = Some(level);
        self
    }

    /// Sets the debug bit.
    pub fn debug(mut self) -> Self {
        self.td_attributes |= TdReport::DEBUG;
        self
    }

    /// All TDATTRIBUTES. Default: SEPT_VE_DISABLE.
    pub fn td_attributes(mut self, attributes: u64) -> Self {
        self.td_attributes = attributes;
        self
    }

    /// Default: [`QuoteFormat::V4`].
    pub fn format(mut self, format: QuoteFormat) -> Self {
        self.format = format;
        self
    }

    /// Default: V1, as in every released guest.
    pub fn event_version(mut self, version: EventVersion) -> Self {
        self.event_version = version;
        self
    }

    /// Default: version 1, `01 ‖ compose_hash`.
    pub fn mr_config_id(mut self, mr_config_id: [u8; 48]) -> Self {
        self.mr_config_id = Some(mr_config_id);
        self
    }

    /// Replaces the registers of the OS image.
    pub fn registers(mut self, registers: Registers) -> Self {
        self.registers = Some(registers);
        self
    }

    /// Replaces the events of firmware and kernel. RTMR0 to 2 are their replay, unless replaced too.
    pub fn boot_log(mut self, log: Vec<TdxEvent>) -> Self {
        self.boot_log = Some(log);
        self
    }

    /// Used by [`Stage::Ready`]. Default: none.
    pub fn key_provider(mut self, key_provider: KeyProvider) -> Self {
        self.key_provider = key_provider;
        self
    }

    /// Default: [`Stage::AwaitingKeys`].
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// Replaces all runtime events, for guests that measure other events.
    pub fn runtime_events(mut self, events: Vec<RuntimeEvent>) -> Self {
        self.runtime_events = Some(events);
        self
    }

    /// Boots the CVM.
    pub fn build(self) -> Arc<Cvm> {
        let app_id = self.app_id.unwrap_or_else(|| first_20(&self.compose_hash));
        let instance_id = self.instance_id.unwrap_or_else(|| {
            let seed = Sha256::new().chain_update("simulated instance").chain_update(app_id).finalize();
            first_20(&seed.into()).to_vec()
        });
        let mut version_1 = [0u8; 48];
        version_1[0] = 1;
        version_1[1..33].copy_from_slice(&self.compose_hash);
        let boot_log = self.boot_log.unwrap_or_else(|| event::boot_log(&self.os_image_hash));
        let image_registers = event::boot_registers(&self.os_image_hash, &boot_log);

        let cvm = Cvm {
            tcb: self.tcb,
            current_tcb: self.current_tcb.unwrap_or(self.tcb),
            td_attributes: self.td_attributes,
            format: self.format,
            event_version: self.event_version,
            mr_config_id: self.mr_config_id.unwrap_or(version_1),
            registers: self.registers.unwrap_or(image_registers),
            vm_config: self.vm_config.unwrap_or_else(|| vm_config(&self.os_image_hash)),
            boot_log,
            platform: self.platform,
            app_id,
            compose_hash: self.compose_hash,
            instance_id,
            os_image_hash: self.os_image_hash,
            runtime_events: Mutex::new(Vec::new()),
        };
        match self.runtime_events {
            Some(events) => *cvm.lock() = events,
            None => {
                cvm.measure_boot();
                if self.stage == Stage::Ready {
                    cvm.finish_boot(&self.key_provider);
                }
            }
        }
        Arc::new(cvm)
    }
}

fn vm_config(os_image_hash: &[u8]) -> String {
    json!({
        "spec_version": 1,
        "os_image_hash": hex::encode(os_image_hash),
        "cpu_count": 2,
        "memory_size": 2_147_483_648_u64,
        "qemu_version": "9.2.1",
        "image": "simulated-0.6.0",
    })
    .to_string()
}

fn first_20(bytes: &[u8; 32]) -> [u8; 20] {
    core::array::from_fn(|index| bytes[index])
}
