//! Evidence as received, and its parts.

use crate::measurement::RuntimeEvent;
use crate::platform::Platform;

/// Maximum length of evidence, bytes.
pub const MAX_BYTES: usize = 10 * 1024 * 1024;

/// Maximum number of elements in any list of evidence. A guest's log has about thirty events at boot.
pub const MAX_ELEMENTS: usize = 4096;

/// Evidence as received; nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The wire form it was read from and is written in.
    pub wire: Wire,
    /// The platform's part, signed by the hardware.
    pub platform: Platform,
    /// The guest software's part.
    pub stack: Stack,
}

/// The two wire forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// SCALE. It omits the version and the preimage of events.
    V0,
    /// MessagePack.
    V1,
}

/// The guest software's part of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The report data in the platform's report. As in the peer, evidence with another length than 64
    /// decodes, and fails on use: see [`Evidence::report_data`].
    pub report_data: Vec<u8>,
    /// The events that extended RTMR3 or PCR14.
    pub runtime_events: Vec<RuntimeEvent>,
    /// `vm_config`, or a system configuration that contains it; empty in legacy evidence.
    pub config: String,
    /// The payload from which the report data is made, for the stack `dstack-pod`.
    pub report_data_payload: Option<String>,
}

impl Stack {
    /// The stack's name in the V1 wire form.
    pub fn kind(&self) -> &'static str {
        match self.report_data_payload {
            None => "dstack",
            Some(_) => "dstack-pod",
        }
    }
}
