//! Keys of an app, derived from the root keys: `KDF`, `DH` and the formula of each key.

use hkdf::Hkdf;
use kms_attest::identity::AppId;
use kms_attest::p256::{KeyError, P256Key};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::{K256Error, K256Key, RootKeys, Secret, label, statement};

/// What the KMS releases to an app.
#[derive(Debug)]
pub struct AppKeys {
    /// `DH(root CA, app_id ‖ instance_id ‖ "app-disk-crypt-key")`
    pub disk_crypt_key: Secret,
    /// `DH(root CA, app_id ‖ "env-encrypt-key")`, not clamped: clamping happens inside X25519, on both sides.
    pub env_crypt_key: Secret,
    /// `KDF(root k256, app_id ‖ "app-key", 32)`
    pub k256_key: Secret,
    /// The root key's statement about the public half of `k256_key`.
    pub k256_signature: [u8; 65],
}

/// Why a key cannot be derived. A scalar is out of range for about one app in 2³². This is final: a retry would
/// derive a key that the peer does not derive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// More bytes than HKDF-Expand can give.
    #[error("cannot derive {0} bytes, at most {MAX_BYTES}")]
    TooLong(usize),
    /// No disk key.
    #[error("the app has no disk key")]
    DiskKey(#[source] KeyError),
    /// No env key.
    #[error("the app has no env key")]
    EnvKey(#[source] KeyError),
    /// No app CA key.
    #[error("the app has no CA key")]
    AppCaKey(#[source] KeyError),
    /// No secp256k1 key.
    #[error("the app has no secp256k1 key")]
    K256Key(#[source] K256Error),
}

const MAX_BYTES: usize = 255 * 32;

/// All keys of an app instance. `instance_id` is empty when the app runs without one: then all instances share a disk
/// key.
///
/// # Errors
/// [`DeriveError`].
pub fn app_keys(root: &RootKeys, app_id: &AppId, instance_id: &[u8]) -> Result<AppKeys, DeriveError> {
    signed_app_keys(root, app_id, instance_id, || app_key_signature(root, app_id))
}

/// The same with `signature`, which gives what [`app_key_signature`] makes, perhaps made before.
///
/// # Errors
/// [`DeriveError`], and those of `signature`.
pub fn signed_app_keys(
    root: &RootKeys,
    app_id: &AppId,
    instance_id: &[u8],
    signature: impl FnOnce() -> Result<[u8; 65], DeriveError>,
) -> Result<AppKeys, DeriveError> {
    let disk_context = [&app_id.0[..], instance_id, label::APP_DISK_CRYPT_KEY];
    let disk_crypt_key = dh_secret(root.ca(), &disk_context).map_err(DeriveError::DiskKey)?;
    let env_crypt_key = env_secret(root, app_id)?;
    let k256_key = Secret::new(app_scalar(root, app_id));
    Ok(AppKeys { disk_crypt_key, env_crypt_key, k256_key, k256_signature: signature()? })
}

/// The root key's statement about the public half of an app's secp256k1 key. It is public and never changes,
/// because its nonce is derived (RFC 6979).
///
/// # Errors
/// [`DeriveError::K256Key`].
pub fn app_key_signature(root: &RootKeys, app_id: &AppId) -> Result<[u8; 65], DeriveError> {
    let app_key = K256Key::from_scalar(&app_scalar(root, app_id)).map_err(DeriveError::K256Key)?;
    Ok(statement::sign_app_key(root, app_id, app_key.public_key()))
}

fn app_scalar(root: &RootKeys, app_id: &AppId) -> Zeroizing<[u8; 32]> {
    kdf_32(root.k256().scalar(), &[&app_id.0, label::APP_KEY])
}

/// `X25519(env_crypt_key, 9)`: what a deployer encrypts the environment to.
pub fn env_public_key(root: &RootKeys, app_id: &AppId) -> Result<[u8; 32], DeriveError> {
    let secret = StaticSecret::from(*env_secret(root, app_id)?.expose());
    Ok(PublicKey::from(&secret).to_bytes())
}

/// What a node's log is signed and salted with.
#[derive(Debug)]
pub struct LogKeys {
    /// `KDF(root k256, origin ‖ "cvm-kms-log-key", 32)`: the seed of an Ed25519 key.
    pub seed: Secret,
    /// `KDF(root k256, origin ‖ "cvm-kms-log-legacy-salts", 32)`
    pub legacy_salts: Secret,
}

/// The keys of the log with this origin.
pub fn log_keys(root: &RootKeys, origin: &str) -> LogKeys {
    let key = |label| Secret::new(kdf_32(root.k256().scalar(), &[origin.as_bytes(), label]));
    LogKeys { seed: key(label::LOG_KEY), legacy_salts: key(label::LOG_LEGACY_SALTS) }
}

/// P-256 child of the root CA key with context `app_id ‖ "app-ca"`.
pub fn app_ca_key(root: &RootKeys, app_id: &AppId) -> Result<P256Key, DeriveError> {
    p256_child(root.ca(), &[&app_id.0, label::APP_CA]).map_err(DeriveError::AppCaKey)
}

fn env_secret(root: &RootKeys, app_id: &AppId) -> Result<Secret, DeriveError> {
    dh_secret(root.ca(), &[&app_id.0, label::ENV_ENCRYPT_KEY]).map_err(DeriveError::EnvKey)
}

/// `SHA-256(PKCS#8 DER of the P-256 child)`. A hash of a private key, called DH by the peer; the 138 bytes of
/// [`P256Key::pkcs8_der`] matter one by one.
pub fn dh_secret(root: &P256Key, context: &[&[u8]]) -> Result<Secret, KeyError> {
    let child = p256_child(root, context)?;
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(&Sha256::digest(&child.pkcs8_der()[..]));
    Ok(Secret::new(secret))
}

/// The P-256 key with scalar `KDF(parent scalar, context, 32)`.
pub fn p256_child(parent: &P256Key, context: &[&[u8]]) -> Result<P256Key, KeyError> {
    P256Key::from_scalar(&kdf_32(parent.scalar(), context))
}

/// `HKDF-SHA256[salt "RATLS", info c₁ ‖ c₂ ‖ …](ikm, length)`. Nothing separates the context items: every list starts
/// with an app id of fixed length and ends with its own label, or is the origin of a log and a label that is the
/// end of no other.
pub fn kdf(ikm: &[u8], context: &[&[u8]], length: usize) -> Result<Zeroizing<Vec<u8>>, DeriveError> {
    if length > MAX_BYTES {
        return Err(DeriveError::TooLong(length));
    }
    let mut okm = Zeroizing::new(vec![0; length]);
    expand(ikm, context, &mut okm);
    Ok(okm)
}

fn kdf_32(ikm: &[u8], context: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut okm = Zeroizing::new([0; 32]);
    expand(ikm, context, &mut okm[..]);
    okm
}

fn expand(ikm: &[u8], context: &[&[u8]], okm: &mut [u8]) {
    let hkdf = Hkdf::<Sha256>::new(Some(label::KDF_SALT), ikm);
    hkdf.expand_multi_info(context, okm).expect("both callers ask for at most MAX_BYTES");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with another implementation of HKDF. A changed byte is another log.
    #[test]
    fn the_keys_of_a_log_have_known_answers() {
        let k256 = K256Key::from_scalar(&[2; 32]).unwrap();
        let root = RootKeys::from_parts(P256Key::generate(), P256Key::generate(), k256);
        let keys = log_keys(&root, "kms.example/cvm-kms/0011223344556677");
        let [seed, salts] = [&keys.seed, &keys.legacy_salts].map(|key| hex::encode(key.expose()));
        assert_eq!(seed, "b815129f86687ac65d63ed2cf5bf582f8897c94788d5407c5d33b8295d663f77");
        assert_eq!(salts, "70fa62640eaeb1b7e40957c868b277627aaf7345b92e6032bfc1ede940b0a74a");
    }
}
