//! A guest on a simulated platform, with a chosen identity, measured events, and quotes on demand.

mod builder;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kms_attest::binding::ReportData;
use kms_attest::evidence::Evidence;
use kms_attest::measurement::{EventVersion, RuntimeEvent, TdxEvent};
use serde_json::json;
use sha2::{Digest, Sha256};

pub use builder::CvmBuilder;

use crate::event;
use crate::platform::Platform;
use crate::quote::{QuoteFormat, Registers, TdReport};
use crate::tcb::TcbLevel;

/// How far a guest has booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// `boot-mr-done` is the last event: the guest is about to request its keys.
    AwaitingKeys,
    /// `system-ready` is the last event: apps run. A KMS in a CVM is in this state.
    Ready,
}

/// The source of a guest's disk key; the payload of the `key-provider` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyProvider {
    /// No key provider.
    None,
    /// A KMS, by the SPKI DER of its root CA.
    Kms(Vec<u8>),
    /// The host's SGX key provider, by its MRENCLAVE.
    LocalSgx(Vec<u8>),
    /// A TPM.
    Tpm(Vec<u8>),
}

impl KeyProvider {
    /// `{"name":…,"id":"<hex>"}`
    pub fn payload(&self) -> Vec<u8> {
        let (name, id) = match self {
            KeyProvider::None => ("none", &[][..]),
            KeyProvider::Kms(id) => ("kms", &id[..]),
            KeyProvider::LocalSgx(id) => ("local-sgx", &id[..]),
            KeyProvider::Tpm(id) => ("tpm", &id[..]),
        };
        json!({ "name": name, "id": hex::encode(id) }).to_string().into_bytes()
    }
}

/// A simulated CVM. Its events grow while it runs, everything else is fixed at build.
pub struct Cvm {
    platform: Arc<Platform>,
    app_id: [u8; 20],
    compose_hash: [u8; 32],
    instance_id: Vec<u8>,
    os_image_hash: [u8; 32],
    vm_config: String,
    tcb: TcbLevel,
    current_tcb: TcbLevel,
    td_attributes: u64,
    format: QuoteFormat,
    event_version: EventVersion,
    mr_config_id: [u8; 48],
    registers: Registers,
    boot_log: Vec<TdxEvent>,
    runtime_events: Mutex<Vec<RuntimeEvent>>,
}

impl Cvm {
    /// Builds a CVM on `platform`.
    pub fn builder(platform: &Arc<Platform>) -> CvmBuilder {
        CvmBuilder::new(platform)
    }

    /// Evidence over `report_data` now, with the whole event log.
    pub fn evidence(&self, report_data: ReportData) -> Evidence {
        self.evidence_of(report_data, |_| ())
    }

    /// Like [`evidence`](Self::evidence), but over the report as changed by `alter`: for guests that lie.
    pub fn evidence_of(&self, report_data: ReportData, alter: impl FnOnce(&mut TdReport)) -> Evidence {
        let events = self.runtime_events();
        let mut report = self.report_over(&events, report_data.0);
        alter(&mut report);
        let quote = self.platform.quote(self.format, &report);
        Evidence::new_tdx(quote, events.clone(), self.log_with(&events), report_data, self.vm_config.clone())
    }

    /// A bare quote over `report_data` now.
    pub fn quote(&self, report_data: [u8; 64]) -> Vec<u8> {
        self.platform.quote(self.format, &self.td_report(report_data))
    }

    /// The hardware's report now.
    pub fn td_report(&self, report_data: [u8; 64]) -> TdReport {
        self.report_over(&self.runtime_events(), report_data)
    }

    /// Measures the events that follow the key release: `os-image-hash` to `system-ready`.
    pub fn finish_boot(&self, key_provider: &KeyProvider) {
        self.emit("os-image-hash", &self.os_image_hash);
        self.emit("key-provider", &key_provider.payload());
        self.emit("storage-fs", b"ext4");
        self.emit("system-ready", b"");
    }

    /// Measures one event.
    pub fn emit(&self, event: &str, payload: &[u8]) {
        let event =
            RuntimeEvent { event: event.to_owned(), payload: payload.to_vec(), version: self.event_version };
        self.lock().push(event);
    }

    /// The runtime events so far.
    pub fn runtime_events(&self) -> Vec<RuntimeEvent> {
        self.lock().clone()
    }

    /// The whole log: firmware, kernel, runtime.
    pub fn event_log(&self) -> Vec<TdxEvent> {
        self.log_with(&self.runtime_events())
    }

    /// The platform of this CVM.
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// The app.
    pub fn app_id(&self) -> &[u8; 20] {
        &self.app_id
    }

    /// SHA-256 of the app's compose file.
    pub fn compose_hash(&self) -> &[u8; 32] {
        &self.compose_hash
    }

    /// The instance id, which may be empty.
    pub fn instance_id(&self) -> &[u8] {
        &self.instance_id
    }

    /// The OS image.
    pub fn os_image_hash(&self) -> &[u8; 32] {
        &self.os_image_hash
    }

    /// The `config` of the evidence, which clients send as `vm_config`.
    pub fn vm_config(&self) -> &str {
        &self.vm_config
    }

    /// SHA-256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ RTMR3 [‖ MRCONFIGID ‖ MROWNER ‖ MROWNERCONFIG]) now.
    pub fn mr_aggregated(&self) -> [u8; 32] {
        let report = self.td_report([0; 64]);
        let mut hash = Sha256::new()
            .chain_update(report.registers.mr_td)
            .chain_update(report.registers.rt_mr0)
            .chain_update(report.registers.rt_mr1)
            .chain_update(report.registers.rt_mr2)
            .chain_update(report.rt_mr3);
        let identity = [report.mr_config_id, report.mr_owner, report.mr_owner_config];
        if identity != [[0; 48]; 3] {
            hash.update(identity.concat());
        }
        hash.finalize().into()
    }

    fn measure_boot(&self) {
        let gpu_policy_hash = Sha256::digest("{}");
        for (name, payload) in [
            ("system-preparing", &[][..]),
            ("app-id", &self.app_id),
            ("compose-hash", &self.compose_hash),
            ("gpu-policy-hash", &gpu_policy_hash),
            ("instance-id", &self.instance_id),
            ("boot-mr-done", &[]),
        ] {
            self.emit(name, payload);
        }
    }

    fn report_over(&self, events: &[RuntimeEvent], report_data: [u8; 64]) -> TdReport {
        let major = self.format.module_major();
        TdReport {
            tee_tcb_svn: self.tcb.tee_tcb_svn(major),
            mr_seam: [0x5e; 48],
            mr_signer_seam: [0; 48],
            seam_attributes: [0; 8],
            td_attributes: self.td_attributes,
            xfam: [0xe7, 0x02, 0x06, 0, 0, 0, 0, 0],
            registers: self.registers,
            mr_config_id: self.mr_config_id,
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rt_mr3: event::replay(events),
            report_data,
            tee_tcb_svn2: self.current_tcb.tee_tcb_svn(major),
            mr_service_td: [0; 48],
        }
    }

    fn log_with(&self, events: &[RuntimeEvent]) -> Vec<TdxEvent> {
        self.boot_log.iter().cloned().chain(events.iter().map(event::logged)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RuntimeEvent>> {
        self.runtime_events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
