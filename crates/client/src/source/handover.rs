//! The keys in a handover: parsed once, each compared with the one that the source showed before.

use kms_attest::certificate;
use kms_attest::p256::P256Key;
use zeroize::Zeroizing;

use super::SourceError;
use crate::proto::{GetMetaResponse, GetTempCaCertResponse, KmsKeyResponse};
use crate::tls;

/// The root keys of a cluster, from its source.
pub struct RootKeyParts {
    /// The root CA's key.
    pub ca: P256Key,
    /// The temporary CA's key.
    pub temp_ca: P256Key,
    /// The secp256k1 root key: a big-endian scalar whose range is not checked yet.
    pub k256: Zeroizing<[u8; 32]>,
    /// The secp256k1 public keys (SEC1 compressed) that the source states; all must belong to `k256`. Empty
    /// if it states none.
    pub stated_k256: Vec<Vec<u8>>,
}

/// What a source showed of its keys before the handover.
pub(super) enum Shown<'a> {
    /// Its temporary CA with its root, and its description, if it gave one.
    Answers { temp_ca: &'a GetTempCaCertResponse, meta: Option<&'a GetMetaResponse> },
    /// Its certificate, DER.
    Certificate(&'a [u8]),
}

impl RootKeyParts {
    /// Parses one key set, and compares each P-256 key with the certificates shown before.
    pub(super) fn parse<E>(response: &KmsKeyResponse, shown: &Shown<'_>) -> Result<Self, SourceError<E>> {
        let [keys] = &response.keys[..] else { return Err(SourceError::InvalidKeys) };
        let ca = P256Key::from_pem(&keys.ca_key).map_err(|_| SourceError::CaKey)?;
        let temp_ca = P256Key::from_pem(&response.temp_ca_key).map_err(|_| SourceError::TempCaKey)?;
        if keys.k256_key.len() != 32 {
            return Err(SourceError::K256Key);
        }
        let mut k256 = Zeroizing::new([0; 32]);
        k256.copy_from_slice(&keys.k256_key);
        let parts = Self { ca, temp_ca, k256, stated_k256: shown.stated_k256() };
        match shown.contradicting(&parts) {
            Some((key, shown)) => Err(SourceError::OtherKey { key, shown }),
            None => Ok(parts),
        }
    }
}

impl Shown<'_> {
    /// The first key that differs from the one shown, and where that was shown.
    fn contradicting(&self, parts: &RootKeyParts) -> Option<(&'static str, &'static str)> {
        let ca = parts.ca.spki_der();
        let (temp_ca, meta) = match self {
            Self::Answers { temp_ca, meta } => (temp_ca, meta),
            Self::Certificate(certificate) => {
                let is_issuer = certificate::is_signed_by(certificate, &ca);
                return (!is_issuer).then_some(("the CA key", "the certificate"));
            }
        };
        let is_ca = |certificate: &str| public_key(certificate).as_deref() == Some(&ca[..]);
        let statement = meta.and_then(|meta| meta.bootstrap_info.as_ref());
        if !is_ca(&temp_ca.ca_cert) {
            Some(("the CA key", "the CA certificate"))
        } else if public_key(&temp_ca.temp_ca_cert).as_deref() != Some(&parts.temp_ca.spki_der()[..]) {
            Some(("the tmp CA key", "the tmp CA certificate"))
        } else if meta.is_some_and(|meta| !meta.ca_cert.is_empty() && !is_ca(&meta.ca_cert)) {
            Some(("the CA key", "ca_cert in GetMeta"))
        } else if statement
            .is_some_and(|statement| !statement.ca_pubkey.is_empty() && statement.ca_pubkey != ca)
        {
            Some(("the CA key", "bootstrap_info in GetMeta"))
        } else {
            None
        }
    }

    fn stated_k256(&self) -> Vec<Vec<u8>> {
        let Self::Answers { meta: Some(meta), .. } = self else { return Vec::new() };
        let statement = meta.bootstrap_info.as_ref().map(|statement| statement.k256_pubkey.clone());
        let stated = [meta.k256_pubkey.clone()].into_iter().chain(statement);
        stated.filter(|key| !key.is_empty()).collect()
    }
}

fn public_key(certificate: &str) -> Option<Vec<u8>> {
    let certificate = tls::single_certificate(certificate).ok()?;
    tls::public_key_of(&certificate).ok()
}
