//! The statements that the secp256k1 root key of a KMS signs, and their signers. The server's side is
//! `src/keys/statement.rs`.

use std::fmt;
use std::str::FromStr;

use kms_attest::binding::ReportData;
use kms_attest::identity::AppId;
use kms_attest::p256::SPKI_LENGTH;
use kms_ledger::verify::KeyChange;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey, SecretKey};
use sha3::{Digest as _, Keccak256};

/// The length of a recoverable signature: r ‖ s ‖ v.
const SIGNATURE_BYTES: usize = 65;
/// The length of a compressed public key.
const KEY_BYTES: usize = 33;

const ENV_KEY: &[u8] = b"dstack-env-encrypt-pubkey";
const APP_KEY: &[u8] = b"dstack-kms-issued";
const LOG_KEY: &[u8] = b"cvm-kms-log-key-v1";
const ROOT_EPOCH: &[u8] = b"cvm-kms-root-epoch-v1";
/// The misspelling is part of the protocol (docs/compatibility.md).
const BOOTSTRAP_KEYS: &str = "dstack-kms-genereted-keys-v1:";

/// A secp256k1 public key, SEC1 compressed, which identifies a signer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signer([u8; KEY_BYTES]);

/// Not a compressed secp256k1 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a compressed secp256k1 public key: 66 hexadecimal digits that start with 02 or 03")]
pub struct NotASigner;

/// Why a signature has no signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Another length.
    #[error("a signature must be {SIGNATURE_BYTES} bytes, got {0}")]
    Length(usize),
    /// A recovery id other than 0 and 1.
    #[error("the recovery id of a signature must be 0 or 1, got {0}")]
    RecoveryId(u8),
    /// No key can have made it.
    #[error("the signature is not one")]
    Invalid,
}

impl Signer {
    /// The key as bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The public key of a secret scalar.
    pub fn of_secret(scalar: &[u8; 32]) -> Result<Self, NotASigner> {
        let mut secret = SecretKey::from_secret_bytes(*scalar).map_err(|_| NotASigner)?;
        let public = secret.public_key().serialize();
        secret.non_secure_erase();
        Ok(Self(public))
    }
}

impl TryFrom<&[u8]> for Signer {
    type Error = NotASigner;

    fn try_from(bytes: &[u8]) -> Result<Self, NotASigner> {
        let compressed: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| NotASigner)?;
        PublicKey::from_slice(&compressed).map_err(|_| NotASigner)?;
        Ok(Self(compressed))
    }
}

impl FromStr for Signer {
    type Err = NotASigner;

    fn from_str(text: &str) -> Result<Self, NotASigner> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        Self::try_from(hex::decode(digits).map_err(|_| NotASigner)?.as_slice())
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({self})")
    }
}

/// The signer of the statement that `public_key` encrypts the environment of an app, at a time (Unix
/// seconds).
///
/// `Keccak-256("dstack-env-encrypt-pubkey:" ‖ app_id ‖ u64be(timestamp) ‖ public_key)`
pub fn env_key_signer(
    app_id: AppId,
    timestamp: u64,
    public_key: &[u8],
    signature: &[u8],
) -> Result<Signer, SignatureError> {
    recover(digest(ENV_KEY, &[app_id.as_ref(), &timestamp.to_be_bytes(), public_key]), signature)
}

/// Like [`env_key_signer`], in the older form without a time, which can be replayed forever.
///
/// `Keccak-256("dstack-env-encrypt-pubkey:" ‖ app_id ‖ public_key)`
pub fn timeless_env_key_signer(
    app_id: AppId,
    public_key: &[u8],
    signature: &[u8],
) -> Result<Signer, SignatureError> {
    recover(digest(ENV_KEY, &[app_id.as_ref(), public_key]), signature)
}

