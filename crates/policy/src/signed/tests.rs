//! Two responses that openssl has signed, and invalid ones.

use std::time::Duration;

use super::*;

/// The key of RFC 8032, section 7.1, test 1.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                   -----END PRIVATE KEY-----\n";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const BODY: &[u8] = br#"{"appId":"1111111111111111111111111111111111111111"}"#;
const DIGEST: &str = "4c2b2ac5c9139a65a4f93a3d732c94ad85faba5223c150ef2ae998ab6d9c7c7e";
const NONCE: &str = "000102030405060708090a0b0c0d0e0f";
const EXPIRES: u64 = 1_760_000_000;
const ALLOWED: &str = "bbd5e83c3d2687ee914d623052d6ccc37e4bb6a6920a7087909b8f8f4ee9d07a\
                       82e341d80f937daee4edb006e7c7f846eaf3b2fb6849ecbebcbaa5e562a93302";
const DENIED: &str = "676d4a7052b0715e6df8ae5ca4506a96451a04cc70838f69c6f32075deee8322\
                      4255343abbcc195c0ed5ca1f25277752402f6c97d196eb1b609edf78af2cf60d";

const ALLOW: Claims<'_> =
    Claims { is_allowed: true, gateway_app_id: "any", reason: "", release_stage: None, epochs: None };
const DENY: Claims<'_> =
    Claims {
        is_allowed: false, gateway_app_id: "", reason: "grün nicht", release_stage: None, epochs: None
    };

fn nonce() -> Nonce {
    Nonce::parse(NONCE).unwrap()
}

