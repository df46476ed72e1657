//! Identities beyond the known answers; `tests/vectors.rs` compares those of the vectors with the peer's.

use super::events::{Events, sha256};
use super::*;
use crate::evidence::Evidence;
use crate::identity::AppId;
use crate::measurement::{EventVersion, Until, replay_rtmr3};

/// The keys of the map in the peer's order, each with a test value, encoded.
fn map_fields() -> Vec<(&'static str, Vec<u8>)> {
    let bin = |length: u8| [vec![0xc4, length], vec![length; length.into()]].concat();
    vec![
        ("app_id", bin(20)),
        ("compose_hash", bin(32)),
        ("instance_id", bin(20)),
        ("device_id", bin(32)),
        ("mr_system", bin(32)),
        ("mr_aggregated", bin(32)),
        ("os_image_hash", bin(32)),
        ("key_provider_info", bin(0)),
        ("init_script_hashes", [vec![0x91], bin(32)].concat()),
    ]
}

fn map_of(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut encoded = vec![0x80 | fields.len() as u8];
    for (key, value) in fields {
        encoded.extend([&[0xa0 | key.len() as u8], key.as_bytes(), value].concat());
    }
    encoded
}

#[test]
fn app_info_is_a_map_of_named_values_in_the_peers_order() {
    let encoded = map_of(&map_fields());
    let read = AppInfo::from_msgpack(&encoded).unwrap();
    assert_eq!((&read.app_id[..], &read.os_image_hash[..]), (&[20; 20][..], &[32; 32][..]));
    assert_eq!(read.init_script_hashes, Some(vec![[32; 32]]));
    assert_eq!(read.to_msgpack(), encoded);
    let nil = AppInfo { init_script_hashes: None, ..read.clone() }.to_msgpack();
    assert_eq!(nil.last(), Some(&0xc0));
    assert_eq!(AppInfo::from_msgpack(&nil).unwrap().init_script_hashes, None);

    // In another order, with keys of later versions in between, and without the last key.
    let mut fields = map_fields();
    fields.reverse();
    fields.insert(3, ("launch_ticket", vec![0x82, 0xa1, b'a', 0x01, 0xa1, b'b', 0x91, 0xc0]));
    assert_eq!(AppInfo::from_msgpack(&map_of(&fields)), Ok(read.clone()));
    fields.remove(0);
    let without = AppInfo { init_script_hashes: None, ..read };
    assert_eq!(AppInfo::from_msgpack(&map_of(&fields)), Ok(without));
    // With a 16-bit map marker.
    let long = [&[0xde, 0, 9], &encoded[1..]].concat();
    assert!(AppInfo::from_msgpack(&long).is_ok());
}

#[test]
fn app_info_with_a_key_missing_repeated_or_of_another_form_is_refused_by_name() {
    for (index, (key, _)) in map_fields().iter().enumerate() {
        let refusal =
            |fields: &[(&str, Vec<u8>)]| AppInfo::from_msgpack(&map_of(fields)).unwrap_err().to_string();
        let mut missing = map_fields();
        missing.remove(index);
        if *key != "init_script_hashes" {
            assert_eq!(refusal(&missing), format!("app info does not decode: {key}: missing"), "{key}");
        }
        let mut repeated = map_fields();
        repeated.push(repeated[index].clone());
        assert!(refusal(&repeated).starts_with(&format!("app info does not decode: {key}: ")), "{key}");
        let mut text = map_fields();
        text[index].1 = vec![0xa1, b'x'];
        assert!(refusal(&text).starts_with(&format!("app info does not decode: {key}: expected ")), "{key}");
    }
    let mut short = map_fields();
    short[4].1 = vec![0xc4, 1, 0];
    let refusal = |encoded: &[u8]| AppInfo::from_msgpack(encoded).unwrap_err().to_string();
    assert_eq!(refusal(&map_of(&short)), "mr_system in app info must be 32 bytes, got 1");
    let trailing = [map_of(&map_fields()), vec![0]].concat();
    assert_eq!(refusal(&trailing), "1 trailing bytes after the app info");
}

#[test]
fn app_info_of_eight_elements_has_no_init_scripts_and_other_lengths_are_refused() {
    let element = |length: usize| [vec![0xc4, length as u8], vec![1; length]].concat();
    let array = |marker: u8, measurement: usize, tail: &[u8]| {
        let mut encoded = vec![marker];
        for length in [20, 32, 20, 32, 32, measurement, 32, 0] {
            encoded.extend(element(length));
        }
        [encoded, tail.to_vec()].concat()
    };
    let six = [vec![0x96], element(32).repeat(6)].concat();
    assert_eq!(AppInfo::from_msgpack(&array(0x98, 32, &[])).unwrap().init_script_hashes, None);
    assert_eq!(AppInfo::from_msgpack(&array(0x99, 32, &[0x90])).unwrap().init_script_hashes, Some(vec![]));
    let cases: [(Vec<u8>, &str); 8] = [
        (array(0x97, 32, &[]), "app info must have 8 or 9 elements, got 7"),
        (array(0x98, 31, &[]), "mr_aggregated in app info must be 32 bytes, got 31"),
        (array(0x98, 32, &[0]), "1 trailing bytes after the app info"),
        (array(0x99, 32, &six), "app info does not decode: init_script_hashes: more than 5 elements"),
        (
            array(0x99, 32, &[0x91, 0xc4, 1, 0]),
            "app info does not decode: init_script_hashes: expected 32 bytes",
        ),
        (vec![0x81], "app info does not decode: app_info: the input ends inside it"),
        (vec![0xc0], "app info does not decode: app_info: expected an array"),
        (vec![], "app info does not decode: app_info: the input ends inside it"),
    ];
    for (encoded, text) in cases {
        assert_eq!(AppInfo::from_msgpack(&encoded).unwrap_err().to_string(), text);
    }
}

