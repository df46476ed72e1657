//! RA-TLS certificates: X.509 certificates with evidence and other private extensions.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::asn1_rs::{Any, FromDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::X509Version;

use crate::certificate::{self, CertificateError, CertificateSpec, Issuer, LONG_AGO, Role, Validity, oid};
use crate::evidence::{Evidence, EvidenceError, Platform};
use crate::identity::{AppId, AppIdLength, AppInfo, AppInfoError, Registers};
use crate::p256::P256Key;

/// Maximum length of a certificate, bytes. TLS allows at most 64 KiB; responses of a KMS may contain larger
/// ones.
pub const MAX_CERTIFICATE: usize = 1024 * 1024;

/// Subject `CN` of client certificates.
const CLIENT_NAME: &str = "RA-TLS TEMP Cert";

/// Validity of client certificates. In practice their evidence's collateral expires much earlier.
const CLIENT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Why a certificate cannot be read or issued.
#[derive(Debug, thiserror::Error)]
pub enum RaTlsError {
    /// Longer than [`MAX_CERTIFICATE`].
    #[error("a certificate must be at most {MAX_CERTIFICATE} bytes, got {0}")]
    TooLarge(usize),
    /// Not a certificate.
    #[error("the certificate does not parse")]
    Malformed,
    /// An extension that occurs twice.
    #[error("the {0} extension is in the certificate twice")]
    Duplicate(&'static str),
    /// An extension whose payload is not wrapped in an OCTET STRING of its own.
    #[error("the {0} extension does not hold an OCTET STRING")]
    NotOctetString(&'static str),
    /// A legacy quote without its event log.
    #[error("TDX event log missing")]
    EventLogMissing,
    /// Evidence that does not decode.
    #[error("the attestation extension: {0}")]
    Evidence(#[from] EvidenceError),
    /// A special usage that is not text.
    #[error("the special usage extension is not UTF-8")]
    UsageNotUtf8,
    /// An app id of the wrong length.
    #[error("the app id extension: {0}")]
    AppId(#[from] AppIdLength),
    /// App info that does not decode.
    #[error("the app info extension: {0}")]
    AppInfo(#[from] AppInfoError),
    /// A certificate that cannot be issued.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A private extension: its object identifier, and its name in messages.
struct Extension {
    oid: &'static [u64],
    name: &'static str,
}

const TDX_QUOTE: Extension = Extension { oid: oid::TDX_QUOTE, name: "TDX quote" };
const EVENT_LOG: Extension = Extension { oid: oid::EVENT_LOG, name: "event log" };
const APP_ID: Extension = Extension { oid: oid::APP_ID, name: "app id" };
const SPECIAL_USAGE: Extension = Extension { oid: oid::SPECIAL_USAGE, name: "special usage" };
const ATTESTATION: Extension = Extension { oid: oid::ATTESTATION, name: "attestation" };
const APP_INFO: Extension = Extension { oid: oid::APP_INFO, name: "app info" };

/// Limits of certificates whose evidence is kept decoded; a guest's has about 9 KiB and 40 events. Decoded
/// evidence can be many times larger than its bytes, and anyone may open a connection.
const MAX_KEPT_BYTES: usize = 16 * 1024;
const MAX_KEPT_EVENTS: usize = 128;

/// A certificate, parsed once for all that a connection needs.
#[derive(Debug)]
pub struct ParsedCertificate {
    der: Vec<u8>,
    is_version_3: bool,
    not_before: i64,
    not_after: i64,
    spki: Result<Vec<u8>, RaTlsError>,
    has_evidence: bool,
    /// The decoded evidence, if it is small.
    evidence: Option<Arc<Evidence>>,
}

impl ParsedCertificate {
    /// Parses a certificate and decodes the evidence in it.
    ///
    /// # Errors
    /// [`RaTlsError::TooLarge`], [`RaTlsError::Malformed`]. Errors in its key or evidence are returned by the
    /// methods that read those.
    pub fn parse(der: &[u8]) -> Result<Self, RaTlsError> {
        let certificate = parse(der)?;
        let validity = certificate.validity();
        let evidence = evidence(&certificate).ok().flatten();
        Ok(Self {
            is_version_3: certificate.version() == X509Version::V3,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            spki: spki(&certificate),
            has_evidence: evidence.is_some(),
            evidence: evidence.filter(|evidence| is_kept(der, evidence)).map(Arc::new),
            der: der.to_vec(),
        })
    }

    /// The DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether it is an X.509 version 3 certificate.
    pub fn is_version_3(&self) -> bool {
        self.is_version_3
    }

    /// `notBefore`, Unix seconds.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// `notAfter`, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The SubjectPublicKeyInfo, as [`spki_of`].
    ///
    /// # Errors
    /// As [`spki_of`].
    pub fn spki(&self) -> Result<&[u8], &RaTlsError> {
        self.spki.as_deref()
    }

    /// Whether it contains evidence that decodes.
    pub fn has_evidence(&self) -> bool {
        self.has_evidence
    }

    /// The app that the evidence names, which is not verified. Only evidence that is small is asked.
    pub fn claimed_app(&self) -> Option<AppId> {
        let app_info = self.evidence.as_ref()?.unverified_app_info(Registers::BootTime).ok()?;
        AppId::try_from(app_info.app_id.as_slice()).ok()
    }

    /// The evidence, as [`evidence_in`]. Small evidence is not decoded again.
    ///
    /// # Errors
    /// As [`evidence_in`].
    pub fn evidence(&self) -> Result<Option<Arc<Evidence>>, RaTlsError> {
        match &self.evidence {
            Some(evidence) => Ok(Some(Arc::clone(evidence))),
            None => Ok(evidence_in(&self.der)?.map(Arc::new)),
        }
    }
}

fn is_kept(certificate: &[u8], evidence: &Evidence) -> bool {
    // Evidence of other platforms has further lists, and is refused anyway.
    let Platform::Tdx(tdx) = &evidence.platform else { return false };
    let events = tdx.event_log.len().saturating_add(evidence.stack.runtime_events.len());
    certificate.len() <= MAX_KEPT_BYTES && events <= MAX_KEPT_EVENTS
}

/// The evidence in a certificate: the attestation extension, otherwise the legacy extensions with a quote and
/// its event log.
pub fn evidence_in(certificate: &[u8]) -> Result<Option<Evidence>, RaTlsError> {
    evidence(&parse(certificate)?)
}

fn evidence(certificate: &X509Certificate<'_>) -> Result<Option<Evidence>, RaTlsError> {
    if let Some(attestation) = payload(certificate, &ATTESTATION)? {
        return Ok(Some(Evidence::decode(attestation)?));
    }
    let Some(quote) = payload(certificate, &TDX_QUOTE)? else { return Ok(None) };
    let event_log = payload(certificate, &EVENT_LOG)?.ok_or(RaTlsError::EventLogMissing)?;
    Ok(Some(Evidence::from_legacy(quote, event_log).map_err(EvidenceError::from)?))
}

/// The special usage of a certificate, such as `kms:rpc`.
pub fn special_usage(certificate: &[u8]) -> Result<Option<String>, RaTlsError> {
    let certificate = parse(certificate)?;
    let usage = payload(&certificate, &SPECIAL_USAGE)?;
    usage.map(|usage| String::from_utf8(usage.to_vec()).map_err(|_| RaTlsError::UsageNotUtf8)).transpose()
}

/// The app id in a certificate: a claim of its issuer.
pub fn app_id_in(certificate: &[u8]) -> Result<Option<AppId>, RaTlsError> {
    let certificate = parse(certificate)?;
    let app_id = payload(&certificate, &APP_ID)?;
    Ok(app_id.map(AppId::try_from).transpose()?)
}

/// The app info in a certificate: the identity that its issuer saw.
pub fn app_info_in(certificate: &[u8]) -> Result<Option<AppInfo>, RaTlsError> {
    let certificate = parse(certificate)?;
    let app_info = payload(&certificate, &APP_INFO)?;
    Ok(app_info.map(AppInfo::from_msgpack).transpose()?)
}

/// The SubjectPublicKeyInfo of a certificate, byte for byte.
pub fn spki_of(certificate: &[u8]) -> Result<Vec<u8>, RaTlsError> {
    spki(&parse(certificate)?)
}

fn spki(certificate: &X509Certificate<'_>) -> Result<Vec<u8>, RaTlsError> {
    let spki = certificate.tbs_certificate.subject_pki.raw;
    match Any::from_der(spki) {
        Ok(([], _)) => Ok(spki.to_vec()),
        _ => Err(RaTlsError::Malformed),
    }
}

/// A client certificate of `key`, issued by the temporary CA. That CA's key is public; what proves the
/// identity is the evidence, whose report data must be bound to `key`.
pub fn client_certificate(
    temp_ca_cert_pem: &str,
    temp_ca_key: &P256Key,
    key: &P256Key,
    evidence: &Evidence,
) -> Result<Vec<u8>, RaTlsError> {
    let issuer = Issuer::from_pem(temp_ca_cert_pem, temp_ca_key)?;
    let evidence = evidence.stripped().encode();
    Ok(certificate::issue(&client_spec(&evidence), &key.spki_der(), &issuer)?)
}

/// A self-signed certificate of `key` with evidence whose report data must be bound to `key`.
pub fn self_issued_certificate(key: &P256Key, evidence: &Evidence) -> Result<Vec<u8>, RaTlsError> {
    let evidence = evidence.stripped().encode();
    Ok(certificate::self_signed(&client_spec(&evidence), key)?)
}

fn client_spec(evidence: &[u8]) -> CertificateSpec<'_> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let not_after = now.saturating_add(CLIENT_LIFETIME).as_secs();
    CertificateSpec {
        organization: None,
        common_name: CLIENT_NAME,
        names: &[],
        validity: Validity { not_before: LONG_AGO, not_after },
        role: Role::LEAF,
        app_id: None,
        app_info: None,
        usage: None,
        evidence: Some(evidence),
    }
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, RaTlsError> {
    if certificate.len() > MAX_CERTIFICATE {
        return Err(RaTlsError::TooLarge(certificate.len()));
    }
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(RaTlsError::Malformed),
    }
}

/// The payload of an extension that may occur once: the OCTET STRING inside the extension's own OCTET STRING.
fn payload<'a>(
    certificate: &X509Certificate<'a>,
    extension: &Extension,
) -> Result<Option<&'a [u8]>, RaTlsError> {
    let mut found = certificate.extensions().iter().filter(|found| oid::is(&found.oid, extension.oid));
    let Some(first) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(RaTlsError::Duplicate(extension.name));
    }
    match <&[u8]>::from_der(first.value) {
        Ok(([], payload)) => Ok(Some(payload)),
        _ => Err(RaTlsError::NotOctetString(extension.name)),
    }
}

#[cfg(test)]
mod tests;
