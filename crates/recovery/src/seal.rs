//! The sealed material: AES-256-GCM under a key that is derived from the shared scalar.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::manifest::SetId;
use crate::scalar::SecretScalar;

/// The most bytes of material.
pub const MAX_MATERIAL: usize = 3 << 20;
/// The length of the salt.
pub(crate) const SALT: usize = 32;
/// How much longer the sealed material is.
pub(crate) const TAG: usize = 16;

const LABEL: &[u8] = b"cvm-kms-recovery-seal-v1";

/// `AES-256-GCM[key, nonce 0](material, additional data = label ‖ set id)` with
/// `key = HKDF-SHA256[salt, label ‖ set id](s, 32)`.
///
/// The nonce is constant because each key seals one message: scalar, salt and set id are new for each set.
pub(crate) fn seal(secret: &SecretScalar, salt: &[u8; SALT], set: &SetId, material: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(material.len() + TAG);
    sealed.extend_from_slice(material);
    key(secret, salt, set)
        .seal_in_place_append_tag(nonce(), Aad::from(context(set)), &mut sealed)
        .expect("the material is short");
    sealed
}

/// The inverse; `None` if anything is not what was sealed.
pub(crate) fn open(
    secret: &SecretScalar,
    salt: &[u8; SALT],
    set: &SetId,
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let length =
        key(secret, salt, set).open_in_place(nonce(), Aad::from(context(set)), &mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(buffer)
}

fn key(secret: &SecretScalar, salt: &[u8; SALT], set: &SetId) -> LessSafeKey {
    let pseudorandom = Salt::new(HKDF_SHA256, salt).extract(&secret.to_bytes()[..]);
    let info = context(set);
    let info = [&info[..]];
    let key: UnboundKey = pseudorandom.expand(&info, &AES_256_GCM).expect("one block").into();
    LessSafeKey::new(key)
}

fn context(set: &SetId) -> Vec<u8> {
    [LABEL, set.as_bytes()].concat()
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}
