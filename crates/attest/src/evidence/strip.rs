//! Stripping: which parts of the event log go into a certificate.

use super::{Evidence, Platform};
use crate::measurement::{RUNTIME_EVENT_TYPE, RUNTIME_REGISTER, TdxEvent};

/// The only firmware event that lite attestation needs: the digests of the ACPI tables.
const ACPI_EVENT_TYPE: u32 = 10;
const ACPI_PAYLOAD: &[u8] = b"ACPI DATA";

impl Evidence {
    /// The evidence as put into certificates: with a shorter event log. The omitted data follows from the
    /// runtime events or is not needed. The wire form stays.
    pub fn stripped(&self) -> Self {
        let mut evidence = self.clone();
        match &mut evidence.platform {
            Platform::Tdx(tdx) => tdx.event_log = strip(&tdx.event_log, is_acpi_data),
            Platform::GcpTdx { tdx, .. } => tdx.event_log = strip(&tdx.event_log, |_| false),
            Platform::NitroEnclave { .. } | Platform::SevSnp { .. } | Platform::AwsNitroTpm { .. } => {}
        }
        evidence
    }
}

fn strip(log: &[TdxEvent], keep_whole: impl Fn(&TdxEvent) -> bool) -> Vec<TdxEvent> {
    log.iter()
        .filter_map(|entry| match entry.imr {
            RUNTIME_REGISTER if entry.event_type == RUNTIME_EVENT_TYPE => {
                Some(TdxEvent { digest: Vec::new(), ..entry.clone() })
            }
            RUNTIME_REGISTER => Some(TdxEvent { event_payload: Vec::new(), ..entry.clone() }),
            _ if keep_whole(entry) => Some(entry.clone()),
            _ => None,
        })
        .collect()
}

fn is_acpi_data(entry: &TdxEvent) -> bool {
    entry.imr == 0 && entry.event_type == ACPI_EVENT_TYPE && entry.event_payload == ACPI_PAYLOAD
}
