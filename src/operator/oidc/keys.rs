//! The public keys of an issuer (JWKS, RFC 7517).

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::MAX_KEY_ID;

/// The most keys.
const MAX_KEYS: usize = 64;
/// The permitted length of an RSA modulus in base64 digits: 2,048 to 8,192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 342..=1366;
/// The longest public exponent in base64 digits.
const MAX_EXPONENT: usize = 8;
/// Base64 digits of 32 bytes.
const COORDINATE: usize = 43;

/// Why a set of keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is not a set of keys.
    #[error("the issuer's keys are not JSON Web Keys")]
    Malformed,
    /// Too many.
    #[error("the issuer has more than {MAX_KEYS} keys")]
    TooMany,
    /// None can be used.
    #[error("the issuer has no key for RS256, ES256 or EdDSA")]
    Empty,
}

/// The keys that can be used.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// The members of a key that count. A key with a private or a shared one is not public.
#[derive(Deserialize)]
struct Parameters {
    kty: String,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

impl KeySet {
    /// Reads a set; keys of other kinds and for other purposes are left out.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        let document: Document = kms_attest::json::from_utf8(bytes).map_err(|_| KeySetError::Malformed)?;
        if document.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<_> = document.keys.into_iter().filter_map(Key::read).collect();
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self(keys)) }
    }

    /// The key of this id for this algorithm; without an id, the only key for it.
    pub(super) fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Option<&DecodingKey> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).map(|key| &key.key),
            None => {
                let only = fitting.next()?;
                fitting.next().is_none().then_some(&only.key)
            }
        }
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let parameters: Parameters = serde_json::from_value(value).ok()?;
        let is_for_signatures = parameters.usage.as_deref().is_none_or(|usage| usage == "sig")
            && parameters.key_ops.as_ref().is_none_or(|uses| uses.iter().any(|one| one == "verify"));
        let id = parameters.kid.clone();
        if !is_for_signatures || id.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_KEY_ID) {
            return None;
        }
        let (name, algorithm, key) = parameters.key()?;
        let fits = parameters.alg.as_deref().is_none_or(|alg| alg == name);
        fits.then_some(Self { id, algorithm, key })
    }
}

impl Parameters {
    /// The only algorithm for which the key is used, and the key.
    fn key(&self) -> Option<(&'static str, Algorithm, DecodingKey)> {
        let coordinate = |text: &Option<String>| text.clone().filter(|text| text.len() == COORDINATE);
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", None) => {
                let modulus = self.n.as_ref().filter(|n| MODULUS.contains(&n.len()))?;
                let exponent = self.e.as_ref().filter(|e| (1..=MAX_EXPONENT).contains(&e.len()))?;
                let key = DecodingKey::from_rsa_components(modulus, exponent).ok()?;
                Some(("RS256", Algorithm::RS256, key))
            }
            ("EC", Some("P-256")) => {
                let key =
                    DecodingKey::from_ec_components(&coordinate(&self.x)?, &coordinate(&self.y)?).ok()?;
                Some(("ES256", Algorithm::ES256, key))
            }
            ("OKP", Some("Ed25519")) => {
                let key = DecodingKey::from_ed_components(&coordinate(&self.x)?).ok()?;
                Some(("EdDSA", Algorithm::EdDSA, key))
            }
            _ => None,
        }
    }
}
