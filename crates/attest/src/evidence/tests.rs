//! Evidence that must be refused, and round trips of both wire forms. `tests/vectors.rs` decodes the peer's
//! evidence.

use proptest::prelude::*;

use super::*;
use crate::test_vectors::{self, bytes};

/// Every blob of the vectors that decodes, encoded.
fn blobs() -> Vec<Vec<u8>> {
    let vectors = test_vectors::json("attestation.json");
    let blobs = vectors["blobs"].as_array().unwrap().iter().map(|blob| bytes(&blob["bytes"]));
    let files = ["tdx-lite-attestation.json", "sev-snp-attestation.json"];
    let files =
        files.map(|file| test_vectors::json(&format!("fixtures/dstack/{file}"))["attestation"].clone());
    let blobs: Vec<_> = blobs.chain(files.iter().map(bytes)).collect();
    assert_eq!(blobs.len(), 29);
    blobs
}

#[test]
fn what_the_peer_cannot_decode_is_refused() {
    let expected = [
        ("empty", "attestation is empty"),
        ("0xff", "unknown attestation wire format: first byte is 0xff"),
        ("0x01", "unknown attestation wire format: first byte is 0x01"),
        ("scale truncated", "attestation in SCALE form does not decode: config: the input ends inside it"),
        ("scale trailing byte", "1 trailing bytes after the attestation"),
        (
            "msgpack truncated",
            "attestation in MessagePack form does not decode: stack.data.config: the input ends inside it",
        ),
        ("msgpack trailing byte", "1 trailing bytes after the attestation"),
        ("msgpack version 2", "unsupported attestation version: expected 1, got 2"),
        ("msgpack array instead of map", "unknown attestation wire format: first byte is 0x93"),
        (
            "scale unknown quote variant",
            "attestation in SCALE form does not decode: quote: no variant has the index 9",
        ),
    ];
    let vectors = test_vectors::json("attestation.json");
    for failure in vectors["decode_failures"].as_array().unwrap() {
        let name = failure["name"].as_str().unwrap();
        let decoded = Evidence::decode(&bytes(&failure["bytes"]));
        match expected.iter().find(|(expected, _)| *expected == name) {
            Some((_, text)) => assert_eq!(decoded.unwrap_err().to_string(), *text, "{name}"),
            None => {
                assert!(failure["error"].is_null(), "{name} has no expected text");
                let evidence = decoded.unwrap();
                let text = "stack.report_data must be 64 bytes, got 63";
                assert_eq!(evidence.report_data().unwrap_err().to_string(), text);
                assert_eq!(evidence.to_v0_bytes().unwrap_err().to_string(), text);
                assert_eq!(evidence.encode(), bytes(&failure["bytes"]));
                assert_eq!(Evidence { wire: Wire::V0, ..evidence.clone() }.encode(), evidence.encode());
            }
        }
    }
}

#[test]
fn unusual_messagepack_means_the_same_as_the_usual() {
    let vectors = test_vectors::json("msgpack_leniency.json");
    let case = |name: &str| {
        let case = vectors["cases"].as_array().unwrap().iter().find(|case| case["name"] == name);
        Evidence::decode(&bytes(&case.unwrap()["bytes"])).unwrap()
    };
    let names = [
        "quote as bin",
        "report_data as bin",
        "digest as int array",
        "payload as base64 str",
        "payload as int array",
        "unknown top level field",
        "unknown field in event",
        "unknown field in platform data",
    ];
    for name in names {
        assert_eq!(case(name), case("normal"), "{name}");
    }
}

