//! Lookups and refused events. `tests/vectors.rs` compares digests and replays with the peer's.

use super::*;

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
fn events_that_do_not_parse_are_refused() {
    let cases =
        [r#"{"event":"a","payload":"?"}"#, r#"{"event":"a","payload":"","version":3}"#, r#"{"event":"a"}"#];
    for text in cases {
        assert!(serde_json::from_str::<RuntimeEvent>(text).is_err(), "{text}");
    }
}
