//! Keys of an app, derived from the root keys: `KDF`, `DH` and the formula of each key.

use hkdf::Hkdf;
use kms_attest::identity::{AppId, DomainName, InstanceId};
use kms_attest::p256::{KeyError, P256Key};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::epoch::{AppEpoch, KeyEpochs};
use super::keyring::Unreadable;
use super::scope::{KeyScope, Purpose};
use super::{K256Error, K256Key, RootKeys, Secret, label, statement};

/// An app in its domain, at one of its epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppAt<'a> {
    /// The domain that the app is in.
    pub domain: &'a DomainName,
    /// The app.
    pub id: &'a AppId,
    /// The instance whose app key and app CA these are; `None` where all instances share them.
    pub instance: Option<&'a InstanceId>,
    /// The epoch of the app; that of the root keys is known to [`RootKeys`].
    pub epoch: AppEpoch,
}

/// For [`AppAt::from`].
static DEFAULT_DOMAIN: DomainName = DomainName::DEFAULT;

/// The app in the default domain and at epoch 0, where it is until an operator or the policy says otherwise.
impl<'a> From<&'a AppId> for AppAt<'a> {
    fn from(id: &'a AppId) -> Self {
        Self { domain: &DEFAULT_DOMAIN, id, instance: None, epoch: AppEpoch::FIRST }
    }
}

impl<'a> AppAt<'a> {
    /// The scope of a key. `disk` is the instance whose disk is encrypted; empty for the disks of all.
    fn scope(self, root: &RootKeys, purpose: Purpose, disk: &'a [u8]) -> KeyScope<'a> {
        let instance_id = match purpose {
            Purpose::DiskKey => disk,
            // Who encrypts an environment knows no instance.
            Purpose::EnvKey => &[],
            Purpose::AppCa | Purpose::AppKey => self.instance.map_or(&[][..], |instance| &instance.0),
        };
        let epochs = KeyEpochs { root: root.epoch(), app: self.epoch };
        KeyScope { domain: self.domain.as_str(), epochs, app_id: self.id, instance_id, purpose }
    }
}

/// What the KMS releases to an app. The formulas are those of the default domain at epochs 0 and 0, which are the peer's. In
/// other domains, at other epochs, and where each instance has an app key of its own, each of the three is `HKDF-SHA256["cvm-kms-keys-v2", info](parent scalar, 32)`, with the same parents and
/// [`KeyScope::info`].
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
    /// The root epoch has no keys that may be used now. Not final for the app: other epochs may have.
    #[error(transparent)]
    Epoch(#[from] Unreadable),
}

const MAX_BYTES: usize = 255 * 32;

/// All keys of an app instance. `instance_id` is empty when the app runs without one: then all instances share a disk
/// key.
///
/// # Errors
/// [`DeriveError`].
pub fn app_keys<'a>(
    root: &RootKeys,
    app: impl Into<AppAt<'a>>,
    instance_id: &[u8],
) -> Result<AppKeys, DeriveError> {
    let app = app.into();
    signed_app_keys(root, app, instance_id, || app_key_signature(root, app))
}

/// The same with `signature`, which gives what [`app_key_signature`] makes, perhaps made before.
///
/// # Errors
/// [`DeriveError`], and those of `signature`.
pub fn signed_app_keys<'a>(
    root: &RootKeys,
    app: impl Into<AppAt<'a>>,
    instance_id: &[u8],
    signature: impl FnOnce() -> Result<[u8; 65], DeriveError>,
) -> Result<AppKeys, DeriveError> {
    let app = app.into();
    let disk_scope = app.scope(root, Purpose::DiskKey, instance_id);
    let disk_crypt_key = secret(root.ca(), &disk_scope).map_err(DeriveError::DiskKey)?;
    let env_crypt_key = env_secret(root, app)?;
    let k256_key = Secret::new(app_scalar(root, app));
    Ok(AppKeys { disk_crypt_key, env_crypt_key, k256_key, k256_signature: signature()? })
}

/// The root key's statement about the public half of an app's secp256k1 key. It is public and never changes,
/// because its nonce is derived (RFC 6979).
///
/// # Errors
/// [`DeriveError::K256Key`].
pub fn app_key_signature<'a>(root: &RootKeys, app: impl Into<AppAt<'a>>) -> Result<[u8; 65], DeriveError> {
    let app = app.into();
    let app_key = K256Key::from_scalar(&app_scalar(root, app)).map_err(DeriveError::K256Key)?;
    Ok(statement::sign_app_key(root, app.id, app_key.public_key()))
}

fn app_scalar(root: &RootKeys, app: AppAt<'_>) -> Zeroizing<[u8; 32]> {
    child(root.k256().scalar(), &app.scope(root, Purpose::AppKey, &[]))
}

