//! What the secp256k1 root key states and signs, and what the bootstrap quote vouches for.

use kms_attest::binding::ReportData;
use kms_attest::identity::AppId;
use kms_attest::p256::SPKI_LENGTH;
use secp256k1::Message;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use sha3::{Digest, Keccak256};

use super::epoch::RootEpoch;
use super::{K256Key, RootKeys, label};

/// "This key belongs to this app": `Sign("dstack-kms-issued" ‖ ":" ‖ app_id ‖ compressed public key)`.
pub fn sign_app_key(root: &RootKeys, app_id: &AppId, public_key: &[u8; 33]) -> [u8; 65] {
    sign_message(root.k256(), label::KMS_ISSUED, &app_id.0, public_key)
}

/// "This key encrypts the environment of this app", without a date:
/// `Sign("dstack-env-encrypt-pubkey" ‖ ":" ‖ app_id ‖ public key)`.
pub fn sign_env_public_key(root: &RootKeys, app_id: &AppId, public_key: &[u8; 32]) -> [u8; 65] {
    sign_message(root.k256(), label::ENV_ENCRYPT_PUBKEY, &app_id.0, public_key)
}

/// The same with a date in Unix seconds:
/// `Sign("dstack-env-encrypt-pubkey" ‖ ":" ‖ app_id ‖ u64be(timestamp) ‖ public key)`.
pub fn sign_env_public_key_at(
    root: &RootKeys,
    app_id: &AppId,
    public_key: &[u8; 32],
    timestamp: u64,
) -> [u8; 65] {
    let mut message = [0; 40];
    message[..8].copy_from_slice(&timestamp.to_be_bytes());
    message[8..].copy_from_slice(public_key);
    sign_message(root.k256(), label::ENV_ENCRYPT_PUBKEY, &app_id.0, &message)
}

/// "This key signs the log of one of our nodes": `Sign("cvm-kms-log-key-v1" ‖ ":" ‖ vkey)`, where `vkey` is
/// the text of the log's verifier key (C2SP `signed-note`).
pub fn sign_log_key(root: &RootKeys, vkey: &str) -> [u8; 65] {
    sign_message(root.k256(), label::LOG_KEY_STATEMENT, &[], vkey.as_bytes())
}

/// "This is a recovery set of our root keys": `Sign("cvm-kms-recovery-set-v1" ‖ ":" ‖ SHA-256(canonical manifest))`, over the
/// digest that [`kms_recovery::digest`] makes of it.
pub fn sign_recovery_set(root: &RootKeys, digest: [u8; 32]) -> [u8; 65] {
    root.k256().sign_digest(digest)
}

/// "These are the public keys of this root epoch":
/// `Sign("cvm-kms-root-epoch-v1" ‖ ":" ‖ u32be(number) ‖ root CA SPKI DER (91) ‖ compressed k256 key (33))`.
pub fn sign_root_epoch(
    root: &RootKeys,
    number: RootEpoch,
    ca_spki: &[u8; SPKI_LENGTH],
    k256_public: &[u8; 33],
) -> [u8; 65] {
    let message = [&number.0.to_be_bytes()[..], ca_spki, k256_public].concat();
    sign_message(root.k256(), label::ROOT_EPOCH_STATEMENT, &[], &message)
}

/// The root secp256k1 key, compressed, that signed this verifier key of a log with [`sign_log_key`]; `None` if the bytes are
/// no signature.
pub fn log_key_signer(vkey: &str, signature: &[u8]) -> Option<[u8; 33]> {
    signer(digest(label::LOG_KEY_STATEMENT, &[], vkey.as_bytes()), signature)
}

/// The root secp256k1 key, compressed, that stated these public keys of a root epoch with [`sign_root_epoch`]; `None` if the
/// bytes are no signature.
pub fn root_epoch_signer(
    number: RootEpoch,
    ca_spki: &[u8; SPKI_LENGTH],
    k256_public: &[u8; 33],
    signature: &[u8],
) -> Option<[u8; 33]> {
    let message = [&number.0.to_be_bytes()[..], ca_spki, k256_public].concat();
    signer(digest(label::ROOT_EPOCH_STATEMENT, &[], &message), signature)
}

fn signer(digest: [u8; 32], signature: &[u8]) -> Option<[u8; 33]> {
    let (recovery, compact) = signature.split_last()?;
    let recovery = RecoveryId::try_from(i32::from(*recovery)).ok()?;
    let signature = RecoverableSignature::from_compact(compact, recovery).ok()?;
    Some(signature.recover_ecdsa(Message::from_digest(digest)).ok()?.serialize())
}

/// `r ‖ s ‖ v` over [`digest`]`(prefix, app_id, message)`. Nothing separates app id and message: both have fixed
/// lengths in every statement.
pub fn sign_message(key: &K256Key, prefix: &[u8], app_id: &[u8], message: &[u8]) -> [u8; 65] {
    key.sign_digest(digest(prefix, app_id, message))
}

/// `Keccak-256(prefix ‖ ":" ‖ app_id ‖ message)`, with the original Keccak padding.
pub fn digest(prefix: &[u8], app_id: &[u8], message: &[u8]) -> [u8; 32] {
    let hash =
        Keccak256::new().chain_update(prefix).chain_update(b":").chain_update(app_id).chain_update(message);
    hash.finalize().into()
}

/// Report data of the bootstrap quote: Keccak-256 of `"dstack-kms-genereted-keys-v1:" ‖ hex(root CA SPKI DER)
/// ‖ ";" ‖ hex(compressed k256 key) ‖ ";"`, then 32 zero bytes.
pub fn bootstrap_report_data(ca_spki: &[u8], k256_public: &[u8; 33]) -> ReportData {
    let content = format!("{}{};{};", label::BOOTSTRAP_KEYS, hex::encode(ca_spki), hex::encode(k256_public));
    let mut report_data = ReportData::ZERO;
    report_data.0[..32].copy_from_slice(&Keccak256::digest(content));
    report_data
}
