//! Requests against the peer's, and what must be refused.

use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use crate::evidence::Wire;
use crate::test_vectors;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// A request of the vectors, and everything else that is there about it.
struct Vector {
    name: String,
    version: ApiVersion,
    csr: Vec<u8>,
    signature: Vec<u8>,
    about: Value,
}

impl Vector {
    fn parse(&self) -> Result<Csr, CsrError> {
        Csr::parse(self.version, &self.csr, &self.signature)
    }

    fn key(&self) -> P256Key {
        P256Key::from_pem(self.about["leaf_example"]["private_key_pem"].as_str().unwrap()).unwrap()
    }
}

fn vectors() -> Vec<Vector> {
    let vectors = test_vectors::json("certs.json");
    let requests = vectors["csr"].as_array().unwrap();
    assert_eq!(requests.len(), 13);
    let request = |about: &Value| Vector {
        name: about["name"].as_str().unwrap().into(),
        version: ApiVersion::try_from(about["api_version"].as_u64().unwrap() as u32).unwrap(),
        csr: bytes(&about["csr"]),
        signature: bytes(&about["signature"]),
        about: about.clone(),
    };
    requests.iter().map(request).collect()
}

fn vector(name: &str) -> Vector {
    vectors().into_iter().find(|vector| vector.name == name).unwrap()
}

#[test]
fn requests_are_accepted_and_refused_as_by_the_peer() {
    for vector in vectors() {
        let (parsed, name) = (vector.parse(), &vector.name);
        match vector.about.get("verify_error").and_then(Value::as_str) {
            None => assert!(parsed.is_ok(), "{name}: {parsed:?}"),
            Some(reason) => assert_eq!(
                parsed.unwrap_err().to_string(),
                format!("Failed to verify csr signature: {}", reason.to_lowercase()),
                "{name}"
            ),
        }
    }
}

#[test]
fn fields_of_requests_are_the_peers() {
    for vector in vectors() {
        let Some(fields) = vector.about["fields"].as_object() else { continue };
        let (parsed, name) = (vector.parse().unwrap(), &vector.name);
        let config = fields.get("config").unwrap_or(&vector.about["fields"]);
        assert_eq!(parsed.spki, bytes(&fields["pubkey"]), "{name}");
        assert_eq!(parsed.org_name.as_deref(), config["org_name"].as_str(), "{name}");
        assert_eq!(parsed.subject, config["subject"], "{name}");
        assert_eq!(serde_json::json!(parsed.subject_alt_names), config["subject_alt_names"], "{name}");
        assert_eq!(parsed.usage_server_auth, config["usage_server_auth"], "{name}");
        assert_eq!(parsed.usage_client_auth, config["usage_client_auth"], "{name}");
        assert_eq!(parsed.ext_quote, config["ext_quote"], "{name}");
        assert_eq!(parsed.not_before, config["not_before"].as_u64(), "{name}");
        assert_eq!(parsed.not_after, config["not_after"].as_u64(), "{name}");
        if vector.version == ApiVersion::V2 {
            assert_eq!(parsed.ext_app_info, config["ext_app_info"], "{name}");
            let evidence = parsed.evidence.encode();
            assert_eq!(evidence.len() as u64, fields["attestation_len"].as_u64().unwrap(), "{name}");
            assert_eq!(hex::encode(Sha256::digest(&evidence)), fields["attestation_sha256"], "{name}");
        } else {
            assert!(!parsed.ext_app_info);
            let tdx = parsed.evidence.tdx().unwrap();
            assert_eq!(hex::encode(Sha256::digest(&tdx.quote)), fields["quote_sha256"], "{name}");
            assert_eq!(serde_json::to_string(&tdx.event_log).unwrap(), fields["event_log_utf8"], "{name}");
            assert_eq!((parsed.evidence.wire, parsed.evidence.stack.config.as_str()), (Wire::V0, ""));
        }
    }
}

#[test]
fn requests_are_encoded_as_by_the_peer_and_signed_so_that_they_verify() {
    for vector in vectors() {
        if vector.about["fields"].is_null() {
            continue;
        }
        let (parsed, name) = (vector.parse().unwrap(), &vector.name);
        let encoded = match vector.version {
            ApiVersion::V1 => parsed.encode_v1().unwrap(),
            ApiVersion::V2 => parsed.encode_v2(),
        };
        assert!(encoded == vector.csr, "{name}");
        let signature = Csr::sign(&encoded, &vector.key());
        assert_eq!(Csr::parse(vector.version, &encoded, &signature).unwrap(), parsed, "{name}");
    }
}

#[test]
fn an_api_version_is_1_or_2() {
    assert_eq!(ApiVersion::try_from(1), Ok(ApiVersion::V1));
    for number in [0, 3, u32::MAX] {
        let error = ApiVersion::try_from(number).unwrap_err().to_string();
        assert_eq!(error, format!("unsupported api version: {number}"));
    }
}