/// The signer of the statement that `key` is the secp256k1 key of an app.
///
/// `Keccak-256("dstack-kms-issued:" ‖ app_id ‖ key)`
pub fn app_key_signer(app_id: AppId, key: &Signer, signature: &[u8]) -> Result<Signer, SignatureError> {
    recover(digest(APP_KEY, &[app_id.as_ref(), key.as_bytes()]), signature)
}

/// The signer of the statement that `log_key` (a C2SP verifier key as text) signs the log of one of its
/// nodes.
///
/// `Keccak-256("cvm-kms-log-key-v1:" ‖ log_key)`
pub fn log_key_signer(log_key: &str, signature: &[u8]) -> Result<Signer, SignatureError> {
    recover(digest(LOG_KEY, &[log_key.as_bytes()]), signature)
}

/// The signer of the statement that these are the public keys of a root epoch.
///
/// `Keccak-256("cvm-kms-root-epoch-v1:" ‖ u32be(number) ‖ root CA SPKI DER ‖ k256 key)`
pub fn root_epoch_signer(
    number: u32,
    ca_spki: &[u8; SPKI_LENGTH],
    key: &Signer,
    signature: &[u8],
) -> Result<Signer, SignatureError> {
    recover(digest(ROOT_EPOCH, &[&number.to_be_bytes(), ca_spki, key.as_bytes()]), signature)
}

/// The root keys that speak for a new key of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyChangeSigners {
    /// The root key that signed the old key.
    pub before: Signer,
    /// The root key that signed the new key.
    pub after: Signer,
    /// Whether the first has signed the new key too.
    pub is_endorsed: bool,
}

/// The root keys that speak for what a record says of a new key of the log.
///
/// # Errors
/// [`SignatureError`]: a statement is no signature.
pub fn key_change_signers(change: &KeyChange) -> Result<KeyChangeSigners, SignatureError> {
    let signer = |key: &str, statement: &str| {
        log_key_signer(key, &hex::decode(statement).map_err(|_| SignatureError::Length(statement.len()))?)
    };
    let before = signer(&change.previous, &change.previous_statement)?;
    let after = signer(&change.key, &change.statement)?;
    let endorser = change.endorsement.as_ref().map(|statement| signer(&change.key, statement)).transpose()?;
    Ok(KeyChangeSigners { before, after, is_endorsed: endorser == Some(before) })
}

/// The report data of the evidence over new root keys.
///
/// `Keccak-256("dstack-kms-genereted-keys-v1:" ‖ hex(root CA SPKI DER) ‖ ";" ‖ hex(k256 key) ‖ ";")`, then 32
/// zero bytes.
pub fn bootstrap_report_data(ca_spki: &[u8], k256_public: &Signer) -> ReportData {
    let content = format!("{BOOTSTRAP_KEYS}{};{k256_public};", hex::encode(ca_spki));
    let mut report_data = ReportData::ZERO;
    report_data.0[..32].copy_from_slice(&Keccak256::digest(content));
    report_data
}

fn digest(prefix: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let start = Keccak256::new().chain_update(prefix).chain_update(b":");
    parts.iter().fold(start, |hash, part| hash.chain_update(part)).finalize().into()
}

fn recover(digest: [u8; 32], signature: &[u8]) -> Result<Signer, SignatureError> {
    let Ok(signature) = <&[u8; SIGNATURE_BYTES]>::try_from(signature) else {
        return Err(SignatureError::Length(signature.len()));
    };
    let recovery = match signature[64] {
        0 => RecoveryId::Zero,
        1 => RecoveryId::One,
        other => return Err(SignatureError::RecoveryId(other)),
    };
    let compact = <&[u8; 64]>::try_from(&signature[..64]).map_err(|_| SignatureError::Invalid)?;
    RecoverableSignature::from_compact(compact, recovery)
        .and_then(|signature| signature.recover_ecdsa(Message::from_digest(digest)))
        .map(|key| Signer(key.serialize()))
        .map_err(|_| SignatureError::Invalid)
}

#[cfg(test)]
pub(crate) mod tests;