#[test]
fn an_app_id_is_20_bytes() {
    assert_eq!(AppId::try_from([1; 20].as_slice()).unwrap().to_string(), "01".repeat(20));
    let error = AppId::try_from([1; 32].as_slice()).unwrap_err();
    assert_eq!(error.to_string(), "app_id must be 20 bytes, got 32");
}

#[test]
fn init_script_events_that_fit_no_identity_are_refused() {
    let event = |length: usize| RuntimeEvent {
        event: "init-script-hash".into(),
        payload: vec![0; length],
        version: EventVersion::V1,
    };
    let decode = |events: &[RuntimeEvent]| Events::decode(events, Registers::RunTime).map(drop);
    assert!(decode(&[event(32), event(32), event(32), event(32), event(32)]).is_ok());
    let error = decode(&vec![event(32); 6]).unwrap_err().to_string();
    assert_eq!(error, "at most 5 init-script-hash events are allowed, got 6");
    let error = decode(&[event(31)]).unwrap_err().to_string();
    assert_eq!(error, "an init-script-hash event must be 32 bytes, got 31");
}

#[test]
fn platform_evidence_that_does_not_parse_has_no_identity() {
    let stack = |platform| Evidence {
        platform,
        ..Evidence::new_tdx(vec![], vec![], vec![], crate::binding::ReportData::ZERO, String::new())
    };
    let snp = |report: Vec<u8>, mr_config: &str| Platform::SevSnp {
        report,
        cert_chain: vec![],
        mr_config: mr_config.into(),
    };
    let mut report = vec![0; 1184];
    report[0] = 3;
    let nitro = |hex: &str| Platform::NitroEnclave { nsm_quote: hex::decode(hex).unwrap() };
    let nitro_tpm = |hex: &str| Platform::AwsNitroTpm { attestation_doc: hex::decode(hex).unwrap() };
    let document = "the Nitro attestation document";
    let cases = [
        (snp(vec![0; 100], "{}"), "a SEV-SNP report must be 1184 bytes, got 100".into()),
        (snp(vec![0; 1184], "{}"), "a SEV-SNP report must be of version 2 or 3, got 0".into()),
        (snp(report, "{}"), "the mr_config document does not parse: ".into()),
        (nitro("a0"), format!("{document} does not parse: expected a COSE_Sign1 document")),
        (nitro("8440a0"), format!("{document} does not parse: the input ends inside a value")),
        (nitro("8440a041a040"), format!("{document} has no 48-byte PCR 0")),
        (nitro("d28440a041a040"), format!("{document} has no 48-byte PCR 0")),
        (nitro("8440a041bf40"), format!("{document} does not parse: the input ends inside a value")),
        (nitro("8440a043a1614140"), format!("{document} does not parse: ")),
        (nitro("8440a04aa1657063727300f600000040"), format!("{document} does not parse: ")),
        (
            nitro(&format!("8440{}", "81".repeat(40))),
            format!("{document} does not parse: nested deeper than 16"),
        ),
        (nitro("8440a05bffffffffffffffff"), format!("{document} does not parse: the input ends")),
        (nitro("84401c"), format!("{document} does not parse: a reserved form of value")),
        (nitro_tpm("8440a041a040"), format!("{document} has no 48-byte PCR 4")),
    ];
    for (platform, text) in cases {
        let error = stack(platform).unverified_app_info(Registers::RunTime).unwrap_err().to_string();
        assert!(error.starts_with(&text), "{error} instead of {text}");
    }
}

#[test]
fn the_nitro_tpm_is_measured_by_its_boot_registers_and_events() {
    let map: Vec<u8> =
        [4u8, 7, 12].iter().flat_map(|pcr| [vec![*pcr, 0x58, 48], vec![*pcr; 48]].concat()).collect();
    let payload = [vec![0xa1, 0x6d], b"nitrotpm_pcrs".to_vec(), vec![0xa3], map].concat();
    let document = [vec![0x84, 0x40, 0xa0, 0x58, payload.len() as u8], payload, vec![0x40]].concat();
    let events =
        vec![RuntimeEvent { event: "app-id".into(), payload: vec![9; 20], version: EventVersion::V1 }];
    let replayed = replay_rtmr3(&events, Until::End);
    let mut evidence =
        Evidence::new_tdx(vec![], events, vec![], crate::binding::ReportData::ZERO, String::new());
    evidence.platform = Platform::AwsNitroTpm { attestation_doc: document };
    let identity = evidence.unverified_app_info(Registers::RunTime).unwrap();
    let boot = [[4u8; 48], [7; 48], [12; 48]].concat();
    assert_eq!(identity.app_id, [9; 20]);
    assert_eq!(identity.mr_system, sha256(&[&boot, &[0; 32]]));
    assert_eq!(identity.mr_aggregated, sha256(&[&boot, &replayed]));
}