#[test]
fn messagepack_that_is_not_evidence_is_refused_with_the_field() {
    let cases = [
        ("80", "version: missing"),
        ("81a776657273696f6ea131", "version: expected a number"),
        ("82a776657273696f6e01a776657273696f6e01", "version: given twice"),
        ("81a776657273696f6eff", "version: number out of range"),
        ("81a8706c6174666f726d82a46b696e64a178a46461746180", "platform.kind: unknown name \"x\""),
        ("81a8706c6174666f726d81a464617461a0", "platform: `data` comes before `kind`"),
        ("81a8706c6174666f726d81a46b696e64a3746478", "platform.data: missing"),
        ("81a8706c6174666f726d82a46b696e64a3746478a46461746180", "platform.data.quote: missing"),
        (
            "81a8706c6174666f726d82a46b696e64a3746478a46461746181a571756f7465dd7fffffff",
            "platform.data.quote: the input ends inside it",
        ),
        (
            "81a8706c6174666f726d82a46b696e64a3746478a46461746181a96576656e745f6c6f67dd00010001",
            "platform.data.event_log: more than 4096 elements",
        ),
        (
            "81a8706c6174666f726d82a46b696e64a3746478a46461746181a571756f746591cd0100",
            "platform.data.quote: number out of range",
        ),
        (
            "81a8706c6174666f726d82a46b696e64a3746478a46461746181a571756f7465a0",
            "platform.data.quote: expected bytes",
        ),
        ("81a161c1", "attestation: expected a value"),
        ("81a1ff00", "attestation: not UTF-8"),
        ("8100", "attestation: expected text"),
    ];
    for (encoded, problem) in cases {
        let error = Evidence::decode(&hex::decode(encoded).unwrap()).unwrap_err().to_string();
        let expected = format!("attestation in MessagePack form does not decode: {problem}");
        assert_eq!(error, expected, "{encoded}");
    }
}

#[test]
fn evidence_beyond_the_limits_is_refused() {
    let error = Evidence::decode(&vec![0; MAX_BYTES + 1]).unwrap_err().to_string();
    assert_eq!(error, "attestation must be at most 10485760 bytes, got 10485761");
    // TDX with an empty quote and a log of 65,537 entries.
    let mut many = vec![0, 0, 0, 0x06, 0x00, 0x04, 0x00];
    many.resize(1024 * 1024, 0);
    let error = Evidence::decode(&many).unwrap_err().to_string();
    assert!(error.ends_with("quote.event_log: more than 4096 elements"), "{error}");
}

fn event(name: &str, version: EventVersion) -> RuntimeEvent {
    RuntimeEvent { event: name.into(), payload: vec![1, 2, 3], version }
}

#[test]
fn new_evidence_is_v0_unless_an_event_is_v2() {
    let new = |events: Vec<RuntimeEvent>| {
        let log = events.iter().map(RuntimeEvent::to_tdx_event).collect();
        Evidence::new_tdx(vec![4], events, log, ReportData::ZERO, "{}".into())
    };
    let v1 = new(vec![event("a", EventVersion::V1)]);
    let mixed = new(vec![event("a", EventVersion::V1), event("b", EventVersion::V2)]);
    assert_eq!((v1.wire, v1.encode()[0]), (Wire::V0, 0));
    assert_eq!((mixed.wire, mixed.encode()[0]), (Wire::V1, 0x83));
    assert_eq!(Evidence::decode(&v1.encode()).unwrap(), v1);
    assert_eq!(Evidence::decode(&mixed.encode()).unwrap(), mixed);
    let relabelled = Evidence { wire: Wire::V0, ..mixed.clone() };
    assert_eq!(relabelled.encode(), mixed.encode(), "V0 would lose the version of its second event");
}

#[test]
fn the_acpi_event_is_stripped_from_gcp_evidence_and_kept_whole_in_tdx_evidence() {
    let acpi = TdxEvent {
        imr: 0,
        event_type: 10,
        digest: vec![1],
        event: "acpi-loader".into(),
        event_payload: b"ACPI DATA".to_vec(),
        version: EventVersion::V1,
        preimage: None,
    };
    let almost = TdxEvent { event_payload: b"ACPI DATA\0".to_vec(), ..acpi.clone() };
    let app = TdxEvent { imr: 3, event_type: 7, ..acpi.clone() };
    let app_stripped = TdxEvent { event_payload: vec![], ..app.clone() };
    let tdx = Tdx { quote: vec![], event_log: vec![acpi.clone(), almost, app] };
    let tpm = TpmQuote {
        message: vec![],
        signature: vec![],
        pcr_values: vec![],
        ak_cert: vec![],
        platform: TpmPlatform::Gcp,
        event_log: vec![],
    };
    let stripped_log = |platform: Platform| {
        let empty = Evidence::new_tdx(vec![], vec![], vec![], ReportData::ZERO, String::new());
        Evidence { platform, ..empty }.stripped().tdx().unwrap().event_log.clone()
    };
    assert_eq!(stripped_log(Platform::Tdx(tdx.clone())), [acpi, app_stripped.clone()]);
    assert_eq!(stripped_log(Platform::GcpTdx { tdx, tpm }), [app_stripped]);
}

