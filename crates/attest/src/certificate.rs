//! X.509 certificates in the exact form that every KMS of a cluster issues.
//!
//! They are written with a DER writer instead of a certificate library because the bytes matter: names must
//! be identical on all replicas, extensions keep the peer's order, and keyUsage keeps the peer's two-byte
//! form.

mod asn1;
mod extensions;
pub mod oid;
mod spec;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;
use yasna::models::{GeneralizedTime, ObjectIdentifier, UTCTime};
use yasna::{DERWriter, Tag};

use self::asn1::{IDENTIFIER_LENGTH, first_of_sha256, sequence};
use self::extensions::{GeneralName, extensions, says_anything};
pub use self::spec::{CertificateError, CertificateSpec, Role, Validity};
use crate::p256::P256Key;
use crate::pem;

/// 9999-12-31T23:59:59Z, Unix seconds: the last date in X.509.
pub const LAST_SECOND: u64 = 253_402_300_799;
/// 1975-01-01T00:00:00Z, Unix seconds: the usual notBefore, because guests boot with wrong clocks.
pub const LONG_AGO: u64 = 157_766_400;

const FIRST_YEAR_OF_GENERALIZED_TIME: i32 = 2050;
const PEM_LABEL: &str = "CERTIFICATE";
/// Maximum length of a PEM text, bytes.
const MAX_PEM: usize = 24 * 1024 * 1024;

/// A CA: its name as in its certificate, and its key.
pub struct Issuer<'a> {
    name: Vec<u8>,
    key: &'a P256Key,
}

impl<'a> Issuer<'a> {
    /// The CA of this certificate. `key` must be the certificate's.
    pub fn new(certificate: &[u8], key: &'a P256Key) -> Result<Issuer<'a>, CertificateError> {
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| CertificateError::Certificate)?;
        if !rest.is_empty() {
            return Err(CertificateError::Certificate);
        }
        if parsed.public_key().raw != key.spki_der() {
            return Err(CertificateError::KeyMismatch);
        }
        Ok(Issuer { name: parsed.subject().as_raw().to_vec(), key })
    }

    /// [`new`](Self::new) from PEM.
    pub fn from_pem(certificate: &str, key: &'a P256Key) -> Result<Issuer<'a>, CertificateError> {
        Issuer::new(&der(certificate)?, key)
    }
}

/// A self-signed certificate of `key`, DER.
pub fn self_signed(spec: &CertificateSpec<'_>, key: &P256Key) -> Result<Vec<u8>, CertificateError> {
    sign(spec, &key.spki_der(), &name(spec), key)
}

/// A certificate signed by `issuer`, DER. `subject_spki` (DER) is embedded as given.
pub fn issue(
    spec: &CertificateSpec<'_>,
    subject_spki: &[u8],
    issuer: &Issuer<'_>,
) -> Result<Vec<u8>, CertificateError> {
    sign(spec, subject_spki, &issuer.name, issuer.key)
}

/// A certificate in PEM: 64 columns, LF, with a final LF.
pub fn pem(der: &[u8]) -> String {
    pem::write(PEM_LABEL, STANDARD.encode(der).as_bytes())
}

/// The DER of the first certificate in a PEM text.
pub fn der(text: &str) -> Result<Vec<u8>, CertificateError> {
    if text.len() > MAX_PEM {
        return Err(CertificateError::Pem);
    }
    let der = pem::read(text, PEM_LABEL).flatten().ok_or(CertificateError::Pem)?;
    Ok(der.to_vec())
}

/// Whether the key `spki` (SubjectPublicKeyInfo DER) signed the certificate (DER). Dates are not checked.
pub fn is_signed_by(certificate: &[u8], spki: &[u8]) -> bool {
    match (x509_parser::parse_x509_certificate(certificate), SubjectPublicKeyInfo::from_der(spki)) {
        (Ok(([], certificate)), Ok(([], key))) => certificate.verify_signature(Some(&key)).is_ok(),
        _ => false,
    }
}

/// `notBefore` of the first certificate in a PEM text, Unix seconds; 0 if it is before 1970.
pub fn not_before(pem: &str) -> Result<u64, CertificateError> {
    stated_date(pem, |validity| validity.not_before)
}

/// `notAfter` of the first certificate in a PEM text, Unix seconds; 0 if it is before 1970.
pub fn not_after(pem: &str) -> Result<u64, CertificateError> {
    stated_date(pem, |validity| validity.not_after)
}

/// `notAfter` of a certificate in DER, Unix seconds; 0 if it is before 1970.
pub fn not_after_of(der: &[u8]) -> Result<u64, CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|_| CertificateError::Certificate)?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}

