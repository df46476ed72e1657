//! The known answers of `os_image.json`, a real guest's evidence, and one refusal of each kind.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::codec::cbor::CborError;
use crate::identity::mr_config::host_data;
use crate::platform::command_line::RootfsHashError;
use crate::platform::manifest::UnvouchedError;
use crate::test_vectors;

fn cases() -> Vec<Value> {
    test_vectors::json("os_image.json")["sev_snp"].as_array().unwrap().clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    hex::decode(text(value)).unwrap().try_into().unwrap()
}

/// The launch that an `input` of the vectors describes.
fn launch(input: &Value) -> Result<Launch, LaunchError> {
    let sections = input["ovmf_sections"].as_array().unwrap().iter().map(|section| Section {
        gpa: section["gpa"].as_u64().unwrap(),
        size: section["size"].as_u64().unwrap(),
        kind: section["section_type"].as_u64().unwrap(),
    });
    Ok(Launch {
        image: Image {
            command_line: text(&input["base_cmdline"]).to_owned(),
            ovmf_hash: bytes(&input["ovmf_hash"]),
            kernel_hash: bytes(&input["kernel_hash"]),
            initrd_hash: (input["initrd_hash"] != "").then(|| bytes(&input["initrd_hash"])),
            hashes_table_gpa: input["sev_hashes_table_gpa"].as_u64().unwrap(),
            reset_eip: input["sev_es_reset_eip"].as_u64().unwrap().try_into().unwrap(),
            sections: sections.collect(),
        },
        vcpus: input["vcpus"].as_u64().unwrap().try_into().unwrap(),
        cpu: CpuModel::parse(text(&input["vcpu_type"]))?,
        guest_features: input["guest_features"].as_u64().unwrap(),
    })
}

fn good() -> Launch {
    launch(&cases()[0]["input"]).unwrap()
}

#[test]
fn a_configuration_is_compared_with_a_report_as_by_the_peer() {
    for case in cases().iter().filter(|case| case.get("vm_config").is_some()) {
        let claim = Claim::parse(text(&case["vm_config"])).unwrap();
        let nested = json!({ "kms_urls": [], "vm_config": case["vm_config"] }).to_string();
        assert_eq!(Claim::parse(&nested), Ok(claim.clone()));
        let (measurement, data) = (bytes(&case["measurement"]), bytes(&case["host_data"]));
        assert_eq!(claim.compare(&measurement, &data), Ok(()));
        let refusal = claim.compare(&measurement, &[0; 32]).unwrap_err().to_string();
        assert_eq!(refusal, text(&case["verify_sev_launch_error_wrong_host_data"]));
        assert_eq!(claim.compare(&[0; 48], &data), Err(SevSnpError::Measurement));
        assert_eq!(bytes::<32>(&case["mr_system"]), <[u8; 32]>::from(Sha256::digest(measurement)));
        let both = [&measurement[..], &data].concat();
        assert_eq!(bytes::<32>(&case["mr_aggregated"]), <[u8; 32]>::from(Sha256::digest(both)));
        assert_eq!(host_data(&claim.mr_config), data);
    }
}

#[test]
fn every_part_of_a_launch_counts() {
    let before = good().measurement().unwrap();
    type Change = fn(&mut Launch);
    let changes: [Change; 11] = [
        |launch| launch.image.ovmf_hash[47] ^= 1,
        |launch| launch.image.kernel_hash[31] ^= 1,
        |launch| launch.image.initrd_hash = None,
        |launch| launch.image.command_line.push_str(" quiet"),
        |launch| launch.image.hashes_table_gpa += 16,
        |launch| launch.image.sections.swap(0, 1),
        |launch| launch.image.sections[0].gpa += 4096,
        |launch| launch.image.sections[0].size += 1,
        |launch| launch.vcpus += 1,
        |launch| launch.cpu = CpuModel::parse("EPYC-Genoa").unwrap(),
        |launch| launch.guest_features = 5,
    ];
    let mut seen = vec![before];
    for change in changes {
        let mut launch = good();
        change(&mut launch);
        let measurement = launch.measurement().unwrap();
        assert!(!seen.contains(&measurement));
        seen.push(measurement);
    }
    let mut two = Launch { vcpus: 2, ..good() };
    let before = two.measurement().unwrap();
    two.image.reset_eip += 1;
    assert_ne!(two.measurement().unwrap(), before, "where the second vCPU starts");
    two = good();
    two.image.command_line = format!("  {}\n", two.image.command_line);
    assert_eq!(two.measurement(), good().measurement(), "white space around the command line does not");
}

