//! Attestation evidence: what a CVM shows to prove what it runs, and its two wire forms.

mod legacy;
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
pub use legacy::LegacyError;

/// The largest evidence that is read, in bytes.
pub const MAX_BYTES: usize = 10 * 1024 * 1024;

/// The most elements that any list in evidence may have. A guest's log has about thirty events at boot.
pub const MAX_ELEMENTS: usize = 4096;

/// Evidence as sent: nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The wire form it came in, and is written in again.
    pub wire: Wire,
    /// What the platform vouches for.
    pub platform: Platform,
    /// What the software in the guest says.
    pub stack: Stack,
}

/// The two wire forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// SCALE. It does not carry the version or the preimage of events.
    V0,
    /// MessagePack.
    V1,
}

/// What the guest's software says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// What the platform's report vouches for. Evidence with another length than 64 decodes and fails on use, as in the
    /// peer: see [`Evidence::report_data`].
    pub report_data: Vec<u8>,
    /// The events that RTMR3, or PCR14, was extended with.
    pub runtime_events: Vec<RuntimeEvent>,
    /// `vm_config`, or a system configuration that has it inside; empty in legacy evidence.
    pub config: String,
    /// What the report data is made from, where the stack is `dstack-pod`.
    pub report_data_payload: Option<String>,
}

impl Stack {
    /// The stack's name on the V1 wire.
    pub fn kind(&self) -> &'static str {
        match self.report_data_payload {
            None => "dstack",
            Some(_) => "dstack-pod",
        }
    }
}

/// Why bytes are not evidence, or evidence cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Nothing was sent.
    #[error("attestation is empty")]
    Empty,
    /// More than [`MAX_BYTES`].
    #[error("attestation must be at most {MAX_BYTES} bytes, got {0}")]
    TooLarge(usize),
    /// Neither of the wire forms begins like this.
    #[error("unknown attestation wire format: first byte is 0x{0:02x}")]
    UnknownWire(u8),
    /// V1 says it is another version.
    #[error("unsupported attestation version: expected 1, got {0}")]
    UnsupportedVersion(u64),
    /// V0 that does not decode.
    #[error("attestation in SCALE form does not decode: {0}")]
    V0(#[source] FieldError),
    /// V1 that does not decode.
    #[error("attestation in MessagePack form does not decode: {0}")]
    V1(#[source] FieldError),
    /// Evidence, and something behind it.
    #[error("{0} trailing bytes after the attestation")]
    Trailing(usize),
    /// The stack's report data has another length.
    #[error("stack.report_data must be 64 bytes, got {0}")]
    ReportDataLength(usize),
    /// The pair of a quote and an event log that does not make evidence.
    #[error(transparent)]
    Legacy(#[from] LegacyError),
}

impl Evidence {
    /// Evidence of a TDX guest. The wire form is V0, unless an event is a V2 event, which V0 cannot say.
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

    /// Reads evidence in either wire form, to the last byte.
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

    /// The evidence in the wire form it came in. What V0 cannot say, and hence cannot have brought, is written as V1:
    /// V2 events, a pod's payload, report data of another length than 64.
    pub fn encode(&self) -> Vec<u8> {
        let v0 = self.wire == Wire::V0
            && self.stack.report_data_payload.is_none()
            && all_v1(&self.stack.runtime_events);
        if v0 { self.to_v0_bytes().unwrap_or_else(|_| self.to_v1_bytes()) } else { self.to_v1_bytes() }
    }

    /// The evidence in SCALE, which loses the version and preimage of events and the pod's payload.
    pub fn to_v0_bytes(&self) -> Result<Vec<u8>, EvidenceError> {
        Ok(v0::write(self, &self.report_data()?))
    }

    /// The evidence in MessagePack.
    pub fn to_v1_bytes(&self) -> Vec<u8> {
        v1::write(self)
    }

    /// SHA-256 of [`Evidence::encode`]: what names this evidence in a record.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }

    /// The report data that the guest's software says was asked for.
    pub fn report_data(&self) -> Result<ReportData, EvidenceError> {
        let bytes = self.stack.report_data.as_slice();
        bytes.try_into().map(ReportData).map_err(|_| EvidenceError::ReportDataLength(bytes.len()))
    }

    /// What the evidence says, taken at its word: with its own configuration, and without a device, which only
    /// verification knows (so that `device_id` is the SHA-256 of nothing, except for SEV-SNP, whose report has it). This
    /// is what the app info extension holds.
    pub fn unverified_app_info(&self, registers: Registers) -> Result<AppInfo, IdentityError> {
        self.app_info(registers, "", &[])
    }

    /// What the evidence says, with the request's configuration if it is not empty, on the device that verification
    /// found (its raw id; not used for SEV-SNP).
    pub fn app_info(
        &self,
        registers: Registers,
        requested_vm_config: &str,
        device: &[u8],
    ) -> Result<AppInfo, IdentityError> {
        let config = VmConfig::effective(requested_vm_config, &self.stack.config)?;
        platform::decode(&self.platform, &self.stack.runtime_events, registers, &config, device)
    }

    /// The TDX part, where there is one.
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
