//! Known answers of the peer: every list of `tests/vectors/keys.json`.

use aes_gcm::aead::{Aead, KeyInit};
use kms_attest::identity::AppId;
use kms_attest::p256::P256Key;
use secp256k1::Message;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use serde_json::Value;
use x25519_dalek::{PublicKey, StaticSecret};

use super::derive::{DeriveError, app_ca_key, app_keys, dh_secret, env_public_key, kdf, p256_child};
use super::{K256Key, RootKeys, label, statement};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/keys.json")).unwrap()
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    let list = vectors[name].as_array().unwrap();
    assert!(!list.is_empty(), "{name}");
    list
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn context(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().unwrap().iter().map(bytes).collect()
}

fn borrowed(items: &[Vec<u8>]) -> Vec<&[u8]> {
    items.iter().map(Vec::as_slice).collect()
}

fn root(vectors: &Value) -> RootKeys {
    let ca = P256Key::from_scalar(&array(&vectors["root_ca"]["scalar"])).unwrap();
    let k256 = K256Key::from_bytes(&bytes(&vectors["root_k256"]["file_bytes"])).unwrap();
    RootKeys::from_parts(ca, P256Key::generate(), k256)
}

fn app_id(case: &Value) -> AppId {
    AppId(array(&case["app_id"]))
}

/// The signer's compressed public key.
fn recover(digest: [u8; 32], signature: &[u8]) -> String {
    let id = RecoveryId::try_from(i32::from(signature[64])).unwrap();
    let signature = RecoverableSignature::from_compact(&signature[..64], id).unwrap();
    hex::encode(signature.recover_ecdsa(Message::from_digest(digest)).unwrap().serialize())
}

fn decrypt(secret: &Value, blob: &[u8]) -> Vec<u8> {
    let ephemeral: [u8; 32] = blob[..32].try_into().unwrap();
    let shared = StaticSecret::from(array::<32>(secret)).diffie_hellman(&PublicKey::from(ephemeral));
    let cipher = aes_gcm::Aes256Gcm::new_from_slice(shared.as_bytes()).unwrap();
    let nonce = aes_gcm::Nonce::try_from(&blob[32..44]).unwrap();
    cipher.decrypt(&nonce, &blob[44..]).unwrap()
}

#[test]
fn root_public_keys() {
    let vectors = vectors();
    let root = root(&vectors);
    assert_eq!(hex::encode(root.ca_spki()), vectors["root_ca"]["spki_der"]);
    assert_eq!(hex::encode(root.k256_public()), vectors["root_k256"]["public_key_compressed"]);
    assert_eq!(hex::encode(root.k256().scalar()), vectors["root_k256"]["scalar"]);
}

#[test]
fn hkdf_derive_key() {
    for case in list(&vectors(), "hkdf_derive_key") {
        let context = context(&case["context"]);
        let length = usize::try_from(case["len"].as_u64().unwrap()).unwrap();
        let okm = kdf(&bytes(&case["ikm"]), &borrowed(&context), length).unwrap();
        assert_eq!(hex::encode(&okm[..]), case["okm"]);
    }
    assert_eq!(kdf(b"x", &[], 255 * 32).unwrap().len(), 255 * 32);
    assert_eq!(kdf(b"x", &[], 255 * 32 + 1).err(), Some(DeriveError::TooLong(8161)));
}

#[test]
fn p256_derivations_from_root_ca() {
    let vectors = vectors();
    let root = root(&vectors);
    for case in list(&vectors, "p256_derivations_from_root_ca") {
        let context = context(&case["context"]);
        let child = p256_child(root.ca(), &borrowed(&context)).unwrap();
        assert_eq!(hex::encode(child.scalar()), case["derived_scalar"]);
        assert_eq!(hex::encode(&child.pkcs8_der()[..]), case["derived_pkcs8_der"]);
        assert_eq!(hex::encode(child.spki_der()), case["derived_spki_der"]);
        let secret = dh_secret(root.ca(), &borrowed(&context)).unwrap();
        assert_eq!(hex::encode(secret.expose()), case["dh_secret"]);
    }
}

