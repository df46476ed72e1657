//! The keys in a handover: parsed once, each compared with the one that the source showed before.

use kms_attest::certificate;
use kms_attest::p256::{P256Key, SPKI_LENGTH};
use zeroize::Zeroizing;

use super::SourceError;
use super::epochs::{self, EpochPart};
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
    /// The secp256k1 public keys (SEC1 compressed) that the source states; all must belong to `k256`, or to another
    /// epoch. Empty if it states none.
    pub stated_k256: Vec<Vec<u8>>,
    /// All epochs of the root keys, in order from 0. Empty if the source has epoch 0 only, whose keys the others here are.
    pub epochs: Vec<EpochPart>,
    /// What operators chose there that a replica has to know, JSON that is not parsed yet. `None` if the source does not tell.
    pub choices: Option<String>,
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
        let epochs = epochs::parse(response, &ca, &k256)?;
        let choices = response.choices.clone();
        let parts = Self { ca, temp_ca, k256, stated_k256: shown.stated_k256(), epochs, choices };
        match shown.contradicting(&parts) {
            Some((key, shown)) => Err(SourceError::OtherKey { key, shown }),
            None => Ok(parts),
        }
    }
}

impl RootKeyParts {
    /// The root CAs of the source, one of which has issued its certificate: which one depends on when it started.
    fn ca_keys(&self) -> Vec<[u8; SPKI_LENGTH]> {
        let held = self.epochs.iter().filter(|epoch| epoch.keys.is_some());
        let of_epochs = held.map(|epoch| epoch.ca_spki);
        [self.ca.spki_der()].into_iter().chain(of_epochs).collect()
    }
}

impl Shown<'_> {
    /// The first key that differs from the one shown, and where that was shown.
    fn contradicting(&self, parts: &RootKeyParts) -> Option<(&'static str, &'static str)> {
        let cas = parts.ca_keys();
        let is_known = |key: &[u8]| {
            // The statement at the bootstrap may be of an epoch that is destroyed.
            cas.iter().any(|ca| ca[..] == *key) || parts.epochs.iter().any(|epoch| epoch.ca_spki[..] == *key)
        };
        let (temp_ca, meta) = match self {
            Self::Answers { temp_ca, meta } => (temp_ca, meta),
            Self::Certificate(certificate) => {
                let is_issuer = cas.iter().any(|ca| certificate::is_signed_by(certificate, ca));
                return (!is_issuer).then_some(("the CA key", "the certificate"));
            }
        };
        let is_among = |key: &[u8]| cas.iter().any(|ca| ca[..] == *key);
        let is_ca = |certificate: &str| public_key(certificate).is_some_and(|key| is_among(&key));
        let statement = meta.and_then(|meta| meta.bootstrap_info.as_ref());
        if !is_ca(&temp_ca.ca_cert) {
            Some(("the CA key", "the CA certificate"))
        } else if public_key(&temp_ca.temp_ca_cert).as_deref() != Some(&parts.temp_ca.spki_der()[..]) {
            Some(("the tmp CA key", "the tmp CA certificate"))
        } else if meta.is_some_and(|meta| !meta.ca_cert.is_empty() && !is_ca(&meta.ca_cert)) {
            Some(("the CA key", "ca_cert in GetMeta"))
        } else if statement
            .is_some_and(|statement| !statement.ca_pubkey.is_empty() && !is_known(&statement.ca_pubkey))
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
