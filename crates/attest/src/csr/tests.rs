//! Requests that must be refused. `tests/vectors.rs` reads the peer's requests.

use proptest::prelude::*;

use super::*;
use crate::test_vectors::{self, bytes};

/// A request in the vectors.
struct Vector {
    version: ApiVersion,
    csr: Vec<u8>,
    signature: Vec<u8>,
}

impl Vector {
    fn parse(&self) -> Result<Csr, CsrError> {
        Csr::parse(self.version, &self.csr, &self.signature)
    }
}

fn vector(name: &str) -> Vector {
    let vectors = test_vectors::json("certs.json");
    let request = vectors["csr"].as_array().unwrap().iter().find(|request| request["name"] == name).unwrap();
    let version = ApiVersion::try_from(request["api_version"].as_u64().unwrap() as u32).unwrap();
    Vector { version, csr: bytes(&request["csr"]), signature: bytes(&request["signature"]) }
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

/// A version 2 request for `spki`, changed by `change`, signed by `key`.
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
        // The confirm word has 18 bytes and the key 93; the organization follows.
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
