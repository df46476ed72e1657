//! Measured events: digests, RTMR replay and the boot log, computed here and not by the code under test.

use kms_attest::measurement::{EventVersion, RuntimeEvent, TdxEvent};
use sha2::{Digest, Sha384};

use crate::quote::Registers;

/// Event type of runtime events, in both versions.
pub(crate) const RUNTIME: u32 = 0x0800_0001;

/// The input of a runtime event's digest (attestation.md section 8).
pub(crate) fn preimage(event: &RuntimeEvent) -> Vec<u8> {
    match event.version {
        EventVersion::V1 => {
            [&RUNTIME.to_le_bytes()[..], b":", event.event.as_bytes(), b":", &event.payload].concat()
        }
        EventVersion::V2 => {
            let name = serde_json::Value::from(event.event.as_str());
            format!(r#"{{"name":{name},"payload":"{}","type":{RUNTIME}}}"#, hex::encode(&event.payload))
                .into_bytes()
        }
    }
}

/// RTMR3 after `events`.
pub(crate) fn replay(events: &[RuntimeEvent]) -> [u8; 48] {
    events.iter().fold([0; 48], |register, event| extend(&register, &Sha384::digest(preimage(event))))
}

/// A runtime event as the parser of the log returns it, with nothing stripped.
pub(crate) fn logged(event: &RuntimeEvent) -> TdxEvent {
    let preimage = preimage(event);
    TdxEvent {
        imr: 3,
        event_type: RUNTIME,
        digest: Sha384::digest(&preimage).to_vec(),
        event: event.event.clone(),
        event_payload: event.payload.clone(),
        version: event.version,
        preimage: match event.version {
            EventVersion::V1 => None,
            EventVersion::V2 => Some(hex::encode(&preimage)),
        },
    }
}

/// The measurements of firmware, kernel loader and kernel: (register, event type, name, payload).
const BOOT_LOG: [(u32, u32, &str, &[u8]); 12] = [
    (0, 0x8000_000b, "", b"td hob"),
    (0, 0x8000_000a, "", b"firmware volume"),
    (0, 0x8000_0001, "", b"secure boot"),
    (0, 4, "", b"separator"),
    (0, 10, "acpi-loader", b"ACPI DATA"),
    (0, 10, "acpi-rsdp", b"ACPI DATA"),
    (0, 10, "acpi-tables", b"ACPI DATA"),
    (1, 0x8000_0003, "", b"kernel"),
    (1, 0x8000_0007, "", b"calling efi application"),
    (1, 4, "", b"separator"),
    (2, 6, "", b"kernel command line"),
    (2, 6, "", b"initrd"),
];

/// The event log of booting an OS image.
pub(crate) fn boot_log(os_image_hash: &[u8]) -> Vec<TdxEvent> {
    (0u8..)
        .zip(BOOT_LOG)
        .map(|(position, (imr, event_type, name, payload))| TdxEvent {
            imr,
            event_type,
            digest: Sha384::new()
                .chain_update("simulated boot event")
                .chain_update([position])
                .chain_update(os_image_hash)
                .finalize()
                .to_vec(),
            event: name.to_owned(),
            event_payload: payload.to_vec(),
            version: EventVersion::V1,
            preimage: None,
        })
        .collect()
}

/// The registers of an OS image with the boot log `log`.
pub(crate) fn boot_registers(os_image_hash: &[u8], log: &[TdxEvent]) -> Registers {
    let register = |imr: u32| {
        log.iter()
            .filter(|event| event.imr == imr)
            .fold([0; 48], |register, event| extend(&register, &event.digest))
    };
    Registers {
        mr_td: Sha384::new().chain_update("simulated firmware").chain_update(os_image_hash).finalize().into(),
        rt_mr0: register(0),
        rt_mr1: register(1),
        rt_mr2: register(2),
    }
}

/// SHA-384(register ‖ digest)
fn extend(register: &[u8; 48], digest: &[u8]) -> [u8; 48] {
    Sha384::new().chain_update(register).chain_update(digest).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, payload: &[u8], version: EventVersion) -> RuntimeEvent {
        RuntimeEvent { event: name.to_owned(), payload: payload.to_vec(), version }
    }

    #[test]
    fn digests_and_replays_are_those_of_the_code_under_test_though_computed_apart() {
        for version in [EventVersion::V1, EventVersion::V2] {
            let events = [
                event("system-preparing", b"", version),
                event("app-id", &[0xab; 20], version),
                event("quote \" backslash \\ tab \t bell \u{7} ünï", b"\x00\xff", version),
            ];
            for event in &events {
                assert_eq!(preimage(event), event.preimage(), "{version:?}");
                assert_eq!(logged(event).digest, event.sha384_digest(), "{version:?}");
            }
            let theirs = kms_attest::measurement::replay_rtmr3(&events, kms_attest::measurement::Until::End);
            assert_eq!(replay(&events), theirs, "{version:?}");
        }
    }

    #[test]
    fn a_boot_log_moves_only_the_registers_it_names() {
        let image = [1; 32];
        let log = boot_log(&image);
        let whole = boot_registers(&image, &log);
        let without_last = boot_registers(&image, &log[..log.len() - 1]);
        assert_eq!(
            (whole.mr_td, whole.rt_mr0, whole.rt_mr1),
            (without_last.mr_td, without_last.rt_mr0, without_last.rt_mr1)
        );
        assert_ne!(whole.rt_mr2, without_last.rt_mr2);
        assert_eq!(boot_registers(&image, &[]).rt_mr0, [0; 48]);
        assert_ne!(boot_registers(&[2; 32], &boot_log(&[2; 32])).rt_mr0, whole.rt_mr0);
    }
}