#[test]
fn pinned_dh_secret() {
    let case = &vectors()["pinned_dh_secret"];
    let root = P256Key::from_pkcs8_der(&bytes(&case["root_pkcs8_der"])).unwrap();
    let context = context(&case["context"]);
    assert_eq!(hex::encode(dh_secret(&root, &borrowed(&context)).unwrap().expose()), case["dh_secret"]);
}

#[test]
fn keys_of_an_app() {
    let vectors = vectors();
    let root = root(&vectors);
    for case in list(&vectors, "app_keys") {
        let app_id = app_id(case);
        let keys = app_keys(&root, &app_id, &bytes(&case["instance_id"])).unwrap();
        assert_eq!(hex::encode(keys.disk_crypt_key.expose()), case["disk_crypt_key"]);
        assert_eq!(hex::encode(keys.env_crypt_key.expose()), case["env_crypt_key"]);
        assert_eq!(hex::encode(keys.k256_key.expose()), case["k256_key"]);
        assert_eq!(hex::encode(keys.k256_signature), case["k256_signature"]);
        assert_eq!(hex::encode(env_public_key(&root, &app_id).unwrap()), case["env_public_key"]);
        let public: [u8; 33] = array(&case["k256_public_key_compressed"]);
        assert_eq!(K256Key::from_scalar(keys.k256_key.expose()).unwrap().public_key(), &public);
        let digest = statement::digest(label::KMS_ISSUED, &app_id.0, &public);
        assert_eq!(hex::encode(digest), case["k256_signature_digest"]);
        let app_ca = app_ca_key(&root, &app_id).unwrap();
        assert_eq!(hex::encode(app_ca.scalar()), case["app_ca_scalar"]);
        assert_eq!(app_ca.pem().as_str(), case["app_ca_key_pem"]);
        assert_eq!(hex::encode(app_ca.spki_der()), case["app_ca_spki_der"]);
    }
}

#[test]
fn env_pubkey_signatures() {
    let vectors = vectors();
    let root = root(&vectors);
    for case in list(&vectors, "env_pubkey_signatures") {
        let (app_id, public) = (app_id(case), array(&case["public_key"]));
        let timestamp = case["timestamp"].as_str().unwrap().parse().unwrap();
        let plain = statement::sign_env_public_key(&root, &app_id, &public);
        assert_eq!(hex::encode(plain), case["signature"]);
        let dated = statement::sign_env_public_key_at(&root, &app_id, &public, timestamp);
        assert_eq!(hex::encode(dated), case["signature_v1"]);
    }
}

#[test]
fn sign_message() {
    let vectors = vectors();
    let root = root(&vectors);
    let mut recovery_ids = [0; 2];
    for case in list(&vectors, "sign_message") {
        let (prefix, app_id, message) =
            (bytes(&case["prefix"]), bytes(&case["appid"]), bytes(&case["message"]));
        assert_eq!(hex::encode(statement::digest(&prefix, &app_id, &message)), case["digest"]);
        let signature = statement::sign_message(root.k256(), &prefix, &app_id, &message);
        assert_eq!(hex::encode(signature), case["signature"]);
        recovery_ids[usize::from(signature[64])] += 1;
    }
    assert!(recovery_ids.iter().all(|&count| count > 0), "{recovery_ids:?}");
}

#[test]
fn env_encryption() {
    let vectors = vectors();
    let root = root(&vectors);
    for case in list(&vectors, "env_encryption") {
        let keys = app_keys(&root, &app_id(case), &[]).unwrap();
        assert_eq!(hex::encode(keys.env_crypt_key.expose()), case["env_crypt_key"]);
        assert_eq!(hex::encode(env_public_key(&root, &app_id(case)).unwrap()), case["env_public_key"]);
        let plaintext = decrypt(&case["env_crypt_key"], &bytes(&case["encrypted_env"]));
        assert_eq!(std::str::from_utf8(&plaintext).unwrap(), case["plaintext"]);
    }
}

