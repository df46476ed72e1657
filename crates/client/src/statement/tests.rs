//! The statements of `tests/vectors/keys.json`, and what happens when a bit of one changes.

use serde_json::Value;

use super::*;

pub(crate) fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/keys.json");
    serde_json::from_slice(&std::fs::read(path).expect("vectors")).expect("JSON")
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("text")).expect("hex")
}

fn app_id(value: &Value) -> AppId {
    AppId::try_from(bytes(value).as_slice()).expect("app id")
}

fn root(vectors: &Value) -> Signer {
    vectors["guest_getkey_chain"][0]["kms_root_public_key"].as_str().expect("text").parse().expect("signer")
}

#[test]
fn every_signed_env_key_names_the_root() {
    let vectors = vectors();
    let cases = vectors["env_pubkey_signatures"].as_array().expect("list");
    assert!(!cases.is_empty());
    for case in cases {
        let (id, key) = (app_id(&case["app_id"]), bytes(&case["public_key"]));
        let timestamp: u64 = case["timestamp"].as_str().expect("text").parse().expect("number");
        let (old, new) = (bytes(&case["signature"]), bytes(&case["signature_v1"]));
        assert_eq!(timeless_env_key_signer(id, &key, &old), Ok(root(&vectors)));
        assert_eq!(env_key_signer(id, timestamp, &key, &new), Ok(root(&vectors)));
        assert_ne!(env_key_signer(id, timestamp ^ 1, &key, &new), Ok(root(&vectors)));
        let mut tampered = new.clone();
        tampered[40] ^= 1;
        assert_ne!(env_key_signer(id, timestamp, &key, &tampered), Ok(root(&vectors)));
    }
}

#[test]
fn every_app_key_chain_names_the_root() {
    let vectors = vectors();
    for case in vectors["app_keys"].as_array().expect("list") {
        let secret: [u8; 32] = bytes(&case["k256_key"]).try_into().expect("32 bytes");
        let key = Signer::of_secret(&secret).expect("key");
        assert_eq!(key.to_string(), case["k256_public_key_compressed"]);
        let signature = bytes(&case["k256_signature"]);
        assert_eq!(app_key_signer(app_id(&case["app_id"]), &key, &signature), Ok(root(&vectors)));
    }
}

#[test]
fn published_answers_name_their_signers() {
    let vectors = vectors();
    let mut recovered = 0;
    for case in vectors["published_known_answers"].as_array().expect("list") {
        let Some(expected) = case["recovers_to"].as_str() else { continue };
        let (Some(_), Some(_)) = (case["app_id"].as_str(), case["public_key"].as_str()) else { continue };
        if case["kind"] != "env_pubkey_signature_legacy" {
            continue;
        }
        let signer = timeless_env_key_signer(
            app_id(&case["app_id"]),
            &bytes(&case["public_key"]),
            &bytes(&case["signature"]),
        );
        assert_eq!(signer.expect("signer").to_string(), expected);
        recovered += 1;
    }
    assert!(recovered > 0);
}

#[test]
fn the_bootstrap_statement_is_the_peers() {
    let case = &vectors()["bootstrap_report_data"];
    let k256 = case["k256_pubkey_compressed"].as_str().expect("text").parse().expect("signer");
    let report_data = bootstrap_report_data(&bytes(&case["ca_pubkey_spki_der"]), &k256);
    assert_eq!(report_data.to_string(), case["report_data"]);
}

#[test]
fn what_is_no_signature_names_nobody() {
    let id = AppId([0; 20]);
    let mut signature = vec![1; 65];
    signature[64] = 27;
    assert_eq!(env_key_signer(id, 0, &[], &signature), Err(SignatureError::RecoveryId(27)));
    assert_eq!(env_key_signer(id, 0, &[], &[]), Err(SignatureError::Length(0)));
    assert_eq!(env_key_signer(id, 0, &[], &[0; 65]), Err(SignatureError::Invalid));
    let mut overflow = vec![0xff; 65];
    overflow[64] = 0;
    assert_eq!(env_key_signer(id, 0, &[], &overflow), Err(SignatureError::Invalid));
}

#[test]
fn a_signer_is_a_point_of_the_curve() {
    let root = root(&vectors());
    assert_eq!(format!("0x{root}").parse(), Ok(root));
    for bad in [
        "",
        "02",
        "0x",
        &format!("02{}", "00".repeat(32)),
        &root.to_string()[..64],
        &format!("04{}", "00".repeat(64)),
        "zz",
    ] {
        assert_eq!(bad.parse::<Signer>(), Err(NotASigner), "{bad}");
    }
    assert_eq!(Signer::of_secret(&[0; 32]), Err(NotASigner));
}