/// `X25519(env_crypt_key, 9)`: what a deployer encrypts the environment to.
pub fn env_public_key<'a>(root: &RootKeys, app: impl Into<AppAt<'a>>) -> Result<[u8; 32], DeriveError> {
    let secret = StaticSecret::from(*env_secret(root, app.into())?.expose());
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

/// The key that authenticates the state that the nodes of `fleet` share: `KDF(root k256, fleet id ‖ "cvm-kms-state-key", 32)`.
pub fn state_key(root: &RootKeys, fleet: &[u8; 16]) -> Secret {
    Secret::new(kdf_32(root.k256().scalar(), &[fleet, label::STATE_KEY]))
}

/// What nodes compare to know that they have the same root keys, without showing any secret: `SHA-256("cvm-kms-canary-key" ‖
/// KDF(root CA, fleet id ‖ "cvm-kms-canary-key", 32) ‖ KDF(root k256, fleet id ‖ "cvm-kms-canary-key", 32))`. The two keys are used for nothing else.
pub fn canary(root: &RootKeys, fleet: &[u8; 16]) -> [u8; 32] {
    let key = |scalar| kdf_32(scalar, &[fleet, label::CANARY_KEY]);
    let digest = Sha256::new().chain_update(label::CANARY_KEY);
    let digest = digest.chain_update(&key(root.ca().scalar())[..]);
    digest.chain_update(&key(root.k256().scalar())[..]).finalize().into()
}

/// P-256 child of the root CA key with context `app_id ‖ "app-ca"`; in other domains and at other epochs, with the scalar of
/// [`KeyScope::info`].
pub fn app_ca_key<'a>(root: &RootKeys, app: impl Into<AppAt<'a>>) -> Result<P256Key, DeriveError> {
    let scalar = child(root.ca().scalar(), &app.into().scope(root, Purpose::AppCa, &[]));
    P256Key::from_scalar(&scalar).map_err(DeriveError::AppCaKey)
}

fn env_secret(root: &RootKeys, app: AppAt<'_>) -> Result<Secret, DeriveError> {
    secret(root.ca(), &app.scope(root, Purpose::EnvKey, &[])).map_err(DeriveError::EnvKey)
}

/// The 32 bytes for `scope` from a parent's scalar: the peer's `KDF` where the peer derives the key too, otherwise
/// `HKDF-SHA256["cvm-kms-keys-v2", info](parent scalar, 32)`.
fn child(parent: &[u8; 32], scope: &KeyScope<'_>) -> Zeroizing<[u8; 32]> {
    if scope.is_first() {
        return kdf_32(parent, &scope.first_context());
    }
    let mut okm = Zeroizing::new([0; 32]);
    expand(label::KDF_SALT_V2, parent, &[&scope.info()], &mut okm[..]);
    okm
}

/// A secret for `scope`: the peer's `DH` where the peer derives it too, otherwise [`child`].
fn secret(parent: &P256Key, scope: &KeyScope<'_>) -> Result<Secret, KeyError> {
    match scope.is_first() {
        true => dh_secret(parent, &scope.first_context()),
        false => Ok(Secret::new(child(parent.scalar(), scope))),
    }
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
/// with an app id of fixed length and ends with its own label, or is the origin of a log, or the id of a fleet,
/// and a label that is the end of no other.
pub fn kdf(ikm: &[u8], context: &[&[u8]], length: usize) -> Result<Zeroizing<Vec<u8>>, DeriveError> {
    if length > MAX_BYTES {
        return Err(DeriveError::TooLong(length));
    }
    let mut okm = Zeroizing::new(vec![0; length]);
    expand(label::KDF_SALT, ikm, context, &mut okm);
    Ok(okm)
}

fn kdf_32(ikm: &[u8], context: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut okm = Zeroizing::new([0; 32]);
    expand(label::KDF_SALT, ikm, context, &mut okm[..]);
    okm
}

fn expand(salt: &[u8], ikm: &[u8], context: &[&[u8]], okm: &mut [u8]) {
    let hkdf = Hkdf::<Sha256>::new(Some(salt), ikm);
    hkdf.expand_multi_info(context, okm).expect("all callers ask for at most MAX_BYTES");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with another implementation of HKDF. With a changed byte, nodes do not believe each other.
    #[test]
    fn the_key_of_the_shared_state_has_a_known_answer() {
        let k256 = K256Key::from_scalar(&[2; 32]).unwrap();
        let root = RootKeys::from_parts(P256Key::generate(), P256Key::generate(), k256);
        let key = hex::encode(state_key(&root, &[7; 16]).expose());
        assert_eq!(key, "c2c2173aabb3202faaabc3fc198f617c4b994699e59306064b987b6f7d5e96c5");
    }

    /// Computed with another implementation of HKDF.
    #[test]
    fn a_canary_has_a_known_answer_and_tells_both_root_keys_apart() {
        let root = |ca: u8, k256: u8| {
            let ca = P256Key::from_scalar(&[ca; 32]).unwrap();
            RootKeys::from_parts(ca, P256Key::generate(), K256Key::from_scalar(&[k256; 32]).unwrap())
        };
        let of = |ca, k256| hex::encode(canary(&root(ca, k256), &[7; 16]));
        assert_eq!(of(3, 2), "e43d4d1391b7b7b938d04b2da0c67fc3a81ba10604a9f218fe1f17c2a946a0f6");
        assert!(of(3, 2) != of(4, 2) && of(3, 2) != of(3, 4));
        assert_ne!(hex::encode(canary(&root(3, 2), &[8; 16])), of(3, 2));
    }

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