#[test]
fn version_1_allows_trailing_bytes_that_the_signature_does_not_cover_and_version_2_none() {
    let plain = vector("v1");
    let longer = Vector { csr: [plain.csr.as_slice(), b"xyz"].concat(), ..vector("v1") };
    assert_eq!(longer.parse().unwrap(), plain.parse().unwrap());
    let plain = vector("v2-config0-attestation-v0");
    let longer = Vector { csr: [plain.csr.as_slice(), &[0]].concat(), ..plain };
    let error = longer.parse().unwrap_err().to_string();
    assert_eq!(error, "Failed to parse csr: 1 trailing bytes after the attestation");
}

/// A request of version 2 for `spki`, changed by `change`, and signed by `key`.
fn signed(spki: &[u8], key: &P256Key, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Result<Csr, CsrError> {
    let template = vector("v2-config1-attestation-v0").parse().unwrap();
    let encoded = change(Csr { spki: spki.to_vec(), ..template }.encode_v2());
    Csr::parse(ApiVersion::V2, &encoded, &Csr::sign(&encoded, key))
}

#[test]
fn the_public_key_must_be_a_p256_key_and_nothing_else() {
    let key = P256Key::generate();
    let spki = key.spki_der();
    assert_eq!(signed(&spki, &key, |csr| csr).unwrap().spki, spki);
    // The same key with a compressed point.
    let sign = 2 + (spki[90] & 1);
    let compressed = [&[0x30, 0x39], &spki[2..23], &[0x03, 0x22, 0x00, sign], &spki[27..59]].concat();
    assert_eq!(signed(&compressed, &key, |csr| csr).unwrap().spki, compressed);
    let mut p384 = spki;
    p384[15..23].copy_from_slice(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x06]);
    let mut ecdh = spki;
    ecdh[12] = 0x0c;
    let trailing = [spki.as_slice(), &[0]].concat();
    for other in [&p384, &ecdh, trailing.as_slice(), b"", b"not a key"] {
        let error = signed(other, &key, |csr| csr).unwrap_err().to_string();
        assert!(error.starts_with("Failed to verify csr signature: unsupported algorithm"), "{error}");
    }
    let mut off_curve = spki;
    off_curve[90] ^= 1;
    assert!(matches!(signed(&off_curve, &key, |csr| csr), Err(CsrError::Signature)));
}

#[test]
fn a_request_that_does_not_decode_is_refused_with_the_field() {
    let key = P256Key::generate();
    let refused =
        |change: fn(Vec<u8>) -> Vec<u8>| signed(&key.spki_der(), &key, change).unwrap_err().to_string();
    let cases: [(String, &str); 6] = [
        (refused(|_| vec![]), "Failed to parse csr: confirm: the input ends inside it"),
        (refused(|csr| csr[..60].to_vec()), "Failed to parse csr: pubkey: the input ends inside it"),
        // The confirm word takes 18 bytes, the key 93: then comes the organization.
        (
            refused(|csr| [&csr[..111], &[7], &csr[112..]].concat()),
            "Failed to parse csr: org_name: no variant has the index 7",
        ),
        (
            refused(|csr| [&csr[..111], &[0, 0, 0x05, 0x10]].concat()),
            "Failed to parse csr: subject_alt_names: more than 1024 elements",
        ),
        (refused(|csr| csr[..129].to_vec()), "Failed to parse csr: attestation is empty"),
        (
            refused(|csr| [csr.as_slice(), &[0; 3]].concat()),
            "Failed to parse csr: 3 trailing bytes after the attestation",
        ),
    ];
    for (error, expected) in cases {
        assert_eq!(error, expected);
    }
}

#[test]
fn version_1_cannot_say_evidence_other_than_tdx() {
    let mut csr = vector("v1").parse().unwrap();
    csr.evidence.platform = crate::evidence::Platform::NitroEnclave { nsm_quote: vec![] };
    let error = csr.encode_v1().unwrap_err().to_string();
    assert_eq!(error, "a request of version 1 needs TDX evidence, got nitro-enclave");
}

proptest! {
    #[test]
    fn arbitrary_requests_never_panic_and_are_never_accepted(
        version in prop::sample::select(vec![ApiVersion::V1, ApiVersion::V2]),
        tail in prop::collection::vec(any::<u8>(), 0..300), signature in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut writer = Writer::default();
        writer.text(CONFIRM);
        let csr = [writer.into_bytes(), tail.clone()].concat();
        prop_assert!(Csr::parse(version, &csr, &signature).is_err());
        prop_assert!(Csr::parse(version, &tail, &signature).is_err());
    }
}
