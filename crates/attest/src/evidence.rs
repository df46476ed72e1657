//! Attestation evidence, by which a CVM proves what it runs, and its two wire forms.

mod error;
mod legacy;
mod parts;
mod strip;
mod v0;
mod v1;

use sha2::{Digest as _, Sha256};

use crate::binding::ReportData;
use crate::identity::{AppInfo, Registers};
use crate::measurement::{EventVersion, RuntimeEvent, TdxEvent};
use crate::platform::{self, IdentityError};
use crate::vm_config::VmConfig;

pub use crate::codec::{FieldError, Problem};
pub use crate::platform::tdx::Tdx;
pub use crate::platform::{PcrValue, Platform, TpmEvent, TpmPlatform, TpmQuote};
pub use error::EvidenceError;
pub use legacy::LegacyError;
pub use parts::{Evidence, MAX_BYTES, MAX_ELEMENTS, Stack, Wire};

impl Evidence {
    /// Evidence of a TDX guest. The wire form is V0, unless there is a V2 event, which V0 cannot express.
    pub fn new_tdx(
        quote: Vec<u8>,
        runtime_events: Vec<RuntimeEvent>,
        event_log: Vec<TdxEvent>,
        report_data: ReportData,
        config: String,
    ) -> Self {
        Self {
            wire: if all_v1(&runtime_events) { Wire::V0 } else { Wire::V1 },
            platform: Platform::Tdx(Tdx { quote, event_log }),
            stack: Stack {
                report_data: report_data.0.to_vec(),
                runtime_events,
                config,
                report_data_payload: None,
            },
        }
    }

    /// Decodes evidence in either wire form. Trailing bytes are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MAX_BYTES {
            return Err(EvidenceError::TooLarge(bytes.len()));
        }
        let (evidence, rest) = match bytes {
            [] => return Err(EvidenceError::Empty),
            [0x00, body @ ..] => v0::read(body).map_err(EvidenceError::V0)?,
            [0x80..=0x8f | 0xde | 0xdf, ..] => v1::read(bytes)?,
            [first, ..] => return Err(EvidenceError::UnknownWire(*first)),
        };
        if !rest.is_empty() {
            return Err(EvidenceError::Trailing(rest.len()));
        }
        Ok(evidence)
    }

    /// Encodes the evidence in its own wire form. Evidence that V0 cannot express is written as V1: V2
    /// events, a pod's payload, or report data that is not 64 bytes long.
    pub fn encode(&self) -> Vec<u8> {
        let v0 = self.wire == Wire::V0
            && self.stack.report_data_payload.is_none()
            && all_v1(&self.stack.runtime_events);
        if v0 { self.to_v0_bytes().unwrap_or_else(|_| self.to_v1_bytes()) } else { self.to_v1_bytes() }
    }

    /// Encodes the evidence in SCALE, without the version and preimage of events and the pod's payload.
    pub fn to_v0_bytes(&self) -> Result<Vec<u8>, EvidenceError> {
        Ok(v0::write(self, &self.report_data()?))
    }

    /// Encodes the evidence in MessagePack.
    pub fn to_v1_bytes(&self) -> Vec<u8> {
        v1::write(self)
    }

    /// SHA-256 of [`Evidence::encode`], which identifies the evidence in records.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }

    /// The report data that the guest software states.
    pub fn report_data(&self) -> Result<ReportData, EvidenceError> {
        let bytes = self.stack.report_data.as_slice();
        bytes.try_into().map(ReportData).map_err(|_| EvidenceError::ReportDataLength(bytes.len()))
    }

    /// The app info that the evidence claims, unverified, as in the app info extension: with the
    /// configuration in the evidence and without a device id, which only verification gives. `device_id` is
    /// therefore SHA-256 of the empty string, except for SEV-SNP, whose report has the id.
    pub fn unverified_app_info(&self, registers: Registers) -> Result<AppInfo, IdentityError> {
        self.app_info(registers, "", &[])
    }

    /// The app info with the request's configuration, if that is not empty, and the raw device id that
    /// verification gave (not used for SEV-SNP).
    pub fn app_info(
        &self,
        registers: Registers,
        requested_vm_config: &str,
        device: &[u8],
    ) -> Result<AppInfo, IdentityError> {
        let config = VmConfig::effective(requested_vm_config, &self.stack.config)?;
        platform::decode(&self.platform, &self.stack.runtime_events, registers, &config, device)
    }

    /// The TDX part, if the platform has one.
    pub fn tdx(&self) -> Option<&Tdx> {
        match &self.platform {
            Platform::Tdx(tdx) | Platform::GcpTdx { tdx, .. } => Some(tdx),
            Platform::NitroEnclave { .. } | Platform::SevSnp { .. } | Platform::AwsNitroTpm { .. } => None,
        }
    }
}

fn all_v1(events: &[RuntimeEvent]) -> bool {
    events.iter().all(|event| event.version == EventVersion::V1)
}

#[cfg(test)]
mod tests;
