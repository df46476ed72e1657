//! The public key that verifies signed decisions of a webhook.

use std::fmt;

use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;

/// An Ed25519 public key (RFC 8032), 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DecisionKey([u8; 32]);

/// The DER prefix of the 32 bytes (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

impl DecisionKey {
    /// Parses 64 hex digits, or the PEM text that `openssl pkey -pubout` prints.
    ///
    /// # Errors
    /// The expected format.
    pub fn parse(text: &str) -> Result<Self, String> {
        let error =
            || "must be an Ed25519 public key: 64 hex digits, or PEM as `openssl pkey -pubout` prints it";
        let text = text.trim();
        let mut key = [0; 32];
        if text.starts_with("-----BEGIN") {
            let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| error())?;
            key = der.strip_prefix(&SPKI_PREFIX).and_then(|key| key.try_into().ok()).ok_or_else(error)?;
        } else {
            hex::decode_to_slice(text, &mut key).map_err(|_| error())?;
        }
        Ok(Self(key))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Prints hex digits, which [`DecisionKey::parse`] reads.
impl fmt::Display for DecisionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DecisionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecisionKey({self})")
    }
}

impl From<[u8; 32]> for DecisionKey {
    fn from(key: [u8; 32]) -> Self {
        Self(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn a_decision_key_is_hex_or_what_openssl_prints() {
        let key = DecisionKey::parse(HEX).unwrap();
        assert_eq!(key.to_string(), HEX);
        let pem = "-----BEGIN PUBLIC KEY-----\n\
                   MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
                   -----END PUBLIC KEY-----\n";
        assert_eq!(DecisionKey::parse(pem), Ok(key));
        assert_eq!(DecisionKey::parse(&HEX.to_uppercase()), Ok(key));
        let p256 = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYHkqgEUcBDkSCkHLSdVtDxqsLEjW\n-----END PUBLIC KEY-----";
        let private = pem.replace("PUBLIC", "PRIVATE");
        for text in [&HEX[2..], "", "key", p256, private.as_str(), "-----BEGIN PUBLIC KEY-----"] {
            assert!(
                DecisionKey::parse(text).unwrap_err().starts_with("must be an Ed25519 public key"),
                "{text}"
            );
        }
    }
}
