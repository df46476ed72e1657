//! `keys.json`: root keys, derivations, statements, and how guests and deployers use them.

use aes_gcm::aead::{Aead, KeyInit};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use cvm_kms::keys::derive::{app_ca_key, app_keys, dh_secret, env_public_key, kdf, p256_child};
use cvm_kms::keys::{K256Key, RootKeys, label, statement};
use kms_attest::identity::AppId;
use kms_attest::p256::P256Key;
use kms_client::statement::{self as client, Signer};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey as K256Public};
use sha3::{Digest, Keccak256};
use x25519_dalek::{PublicKey, StaticSecret};

use super::cases::Cases;
use super::json::{Check, Failure, Json, ensure};

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    cases.single(file, "root_ca", |case, _| root_ca(case, &root(file)?))?;
    cases.single(file, "root_k256", |case, _| root_k256(case, &root(file)?))?;
    cases.list(file, "hkdf_derive_key", |case, _| {
        let length = usize::try_from(case.at("len")?.number()?)?;
        let okm = kdf(&case.at("ikm")?.bytes()?, &borrowed(&context(case)?), length)?;
        case.at("okm")?.is_bytes(&okm[..])
    })?;
    cases.list(file, "p256_derivations_from_root_ca", |case, _| {
        let root = root(file)?;
        let context = context(case)?;
        let child = p256_child(root.ca(), &borrowed(&context))?;
        case.at("derived_scalar")?.is_bytes(child.scalar())?;
        case.at("derived_pkcs8_der")?.is_bytes(&child.pkcs8_der()[..])?;
        case.at("derived_spki_der")?.is_bytes(child.spki_der())?;
        case.at("dh_secret")?.is_bytes(dh_secret(root.ca(), &borrowed(&context))?.expose())
    })?;
    cases.single(file, "pinned_dh_secret", |case, _| {
        let root = P256Key::from_pkcs8_der(&case.at("root_pkcs8_der")?.bytes()?)?;
        case.at("dh_secret")?.is_bytes(dh_secret(&root, &borrowed(&context(case)?))?.expose())
    })?;
    cases.list(file, "app_keys", |case, _| app(case, &root(file)?))?;
    cases.list(file, "env_pubkey_signatures", |case, _| env_pubkey_signatures(case, &root(file)?))?;
    cases.list(file, "sign_message", |case, _| {
        let root = root(file)?;
        let [prefix, app_id, message] = [case.at("prefix")?, case.at("appid")?, case.at("message")?];
        let [prefix, app_id, message] = [prefix.bytes()?, app_id.bytes()?, message.bytes()?];
        case.at("digest")?.is_bytes(statement::digest(&prefix, &app_id, &message))?;
        case.at("signature")?.is_bytes(statement::sign_message(root.k256(), &prefix, &app_id, &message))
    })?;
    cases.list(file, "env_encryption", |case, _| env_encryption(case, &root(file)?))?;
    cases.list(file, "guest_getkey_chain", |case, _| guest_getkey_chain(case, &root(file)?))?;
    cases.single(file, "bootstrap_report_data", |case, _| bootstrap_report_data(case))?;
    cases.list(file, "published_known_answers", |case, _| published_known_answer(case))
}

fn root(file: &Json) -> Check<RootKeys> {
    let ca = P256Key::from_scalar(&file.at("root_ca")?.at("scalar")?.array()?)?;
    let k256 = K256Key::from_bytes(&file.at("root_k256")?.at("file_bytes")?.bytes()?)?;
    Ok(RootKeys::from_parts(ca, P256Key::generate(), k256))
}

fn root_ca(case: &Json, root: &RootKeys) -> Check {
    let [der, pem] = [case.at("pkcs8_der")?, case.at("pkcs8_pem")?];
    for read in [P256Key::from_pkcs8_der(&der.bytes()?)?, P256Key::from_pem(pem.text()?)?] {
        case.at("scalar")?.is_bytes(read.scalar())?;
    }
    der.is_bytes(&root.ca().pkcs8_der()[..])?;
    pem.is_text(&root.ca().pem())?;
    case.at("spki_der")?.is_bytes(root.ca().spki_der())?;
    case.at("spki_der")?.is_bytes(root.ca_spki())
}

