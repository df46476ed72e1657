//! Issued certificates against openssl and webpki. `tests/vectors.rs` compares them with the peer's.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kms_attest::certificate::LAST_SECOND;
use kms_attest::csr::{ApiVersion, Csr};
use kms_attest::identity::Registers;
use kms_attest::test_vectors;
pub(super) use kms_attest::test_vectors::bytes;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use kms_attest::identity::AppId;

use super::*;

const DAY: u64 = 24 * 60 * 60;
/// When the vectors were made: their ten years end at 2110670501.
const THEN: u64 = 2_110_670_501 - 3650 * DAY;

pub(super) fn vectors() -> Value {
    test_vectors::json("certs.json")
}

pub(super) fn at(unix: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix)
}

pub(super) fn request(vectors: &Value, name: &str) -> Csr {
    let case = vectors["csr"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap();
    let version = if case["api_version"] == 1 { ApiVersion::V1 } else { ApiVersion::V2 };
    Csr::parse(version, &bytes(&case["csr"]), &bytes(&case["signature"])).unwrap()
}

fn own_names() -> OwnNames {
    OwnNames::new(&domain(), [])
}

fn domain() -> Domain {
    Domain::parse("kms.example.com").unwrap()
}

#[test]
fn dates_outside_the_life_of_the_app_ca_are_cut_to_it() {
    let vectors = vectors();
    let request =
        Restricted::parse(&request(&vectors, "v2-config2-attestation-v0"), &own_names(), at(THEN)).unwrap();
    assert_eq!(request.validity(), APP_CA.from(at(THEN)));
}

#[test]
fn ca_certificates_are_kept_until_they_are_due_and_renewed_over_the_same_key() {
    let root = RootKeys::generate();
    let first = root_ca(&root, None, at(THEN)).unwrap();
    assert_eq!(first.freshness, Freshness::Renewed);
    let later = THEN + 3284 * DAY;
    let cases = [
        (Some(first.pem.as_str()), later, Freshness::Kept),
        (Some(&first.pem), later + DAY, Freshness::Renewed),
        (Some(&first.pem), LAST_SECOND, Freshness::Renewed),
        (Some("damaged"), THEN, Freshness::Renewed),
        (None, THEN, Freshness::Renewed),
    ];
    for (stored, now, freshness) in cases {
        let current = root_ca(&root, stored, at(now)).unwrap();
        assert_eq!(current.freshness, freshness);
        assert_eq!(current.pem == first.pem, freshness == Freshness::Kept);
        assert!(root_issuer(&root, &current.pem).is_ok());
    }
    let temp = temp_ca(&root, None, at(THEN)).unwrap();
    assert_eq!(
        temp_ca(&root, Some(&temp.pem), at(THEN)).unwrap(),
        CaCertificate { freshness: Freshness::Kept, ..temp }
    );
}

#[test]
fn a_ca_certificate_of_another_key_is_an_error_and_not_renewed() {
    let (root, other) = (RootKeys::generate(), RootKeys::generate());
    let foreign = root_ca(&other, None, at(THEN)).unwrap().pem;
    let error = root_ca(&root, Some(&foreign), at(THEN)).unwrap_err();
    assert_eq!(error.to_string(), "CA certificate does not match private key");
    assert!(root_issuer(&root, &foreign).is_err());
}

/// Certificates as a client and as openssl see them, all valid now.
struct Issued {
    root: String,
    renewed_root: String,
    temp: String,
    rpc: Vec<u8>,
    chain: AppChain,
    client: Vec<u8>,
}

fn issued() -> Issued {
    let now = SystemTime::now();
    let vectors = vectors();
    let root = RootKeys::generate();
    let root_pem = root_ca(&root, None, now).unwrap().pem;
    let issuer = root_issuer(&root, &root_pem).unwrap();
    let mut csr = request(&vectors, "v2-config0-attestation-v0");
    (csr.not_before, csr.not_after) = (None, None);
    let request = Restricted::parse(&csr, &own_names(), now).unwrap();
    let verified = csr.evidence.unverified_app_info(Registers::RunTime).unwrap();
    let temp = temp_ca(&root, None, now).unwrap().pem;
    let client_spec = CertificateSpec {
        organization: None,
        common_name: "RA-TLS TEMP Cert",
        evidence: Some(b"evidence"),
        role: Role::LEAF,
        ..authority("", 0, TEMP_CA.from(now))
    };
    let client_key = P256Key::generate();
    let client_issuer = Issuer::from_pem(&temp, root.temp_ca()).unwrap();
    Issued {
        rpc: rpc_leaf(&issuer, &domain(), &P256Key::generate(), Some(b"evidence"), now).unwrap(),
        chain: app_chain(&issuer, &root, &AppId([7; 20]), &verified, &request, now).unwrap(),
        client: certificate::issue(&client_spec, &client_key.spki_der(), &client_issuer).unwrap(),
        renewed_root: certificate::pem(&root_certificate(&root, now + Duration::from_secs(DAY)).unwrap()),
        root: root_pem,
        temp,
    }
}

#[test]
fn openssl_accepts_the_chains() {
    let issued = issued();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let [leaf_pem, app_ca_pem] = issued.chain.pem();
    let root = write("root.pem", &issued.root);
    let renewed = write("renewed.pem", &issued.renewed_root);
    let temp = write("temp.pem", &issued.temp);
    let app_ca = write("app-ca.pem", &app_ca_pem);
    let leaf = write("leaf.pem", &leaf_pem);
    let rpc = write("rpc.pem", &certificate::pem(&issued.rpc));
    let client = write("client.pem", &certificate::pem(&issued.client));
    let verify = |anchor: &Path, options: &[&str], certificate: &Path| {
        let output = Command::new("openssl")
            .args(["verify", "-no-CApath", "-CAfile"])
            .arg(anchor)
            .args(options)
            .arg(certificate)
            .output()
            .expect("openssl runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let through_app_ca = ["-untrusted", app_ca.to_str().unwrap()];
    let cases: [(&Path, Vec<&str>, &Path, bool); 10] = [
        (&root, vec![], &root, true),
        (&root, vec!["-purpose", "sslserver", "-verify_hostname", "kms.example.com"], &rpc, true),
        (&renewed, vec!["-purpose", "sslserver", "-verify_hostname", "kms.example.com"], &rpc, true),
        (&root, vec!["-verify_hostname", "other.example.com"], &rpc, false),
        (&root, [&through_app_ca[..], &["-verify_hostname", "app-a.example.com"]].concat(), &leaf, true),
        (
            &root,
            [&through_app_ca[..], &["-purpose", "sslserver", "-verify_ip", "2001:db8::1"]].concat(),
            &leaf,
            true,
        ),
        (&root, [&through_app_ca[..], &["-verify_hostname", "kms.example.com"]].concat(), &leaf, false),
        (&root, vec![], &leaf, false),
        (&temp, vec!["-purpose", "sslclient"], &client, true),
        (&root, vec![], &client, false),
    ];
    for (anchor, options, certificate, accepted) in cases {
        let (success, said) = verify(anchor, &options, certificate);
        assert_eq!(success, accepted, "{options:?} {certificate:?}: {said}");
    }
}

#[test]
fn webpki_accepts_the_chains_as_guests_do() {
    let issued = issued();
    let [root, renewed, temp] = [&issued.root, &issued.renewed_root, &issued.temp]
        .map(|pem| CertificateDer::from(certificate::der(pem).unwrap()));
    let app_ca = CertificateDer::from(issued.chain.app_ca);
    let accepts = |anchor: &CertificateDer<'_>, end: &[u8], usage: KeyUsage| {
        let end = CertificateDer::from(end);
        let anchor = anchor_from_trusted_cert(anchor).unwrap();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let between = [app_ca.clone()];
        let end = EndEntityCert::try_from(&end).unwrap();
        end.verify_for_usage(algorithms, &[anchor], &between, UnixTime::now(), usage, None, None).is_ok()
    };
    for anchor in [&root, &renewed] {
        assert!(accepts(anchor, &issued.rpc, KeyUsage::server_auth()));
        assert!(accepts(anchor, &issued.chain.leaf, KeyUsage::server_auth()));
    }
    assert!(accepts(&temp, &issued.client, KeyUsage::client_auth()));
    assert!(!accepts(&root, &issued.client, KeyUsage::client_auth()));
    let rpc = CertificateDer::from(issued.rpc);
    let name = ServerName::try_from("kms.example.com").unwrap();
    assert!(EndEntityCert::try_from(&rpc).unwrap().verify_is_valid_for_subject_name(&name).is_ok());
}

#[test]
fn an_ipv4_domain_becomes_an_address_in_the_certificate() {
    let root = RootKeys::generate();
    let pem = root_ca(&root, None, SystemTime::now()).unwrap().pem;
    let issuer = root_issuer(&root, &pem).unwrap();
    let domain = Domain::parse("10.0.2.2").unwrap();
    let leaf = rpc_leaf(&issuer, &domain, &P256Key::generate(), None, SystemTime::now()).unwrap();
    let leaf = CertificateDer::from(leaf);
    let name = ServerName::try_from("10.0.2.2").unwrap();
    assert!(EndEntityCert::try_from(&leaf).unwrap().verify_is_valid_for_subject_name(&name).is_ok());
}
