//! `eventlog.json`: digests and forms of runtime events, the registers they replay to, and the identity in them.

use kms_attest::binding::ReportData;
use kms_attest::evidence::{Evidence, Wire};
use kms_attest::identity::Registers;
use kms_attest::measurement::{
    EventVersion, PreimageError, RUNTIME_EVENT_TYPE, RuntimeEvent, TdxEvent, Until, replay_pcr14_sha256,
    replay_pcr14_sha384, replay_rtmr3, runtime_events_of, validate_v2_preimages,
};
use kms_attest::platform::tdx::{Quoted, tdx_identity};
use kms_attest::vm_config::VmConfig;
use sha2::{Digest, Sha384};

use super::cases::Cases;
use super::decoded::{is_app_info, runtime_event};
use super::json::{Check, Failure, Json, ensure};

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    file.at("event_type")?.is_number(RUNTIME_EVENT_TYPE)?;
    cases.list(file, "scenarios", |case, _| scenario(case))?;
    let v2 = v2_events(file)?;
    cases.list(file, "v2_preimage_validation", move |case, _| v2_preimage_validation(case, &v2))
}

fn scenario(case: &Json) -> Check {
    let list = case.at("events")?.list()?;
    let events = list.iter().map(runtime_event).collect::<Check<Vec<_>>>()?;
    list.iter().zip(&events).try_for_each(|(case, event)| event_forms(case, event))?;
    let registers = [
        ("rtmr3_full", replay_rtmr3(&events, Until::End).to_vec()),
        ("rtmr3_to_boot_mr_done", replay_rtmr3(&events, Until::BootMrDone).to_vec()),
        ("pcr14_sha256_full", replay_pcr14_sha256(&events, Until::End).to_vec()),
        ("pcr14_sha256_to_boot_mr_done", replay_pcr14_sha256(&events, Until::BootMrDone).to_vec()),
    ];
    for (name, register) in registers {
        case.at(name)?.is_bytes(register)?;
    }
    ensure!(replay_pcr14_sha384(&events, Until::End) == replay_rtmr3(&events, Until::End), "PCR14 of AWS");
    is_on_the_v0_wire(&[], &events, &[case.at("runtime_events_scale")?.bytes()?])?;
    let decoded = case.at("decoded")?.list()?;
    ensure!(!decoded.is_empty(), "{}: nothing is decoded", case.path());
    decoded.iter().try_for_each(|decoded| identity(decoded, &events))
}