fn root_k256(case: &Json, root: &RootKeys) -> Check {
    case.at("scalar")?.is_bytes(root.k256().scalar())?;
    case.at("file_bytes")?.is_bytes(root.k256().scalar())?;
    case.at("public_key_compressed")?.is_bytes(root.k256_public())?;
    let public = K256Public::from_slice(&root.k256_public())?;
    case.at("public_key_uncompressed")?.is_bytes(public.serialize_uncompressed())
}

fn app(case: &Json, root: &RootKeys) -> Check {
    let app_id = app_id(case)?;
    let keys = app_keys(root, &app_id, &case.at("instance_id")?.bytes()?)?;
    case.at("disk_crypt_key")?.is_bytes(keys.disk_crypt_key.expose())?;
    case.at("env_crypt_key")?.is_bytes(keys.env_crypt_key.expose())?;
    case.at("env_public_key")?.is_bytes(env_public_key(root, &app_id)?)?;
    case.at("k256_key")?.is_bytes(keys.k256_key.expose())?;
    let public = *K256Key::from_scalar(keys.k256_key.expose())?.public_key();
    case.at("k256_public_key_compressed")?.is_bytes(public)?;
    case.at("k256_signature")?.is_bytes(keys.k256_signature)?;
    let digest = statement::digest(label::KMS_ISSUED, &app_id.0, &public);
    case.at("k256_signature_digest")?.is_bytes(digest)?;
    is_preimage(case.at("k256_signature_preimage")?, digest)?;
    ensure!(recover(digest, &keys.k256_signature)? == root.k256_public(), "the root key did not sign");
    let app_ca = app_ca_key(root, &app_id)?;
    let key = Signer::of_secret(keys.k256_key.expose())?;
    case.at("k256_public_key_compressed")?.is_text(&key.to_string())?;
    let signer = client::app_key_signer(app_id, &key, &keys.k256_signature)?;
    ensure!(signer.as_bytes() == &root.k256_public(), "a client finds that {signer} signed");
    case.at("app_ca_scalar")?.is_bytes(app_ca.scalar())?;
    case.at("app_ca_key_pem")?.is_text(&app_ca.pem())?;
    case.at("app_ca_spki_der")?.is_bytes(app_ca.spki_der())
}

fn env_pubkey_signatures(case: &Json, root: &RootKeys) -> Check {
    let app_id = app_id(case)?;
    let public = env_public_key(root, &app_id)?;
    case.at("public_key")?.is_bytes(public)?;
    let timestamp: u64 = case.at("timestamp")?.text()?.parse()?;
    let dated = [&timestamp.to_be_bytes()[..], &public].concat();
    let forms = [
        ("signature", statement::sign_env_public_key(root, &app_id, &public), &public[..]),
        ("signature_v1", statement::sign_env_public_key_at(root, &app_id, &public, timestamp), &dated),
    ];
    for (name, signature, message) in forms {
        let digest = statement::digest(label::ENV_ENCRYPT_PUBKEY, &app_id.0, message);
        case.at(name)?.is_bytes(signature)?;
        case.at(&format!("{name}_digest"))?.is_bytes(digest)?;
        is_preimage(case.at(&format!("{name}_preimage"))?, digest)?;
        ensure!(recover(digest, &signature)? == root.k256_public(), "the root key did not sign");
    }
    let by_root = |signer: Result<Signer, client::SignatureError>| {
        signer.is_ok_and(|signer| signer.as_bytes() == &root.k256_public())
    };
    let (old, new) = (case.at("signature")?.bytes()?, case.at("signature_v1")?.bytes()?);
    ensure!(by_root(client::timeless_env_key_signer(app_id, &public, &old)), "a client refuses it");
    ensure!(
        by_root(client::env_key_signer(app_id, timestamp, &public, &new)),
        "a client refuses it with its date"
    );
    let other_date = client::env_key_signer(app_id, timestamp ^ 1, &public, &new);
    ensure!(!by_root(other_date), "a client takes it with another date");
    let tampered: Vec<u8> = new.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 40)).collect();
    ensure!(
        !by_root(client::env_key_signer(app_id, timestamp, &public, &tampered)),
        "a client takes another signature"
    );
    Ok(())
}

