//! The certificates that this KMS issues: root CA, temporary CA, RPC leaf, app CA and app leaf.

mod lifetimes;
mod restrictions;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use kms_attest::certificate::{self, CertificateError, CertificateSpec, Issuer, Role, Validity};
use kms_attest::identity::AppInfo;
use kms_attest::p256::P256Key;

pub use self::lifetimes::{APP_CA, APP_LEAF, Lifetime, ROOT_CA, RPC_LEAF, TEMP_CA};
pub use self::restrictions::{OwnNames, Restricted, RestrictionError};
use crate::domain::Domain;
use crate::keys::RootKeys;
use crate::keys::derive::{self, AppAt, DeriveError};

const ORGANIZATION: &str = "Dstack";
const ROOT_CA_NAME: &str = "Dstack KMS CA";
const TEMP_CA_NAME: &str = "Dstack Client Temp CA";
const APP_CA_NAME: &str = "Dstack App CA";
const RPC_USAGE: &str = "kms:rpc";
const APP_CA_USAGE: &str = "app:ca";
/// The usage in every app leaf, whatever its request says: never `kms:rpc`.
const APP_USAGE: &str = "app:custom";

/// Why a certificate cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The app's CA key does not exist.
    #[error(transparent)]
    Derive(#[from] DeriveError),
    /// The stored CA certificate belongs to another key, or a field cannot be encoded.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A CA certificate, as stored or as renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    /// PEM: the stored text verbatim, or a new one.
    pub pem: String,
    /// Whether it has to be written.
    pub freshness: Freshness,
}

/// Where a [`CaCertificate`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The stored certificate.
    Kept,
    /// A new certificate, because none was stored or the stored one expires soon: it must be written.
    Renewed,
}

/// The issue time that a certificate (PEM) states, in Unix seconds; 0 where it states none.
pub fn issued(pem: &str) -> u64 {
    certificate::not_before(pem).unwrap_or(0)
}

/// The chain that `SignCert` returns, without the root: its text is the stored one.
#[derive(Debug, Clone)]
pub struct AppChain {
    /// The app's leaf, DER.
    pub leaf: Vec<u8>,
    /// The app's CA, DER: same key and serial each time.
    pub app_ca: Vec<u8>,
}

impl AppChain {
    /// Leaf and app CA as PEM, in the order of the reply.
    pub fn pem(&self) -> [String; 2] {
        [certificate::pem(&self.leaf), certificate::pem(&self.app_ca)]
    }
}

/// The root CA's self-signed certificate, DER.
pub fn root_certificate(root: &RootKeys, now: SystemTime) -> Result<Vec<u8>, CaError> {
    let spec = authority(ROOT_CA_NAME, 1, ROOT_CA.from(now));
    Ok(certificate::self_signed(&spec, root.ca())?)
}

/// The temporary CA's self-signed certificate, DER.
pub fn temp_certificate(root: &RootKeys, now: SystemTime) -> Result<Vec<u8>, CaError> {
    let spec = authority(TEMP_CA_NAME, 0, TEMP_CA.from(now));
    Ok(certificate::self_signed(&spec, root.temp_ca())?)
}

/// The stored root CA certificate, or a new one over the same key when there is none, when it is damaged, or when it
/// is due. A certificate of another key is an error.
pub fn root_ca(root: &RootKeys, stored: Option<&str>, now: SystemTime) -> Result<CaCertificate, CaError> {
    keep_or_renew(root.ca(), stored, ROOT_CA, now, || root_certificate(root, now))
}

/// [`root_ca`] for the temporary CA.
pub fn temp_ca(root: &RootKeys, stored: Option<&str>, now: SystemTime) -> Result<CaCertificate, CaError> {
    keep_or_renew(root.temp_ca(), stored, TEMP_CA, now, || temp_certificate(root, now))
}

