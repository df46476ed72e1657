//! Certificates with evidence, as in TLS handshakes and responses of a KMS.

use std::sync::LazyLock;

use kms_attest::certificate::{self, CertificateSpec, Role, Validity};
use kms_attest::evidence::Evidence;
use kms_attest::identity::{AppId, AppInfo};
use kms_attest::p256::P256Key;
use kms_attest::ra_tls::{app_id_in, app_info_in, evidence_in, special_usage, spki_of};

use super::evidence::{check, check_app_info};

static KEY: LazyLock<P256Key> =
    LazyLock::new(|| P256Key::from_scalar(&[7; 32]).expect("the scalar is in range"));

/// Input that begins like DER is parsed as a certificate; other input is put into extensions of one.
pub fn ra_tls_certificate(data: &[u8]) {
    match data.first() {
        Some(0x30) => read(data),
        _ => carry(data),
    }
}

/// A certificate that any function accepts has a key and no trailing bytes.
fn read(data: &[u8]) {
    let spki = spki_of(data);
    let evidence = evidence_in(data);
    if let Ok(Some(evidence)) = &evidence {
        check(evidence);
    }
    let app_info = app_info_in(data);
    if let Ok(Some(app_info)) = &app_info {
        check_app_info(app_info);
    }
    let any = evidence.is_ok() || app_info.is_ok() || special_usage(data).is_ok() || app_id_in(data).is_ok();
    if any && spki.is_ok() {
        let spki = spki.unwrap_or_default();
        assert!(data.windows(spki.len()).any(|part| part == spki), "the key stands in the certificate");
        assert!(spki_of(&[data, &[0]].concat()).is_err(), "something stands behind the certificate");
    }
}

/// The content of an extension decodes as it would without the certificate.
fn carry(data: &[u8]) {
    let text = std::str::from_utf8(data).ok();
    let spec = CertificateSpec {
        organization: None,
        common_name: "fuzz",
        names: &[],
        validity: Validity { not_before: 0, not_after: 1 },
        role: Role::LEAF,
        app_id: Some(data),
        app_info: Some(data),
        usage: text,
        evidence: Some(data),
    };
    let certificate = certificate::self_signed(&spec, &KEY).expect("the certificate can be expressed");
    assert_eq!(spki_of(&certificate).expect("it has a key"), KEY.spki_der());
    assert_eq!(special_usage(&certificate).expect("usage is text or absent").as_deref(), text);
    assert_eq!(app_id_in(&certificate).ok().flatten(), AppId::try_from(data).ok());
    assert_eq!(app_info_in(&certificate).ok().flatten(), AppInfo::from_msgpack(data).ok());
    assert!(evidence_in(&certificate).ok().flatten() == Evidence::decode(data).ok(), "other evidence");
}