fn env_encryption(case: &Json, root: &RootKeys) -> Check {
    let app_id = app_id(case)?;
    let secret = case.at("env_crypt_key")?;
    secret.is_bytes(app_keys(root, &app_id, &[])?.env_crypt_key.expose())?;
    let public = env_public_key(root, &app_id)?;
    case.at("env_public_key")?.is_bytes(public)?;
    // The deployer's side.
    let ephemeral = StaticSecret::from(case.at("ephemeral_secret")?.array::<32>()?);
    let ephemeral_public = PublicKey::from(&ephemeral).to_bytes();
    case.at("ephemeral_public")?.is_bytes(ephemeral_public)?;
    let shared = ephemeral.diffie_hellman(&PublicKey::from(public));
    case.at("shared_secret")?.is_bytes(shared.as_bytes())?;
    let plaintext = case.at("plaintext")?;
    let iv: [u8; 12] = case.at("iv")?.array()?;
    let sealed = aes_gcm::Aes256Gcm::new_from_slice(shared.as_bytes())?
        .encrypt(&iv.into(), plaintext.text()?.as_bytes())
        .map_err(|_| Failure("the plaintext cannot be encrypted".into()))?;
    let blob = [&ephemeral_public[..], &iv, &sealed].concat();
    case.at("encrypted_env")?.is_bytes(&blob)?;
    // The guest's side.
    plaintext.is_text(&decrypt(secret.array()?, &blob)?)
}

fn guest_getkey_chain(case: &Json, root: &RootKeys) -> Check {
    let app_id = app_id(case)?;
    let app = app_keys(root, &app_id, &[])?;
    let app_key = K256Key::from_scalar(app.k256_key.expose())?;
    let key = kdf(app.k256_key.expose(), &[case.at("path")?.text()?.as_bytes()], 32)?;
    case.at("key")?.is_bytes(&key[..])?;
    let public = match case.at("algorithm")?.text()? {
        "secp256k1" => K256Key::from_bytes(&key)?.public_key().to_vec(),
        "ed25519" => Ed25519KeyPair::from_seed_unchecked(&key)?.public_key().as_ref().to_vec(),
        other => return Err(Failure(format!("unknown algorithm {other:?}"))),
    };
    let public = hex::encode(public);
    case.at("public_key_hex")?.is_text(&public)?;
    let purpose = case.at("purpose")?.text()?;
    case.at("signed_text")?.is_text(&format!("{purpose}:{public}"))?;
    // With an empty app id a statement is what the guest signs: purpose ‖ ":" ‖ text.
    let first = statement::sign_message(&app_key, purpose.as_bytes(), &[], public.as_bytes());
    let [first_link, second_link] = case.at("signature_chain")?.list()? else {
        return Err(Failure("a chain has two signatures".into()));
    };
    first_link.is_bytes(first)?;
    second_link.is_bytes(app.k256_signature)?;
    // The verifier's side.
    let signer =
        recover(statement::digest(purpose.as_bytes(), &[], public.as_bytes()), &first_link.bytes()?)?;
    let digest = statement::digest(label::KMS_ISSUED, &app_id.0, &signer);
    case.at("kms_root_public_key")?.is_bytes(recover(digest, &second_link.bytes()?)?)?;
    case.at("kms_root_public_key")?.is_bytes(root.k256_public())
}