fn key() -> DecisionKey {
    DecisionKey::parse(PUBLIC).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn signature(ed25519: &str) -> Signature {
    Signature {
        request_sha256: DIGEST.to_owned(),
        nonce: NONCE.to_owned(),
        expires: EXPIRES,
        ed25519: ed25519.to_owned(),
    }
}

#[test]
fn what_openssl_signs_is_what_we_sign_and_verify() {
    let signer = DecisionSigner::from_pem(PEM.as_bytes()).unwrap();
    assert_eq!(signer.public_key(), key());
    for (kind, answer, known) in [(SubjectKind::App, ALLOW, ALLOWED), (SubjectKind::Kms, DENY, DENIED)] {
        let nonce = nonce();
        let question = SignedRequest { kind, body: BODY, nonce: &nonce };
        assert_eq!(signer.sign(question, answer, EXPIRES), signature(known));
        for now in [0, EXPIRES - 1, EXPIRES] {
            assert_eq!(verify(&key(), question, answer, Some(&signature(known)), at(now)), Ok(()));
        }
    }
    let text =
        statement(SignedRequest { kind: SubjectKind::App, body: BODY, nonce: &nonce() }, ALLOW, EXPIRES);
    let expected = format!("cvm-kms decision v1\napp\n{DIGEST}\n{NONCE}\n1760000000\nallow\n616e79\n\n");
    assert_eq!(text, expected);
}

#[test]
fn the_example_in_the_documentation_is_the_known_answer() {
    let documentation = include_str!("../../../../docs/configuration.md");
    let statement =
        statement(SignedRequest { kind: SubjectKind::App, body: BODY, nonce: &nonce() }, ALLOW, EXPIRES);
    assert!(documentation.contains(&format!("```text\n{statement}```")), "the statement");
    let body = std::str::from_utf8(BODY).unwrap();
    for part in [ALLOWED, PUBLIC, DIGEST, NONCE, body, &EXPIRES.to_string()] {
        assert!(documentation.contains(part), "{part}");
    }
}

#[test]
fn a_stage_is_an_additional_line_in_version_2() {
    let nonce = nonce();
    let question = SignedRequest { kind: SubjectKind::App, body: BODY, nonce: &nonce };
    let answer = Claims { release_stage: Some(ReleaseStage::Boot), ..ALLOW };
    let text = statement(question, answer, EXPIRES);
    let expected =
        format!("cvm-kms decision v2\napp\n{DIGEST}\n{NONCE}\n1760000000\nallow\n616e79\n\nboot\n");
    assert_eq!(text, expected);
    // Signatures of Ed25519 are deterministic.
    let signer = DecisionSigner::from_pem(PEM.as_bytes()).unwrap();
    let signed = signer.sign(question, answer, EXPIRES);
    assert_eq!(verify(&key(), question, answer, Some(&signed), at(EXPIRES)), Ok(()));
    for other in [None, Some(ReleaseStage::Any)] {
        let other = Claims { release_stage: other, ..ALLOW };
        let outcome = verify(&key(), question, other, Some(&signed), at(EXPIRES));
        assert_eq!(outcome, Err(SignatureError::WrongKey), "{other:?}");
        let outcome =
            verify(&key(), question, answer, Some(&signer.sign(question, other, EXPIRES)), at(EXPIRES));
        assert_eq!(outcome, Err(SignatureError::WrongKey), "{other:?}");
    }
}

#[test]
fn epochs_are_two_additional_lines_in_version_3() {
    use crate::epochs::{AppEpochs, RootChoice};
    let nonce = nonce();
    let question = SignedRequest { kind: SubjectKind::App, body: BODY, nonce: &nonce };
    let epochs = AppEpochs { root: Some(RootChoice::Current), app: Some(1), readable: None };
    for (release_stage, line) in [(None, "-"), (Some(ReleaseStage::Any), "any")] {
        let answer = Claims { release_stage, epochs: Some(&epochs), ..ALLOW };
        let expected = format!(
            "cvm-kms decision v3\napp\n{DIGEST}\n{NONCE}\n1760000000\nallow\n616e79\n\n{line}\nrootEpoch current, \
             appEpoch 1\n"
        );
        assert_eq!(statement(question, answer, EXPIRES), expected);
    }
}

#[test]
fn nothing_else_is_vouched_for() {
    use SignatureError::*;
    let (nonce, other_nonce) = (nonce(), Nonce::parse("0f").unwrap());
    let asked = SignedRequest { kind: SubjectKind::App, body: BODY, nonce: &nonce };
    let good = signature(ALLOWED);
    let check = |question, answer, signature: Option<&Signature>, now| {
        verify(&key(), question, answer, signature, at(now)).unwrap_err()
    };
    assert_eq!(check(asked, ALLOW, None, EXPIRES), Missing);
    assert_eq!(check(asked, ALLOW, Some(&good), EXPIRES + 1), Expired);
    assert_eq!(check(SignedRequest { body: b"{}", ..asked }, ALLOW, Some(&good), EXPIRES), OtherRequest);
    assert_eq!(check(SignedRequest { nonce: &other_nonce, ..asked }, ALLOW, Some(&good), EXPIRES), Replayed);
    assert_eq!(
        check(SignedRequest { kind: SubjectKind::Kms, ..asked }, ALLOW, Some(&good), EXPIRES),
        WrongKey
    );
    for answer in [
        Claims { is_allowed: false, ..ALLOW },
        Claims { gateway_app_id: "anyone", ..ALLOW },
        Claims { reason: "x", ..ALLOW },
        DENY,
    ] {
        assert_eq!(check(asked, answer, Some(&good), EXPIRES), WrongKey, "{answer:?}");
    }
    for signature in [
        Signature { ed25519: DENIED.to_owned(), ..good.clone() },
        Signature { ed25519: String::new(), ..good.clone() },
        Signature { ed25519: "zz".repeat(64), ..good.clone() },
        Signature { ed25519: ALLOWED[2..].to_owned(), ..good.clone() },
        Signature { expires: EXPIRES + 60, ..good.clone() },
    ] {
        assert_eq!(check(asked, ALLOW, Some(&signature), EXPIRES), WrongKey);
    }
    // The fields of the signature about the request are checked too.
    let relabelled = Signature { request_sha256: digest(b"{}"), ..good.clone() };
    assert_eq!(check(SignedRequest { body: b"{}", ..asked }, ALLOW, Some(&relabelled), EXPIRES), WrongKey);
    let renonced = Signature { nonce: "0f".to_owned(), ..good.clone() };
    assert_eq!(
        check(SignedRequest { nonce: &other_nonce, ..asked }, ALLOW, Some(&renonced), EXPIRES),
        WrongKey
    );
    let mut other = *key().as_bytes();
    other[0] ^= 1;
    let error = verify(&DecisionKey::from(other), asked, ALLOW, Some(&good), at(EXPIRES));
    assert_eq!(error, Err(WrongKey));
    let largest = Signature { expires: u64::MAX, ..good };
    assert_eq!(check(asked, ALLOW, Some(&largest), u64::from(u32::MAX)), WrongKey);
}

#[test]
fn nonces_are_different_and_bounded() {
    let (one, two) = (Nonce::random().unwrap(), Nonce::random().unwrap());
    assert!(one != two && one.as_str().len() == 32);
    assert_eq!(Nonce::parse(one.as_str()), Some(one));
    for text in ["", "x", "0\n", "0 ", "é", &"0".repeat(65)] {
        assert_eq!(Nonce::parse(text), None, "{text:?}");
    }
}

#[test]
fn a_signing_key_is_an_ed25519_key_in_pem() {
    let p256 = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let cut = PEM.replace("rAMcrn9g", "");
    for pem in ["", "key", p256.as_str(), cut.as_str(), &PEM.replace("PRIVATE", "PUBLIC")] {
        assert!(DecisionSigner::from_pem(pem.as_bytes()).is_err(), "{pem}");
    }
}
