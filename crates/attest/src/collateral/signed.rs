//! Signatures of certificates and CRLs. Validity periods are not checked.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Whether `certificate` is `root` itself or signed by it.
pub(super) fn is_rooted(certificate: &CertificateDer<'_>, root: &CertificateDer<'_>) -> bool {
    certificate == root || is_signed(certificate, root)
}

/// Whether `certificate` is signed by `issuer`, and `issuer` is a CA.
pub(super) fn is_signed(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok((_, certificate)), Ok((_, issuer))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(issuer))
    else {
        return false;
    };
    issuer.is_ca() && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

/// Whether `issuer` signed the CRL.
pub(super) fn crl_is_signed(crl: &[u8], issuer: &CertificateDer<'_>) -> bool {
    let (Ok((_, crl)), Ok((_, issuer))) =
        (CertificateRevocationList::from_der(crl), X509Certificate::from_der(issuer))
    else {
        return false;
    };
    crl.verify_signature(issuer.public_key()).is_ok()
}
