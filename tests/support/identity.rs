//! Client certificates, with and without evidence.

use cvm_kms::proto::GetTempCaCertResponse;
use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, CertificateSpec, Issuer, LAST_SECOND, LONG_AGO, Role, Validity};
use kms_attest::evidence::Evidence;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_simulator::Cvm;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

/// A certificate and its key, or none.
#[derive(Clone, Default)]
pub struct Identity(Option<Shown>);

#[derive(Clone)]
pub(super) struct Shown {
    pub(super) certificate: CertificateDer<'static>,
    /// The certificates sent after the leaf.
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) key: Vec<u8>,
}

impl Identity {
    /// No certificate.
    pub fn none() -> Self {
        Self::default()
    }

    /// Any certificate (DER) with its key.
    pub fn of(certificate: Vec<u8>, key: &P256Key) -> Self {
        let key = key.pkcs8_der().to_vec();
        Self(Some(Shown { certificate: certificate.into(), intermediates: Vec::new(), key }))
    }

    /// Adds certificates (DER) after the leaf.
    pub fn followed_by(mut self, intermediates: &[Vec<u8>]) -> Self {
        let shown = self.0.as_mut().expect("a certificate");
        shown.intermediates = intermediates.iter().map(|der| der.clone().into()).collect();
        self
    }

    /// A certificate of the temporary CA with evidence of `cvm` over its key: a guest.
    pub fn attested(temp_ca: &GetTempCaCertResponse, cvm: &Cvm) -> Self {
        let key = P256Key::generate();
        let evidence = cvm.evidence(ReportData::ra_tls(&key.spki_der()));
        Self::with_evidence(temp_ca, &key, &evidence)
    }

    /// SHA-256 of the certificate's SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> [u8; 32] {
        let shown = self.0.as_ref().expect("a certificate");
        Sha256::digest(ra_tls::spki_of(&shown.certificate).expect("a public key")).into()
    }

    /// A certificate of the temporary CA with any evidence, possibly of another CVM.
    pub fn with_evidence(temp_ca: &GetTempCaCertResponse, key: &P256Key, evidence: &Evidence) -> Self {
        Self::with_evidence_bytes(temp_ca, key, &evidence.stripped().encode())
    }

    /// A certificate of the temporary CA with any bytes in place of evidence.
    pub fn with_evidence_bytes(temp_ca: &GetTempCaCertResponse, key: &P256Key, evidence: &[u8]) -> Self {
        let spec = CertificateSpec { evidence: Some(evidence), ..spec() };
        Self::of_temp_ca(temp_ca, &spec, key)
    }

    /// A self-signed certificate with evidence of `cvm` over its key: a guest that needs no temporary CA.
    pub fn self_issued(cvm: &Cvm) -> Self {
        let key = P256Key::generate();
        let evidence = cvm.evidence(ReportData::ra_tls(&key.spki_der()));
        Self::of(ra_tls::self_issued_certificate(&key, &evidence).expect("certificate"), &key)
    }

    /// A certificate of the temporary CA without evidence.
    pub fn unattested(temp_ca: &GetTempCaCertResponse) -> Self {
        Self::of_temp_ca(temp_ca, &spec(), &P256Key::generate())
    }

    /// A certificate of the temporary CA as specified.
    pub fn of_temp_ca(temp_ca: &GetTempCaCertResponse, spec: &CertificateSpec<'_>, key: &P256Key) -> Self {
        let ca_key = P256Key::from_pem(&temp_ca.temp_ca_key).expect("temporary CA key");
        let issuer = Issuer::from_pem(&temp_ca.temp_ca_cert, &ca_key).expect("temporary CA");
        Self::of(certificate::issue(spec, &key.spki_der(), &issuer).expect("certificate"), key)
    }

    /// Certificate and key, PEM each.
    pub fn pem(&self) -> (String, String) {
        let shown = self.0.as_ref().expect("a certificate");
        let key = P256Key::from_pkcs8_der(&shown.key).expect("a key");
        (certificate::pem(&shown.certificate), key.pem().to_string())
    }

    pub(super) fn shown(&self) -> Option<&Shown> {
        self.0.as_ref()
    }
}

impl Shown {
    pub(super) fn key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.key.clone().into()
    }
}

/// CA certificates with the same name, each issued under that name with its own key, with `bytes` in total: a
/// path search would try them in every order. None leads to a root.
pub fn look_alikes(bytes: usize) -> Vec<Vec<u8>> {
    let ca = CertificateSpec { role: Role::Ca { path_len: 255 }, common_name: LOOK_ALIKE, ..spec() };
    let make = || certificate::self_signed(&ca, &P256Key::generate()).expect("certificate");
    let mut made = Vec::new();
    let mut total = 0;
    loop {
        let certificate = make();
        total += certificate.len();
        if total > bytes {
            return made;
        }
        made.push(certificate);
    }
}

/// The name of [`look_alikes`].
pub const LOOK_ALIKE: &str = "look alike";

/// The specification of a guest's certificate, without evidence.
pub fn spec() -> CertificateSpec<'static> {
    CertificateSpec {
        organization: None,
        common_name: "RA-TLS TEMP Cert",
        names: &[],
        validity: Validity { not_before: LONG_AGO, not_after: LAST_SECOND },
        role: Role::LEAF,
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
    }
}