#[test]
fn launches_out_of_bounds_are_refused() {
    type Change = fn(&mut Launch);
    let section = |kind| Section { gpa: 0, size: 1, kind };
    let cases: [(Change, LaunchError); 15] = [
        (|l| l.vcpus = 0, LaunchError::NoVcpus),
        (|l| l.vcpus = 513, LaunchError::TooManyVcpus),
        (|l| l.guest_features = 0, LaunchError::Zero("guest_features")),
        (|l| l.image.hashes_table_gpa = 0, LaunchError::Zero("hashes_table_gpa")),
        (|l| l.image.reset_eip = 0, LaunchError::Zero("reset_eip")),
        (|l| l.image.sections.clear(), LaunchError::Sections(0)),
        (|l| l.image.sections = vec![l.image.sections[0]; 65], LaunchError::Sections(65)),
        (|l| l.image.sections[1].size = 0, LaunchError::Zero("the size of an ovmf section")),
        (|l| l.image.sections[1].size = u64::MAX, LaunchError::TooManyPages),
        (|l| l.image.sections.truncate(5), LaunchError::NoHashes),
        (|l| l.image.sections[1].kind = 7, LaunchError::SectionType(7)),
        (|l| l.image.sections[0].gpa = u64::MAX - 4095, LaunchError::SectionEnd),
        (|l| l.image.hashes_table_gpa = 0xfff, LaunchError::HashesAcrossPages),
        (
            |l| l.image.command_line = "dstack.rootfs_hash=88".into(),
            LaunchError::RootfsHash(RootfsHashError::NotAHash),
        ),
        (
            |l| l.image.command_line = l.image.command_line.repeat(2),
            LaunchError::RootfsHash(RootfsHashError::Count(2)),
        ),
    ];
    for (change, expected) in cases {
        let mut launch = good();
        change(&mut launch);
        assert_eq!(launch.measurement(), Err(expected));
    }
    let mut most = Launch { vcpus: 512, ..good() };
    most.image.sections = vec![section(1); 63];
    most.image.sections.push(section(16));
    assert!(most.measurement().is_ok());
}

/// A configuration whose parts match each other.
fn configured(document: &[u8], list: &str, measurement: impl FnOnce(&mut Value)) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut value = json!({
        "checksum_file": STANDARD.encode(list), "measurement": STANDARD.encode(document),
        "vcpus": 1, "vcpu_type": "EPYC", "guest_features": 1,
    });
    measurement(&mut value);
    let hash = hex::encode(manifest::image_hash(list.as_bytes()));
    json!({ "os_image_hash": hash, "mr_config": "{}", "sev_snp_measurement": value.to_string() }).to_string()
}

fn listed(document: &[u8]) -> String {
    format!("{}  measurement.snp.cbor\n", hex::encode(Sha256::digest(document)))
}

