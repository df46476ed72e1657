//! Event logs in JSON: those that guests send with a legacy quote, and the guests' own.

use kms_attest::evidence::{Evidence, Wire};
use kms_attest::measurement::{
    self, EventVersion, RuntimeEvent, TdxEvent, Until, replay_pcr14_sha256, replay_rtmr3, runtime_events_of,
    validate_v2_events, validate_v2_preimages,
};

use super::evidence::check;

const QUOTE: &[u8] = include_bytes!("../../tests/vectors/fixtures/dcap-qvl/tdx_quote.bin");

/// Maximum number of events looked up by name: each lookup walks through all of them.
const SEARCHED: usize = 64;

/// Uses the bytes as the event log of a quote, plain or compressed, and as a list of runtime events.
pub fn event_log(data: &[u8]) {
    let log = kms_attest::json::from_utf8::<Vec<TdxEvent>>(data).ok();
    let legacy = Evidence::from_legacy(QUOTE, data).ok();
    if data.first() != Some(&b'E') {
        assert_eq!(log.is_some(), legacy.is_some(), "a log is evidence with any quote");
    }
    if let Some(log) = log {
        check_log(&log);
    }
    if let Some(evidence) = legacy {
        let v1 = evidence.stack.runtime_events.iter().all(|event| event.version == EventVersion::V1);
        assert_eq!(evidence.wire == Wire::V0, v1, "V0 cannot carry V2 events");
        check(&evidence);
    }
    if let Ok(events) = kms_attest::json::from_utf8::<Vec<RuntimeEvent>>(data) {
        check_events(&events);
    }
}

/// A log survives JSON; a V2 event that passes validation has the digest that the replay computes.
fn check_log(log: &[TdxEvent]) {
    let json = serde_json::to_vec(log).expect("a log has a JSON form");
    assert_eq!(serde_json::from_slice::<Vec<TdxEvent>>(&json).expect("our own JSON reads"), log);

    let events = runtime_events_of(log);
    let entries: Vec<_> = log.iter().filter(|entry| entry.is_runtime()).collect();
    assert_eq!(events.len(), entries.len());
    if validate_v2_preimages(log).is_ok() {
        for (event, entry) in events.iter().zip(entries) {
            let v2 = event.version == EventVersion::V2;
            assert!(!v2 || entry.digest == event.sha384_digest(), "{entry:?}");
        }
    }
    let has_v2 = events.iter().any(|event| event.version == EventVersion::V2);
    if has_v2 && validate_v2_events(log, &events).is_ok() {
        let mut shorter = events.clone();
        shorter.pop();
        assert!(validate_v2_events(log, &shorter).is_err(), "one event more than was measured");
        assert!(log.iter().all(|entry| !entry.is_runtime() || entry.imr == measurement::RUNTIME_REGISTER));
    }
    check_events(&events);
}

/// Events survive JSON and the log; preimages hash to digests; replaying up to the end of boot equals
/// replaying the events before it; no lookup finds an event after `system-ready`.
fn check_events(events: &[RuntimeEvent]) {
    let json = serde_json::to_vec(events).expect("events have a JSON form");
    assert_eq!(serde_json::from_slice::<Vec<RuntimeEvent>>(&json).expect("our own JSON reads"), events);

    let log: Vec<_> = events.iter().map(RuntimeEvent::to_tdx_event_with_preimage).collect();
    assert_eq!(runtime_events_of(&log), events);
    assert_eq!(validate_v2_preimages(&log), Ok(()));
    assert_eq!(validate_v2_events(&log, events), Ok(()));

    let boot_end = events.iter().position(|event| event.event == measurement::BOOT_MR_DONE);
    let boot = &events[..boot_end.map_or(events.len(), |last| last + 1)];
    assert_eq!(replay_rtmr3(events, Until::BootMrDone), replay_rtmr3(boot, Until::End));
    assert_eq!(replay_pcr14_sha256(events, Until::BootMrDone), replay_pcr14_sha256(boot, Until::End));

    let ready = events.iter().position(|event| event.event == measurement::SYSTEM_READY);
    let system = &events[..ready.unwrap_or(events.len())];
    for event in events.iter().take(SEARCHED) {
        let found = measurement::payloads(events, &event.event).count();
        assert_eq!(found, system.iter().filter(|other| other.event == event.event).count());
    }
}
