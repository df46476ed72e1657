//! Report data: the 64 bytes in a quote that bind it to a key or to an app's own data.

pub mod session;

use std::fmt;

use sha2::{Digest, Sha256, Sha384, Sha512};
use sha3::{Keccak256, Keccak384, Keccak512, Sha3_256, Sha3_384, Sha3_512};

/// Tag for the public key of an RA-TLS certificate or CSR.
pub const RA_TLS: &str = "ratls-cert";
/// Tag for a KMS root CA's public key. The current KMS does not use it.
pub const KMS_ROOT_CA: &str = "kms-root-ca";
/// Tag for the statement in a KMS's `/attestation.json` (docs/decisions/0042).
pub const KMS_ATTESTATION: &str = "cvm-kms-attestation";
/// The first bytes of what the root CA key signs of that answer.
const KMS_ATTESTATION_ROOT: &[u8] = b"cvm-kms-attestation-root:";
/// Tag for an app's own data.
pub const APP_DATA: &str = "app-data";

/// The report data of a quote.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReportData(pub [u8; 64]);

/// Why report data cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportDataError {
    /// The hash name is unknown.
    #[error(
        "unknown hash {0:?}: use sha256, sha384, sha512, sha3-256, sha3-384, sha3-512, keccak256, keccak384, \
         keccak512 or raw"
    )]
    UnknownHash(String),
    /// Raw content, or report data, that is not 64 bytes long.
    #[error("report data must be 64 bytes, got {0}")]
    Length(usize),
}

impl ReportData {
    /// 64 zero bytes: not bound to anything.
    pub const ZERO: Self = Self([0; 64]);

    /// `SHA-512("ratls-cert:" ‖ SubjectPublicKeyInfo DER)`, over the DER bytes exactly as in the certificate
    /// or CSR.
    pub fn ra_tls(spki_der: &[u8]) -> Self {
        Self::padded(&tagged::<Sha512>(RA_TLS, spki_der))
    }

    /// `SHA-512("app-data:" ‖ content)`.
    pub fn app_data(content: &[u8]) -> Self {
        Self::padded(&tagged::<Sha512>(APP_DATA, content))
    }

    /// `SHA-512("cvm-kms-attestation:" ‖ statement)`, over the statement exactly as it is sent.
    pub fn kms_attestation(statement: &[u8]) -> Self {
        Self::padded(&tagged::<Sha512>(KMS_ATTESTATION, statement))
    }

    /// `H(tag ‖ ":" ‖ content)`, padded with zero bytes to 64. An empty hash name means SHA-512. `raw` means
    /// the content itself without the tag; it must be 64 bytes.
    pub fn for_content(tag: &str, hash_name: &str, content: &[u8]) -> Result<Self, ReportDataError> {
        let digest = match hash_name {
            "raw" => return Self::try_from(content),
            "" | "sha512" => tagged::<Sha512>(tag, content),
            "sha256" => tagged::<Sha256>(tag, content),
            "sha384" => tagged::<Sha384>(tag, content),
            "sha3-256" => tagged::<Sha3_256>(tag, content),
            "sha3-384" => tagged::<Sha3_384>(tag, content),
            "sha3-512" => tagged::<Sha3_512>(tag, content),
            "keccak256" => tagged::<Keccak256>(tag, content),
            "keccak384" => tagged::<Keccak384>(tag, content),
            "keccak512" => tagged::<Keccak512>(tag, content),
            unknown => return Err(ReportDataError::UnknownHash(unknown.into())),
        };
        Ok(Self::padded(&digest))
    }

    fn padded(digest: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..digest.len()].copy_from_slice(digest);
        Self(bytes)
    }
}

/// What the root CA key of a KMS signs of its `/attestation.json`, which makes the quote that of this KMS:
/// `"cvm-kms-attestation-root:" ‖ SHA-256(quote) ‖ SHA-256(statement)`. No certificate begins with these bytes.
pub fn kms_attestation_by_root(quote: &[u8], statement: &[u8]) -> Vec<u8> {
    [KMS_ATTESTATION_ROOT, &Sha256::digest(quote), &Sha256::digest(statement)].concat()
}

fn tagged<H: Digest>(tag: &str, content: &[u8]) -> Vec<u8> {
    H::new().chain_update(tag).chain_update(":").chain_update(content).finalize().to_vec()
}

impl TryFrom<&[u8]> for ReportData {
    type Error = ReportDataError;

    fn try_from(bytes: &[u8]) -> Result<Self, ReportDataError> {
        bytes.try_into().map(Self).map_err(|_| ReportDataError::Length(bytes.len()))
    }
}

impl fmt::Display for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReportData({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_content_is_used_as_it_is_and_must_be_64_bytes() {
        assert_eq!(ReportData::for_content("tag", "raw", &[7; 64]), Ok(ReportData([7; 64])));
        let error = ReportData::for_content("tag", "raw", &[7; 63]).unwrap_err();
        assert_eq!(error.to_string(), "report data must be 64 bytes, got 63");
    }

    #[test]
    fn an_unknown_hash_is_named() {
        let error = ReportData::for_content("tag", "md5", b"").unwrap_err();
        assert!(error.to_string().starts_with("unknown hash \"md5\""), "{error}");
    }
}
