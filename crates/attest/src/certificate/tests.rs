//! Invalid certificates and issuers. `tests/vectors.rs` compares the peer's certificates.

use super::*;

fn plain<'a>(names: &'a [String], not_after: u64) -> CertificateSpec<'a> {
    CertificateSpec {
        organization: None,
        common_name: "x",
        names,
        validity: Validity { not_before: LONG_AGO, not_after },
        role: Role::LEAF,
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
    }
}

#[test]
fn what_x509_cannot_express_is_refused() {
    let key = P256Key::generate();
    assert!(self_signed(&plain(&[], LAST_SECOND), &key).is_ok());
    for date in [LAST_SECOND + 1, u64::MAX] {
        assert_eq!(self_signed(&plain(&[], date), &key).err(), Some(CertificateError::Date(date)));
    }
    let names = ["bücher.example".to_owned()];
    assert_eq!(self_signed(&plain(&names, 0), &key).err(), Some(CertificateError::Name));
    let certificate = self_signed(&plain(&[], LAST_SECOND), &key).unwrap();
    let issuer = Issuer::new(&certificate, &key).unwrap();
    for spki in [&b""[..], &[0x30, 0x00], &[&key.spki_der()[..], &[0]].concat()] {
        assert_eq!(issue(&plain(&[], 0), spki, &issuer).err(), Some(CertificateError::PublicKey));
    }
}

#[test]
fn an_issuer_needs_its_own_certificate() {
    let key = P256Key::generate();
    let certificate = self_signed(&plain(&[], LAST_SECOND), &key).unwrap();
    let with_tail = [&certificate[..], &[0]].concat();
    let cases = [
        (&certificate[..], &P256Key::generate(), CertificateError::KeyMismatch),
        (&certificate[1..], &key, CertificateError::Certificate),
        (&with_tail, &key, CertificateError::Certificate),
    ];
    for (certificate, key, error) in cases {
        assert_eq!(Issuer::new(certificate, key).err(), Some(error));
    }
    assert_eq!(Issuer::from_pem("nothing", &key).err(), Some(CertificateError::Pem));
}
