//! Digests, replays and lookups against the peer's, and what must be refused.

use serde_json::Value;

use super::*;
use crate::codec::scale;

fn scenarios() -> Value {
    crate::test_vectors::json("eventlog.json")
}

fn event(case: &Value) -> RuntimeEvent {
    RuntimeEvent {
        event: case["event"].as_str().unwrap().into(),
        payload: hex::decode(case["payload"].as_str().unwrap()).unwrap(),
        version: EventVersion::from_number(case["version"].as_u64().unwrap()).unwrap(),
    }
}

#[test]
fn digests_and_json_forms_of_every_event_are_the_peers() {
    let vectors = scenarios();
    let events = vectors["scenarios"].as_array().unwrap().iter();
    let events: Vec<_> = events.flat_map(|scenario| scenario["events"].as_array().unwrap()).collect();
    assert!(events.len() > 60);
    for case in events {
        let event = event(case);
        assert_eq!(hex::encode(event.preimage()), case["preimage"]);
        assert_eq!(hex::encode(event.sha384_digest()), case["sha384_digest"]);
        assert_eq!(hex::encode(event.sha256_digest()), case["sha256_digest"]);
        let json = |text: &str, value: String| assert_eq!(value, case[text].as_str().unwrap());
        json("runtime_event_json", serde_json::to_string(&event).unwrap());
        json("tdx_event_json", serde_json::to_string(&event.to_tdx_event()).unwrap());
        let with_preimage = event.to_tdx_event_with_preimage();
        json("tdx_event_json_with_preimage", serde_json::to_string(&with_preimage).unwrap());
        let text = case["tdx_event_json_with_preimage"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<TdxEvent>(text).unwrap(), with_preimage);
        let text = case["runtime_event_json"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<RuntimeEvent>(text).unwrap(), event);
        assert_eq!(runtime_events_of(&[with_preimage]), std::slice::from_ref(&event));
        let mut writer = scale::Writer::default();
        writer.text(&event.event).bytes(&event.payload);
        assert_eq!(hex::encode(writer.into_bytes()), case["runtime_event_scale"]);
    }
}

#[test]
fn registers_replay_to_the_peers_values() {
    for scenario in scenarios()["scenarios"].as_array().unwrap() {
        let events: Vec<_> = scenario["events"].as_array().unwrap().iter().map(event).collect();
        let cases = [
            ("rtmr3_full", hex::encode(replay_rtmr3(&events, Until::End))),
            ("rtmr3_to_boot_mr_done", hex::encode(replay_rtmr3(&events, Until::BootMrDone))),
            ("pcr14_sha256_full", hex::encode(replay_pcr14_sha256(&events, Until::End))),
            ("pcr14_sha256_to_boot_mr_done", hex::encode(replay_pcr14_sha256(&events, Until::BootMrDone))),
        ];
        for (name, replayed) in cases {
            assert_eq!(replayed, scenario[name], "{} {name}", scenario["name"]);
        }
        assert_eq!(replay_pcr14_sha384(&events, Until::End), replay_rtmr3(&events, Until::End));
    }
}

#[test]
fn lookups_stop_at_system_ready_and_take_the_first() {
    let named = |name: &str, payload: u8| RuntimeEvent {
        event: name.into(),
        payload: vec![payload],
        version: EventVersion::V1,
    };
    let events = [named("a", 1), named("a", 2), named(SYSTEM_READY, 0), named("a", 3), named("b", 4)];
    assert_eq!(first_payload(&events, "a"), [1]);
    assert_eq!(payloads(&events, "a").collect::<Vec<_>>(), [[1], [2]]);
    assert_eq!(first_payload(&events, "b"), b"");
}

#[test]
fn a_v2_event_needs_the_canonical_preimage_of_its_digest() {
    let v2 = RuntimeEvent { event: "a".into(), payload: vec![1], version: EventVersion::V2 };
    let good = v2.to_tdx_event_with_preimage();
    let v1 = RuntimeEvent { version: EventVersion::V1, ..v2.clone() }.to_tdx_event();
    let spaced = br#"{"name": "a", "payload": "01", "type": 134217729}"#;
    let cases = [
        (good.clone(), Ok(())),
        (v2.to_tdx_event(), Err(PreimageError::Missing { index: 1 })),
        (TdxEvent { preimage: Some("zz".into()), ..good.clone() }, Err(PreimageError::NotHex { index: 1 })),
        (TdxEvent { digest: vec![], ..good.clone() }, Err(PreimageError::DigestMismatch { index: 1 })),
        (
            TdxEvent {
                digest: Sha384::digest(spaced).to_vec(),
                preimage: Some(hex::encode(spaced)),
                ..good.clone()
            },
            Err(PreimageError::NotCanonical { index: 1 }),
        ),
        (TdxEvent { event_type: 1, ..v2.to_tdx_event() }, Ok(())),
    ];
    for (entry, expected) in cases {
        assert_eq!(validate_v2_preimages(&[v1.clone(), entry]), expected);
    }
}

#[test]
fn the_peers_verdicts_on_preimages_are_ours() {
    let vectors = crate::test_vectors::json("attestation.json");
    for blob in vectors["blobs"].as_array().unwrap() {
        let Some(verified) = blob["peer_verify"].as_object() else { continue };
        let evidence = hex::decode(blob["bytes"].as_str().unwrap()).unwrap();
        let evidence = crate::evidence::Evidence::decode(&evidence).unwrap();
        let verdict = validate_v2_preimages(&evidence.tdx().unwrap().event_log);
        let peers = verified.get("error").and_then(Value::as_str).unwrap_or_default();
        match peers.strip_prefix("Failed to validate TDX V2 event digest preimages: ") {
            Some(reason) => assert_eq!(verdict.unwrap_err().to_string(), reason, "{}", blob["name"]),
            None => assert_eq!(verdict, Ok(()), "{}", blob["name"]),
        }
    }
}

#[test]
fn events_that_do_not_parse_are_refused() {
    let cases =
        [r#"{"event":"a","payload":"?"}"#, r#"{"event":"a","payload":"","version":3}"#, r#"{"event":"a"}"#];
    for text in cases {
        assert!(serde_json::from_str::<RuntimeEvent>(text).is_err(), "{text}");
    }
}
