//! Encrypted environments:
//! `ephemeral X25519 public key (32) ‖ nonce (12) ‖ AES-256-GCM ciphertext and tag (16)`.
//!
//! The raw shared secret is the AES key, and the sender is not authenticated: anyone can encrypt for an app.
//! The protocol requires both (docs/compatibility.md).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use zeroize::Zeroizing;

/// The length of an X25519 key, public or secret.
pub const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = KEY_BYTES + NONCE_LEN;
/// The length of an envelope with an empty plaintext.
pub const MIN_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// The longest envelope that is decrypted.
pub const MAX_BYTES: usize = 16 << 20;

/// Why an environment cannot be encrypted or decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Too short or too long.
    #[error("an encrypted environment has {MIN_BYTES} to {MAX_BYTES} bytes, got {0}")]
    Length(usize),
    /// A public key that allows no key agreement, such as a point of small order.
    #[error("the public key is not one to encrypt to")]
    PublicKey,
    /// Encrypted to another key, or modified.
    #[error("it was not encrypted to this key, or it was changed since")]
    Open,
}

/// Encrypts to an app's public key.
pub fn seal(public_key: &[u8; KEY_BYTES], plaintext: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let mut random = Zeroizing::new([0; KEY_BYTES + NONCE_LEN]);
    aws_lc_rs::rand::fill(&mut random[..]).expect("the system has randomness");
    let (secret, nonce) = random.split_at(KEY_BYTES);
    let ephemeral = secret_key(secret.try_into().map_err(|_| EnvelopeError::PublicKey)?)?;
    let nonce = nonce.try_into().map_err(|_| EnvelopeError::PublicKey)?;
    seal_with(&ephemeral, nonce, public_key, plaintext)
}

fn seal_with(
    ephemeral: &PrivateKey,
    nonce: [u8; NONCE_LEN],
    public_key: &[u8; KEY_BYTES],
    plaintext: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let own = ephemeral.compute_public_key().map_err(|_| EnvelopeError::PublicKey)?;
    let key = agree(ephemeral, public_key)?;
    let mut sealed = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_BYTES));
    sealed.extend_from_slice(plaintext);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut *sealed)
        .map_err(|_| EnvelopeError::Length(plaintext.len()))?;
    Ok([own.as_ref(), &nonce, &sealed].concat())
}

/// Decrypts with an app's secret (`env_crypt_key`).
pub fn open(secret: &[u8; KEY_BYTES], envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    if !(MIN_BYTES..=MAX_BYTES).contains(&envelope.len()) {
        return Err(EnvelopeError::Length(envelope.len()));
    }
    let (ephemeral, rest) = envelope.split_at(KEY_BYTES);
    let (nonce, ciphertext) = rest.split_at(NONCE_LEN);
    let key = agree(&secret_key(secret)?, ephemeral)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| EnvelopeError::Open)?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let length = key.open_in_place(nonce, Aad::empty(), &mut buffer).map_err(|_| EnvelopeError::Open)?.len();
    buffer.truncate(length);
    Ok(buffer)
}

/// The public key of an app's secret.
pub fn public_key(secret: &[u8; KEY_BYTES]) -> Result<[u8; KEY_BYTES], EnvelopeError> {
    let public = secret_key(secret)?.compute_public_key().map_err(|_| EnvelopeError::PublicKey)?;
    public.as_ref().try_into().map_err(|_| EnvelopeError::PublicKey)
}

fn secret_key(secret: &[u8; KEY_BYTES]) -> Result<PrivateKey, EnvelopeError> {
    PrivateKey::from_private_key(&X25519, secret).map_err(|_| EnvelopeError::PublicKey)
}

fn agree(own: &PrivateKey, other: &[u8]) -> Result<LessSafeKey, EnvelopeError> {
    // The library rejects points of small order, whose shared secret would be zero.
    agreement::agree(own, UnparsedPublicKey::new(&X25519, other), EnvelopeError::PublicKey, |shared| {
        UnboundKey::new(&AES_256_GCM, shared).map(LessSafeKey::new).map_err(|_| EnvelopeError::PublicKey)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        hex::decode(value.as_str().expect("text")).expect("hex")
    }

    fn fixed<const N: usize>(value: &Value) -> [u8; N] {
        bytes(value).try_into().expect("length")
    }

    #[test]
    fn envelopes_are_the_peers_byte_for_byte() {
        let vectors = crate::statement::tests::vectors();
        let cases = vectors["env_encryption"].as_array().expect("list");
        assert!(!cases.is_empty());
        for case in cases {
            let plaintext = case["plaintext"].as_str().expect("text").as_bytes();
            let (secret, envelope) = (fixed(&case["env_crypt_key"]), bytes(&case["encrypted_env"]));
            let public = fixed(&case["env_public_key"]);
            assert_eq!(public_key(&secret), Ok(public));
            assert_eq!(open(&secret, &envelope).expect("opens").as_slice(), plaintext);
            let ephemeral = secret_key(&fixed(&case["ephemeral_secret"])).expect("key");
            assert_eq!(seal_with(&ephemeral, fixed(&case["iv"]), &public, plaintext), Ok(envelope));
        }
    }

    #[test]
    fn what_is_sealed_opens_with_that_key_only() {
        let (secret, other) = ([7; 32], [8; 32]);
        let public = public_key(&secret).expect("key");
        let envelope = seal(&public, b"plain").expect("sealed");
        assert_ne!(envelope, seal(&public, b"plain").expect("sealed"), "fresh each time");
        assert_eq!(open(&secret, &envelope).expect("opens").as_slice(), b"plain");
        assert_eq!(open(&other, &envelope), Err(EnvelopeError::Open));
        for index in [0, KEY_BYTES, HEADER_BYTES, envelope.len() - 1] {
            let mut changed = envelope.clone();
            changed[index] ^= 1;
            assert_eq!(open(&secret, &changed), Err(EnvelopeError::Open), "{index}");
        }
        assert_eq!(open(&secret, &envelope[..MIN_BYTES - 1]), Err(EnvelopeError::Length(MIN_BYTES - 1)));
    }

    #[test]
    fn a_key_without_a_secret_is_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            assert_eq!(seal(&point, b""), Err(EnvelopeError::PublicKey));
            let envelope = [&point[..], &[0; 28]].concat();
            assert_eq!(open(&[7; 32], &envelope), Err(EnvelopeError::PublicKey));
        }
    }
}