fn stated_date(
    pem: &str,
    choose: impl FnOnce(&x509_parser::certificate::Validity) -> ASN1Time,
) -> Result<u64, CertificateError> {
    let der = der(pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| CertificateError::Certificate)?;
    Ok(u64::try_from(choose(parsed.validity()).timestamp()).unwrap_or(0))
}

fn sign(
    spec: &CertificateSpec<'_>,
    spki: &[u8],
    issuer: &[u8],
    key: &P256Key,
) -> Result<Vec<u8>, CertificateError> {
    let (rest, public_key) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CertificateError::PublicKey)?;
    if !rest.is_empty() {
        return Err(CertificateError::PublicKey);
    }
    let not_before = Date::new(spec.validity.not_before)?;
    let not_after = Date::new(spec.validity.not_after)?;
    let names = spec.names.iter().map(|name| GeneralName::parse(name)).collect::<Result<Vec<_>, _>>()?;

    let to_be_signed = sequence(|tbs| {
        tbs.next().write_tagged(Tag::context(0), |version| version.write_u8(2));
        tbs.next().write_bigint_bytes(&serial(&public_key.subject_public_key.data), true);
        signature_algorithm(tbs.next());
        tbs.next().write_der(issuer);
        tbs.next().write_sequence(|validity| {
            not_before.write(validity.next());
            not_after.write(validity.next());
        });
        tbs.next().write_der(&name(spec));
        tbs.next().write_der(spki);
        if says_anything(spec) {
            tbs.next().write_tagged(Tag::context(3), |outer| {
                outer.write_sequence(|list| extensions(list, spec, &names, spki));
            });
        }
    });
    let signature = key.sign_der(&to_be_signed);
    Ok(sequence(|certificate| {
        certificate.next().write_der(&to_be_signed);
        signature_algorithm(certificate.next());
        certificate.next().write_bitvec_bytes(&signature, signature.len() * 8);
    }))
}

/// A date that X.509 can express.
struct Date(OffsetDateTime);

impl Date {
    fn new(unix: u64) -> Result<Self, CertificateError> {
        if unix > LAST_SECOND {
            return Err(CertificateError::Date(unix));
        }
        let date = i64::try_from(unix).ok().and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
        date.map(Date).ok_or(CertificateError::Date(unix))
    }

    /// UTCTime before 2050, GeneralizedTime from then on (RFC 5280 section 4.1.2.5).
    fn write(&self, writer: DERWriter<'_>) {
        if self.0.year() < FIRST_YEAR_OF_GENERALIZED_TIME {
            writer.write_utctime(&UTCTime::from_datetime(self.0));
        } else {
            writer.write_generalized_time(&GeneralizedTime::from_datetime(self.0));
        }
    }
}

/// The subject: `O` if given, then `CN`, each a UTF8String in its own RDN.
fn name(spec: &CertificateSpec<'_>) -> Vec<u8> {
    sequence(|name| {
        let attributes = [(oid::ORGANIZATION, spec.organization), (oid::COMMON_NAME, Some(spec.common_name))];
        for (oid, value) in attributes {
            let Some(value) = value else { continue };
            name.next().write_set(|attributes| {
                attributes.next().write_sequence(|attribute| {
                    attribute.next().write_oid(&ObjectIdentifier::from_slice(oid));
                    attribute.next().write_utf8_string(value);
                });
            });
        }
    })
}

fn signature_algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|algorithm| {
        algorithm.next().write_oid(&ObjectIdentifier::from_slice(oid::ECDSA_WITH_SHA256));
    });
}

/// The first 20 bytes of SHA-256(public point) with the top bit cleared: the same for every certificate of a
/// key.
fn serial(point: &[u8]) -> [u8; IDENTIFIER_LENGTH] {
    let mut serial = first_of_sha256(point);
    serial[0] &= 0x7f;
    serial
}