#[test]
fn configurations_that_do_not_fit_together_are_refused() {
    let document: Vec<u8> = hex::decode(text(&cases()[0]["measurement_snp_cbor"])).unwrap();
    let list = listed(&document);
    assert!(Claim::parse(&configured(&document, &list, |_| ())).is_ok());
    let unlisted = list.replace("snp", "tdx");
    let other = listed(b"another document");
    let longer = [&document[..], &[0xa0]].concat();
    let known = "sev_snp_measurement of known keys only";
    for (config, expected) in [
        (
            configured(&document, &unlisted, |_| ()),
            SevSnpError::Unvouched(UnvouchedError::NotListed(DOCUMENT)),
        ),
        (
            configured(&document, &other, |_| ()),
            SevSnpError::Unvouched(UnvouchedError::DocumentHash {
                name: DOCUMENT,
                listed: hex::encode(Sha256::digest(b"another document")),
                actual: hex::encode(Sha256::digest(&document)),
            }),
        ),
        (configured(&document, &list, |m| m["extra"] = json!(1)), SevSnpError::Config(known)),
        (configured(&document, &list, |m| m["vcpus"] = json!(-1)), SevSnpError::Config(known)),
        (configured(b"\xa0", &listed(b"\xa0"), |_| ()), SevSnpError::Field("version")),
        (configured(&longer, &listed(&longer), |_| ()), SevSnpError::Cbor(CborError::Trailing(1))),
        (
            configured(&document, &list, |m| m["vcpu_type"] = json!("EPYC-Turin")),
            LaunchError::Cpu("EPYC-Turin".into()).into(),
        ),
        ("{}".to_owned(), SevSnpError::Config("os_image_hash")),
        ("[".to_owned(), SevSnpError::Config("the form of JSON")),
        (" ".repeat(MAX_CONFIG + 1), SevSnpError::Config("1 MiB at most")),
    ] {
        assert_eq!(Claim::parse(&config), Err(expected));
    }
    let config = configured(&document, &list, |_| ());
    let named = "\"os_image_hash\":\"";
    let longer = config.replacen(named, &format!("{named}00"), 1);
    assert_eq!(Claim::parse(&longer), Err(SevSnpError::Config("os_image_hash")), "33 bytes");
    let mut other: Value = serde_json::from_str(&config).unwrap();
    other["os_image_hash"] = json!("00".repeat(32));
    assert!(matches!(
        Claim::parse(&other.to_string()),
        Err(SevSnpError::Unvouched(UnvouchedError::ImageHash { .. }))
    ));
}

#[test]
fn documents_that_are_not_of_their_form_are_refused() {
    let good: Vec<u8> = hex::decode(text(&cases()[0]["measurement_snp_cbor"])).unwrap();
    assert!(document::parse(&good).is_ok());
    for cut in 0..good.len() {
        assert!(document::parse(&good[..cut]).is_err(), "{cut} bytes");
    }
    let at = good.windows(8).position(|window| window == b"\x67version").unwrap() + 8;
    let mut other = good.clone();
    other[at] = 2;
    assert_eq!(document::parse(&other), Err(SevSnpError::Version(2)));
    // One field twice in place of two fields.
    let mut twice = good;
    let at = twice.windows(11).position(|window| window == b"initrd_hash").unwrap();
    twice[at..at + 11].copy_from_slice(b"kernel_hash");
    assert_eq!(document::parse(&twice), Err(SevSnpError::Field("kernel_hash")));
}

#[test]
fn a_real_guests_launch_measures_to_what_its_report_says() {
    use crate::evidence::{Evidence, Platform};
    let json = test_vectors::json("fixtures/dstack/sev-snp-attestation.json");
    let evidence = Evidence::decode(&hex::decode(text(&json["attestation"])).unwrap()).unwrap();
    let Platform::SevSnp { report, .. } = &evidence.platform else { panic!("another platform") };
    let claim = Claim::parse(&evidence.stack.config).unwrap();
    let at = |offset: usize, length: usize| report[offset..offset + length].to_vec();
    let (measurement, data) = (at(144, 48).try_into().unwrap(), at(192, 32).try_into().unwrap());
    assert_eq!(claim.compare(&measurement, &data), Ok(()));
}
