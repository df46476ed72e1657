//! Round trips of our certificates, and certificates that must be refused. `tests/vectors.rs` reads the
//! peer's.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::test_vectors::{self, bytes};

fn client(name: &str) -> Value {
    let vectors = test_vectors::json("certs.json");
    let clients = vectors["client_certificates"].as_array().unwrap();
    clients.iter().find(|client| client["name"] == name).unwrap().clone()
}

#[test]
fn legacy_extensions_are_read_with_a_plain_or_compressed_log_and_refused_without_one() {
    let read = |name: &str| evidence_in(&bytes(&client(name)["der"]));
    let evidence = read("ra-client-legacy-oids").unwrap().unwrap();
    assert_eq!((evidence.stack.config.as_str(), evidence.stack.runtime_events.len()), ("", 10));
    assert_eq!(read("ra-client-legacy-oids-gzip-log").unwrap().unwrap(), evidence);
    let error = read("ra-client-legacy-oids-no-log").unwrap_err().to_string();
    assert_eq!(error, "TDX event log missing");
}

fn evidence() -> Evidence {
    Evidence::decode(&test_vectors::file("fixtures/dstack/attestation.bin")).unwrap()
}

fn temp_ca() -> (P256Key, String) {
    let key = P256Key::generate();
    let spec = CertificateSpec {
        organization: Some("Dstack"),
        common_name: "Dstack Client Temp CA",
        names: &[],
        validity: Validity { not_before: LONG_AGO, not_after: 4_000_000_000 },
        role: Role::Ca { path_len: 0 },
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
    };
    let der = certificate::self_signed(&spec, &key).unwrap();
    (key, certificate::pem(&der))
}

#[test]
fn a_client_certificate_holds_its_key_and_stripped_evidence() {
    let (temp_ca_key, temp_ca_pem) = temp_ca();
    let key = P256Key::generate();
    let der = client_certificate(&temp_ca_pem, &temp_ca_key, &key, &evidence()).unwrap();
    assert_eq!(spki_of(&der).unwrap(), key.spki_der());
    assert_eq!(evidence_in(&der).unwrap(), Some(evidence().stripped()));
    let parsed = parse(&der).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=RA-TLS TEMP Cert");
    assert_eq!(parsed.issuer().to_string(), "O=Dstack, CN=Dstack Client Temp CA");
    assert_eq!(parsed.validity().not_before.timestamp() as u64, LONG_AGO);
    let oids: Vec<_> = parsed.extensions().iter().map(|extension| extension.oid.to_id_string()).collect();
    assert_eq!(oids, ["2.5.29.15", "1.3.6.1.4.1.62397.1.8"]);
    let error = client_certificate(&temp_ca_pem, &key, &key, &evidence()).unwrap_err().to_string();
    assert_eq!(error, "CA certificate does not match private key");
}

#[test]
fn a_self_issued_certificate_is_its_own_issuer() {
    let key = P256Key::generate();
    let der = self_issued_certificate(&key, &evidence()).unwrap();
    assert_eq!(evidence_in(&der).unwrap(), Some(evidence().stripped()));
    let parsed = parse(&der).unwrap();
    assert_eq!(parsed.subject(), parsed.issuer());
    parsed.verify_signature(None).unwrap();
}

/// The certificate in the vectors whose special usage is `kms:rpc`.
fn rpc_certificate() -> Vec<u8> {
    let vectors = test_vectors::json("certs.json");
    let mut certificates = vectors["certificates"].as_array().unwrap().iter();
    let rpc = certificates.find(|certificate| certificate["parsed"]["special_usage"] == "kms:rpc");
    bytes(&rpc.unwrap()["der"])
}

fn position(der: &[u8], pattern: &[u8]) -> usize {
    der.windows(pattern.len()).position(|window| window == pattern).unwrap()
}

#[test]
fn extensions_that_do_not_hold_what_they_should_are_refused() {
    let der = rpc_certificate();
    assert_eq!(special_usage(&der).unwrap().unwrap(), "kms:rpc");
    // The tag, the length and the first byte of the text.
    let cases = [
        (0, 0x0c, "the special usage extension does not hold an OCTET STRING"),
        (1, 0x06, "the special usage extension does not hold an OCTET STRING"),
        (2, 0xff, "the special usage extension is not UTF-8"),
    ];
    for (offset, byte, text) in cases {
        let mut damaged = der.clone();
        damaged[position(&der, b"\x04\x07kms:rpc") + offset] = byte;
        assert_eq!(special_usage(&damaged).unwrap_err().to_string(), text);
    }
}

#[test]
fn an_extension_that_is_there_twice_is_refused() {
    // The log's object identifier becomes the quote's.
    let mut der = bytes(&client("ra-client-legacy-oids")["der"]);
    let arc = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xe7, 0x3d, 0x01];
    let log = position(&der, &[&arc, [0x02].as_slice()].concat()) + arc.len();
    der[log] = 1;
    let error = evidence_in(&der).unwrap_err().to_string();
    assert_eq!(error, "the TDX quote extension is in the certificate twice");
}

#[test]
fn an_app_id_of_another_length_is_refused() {
    let key = P256Key::generate();
    let spec = CertificateSpec { app_id: Some(&[1; 19]), app_info: Some(&[0x90]), ..client_spec(&[]) };
    let der = certificate::self_signed(&spec, &key).unwrap();
    let error = app_id_in(&der).unwrap_err().to_string();
    assert_eq!(error, "the app id extension: app_id must be 20 bytes, got 19");
    let error = app_info_in(&der).unwrap_err().to_string();
    assert_eq!(error, "the app info extension: app info must have 8 or 9 elements, got 0");
    let error = evidence_in(&der).unwrap_err().to_string();
    assert_eq!(error, "the attestation extension: attestation is empty");
}

#[test]
fn what_is_not_one_certificate_is_refused() {
    let der = rpc_certificate();
    let cases = [
        (vec![], "the certificate does not parse"),
        (der[..der.len() - 1].to_vec(), "the certificate does not parse"),
        ([der, vec![0]].concat(), "the certificate does not parse"),
        (vec![0; MAX_CERTIFICATE + 1], "a certificate must be at most 1048576 bytes, got 1048577"),
    ];
    for (der, text) in cases {
        assert_eq!(evidence_in(&der).unwrap_err().to_string(), text);
        assert_eq!(spki_of(&der).unwrap_err().to_string(), text);
    }
}

proptest! {
    #[test]
    fn damaged_certificates_never_panic(
        name in prop::sample::select(vec!["ra-client-v0", "ra-client-v1", "ra-client-legacy-oids"]),
        position in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        thread_local!(static CLIENTS: std::collections::HashMap<&'static str, Vec<u8>> =
            ["ra-client-v0", "ra-client-v1", "ra-client-legacy-oids"]
                .into_iter().map(|name| (name, bytes(&client(name)["der"]))).collect());
        let mut der = CLIENTS.with(|clients| clients[name].clone());
        let position = position.index(der.len());
        der[position] = byte;
        if cut {
            der.truncate(position);
        }
        let _ = evidence_in(&der);
        let _ = special_usage(&der);
        let _ = app_id_in(&der);
        let _ = app_info_in(&der);
        let _ = spki_of(&der);
    }
}
