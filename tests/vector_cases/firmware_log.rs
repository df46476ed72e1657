//! The firmware's event log (CCEL, the TCG's crypto-agile format), parsed here only to check the vectors
//! against the file.
//!
//! The KMS never parses such a log: guests do, and send their own event log.

use kms_attest::measurement::{EventVersion, TdxEvent};

use super::json::{Check, Failure};

/// EV_NO_ACTION.
const NO_ACTION: u32 = 3;
/// TPM_ALG_SHA384, and the digest lengths of the algorithms that logs have.
const SHA384: u16 = 0x000c;
const DIGEST_LENGTHS: [(u16, usize); 4] = [(0x0004, 20), (0x000b, 32), (SHA384, 48), (0x000d, 64)];

/// The guest gives the three events about ACPI tables names, by their order.
const ACPI_TYPE: u32 = 10;
const ACPI_PAYLOAD: &[u8] = b"ACPI DATA";
const ACPI_NAMES: [&str; 3] = ["acpi-loader", "acpi-rsdp", "acpi-tables"];

/// The events of a log, without its header.
pub(super) fn read(log: &[u8]) -> Check<Vec<TdxEvent>> {
    let mut rest = log;
    // The header is an event of the old format: register, type, SHA-1, length, content.
    let (_, kind) = (number(&mut rest)?, number(&mut rest)?);
    if kind != NO_ACTION {
        return Err(Failure("the log does not begin with its header".into()));
    }
    take(&mut rest, 20)?;
    let length = number(&mut rest)?;
    take(&mut rest, usize::try_from(length)?)?;
    let mut events = Vec::new();
    // The table is longer than the log: what follows is filled with ones, or with zeros.
    while rest.len() > 8 && ![[0xff; 8], [0; 8]].iter().any(|end| rest.starts_with(end)) {
        let (register, event_type) = (number(&mut rest)?, number(&mut rest)?);
        let mut digest = Vec::new();
        for _ in 0..number(&mut rest)? {
            let algorithm = u16::from_le_bytes(<[u8; 2]>::try_from(take(&mut rest, 2)?)?);
            let known = DIGEST_LENGTHS.iter().find(|(known, _)| *known == algorithm);
            let (_, length) = known.ok_or_else(|| Failure(format!("unknown algorithm {algorithm:#x}")))?;
            let bytes = take(&mut rest, *length)?;
            if algorithm == SHA384 {
                digest = bytes.to_vec();
            }
        }
        let length = number(&mut rest)?;
        let event_payload = take(&mut rest, usize::try_from(length)?)?.to_vec();
        let imr = register.checked_sub(1).ok_or_else(|| Failure("register 0 is MRTD".into()))?;
        let (event, version, preimage) = (String::new(), EventVersion::V1, None);
        events.push(TdxEvent { imr, event_type, digest, event, event_payload, version, preimage });
    }
    let is_acpi = |entry: &&mut TdxEvent| {
        entry.imr == 0 && entry.event_type == ACPI_TYPE && entry.event_payload == ACPI_PAYLOAD
    };
    for (entry, name) in events.iter_mut().filter(is_acpi).zip(ACPI_NAMES) {
        entry.event = name.to_owned();
    }
    Ok(events)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Check<&'a [u8]> {
    let (taken, after) =
        rest.split_at_checked(length).ok_or_else(|| Failure("the log ends within an event".into()))?;
    *rest = after;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> Check<u32> {
    Ok(u32::from_le_bytes(<[u8; 4]>::try_from(take(rest, 4)?)?))
}