#[test]
fn guest_getkey_chain() {
    let vectors = vectors();
    let root = root(&vectors);
    for case in list(&vectors, "guest_getkey_chain") {
        let app = app_keys(&root, &app_id(case), &[]).unwrap();
        let path = case["path"].as_str().unwrap();
        let key = kdf(app.k256_key.expose(), &[path.as_bytes()], 32).unwrap();
        assert_eq!(hex::encode(&key[..]), case["key"]);
        let public = K256Key::from_bytes(&key).unwrap();
        assert_eq!(hex::encode(public.public_key()), case["public_key_hex"]);
        let text = format!("{}:{}", case["purpose"].as_str().unwrap(), hex::encode(public.public_key()));
        assert_eq!(text, case["signed_text"]);
        // A statement with prefix = purpose, no app id and the hexadecimal key as message has the same digest.
        let app_key = K256Key::from_scalar(app.k256_key.expose()).unwrap();
        let purpose = case["purpose"].as_str().unwrap().as_bytes();
        let hex_key = hex::encode(public.public_key());
        let first = statement::sign_message(&app_key, purpose, &[], hex_key.as_bytes());
        assert_eq!(hex::encode(first), case["signature_chain"][0]);
        assert_eq!(hex::encode(app.k256_signature), case["signature_chain"][1]);
        let digest = statement::digest(label::KMS_ISSUED, &app_id(case).0, app_key.public_key());
        assert_eq!(recover(digest, &app.k256_signature), case["kms_root_public_key"].as_str().unwrap());
    }
}

#[test]
fn bootstrap_report_data() {
    let case = &vectors()["bootstrap_report_data"];
    let spki = bytes(&case["ca_pubkey_spki_der"]);
    let report_data = statement::bootstrap_report_data(&spki, &array(&case["k256_pubkey_compressed"]));
    assert_eq!(hex::encode(report_data.0), case["report_data"]);
}

#[test]
fn published_known_answers() {
    for case in list(&vectors(), "published_known_answers") {
        match case["kind"].as_str().unwrap() {
            "env_pubkey_signature_legacy" => {
                let digest = statement::digest(
                    label::ENV_ENCRYPT_PUBKEY,
                    &app_id(case).0,
                    &bytes(&case["public_key"]),
                );
                assert_eq!(
                    recover(digest, &bytes(&case["signature"])),
                    case["recovers_to"].as_str().unwrap()
                );
            }
            "k256_app_key_signature" => {
                let key = K256Key::from_bytes(&bytes(&case["k256_key"])).unwrap();
                assert_eq!(hex::encode(key.public_key()), case["k256_public_key_compressed"]);
                let digest = statement::digest(label::KMS_ISSUED, &app_id(case).0, key.public_key());
                assert_eq!(
                    recover(digest, &bytes(&case["k256_signature"])),
                    case["recovers_to"].as_str().unwrap()
                );
            }
            "env_decrypt" => {
                let plaintext = decrypt(&case["env_crypt_key"], &bytes(&case["encrypted_env"]));
                assert_eq!(std::str::from_utf8(&plaintext).unwrap(), case["plaintext"]);
            }
            other => panic!("unknown kind {other}"),
        }
    }
}

#[test]
fn apps_and_instances_do_not_share_keys() {
    let root = RootKeys::generate();
    let [one, other] = [AppId([1; 20]), AppId([2; 20])];
    let keys = |app_id, instance: &[u8]| app_keys(&root, app_id, instance).unwrap();
    let (first, second) = (keys(&one, &[1; 20]), keys(&one, &[2; 20]));
    assert!(first.disk_crypt_key != second.disk_crypt_key);
    assert!(first.env_crypt_key == second.env_crypt_key && first.k256_key == second.k256_key);
    let foreign = keys(&other, &[1; 20]);
    assert!(first.disk_crypt_key != foreign.disk_crypt_key);
    assert!(first.env_crypt_key != foreign.env_crypt_key && first.k256_key != foreign.k256_key);
}
