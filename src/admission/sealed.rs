//! What makes a guest sealed: its event log shows a machine that nobody can log in to (docs/decisions/0040).

use kms_attest::measurement::{RuntimeEvent, SYSTEM_READY};

/// The events of dstack's OS, all of which it adds while it boots.
const OF_THE_OS: [&str; 12] = [
    "system-preparing",
    "app-id",
    "compose-hash",
    "init-script-hash",
    "gpu-policy-hash",
    "gpu-attestation",
    "instance-id",
    "boot-mr-done",
    "os-image-hash",
    "key-provider",
    "storage-fs",
    SYSTEM_READY,
];

/// The name of the first event that is not the OS's own, or comes after its last one. What it stands for is not known, so it may
/// have opened the guest.
pub(super) fn opened_by(events: &[RuntimeEvent]) -> Option<&str> {
    let booted = events.iter().position(|event| event.event == SYSTEM_READY);
    let later = booted.and_then(|last| events.get(last + 1));
    let foreign = events.iter().find(|event| !OF_THE_OS.contains(&&*event.event));
    foreign.or(later).map(|event| &*event.event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(names: &[&str]) -> Option<String> {
        let event = |name: &&str| -> RuntimeEvent {
            serde_json::from_value(serde_json::json!({ "event": name, "payload": "" })).expect("an event")
        };
        let events: Vec<_> = names.iter().map(event).collect();
        opened_by(&events).map(str::to_owned)
    }

    #[test]
    fn only_the_events_of_a_boot_leave_a_guest_sealed() {
        let all = OF_THE_OS;
        for count in 0..=all.len() {
            assert_eq!(opened(&all[..count]), None, "{count}");
        }
        assert_eq!(opened(&["app-id", "init-script-hash", "init-script-hash"]), None);
        for (names, by) in [
            (&["app-id", "ssh-enabled"][..], "ssh-enabled"),
            (&["debug", "app-id"], "debug"),
            (&["app-id", "system-ready", "app-id"], "app-id"),
            (&["app-id", "system-ready", "system-ready"], "system-ready"),
            (&["app-id", "system-ready", "mine"], "mine"),
            (&["System-Ready"], "System-Ready"),
            (&[""], ""),
        ] {
            assert_eq!(opened(names).as_deref(), Some(by), "{names:?}");
        }
    }
}
