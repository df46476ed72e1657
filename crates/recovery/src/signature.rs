//! The signature under a manifest: by the secp256k1 root key, recoverable, over a digest with a label of its own.

use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey};
use sha3::{Digest, Keccak256};

/// Prefix of the statement "this is a recovery set of our root keys".
pub const LABEL: &[u8] = b"cvm-kms-recovery-set-v1";
/// `r ‖ s ‖ v`
pub(crate) const SIGNATURE: usize = 65;

/// Why a signature is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is no signature.
    #[error("the manifest's signature is invalid: the manifest was altered")]
    Invalid,
    /// Another key made it, or the signed bytes are others.
    #[error("the manifest is not signed by the root key that it names: it was altered")]
    OtherKey,
}

/// `Keccak-256("cvm-kms-recovery-set-v1" ‖ ":" ‖ SHA-256(canonical manifest))`: what the root key signs. It is the digest of
/// `statement::sign_message` with an empty app id.
pub fn digest(manifest_sha256: &[u8; 32]) -> [u8; 32] {
    Keccak256::new().chain_update(LABEL).chain_update(b":").chain_update(manifest_sha256).finalize().into()
}

pub(crate) fn verify(
    manifest_sha256: &[u8; 32],
    signature: &[u8; SIGNATURE],
    key: &[u8; 33],
) -> Result<(), SignatureError> {
    let key = PublicKey::from_slice(key).map_err(|_| SignatureError::Invalid)?;
    let recovery = RecoveryId::try_from(i32::from(signature[64])).map_err(|_| SignatureError::Invalid)?;
    let recoverable = RecoverableSignature::from_compact(&signature[..64], recovery)
        .map_err(|_| SignatureError::Invalid)?;
    let message = Message::from_digest(digest(manifest_sha256));
    // A high s would be a second signature for the same statement.
    let mut normalized = recoverable.to_standard();
    normalized.normalize_s();
    if normalized != recoverable.to_standard() {
        return Err(SignatureError::Invalid);
    }
    let signer = recoverable.recover_ecdsa(message).map_err(|_| SignatureError::Invalid)?;
    if signer == key { Ok(()) } else { Err(SignatureError::OtherKey) }
}
