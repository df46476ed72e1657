//! Invalid statements. `tests/vectors.rs` runs the valid ones in `keys.json`.

use serde_json::Value;

use super::*;

pub(crate) fn vectors() -> Value {
    kms_attest::test_vectors::json("keys.json")
}

fn root(vectors: &Value) -> Signer {
    vectors["guest_getkey_chain"][0]["kms_root_public_key"].as_str().expect("text").parse().expect("signer")
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
