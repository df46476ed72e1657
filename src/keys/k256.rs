//! secp256k1 private keys and their recoverable signatures.

use std::fmt;

use secp256k1::ecdsa::RecoverableSignature;
use secp256k1::{Message, SecretKey};
use zeroize::Zeroizing;

/// Why bytes are not a secp256k1 private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum K256Error {
    /// The raw key has another length.
    #[error("secp256k1 key must be 32 raw bytes, got {0}")]
    Length(usize),
    /// The scalar is zero or not below the group order.
    #[error("scalar is not in the range of a secp256k1 private key")]
    ScalarOutOfRange,
}

/// A secp256k1 private key. It cannot be cloned, prints its public key only, and is overwritten when dropped.
pub struct K256Key {
    scalar: Zeroizing<[u8; 32]>,
    public: [u8; 33],
}

impl K256Key {
    /// A new random key.
    pub fn generate() -> Self {
        loop {
            let mut scalar = Zeroizing::new([0; 32]);
            aws_lc_rs::rand::fill(&mut scalar[..]).expect("the system has randomness");
            if let Ok(key) = K256Key::from_scalar(&scalar) {
                return key;
            }
        }
    }

    /// The key with this big-endian scalar; zero and the group order upwards are refused, never reduced.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<Self, K256Error> {
        let public = with_secret(scalar, |secret| secret.public_key().serialize())?;
        Ok(K256Key { scalar: Zeroizing::new(*scalar), public })
    }

    /// The key in raw bytes: the content of `root-k256.key`, and the form in which it is handed over.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, K256Error> {
        let scalar = bytes.try_into().map_err(|_| K256Error::Length(bytes.len()))?;
        K256Key::from_scalar(scalar)
    }

    /// The secret scalar, big-endian.
    pub fn scalar(&self) -> &[u8; 32] {
        &self.scalar
    }

    /// The public key, SEC1 compressed.
    pub fn public_key(&self) -> &[u8; 33] {
        &self.public
    }

    /// `r ‖ s ‖ v` over a digest: nonce by RFC 6979 with HMAC-SHA-256, low s, v the recovery id (0 or 1).
    pub fn sign_digest(&self, digest: [u8; 32]) -> [u8; 65] {
        let (recovery, compact) = with_secret(&self.scalar, |secret| {
            RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest), secret)
                .serialize_compact()
        })
        .expect("from_scalar checked the range");
        let mut signature = [0; 65];
        signature[..64].copy_from_slice(&compact);
        signature[64] = u8::from(recovery);
        signature
    }
}

impl fmt::Debug for K256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "K256Key({})", hex::encode(self.public))
    }
}

/// Lends the library a key of its own type and wipes it afterwards, because that type does not wipe itself.
fn with_secret<T>(scalar: &[u8; 32], work: impl FnOnce(&SecretKey) -> T) -> Result<T, K256Error> {
    let mut secret = SecretKey::from_secret_bytes(*scalar).map_err(|_| K256Error::ScalarOutOfRange)?;
    let result = work(&secret);
    secret.non_secure_erase();
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

    fn key(scalar: &str) -> Result<K256Key, K256Error> {
        K256Key::from_bytes(&hex::decode(scalar).unwrap())
    }

    #[test]
    fn scalars_outside_the_group_are_refused_and_never_reduced() {
        let above = ORDER.replace("4141", "4142");
        for scalar in [&"00".repeat(32), ORDER, &above, &"ff".repeat(32)] {
            assert_eq!(key(scalar).err(), Some(K256Error::ScalarOutOfRange), "{scalar}");
        }
        let below = ORDER.replace("4141", "4140");
        for scalar in [&format!("{}01", "00".repeat(31)), &below] {
            assert!(key(scalar).is_ok(), "{scalar}");
        }
    }

    #[test]
    fn raw_keys_have_exactly_32_bytes() {
        for length in [0, 31, 33, 64] {
            assert_eq!(K256Key::from_bytes(&vec![1; length]).err(), Some(K256Error::Length(length)));
        }
    }

    #[test]
    fn printing_shows_the_public_key_only() {
        let key = key(&"07".repeat(32)).unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains(&hex::encode(key.public_key())) && !shown.contains(&"07".repeat(4)));
    }
}