fn bootstrap_report_data(case: &Json) -> Check {
    let spki = case.at("ca_pubkey_spki_der")?.bytes()?;
    let k256 = case.at("k256_pubkey_compressed")?.array()?;
    let report_data = statement::bootstrap_report_data(&spki, &k256);
    case.at("report_data")?.is_bytes(report_data.0)?;
    let signer = case.at("k256_pubkey_compressed")?.text()?.parse()?;
    case.at("report_data")?.is_bytes(client::bootstrap_report_data(&spki, &signer).0)?;
    let hash: [u8; 32] = Keccak256::digest(case.at("content")?.text()?).into();
    ensure!(report_data.0[..32] == hash, "the report data is not the hash of the content");
    Ok(())
}

fn published_known_answer(case: &Json) -> Check {
    case.at("source")?.informative();
    case.at("checked")?.informative();
    match case.at("kind")?.text()? {
        "env_pubkey_signature_legacy" => {
            let public = case.at("public_key")?.bytes()?;
            let digest = statement::digest(label::ENV_ENCRYPT_PUBKEY, &app_id(case)?.0, &public);
            let signature = case.at("signature")?.bytes()?;
            let signer = client::timeless_env_key_signer(app_id(case)?, &public, &signature)?;
            case.at("recovers_to")?.is_text(&signer.to_string())?;
            case.at("recovers_to")?.is_bytes(recover(digest, &signature)?)
        }
        "k256_app_key_signature" => {
            let key = K256Key::from_bytes(&case.at("k256_key")?.bytes()?)?;
            case.at("k256_public_key_compressed")?.is_bytes(key.public_key())?;
            let digest = statement::digest(label::KMS_ISSUED, &app_id(case)?.0, key.public_key());
            case.at("recovers_to")?.is_bytes(recover(digest, &case.at("k256_signature")?.bytes()?)?)
        }
        "env_decrypt" => {
            let blob = case.at("encrypted_env")?.bytes()?;
            case.at("plaintext")?.is_text(&decrypt(case.at("env_crypt_key")?.array()?, &blob)?)
        }
        other => Err(Failure(format!("unknown kind {other:?}"))),
    }
}

fn app_id(case: &Json) -> Check<AppId> {
    Ok(AppId::try_from(case.at("app_id")?.bytes()?.as_slice())?)
}

fn context(case: &Json) -> Check<Vec<Vec<u8>>> {
    case.at("context")?.list()?.iter().map(Json::bytes).collect()
}

fn borrowed(items: &[Vec<u8>]) -> Vec<&[u8]> {
    items.iter().map(Vec::as_slice).collect()
}

fn is_preimage(preimage: &Json, digest: [u8; 32]) -> Check {
    let hash: [u8; 32] = Keccak256::digest(preimage.bytes()?).into();
    ensure!(hash == digest, "{}: is not what is hashed", preimage.path());
    Ok(())
}

/// The signer's compressed public key.
fn recover(digest: [u8; 32], signature: &[u8]) -> Check<[u8; 33]> {
    let Some((compact, [id])) = signature.split_at_checked(64) else {
        return Err(Failure(format!("a signature has 65 bytes, got {}", signature.len())));
    };
    let signature = RecoverableSignature::from_compact(compact, RecoveryId::try_from(i32::from(*id))?)?;
    Ok(signature.recover_ecdsa(Message::from_digest(digest))?.serialize())
}

/// What the guest does with an encrypted environment.
fn decrypt(secret: [u8; 32], blob: &[u8]) -> Check<String> {
    let Some((ephemeral, rest)) = blob.split_first_chunk::<32>() else {
        return Err(Failure("the environment is too short".into()));
    };
    let Some((iv, sealed)) = rest.split_first_chunk::<12>() else {
        return Err(Failure("the environment is too short".into()));
    };
    let shared = StaticSecret::from(secret).diffie_hellman(&PublicKey::from(*ephemeral));
    let plaintext = aes_gcm::Aes256Gcm::new_from_slice(shared.as_bytes())?
        .decrypt(&(*iv).into(), sealed)
        .map_err(|_| Failure("the environment does not decrypt".into()))?;
    Ok(String::from_utf8(plaintext)?)
}