/// The root CA as issuer: its name is that of its certificate, byte by byte.
pub fn root_issuer<'a>(root: &'a RootKeys, root_ca_pem: &str) -> Result<Issuer<'a>, CaError> {
    Ok(Issuer::from_pem(root_ca_pem, root.ca())?)
}

/// The TLS server certificate of this KMS, DER. `evidence` is encoded, stripped evidence bound to `key`.
pub fn rpc_leaf(
    issuer: &Issuer<'_>,
    domain: &Domain,
    key: &P256Key,
    evidence: Option<&[u8]>,
    now: SystemTime,
) -> Result<Vec<u8>, CaError> {
    server_leaf(issuer, &[domain.as_str().to_owned()], key, evidence, now)
}

/// As [`rpc_leaf`], under any names of ours; the first is the subject.
pub fn server_leaf(
    issuer: &Issuer<'_>,
    names: &[String],
    key: &P256Key,
    evidence: Option<&[u8]>,
    now: SystemTime,
) -> Result<Vec<u8>, CaError> {
    let spec = CertificateSpec {
        organization: None,
        common_name: names.first().map_or("", String::as_str),
        names,
        validity: RPC_LEAF.from(now),
        role: Role::LEAF,
        app_id: None,
        app_info: None,
        usage: Some(RPC_USAGE),
        evidence,
    };
    Ok(certificate::issue(&spec, &key.spki_der(), issuer)?)
}

/// Whether the root CA with this public key has signed this certificate (DER), whatever its dates.
pub fn has_issued(ca_spki: &[u8], certificate: &[u8]) -> bool {
    certificate::is_signed_by(certificate, ca_spki)
}

/// The certificate of an app's key and of the app's CA. `app_info` is what was verified and authorized; the leaf
/// says it
/// if the request asks for that.
pub fn app_chain<'a>(
    issuer: &Issuer<'_>,
    root: &RootKeys,
    app: impl Into<AppAt<'a>>,
    app_info: &AppInfo,
    request: &Restricted,
    now: SystemTime,
) -> Result<AppChain, CaError> {
    let app = app.into();
    let app_id = app.id;
    let key = derive::app_ca_key(root, app)?;
    let app_ca_spec = CertificateSpec {
        app_id: Some(&app_id.0),
        usage: Some(APP_CA_USAGE),
        ..authority(APP_CA_NAME, 0, APP_CA.from(now))
    };
    let app_ca = certificate::issue(&app_ca_spec, &key.spki_der(), issuer)?;
    let app_info = request.app_info(app_info);
    let leaf_spec = CertificateSpec {
        app_id: Some(&app_id.0),
        app_info: app_info.as_deref(),
        usage: Some(APP_USAGE),
        ..request.spec()
    };
    let leaf = certificate::issue(&leaf_spec, request.spki(), &Issuer::new(&app_ca, &key)?)?;
    Ok(AppChain { leaf, app_ca })
}

fn authority(name: &'static str, path_len: u8, validity: Validity) -> CertificateSpec<'static> {
    CertificateSpec {
        organization: Some(ORGANIZATION),
        common_name: name,
        names: &[],
        validity,
        role: Role::Ca { path_len },
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
    }
}

fn keep_or_renew(
    key: &P256Key,
    stored: Option<&str>,
    lifetime: Lifetime,
    now: SystemTime,
    renew: impl FnOnce() -> Result<Vec<u8>, CaError>,
) -> Result<CaCertificate, CaError> {
    if let Some(pem) = stored {
        match Issuer::from_pem(pem, key) {
            Ok(_) if !lifetime.is_due(certificate::not_after(pem)?, now) => {
                return Ok(CaCertificate { pem: pem.to_owned(), freshness: Freshness::Kept });
            }
            Err(CertificateError::KeyMismatch) => return Err(CertificateError::KeyMismatch.into()),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(CaCertificate { pem: certificate::pem(&renew()?), freshness: Freshness::Renewed })
}
