//! Signatures and cosignatures: made, and verified with one key.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, ML_DSA_44, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::Checkpoint;
use crate::key::{KeyName, PublicKey, VerifyingKey};

/// Length of an Ed25519 signature.
const ED25519_SIGNATURE: usize = 64;

/// Length of an ML-DSA-44 signature (FIPS 204).
const ML_DSA_44_SIGNATURE: usize = 2420;

/// Why a signature of a known key does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It has a wrong length for its type.
    #[error("the signature has a wrong length")]
    Length,
    /// The time of a cosignature is 0 or above 2⁶³ − 1.
    #[error("the time of the cosignature is 0 or 2^63 or later")]
    Time,
    /// It is not this key's signature of this text.
    #[error("the signature is invalid")]
    Invalid,
}

/// When a witness saw a checkpoint: POSIX seconds, 1 to 2⁶³ − 1.
///
/// A time in the future is not refused here: callers that know the time decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The seconds.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Timestamp {
    type Error = SignatureError;

    fn try_from(seconds: u64) -> Result<Self, SignatureError> {
        let is_time = seconds != 0 && seconds <= i64::MAX.cast_unsigned();
        if is_time { Ok(Self(seconds)) } else { Err(SignatureError::Time) }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a valid signature says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// The owner of the key states the text.
    Text,
    /// A witness has seen no larger tree of this log at this time.
    Cosigned(Timestamp),
}

impl VerifyingKey {
    /// Verifies a signature over the text of a note, which ends in a newline.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, text: &str, signature: &[u8]) -> Result<Signed, SignatureError> {
        match self.key() {
            PublicKey::Ed25519(key) => {
                let signature: &[u8; ED25519_SIGNATURE] =
                    signature.try_into().map_err(|_| SignatureError::Length)?;
                verify_ed25519(key, text.as_bytes(), signature)?;
                Ok(Signed::Text)
            }
            PublicKey::Ed25519Cosignature(key) => {
                let (time, signature) = timed::<ED25519_SIGNATURE>(signature)?;
                verify_ed25519(key, cosigned_text(time, text).as_bytes(), signature)?;
                Ok(Signed::Cosigned(time))
            }
            PublicKey::MlDsa44Cosignature(key) => {
                let (time, signature) = timed::<ML_DSA_44_SIGNATURE>(signature)?;
                let checkpoint = text.parse().map_err(|_| SignatureError::Invalid)?;
                let message = cosigned_tree(self.name(), time, &checkpoint).ok_or(SignatureError::Invalid)?;
                let key = UnparsedPublicKey::new(&ML_DSA_44, key.as_slice());
                key.verify(&message, signature).map_err(|_| SignatureError::Invalid)?;
                Ok(Signed::Cosigned(time))
            }
        }
    }
}

fn verify_ed25519(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).map_err(|_| SignatureError::Invalid)
}

/// Splits u64be(time) ‖ signature.
fn timed<const N: usize>(signature: &[u8]) -> Result<(Timestamp, &[u8; N]), SignatureError> {
    let (time, signature) = signature.split_first_chunk().ok_or(SignatureError::Length)?;
    let signature = signature.try_into().map_err(|_| SignatureError::Length)?;
    Ok((u64::from_be_bytes(*time).try_into()?, signature))
}

/// What type 04 signs: `cosignature/v1` LF `time <decimal>` LF ‖ the whole text of the note. The witness's
/// name is not in it.
pub fn cosigned_text(time: Timestamp, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// What type 06 signs: `"subtree/v1\n\0"` ‖ u8 length ‖ name of the witness ‖ u64be time ‖ u8 length ‖ origin
/// ‖ u64be 0 ‖ u64be size ‖ root. `None` if name or origin has more than 255 bytes.
pub fn cosigned_tree(witness: &KeyName, time: Timestamp, checkpoint: &Checkpoint) -> Option<Vec<u8>> {
    let mut message = b"subtree/v1\n\0".to_vec();
    push_name(&mut message, witness.as_str())?;
    message.extend_from_slice(&time.0.to_be_bytes());
    push_name(&mut message, checkpoint.origin.as_str())?;
    message.extend_from_slice(&0_u64.to_be_bytes());
    message.extend_from_slice(&checkpoint.size.get().to_be_bytes());
    message.extend_from_slice(checkpoint.root.as_bytes());
    Some(message)
}

fn push_name(message: &mut Vec<u8>, name: &str) -> Option<()> {
    let length = u8::try_from(name.len()).ok()?;
    message.push(length);
    message.extend_from_slice(name.as_bytes());
    Some(())
}

/// Not an Ed25519 seed, or not one that the cryptographic library takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Ed25519 key cannot be used")]
pub struct UnusableKey;

/// The private key of a log: signs the text of notes (type 01).
#[derive(Debug)]
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    /// The key of a seed of 32 bytes (RFC 8032).
    ///
    /// # Errors
    /// [`UnusableKey`].
    pub fn from_seed(name: KeyName, seed: &[u8; 32]) -> Result<Self, UnusableKey> {
        let (pair, key) = ed25519_pair(seed)?;
        Ok(Self { pair, public: VerifyingKey::new(name, PublicKey::Ed25519(key)) })
    }

    /// Its public key.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// The signature line under a text, with its newline.
    pub fn sign(&self, text: &str) -> String {
        line(&self.public, self.pair.sign(text.as_bytes()).as_ref())
    }
}

/// The private key of a witness: cosigns checkpoints (type 04).
#[derive(Debug)]
pub struct CosigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

impl CosigningKey {
    /// The key of a seed of 32 bytes (RFC 8032). It must not be used for anything else.
    ///
    /// # Errors
    /// [`UnusableKey`].
    pub fn from_seed(name: KeyName, seed: &[u8; 32]) -> Result<Self, UnusableKey> {
        let (pair, key) = ed25519_pair(seed)?;
        Ok(Self { pair, public: VerifyingKey::new(name, PublicKey::Ed25519Cosignature(key)) })
    }

    /// Its public key.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// The cosignature line under a text, with its newline.
    pub fn cosign(&self, text: &str, time: Timestamp) -> String {
        let signature = self.pair.sign(cosigned_text(time, text).as_bytes());
        line(&self.public, &[&time.0.to_be_bytes(), signature.as_ref()].concat())
    }
}

fn ed25519_pair(seed: &[u8; 32]) -> Result<(Ed25519KeyPair, [u8; 32]), UnusableKey> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| UnusableKey)?;
    let key = pair.public_key().as_ref().try_into().map_err(|_| UnusableKey)?;
    Ok((pair, key))
}

/// `— <name> <base64(id ‖ signature)>` LF.
fn line(key: &VerifyingKey, signature: &[u8]) -> String {
    let signature = [key.id().as_bytes(), signature].concat();
    format!("\u{2014} {} {}\n", key.name(), STANDARD.encode(signature))
}