mod legacy {
    use std::io::Write;

    use super::*;

    fn quote_and_log() -> (Vec<u8>, Vec<u8>) {
        let fixture = test_vectors::json("fixtures/dstack/tdx-lite-getquote.json");
        let log = fixture["event_log"].as_str().unwrap().as_bytes().to_vec();
        (bytes(&fixture["quote"]), log)
    }

    fn compressed(log: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(b"ELGZv1".to_vec(), flate2::Compression::best());
        encoder.write_all(log).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_compressed_log_is_read_up_to_16_kib() {
        let (quote, _) = quote_and_log();
        let log = |length: usize| format!("[{}]", " ".repeat(length - 2)).into_bytes();
        let read = |log: &[u8]| Evidence::from_legacy(&quote, &compressed(log));
        assert_eq!(read(&log(16 * 1024)).unwrap(), Evidence::from_legacy(&quote, b"[]").unwrap());
        let error = read(&log(16 * 1024 + 1)).unwrap_err().to_string();
        assert_eq!(error, "the event log must decompress to at most 16384 bytes");
        let bomb = compressed(&vec![b' '; 8 * 1024 * 1024]);
        let error = Evidence::from_legacy(&quote, &bomb).unwrap_err().to_string();
        assert_eq!(error, "the event log must decompress to at most 16384 bytes");
    }

    #[test]
    fn what_is_not_legacy_evidence_is_refused() {
        let (quote, log) = quote_and_log();
        let sgx = test_vectors::file("fixtures/dcap-qvl/sgx_quote.bin");
        let many = format!(
            "[{}]",
            vec![r#"{"imr":0,"event_type":0,"event":"","event_payload":""}"#; 4_097].join(",")
        );
        let cases: [(&[u8], &[u8], &str); 7] = [
            (&quote[..100], &log, "legacy quote: the TDX quote does not parse: "),
            (&sgx, &log, "legacy quote: the quote is an SGX quote, not a TDX quote"),
            (&quote, b"", "the event log does not parse: "),
            (&quote, br#"[{"imr":3}]"#, "the event log does not parse: missing field"),
            (&quote, b"ELGZv1not gzip", "the event log does not decompress: "),
            (&quote, many.as_bytes(), "the event log must have at most 4096 events, got 4097"),
            (&quote, &vec![0; MAX_BYTES], "legacy quote and event log must be at most 10485760 bytes"),
        ];
        for (quote, log, text) in cases {
            let error = Evidence::from_legacy(quote, log).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }
}

mod properties {
    use super::*;

    fn byte_strings() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 60..70)]
    }

    fn versions() -> impl Strategy<Value = EventVersion> {
        prop_oneof![Just(EventVersion::V1), Just(EventVersion::V2)]
    }

    prop_compose! {
        fn tdx_events()(
            imr in any::<u32>(), event_type in any::<u32>(), digest in byte_strings(), event in any::<String>(),
            event_payload in byte_strings(), version in versions(), preimage in any::<Option<String>>(),
        ) -> TdxEvent {
            TdxEvent { imr, event_type, digest, event, event_payload, version, preimage }
        }
    }

    prop_compose! {
        fn tdx_evidence()(
            quote in byte_strings(), event_log in prop::collection::vec(tdx_events(), 0..5),
        ) -> Tdx {
            Tdx { quote, event_log }
        }
    }

    prop_compose! {
        fn tpm_quotes()(
            message in byte_strings(), signature in byte_strings(), ak_cert in byte_strings(),
            pcrs in prop::collection::vec((any::<u32>(), any::<String>(), byte_strings()), 0..3),
            events in prop::collection::vec((any::<u32>(), byte_strings()), 0..3),
            platform in prop::sample::select(vec![
                TpmPlatform::Dstack, TpmPlatform::Gcp, TpmPlatform::NitroEnclave, TpmPlatform::AwsEc2,
            ]),
        ) -> TpmQuote {
            let pcr_values =
                pcrs.into_iter().map(|(index, algorithm, value)| PcrValue { index, algorithm, value }).collect();
            let event_log =
                events.into_iter().map(|(pcr_index, digest)| TpmEvent { pcr_index, digest }).collect();
            TpmQuote { message, signature, pcr_values, ak_cert, platform, event_log }
        }
    }

    fn platforms() -> impl Strategy<Value = Platform> {
        prop_oneof![
            tdx_evidence().prop_map(Platform::Tdx),
            (tdx_evidence(), tpm_quotes()).prop_map(|(tdx, tpm)| Platform::GcpTdx { tdx, tpm }),
            byte_strings().prop_map(|nsm_quote| Platform::NitroEnclave { nsm_quote }),
            (byte_strings(), prop::collection::vec(byte_strings(), 0..3), any::<String>()).prop_map(
                |(report, cert_chain, mr_config)| Platform::SevSnp { report, cert_chain, mr_config }
            ),
            byte_strings().prop_map(|attestation_doc| Platform::AwsNitroTpm { attestation_doc }),
        ]
    }

    prop_compose! {
        fn stacks()(
            report_data in byte_strings(), config in any::<String>(), payload in any::<Option<String>>(),
            events in prop::collection::vec((any::<String>(), byte_strings(), versions()), 0..5),
        ) -> Stack {
            let runtime_events = events
                .into_iter()
                .map(|(event, payload, version)| RuntimeEvent { event, payload, version })
                .collect();
            Stack { report_data, runtime_events, config, report_data_payload: payload }
        }
    }

    proptest! {
        #[test]
        fn v1_evidence_survives_its_wire_form(platform in platforms(), stack in stacks()) {
            let evidence = Evidence { wire: Wire::V1, platform, stack };
            prop_assert_eq!(Evidence::decode(&evidence.encode()).unwrap(), evidence);
        }

        #[test]
        fn v0_bytes_survive_decoding(platform in platforms(), stack in stacks()) {
            let stack = Stack { report_data: vec![7; 64], ..stack };
            let encoded = Evidence { wire: Wire::V0, platform, stack }.to_v0_bytes().unwrap();
            let evidence = Evidence::decode(&encoded).unwrap();
            prop_assert_eq!(evidence.wire, Wire::V0);
            prop_assert_eq!(evidence.encode(), encoded);
        }

        #[test]
        fn arbitrary_bytes_never_panic(first in prop::sample::select(vec![0u8, 0x83, 0x80, 0xde, 0xdf]),
            rest in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Evidence::decode(&[&[first], rest.as_slice()].concat());
            let _ = Evidence::from_legacy(&rest, b"[]");
        }

        #[test]
        fn damaged_evidence_never_panics_and_v0_decodes_to_its_own_bytes(
            blob in 0usize..29, position in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
        ) {
            thread_local!(static BLOBS: Vec<Vec<u8>> = blobs());
            let mut damaged = BLOBS.with(|blobs| blobs[blob].clone());
            let position = position.index(damaged.len());
            damaged[position] = byte;
            if cut {
                damaged.truncate(position);
            }
            if let Ok(evidence) = Evidence::decode(&damaged) {
                if evidence.wire == Wire::V0 {
                    prop_assert!(evidence.encode() == damaged);
                }
                prop_assert_eq!(&Evidence::decode(&evidence.encode()).unwrap(), &evidence);
                let _ = evidence.unverified_app_info(crate::identity::Registers::BootTime);
            }
        }
    }
}
