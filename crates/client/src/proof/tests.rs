//! Allowlists and documents: their meaning and their faults.

use super::*;
use crate::proto::GetMetaResponse;
use crate::statement::Signer;

#[test]
fn an_allowlist_is_one_identity_or_several() {
    let value = "ab".repeat(32);
    for (text, count) in [
        (format!(r#"{{"mr_aggregated": "0x{value}"}}"#), 1),
        (format!(r#"[{{"name": "a", "mr_system": ["{value}"]}}, {{"os_image_hash": "{value}"}}]"#), 2),
        (format!(r#" [{{"mr_system": [], "device_id": "{value}", "compose_hash": ["{value}"]}}]"#), 1),
    ] {
        assert_eq!(Identity::parse_list(&text).expect(&text).len(), count);
    }
}

#[test]
fn a_wrong_allowlist_is_named() {
    let value = "ab".repeat(32);
    for (text, expected) in [
        (String::new(), "EOF"),
        ("[]".to_owned(), "there is no identity"),
        ("{}".to_owned(), "identity 1: mr_aggregated, mr_system or os_image_hash is needed"),
        (format!(r#"[{{"mr_system": []}}, {{"device_id": "{value}"}}]"#), "identity 2:"),
        (r#"{"mr_aggregated": "ab"}"#.to_owned(), "\"ab\" is not 32 bytes in hexadecimal"),
        (format!(r#"{{"mrAggregated": "{value}"}}"#), "unknown field `mrAggregated`"),
        (" ".repeat(pins::MAX_BYTES + 1), "longer than"),
    ] {
        let error = Identity::parse_list(&text).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_document_of_another_form_is_refused() {
    for (text, expected) in [
        ("", "EOF"),
        ("{}", "missing field"),
        (r#"{"format": "x", "url": "", "taken_at": 0, "more": 1}"#, "unknown field `more`"),
        (
            r#"{"format": "kms-proof-2", "url": "", "taken_at": 0, "server_certificate": null, "ca_cert": null,
                "meta": null, "env_key": null, "collateral": null, "bootstrap_collateral": null}"#,
            "format is \"kms-proof-2\"",
        ),
    ] {
        let error = Answers::parse(text.as_bytes()).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(matches!(Answers::parse(&vec![b' '; answers::MAX_BYTES + 1]), Err(BundleError::TooLong)));
}

#[test]
fn without_answers_nothing_is_proven() {
    let mut answers = Answers::none("https://kms.example/prpc".to_owned(), 0);
    answers.is_missing("server_certificate", "connection failed");
    let report = examine(&answers, &Pins::default(), &kms_attest::trust::TrustAnchors::intel(), 0);
    assert_eq!(report.verdict(), Verdict::Unknown(Check::Certificate));
    let checks: Vec<Check> = report.steps.iter().map(|step| step.step).collect();
    assert_eq!(checks.len(), 15, "every check is listed once: {checks:?}");
    assert!(report.steps.iter().all(|step| step.outcome != Outcome::Passed));
}

#[test]
fn the_key_of_the_log_is_vouched_for_by_the_k256_key() {
    let (_, vouched, root) = crate::receipt::tests::receipt();
    let step = |change: &dyn Fn(&mut GetMetaResponse)| {
        let mut meta = GetMetaResponse { k256_pubkey: root.as_bytes().to_vec(), ..vouched.clone() };
        change(&mut meta);
        let mut answers = Answers::none("https://kms.example/prpc".to_owned(), 0);
        answers.meta = Some(meta);
        let report = examine(&answers, &Pins::default(), &kms_attest::trust::TrustAnchors::intel(), 0);
        report.steps.into_iter().find(|step| step.step == Check::LogKey)
    };
    let outcome = |change: &dyn Fn(&mut GetMetaResponse)| step(change).map(|step| step.outcome);
    let passed = step(&|_| ()).expect("a step");
    assert_eq!(passed.outcome, Outcome::Passed, "{}", passed.detail);
    assert!(passed.detail.contains("kms.example/cvm-kms/00112233"), "{}", passed.detail);
    let failed = Some(Outcome::Failed);
    for place in 0..vouched.log_key_signature.len() {
        assert_eq!(
            outcome(&|meta| meta.log_key_signature[place] ^= 1),
            failed,
            "byte {place} of the signature"
        );
    }
    assert_eq!(outcome(&|meta| meta.log_key_signature.clear()), failed);
    assert_eq!(outcome(&|meta| meta.log_key.push('A')), failed);
    let another = Signer::of_secret(&[8; 32]).expect("a key");
    assert_eq!(outcome(&|meta| meta.k256_pubkey = another.as_bytes().to_vec()), failed);
    assert_eq!(outcome(&|meta| meta.k256_pubkey.clear()), Some(Outcome::NotChecked));
    assert_eq!(outcome(&|meta| meta.log_key.clear()), None, "a KMS without a log is not refuted");
}