/// The identity that these events have together with some register values.
fn identity(case: &Json, events: &[RuntimeEvent]) -> Check {
    case.at("case")?.informative();
    let register = |name| case.at(name)?.array::<48>();
    let quoted = Quoted {
        mr_td: register("mr_td")?,
        rt_mr0: register("rt_mr0")?,
        rt_mr1: register("rt_mr1")?,
        rt_mr2: register("rt_mr2")?,
        rt_mr3: register("rt_mr3")?,
        mr_config_id: register("mr_config_id")?,
        mr_owner: register("mr_owner")?,
        mr_owner_config: register("mr_owner_config")?,
        report_data: [0; 64],
    };
    ensure!(quoted.rt_mr3 == replay_rtmr3(events, Until::End), "{}: RTMR3 is not the replay", case.path());
    let config = VmConfig::effective("", case.at("vm_config")?.text()?);
    for (name, registers) in [
        ("app_info_unverified_runtime", Registers::RunTime),
        ("app_info_unverified_boottime", Registers::BootTime),
    ] {
        let ours = match &config {
            Ok(config) => tdx_identity(&quoted, events, registers, config, &[]).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        is_app_info(case.at(name)?, ours)?;
    }
    Ok(())
}

fn event_forms(case: &Json, event: &RuntimeEvent) -> Check {
    case.at("preimage")?.is_bytes(event.preimage())?;
    case.at("sha384_digest")?.is_bytes(event.sha384_digest())?;
    case.at("sha256_digest")?.is_bytes(event.sha256_digest())?;
    let text = case.at("runtime_event_json")?;
    text.is_text(&serde_json::to_string(event)?)?;
    ensure!(
        serde_json::from_str::<RuntimeEvent>(text.text()?)? == *event,
        "{}: reads as another",
        text.path()
    );
    let (entry, filled) = (event.to_tdx_event(), event.to_tdx_event_with_preimage());
    let stripped = stripped(&entry)?;
    for (name, ours) in [
        ("tdx_event_json", &entry),
        ("tdx_event_json_with_preimage", &filled),
        ("tdx_event_json_stripped", &stripped),
    ] {
        let text = case.at(name)?;
        text.is_text(&serde_json::to_string(ours)?)?;
        ensure!(
            serde_json::from_str::<TdxEvent>(text.text()?)? == *ours,
            "{}: reads as another",
            text.path()
        );
    }
    ensure!(
        runtime_events_of(&[filled]) == std::slice::from_ref(event),
        "the entry is another runtime event"
    );
    is_on_the_v0_wire(
        std::slice::from_ref(&entry),
        std::slice::from_ref(event),
        &[vec![4], case.at("tdx_event_scale")?.bytes()?, vec![4], case.at("runtime_event_scale")?.bytes()?],
    )?;
    is_on_the_v1_wire(
        &entry,
        event,
        &case.at("tdx_event_msgpack_named")?.bytes()?,
        &case.at("runtime_event_msgpack_named")?.bytes()?,
    )
}

fn stripped(entry: &TdxEvent) -> Check<TdxEvent> {
    let evidence = evidence(vec![entry.clone()], Vec::new()).stripped();
    match evidence.tdx().map(|tdx| tdx.event_log.as_slice()) {
        Some([stripped]) => Ok(stripped.clone()),
        _ => Err(Failure("stripping lost a runtime event".into())),
    }
}

fn evidence(event_log: Vec<TdxEvent>, events: Vec<RuntimeEvent>) -> Evidence {
    Evidence::new_tdx(Vec::new(), events, event_log, ReportData::ZERO, String::new())
}

/// The V0 wire around the given forms: a TDX quote of no bytes, the forms, report data and a configuration of zeros.
/// It has no place for event versions, so the events are written and read as V1 events.
fn is_on_the_v0_wire(log: &[TdxEvent], events: &[RuntimeEvent], forms: &[Vec<u8>]) -> Check {
    let v1 = EventVersion::V1;
    let log: Vec<_> = log.iter().map(|entry| TdxEvent { version: v1, ..entry.clone() }).collect();
    let events = events.iter().map(|event| RuntimeEvent { version: v1, ..event.clone() }).collect();
    let no_log: &[u8] = if log.is_empty() { &[0] } else { &[] };
    let evidence = evidence(log, events);
    let expected = [&[0, 0, 0], no_log, &forms.concat(), &[0; 64], &[0]].concat();
    is_encoding(&evidence, Wire::V0, &expected)
}

/// The V1 wire around the two forms.
fn is_on_the_v1_wire(entry: &TdxEvent, event: &RuntimeEvent, log: &[u8], events: &[u8]) -> Check {
    let evidence = Evidence { wire: Wire::V1, ..evidence(vec![entry.clone()], vec![event.clone()]) };
    let expected = [
        b"\x83\xa7version\x01\xa8platform\x82\xa4kind\xa3tdx\xa4data\x82\xa5quote\x90\xa9event_log\x91"
            .as_slice(),
        log,
        b"\xa5stack\x82\xa4kind\xa6dstack\xa4data\x83\xabreport_data\xdc\x00\x40",
        &[0; 64],
        b"\xaeruntime_events\x91",
        events,
        b"\xa6config\xa0",
    ];
    is_encoding(&evidence, Wire::V1, &expected.concat())
}

fn is_encoding(evidence: &Evidence, wire: Wire, expected: &[u8]) -> Check {
    let encoded = evidence.encode();
    ensure!(
        encoded == expected,
        "{wire:?} form: {}, ours is {}",
        hex::encode(expected),
        hex::encode(&encoded)
    );
    ensure!(Evidence::decode(&encoded)? == *evidence, "{wire:?} form reads as another");
    Ok(())
}

/// V2 events for [`v2_preimage_validation`]: the most that a scenario has, and one more.
fn v2_events(file: &Json) -> Check<Vec<RuntimeEvent>> {
    let mut longest = Vec::new();
    for scenario in file.at("scenarios")?.list()? {
        let events = scenario.at("events")?.list()?.iter().map(runtime_event).collect::<Check<Vec<_>>>()?;
        let events: Vec<_> = events.into_iter().filter(|event| event.version == EventVersion::V2).collect();
        if events.len() > longest.len() {
            longest = events;
        }
    }
    for name in ["one more", "and another"] {
        longest.push(RuntimeEvent { event: name.into(), payload: vec![1], version: EventVersion::V2 });
    }
    Ok(longest)
}

/// These cases have no bytes: what goes in is what their description says.
fn v2_preimage_validation(case: &Json, events: &[RuntimeEvent]) -> Check {
    let filled: Vec<_> = events.iter().map(RuntimeEvent::to_tdx_event_with_preimage).collect();
    let (log, expected) = match case.at("case")?.text()? {
        "v2 events with preimages" => (filled, Ok(())),
        "v2 events without preimages" => {
            let plain = events.iter().map(RuntimeEvent::to_tdx_event).collect();
            (plain, Err(PreimageError::Missing { index: 0 }))
        }
        "v2 events with preimages, then stripped for a certificate" => {
            let stripped = filled.iter().map(stripped).collect::<Check<_>>()?;
            (stripped, Err(PreimageError::DigestMismatch { index: 0 }))
        }
        "non canonical preimage with matching digest" => {
            let mut log = filled;
            let spaced = [b" ", events[1].preimage().as_slice()].concat();
            log[1].digest = Sha384::digest(&spaced).to_vec();
            log[1].preimage = Some(hex::encode(spaced));
            (log, Err(PreimageError::NotCanonical { index: 1 }))
        }
        other => return Err(Failure(format!("no input is known for {other:?}"))),
    };
    let ours = validate_v2_preimages(&log);
    ensure!(ours == expected, "expected {expected:?}, ours is {ours:?}");
    let error = case.at("error")?;
    match ours {
        Ok(()) => ensure!(error.is_null(), "ours has no error"),
        Err(_) => error.text().map(drop)?,
    }
    Ok(())
}
