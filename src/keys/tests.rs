//! What known answers cannot say of derivations; `tests/vectors.rs` runs those of the peer.

use std::io::Write as _;
use std::process::{Command, Stdio};

use kms_attest::identity::AppId;
use kms_attest::p256::P256Key;
use serde_json::json;

use super::derive::{AppAt, DeriveError, app_ca_key, app_keys, env_public_key, kdf};
use super::epoch::{AppEpoch, RootEpoch};
use super::{K256Key, RootKeys};

#[test]
fn a_derived_key_has_at_most_255_blocks() {
    assert_eq!(kdf(b"x", &[], 255 * 32).unwrap().len(), 255 * 32);
    assert_eq!(kdf(b"x", &[], 255 * 32 + 1).err(), Some(DeriveError::TooLong(8161)));
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

/// The disk key at epochs 0 and 1 of the first case below.
const FIRST_ANSWER: &str = "302f6efb86bb4112d93746e07a26d1744a1ea2c78bbc4d9daac0f7bf0024a8e4";

/// Root keys of an epoch, the same in each run.
fn root_of(epoch: u32) -> RootKeys {
    let p256 = |byte| P256Key::from_scalar(&[byte; 32]).unwrap();
    RootKeys::of_epoch(RootEpoch(epoch), p256(0x11), p256(0x22), K256Key::from_scalar(&[0x33; 32]).unwrap())
}

#[test]
fn keys_of_later_epochs_are_those_that_a_python_program_computes() {
    let app_id = AppId(std::array::from_fn(|index| index as u8));
    let instance = [0xa5; 20];
    let mut cases = Vec::new();
    let mut ours = Vec::new();
    for (root_epoch, app_epoch) in [(0, 1), (1, 0), (1, 1), (2, 7), (255, u32::MAX)] {
        let root = root_of(root_epoch);
        let app = AppAt { id: &app_id, epoch: AppEpoch(app_epoch) };
        for instance in [&instance[..], &[]] {
            let keys = app_keys(&root, app, instance).unwrap();
            let ca = app_ca_key(&root, app).unwrap();
            for (label, parent, instance_id, key) in [
                ("app-disk-crypt-key", [0x11; 32], instance, keys.disk_crypt_key.expose()),
                ("env-encrypt-key", [0x11; 32], &[], keys.env_crypt_key.expose()),
                ("app-ca", [0x11; 32], &[], ca.scalar()),
                ("app-key", [0x33; 32], &[], keys.k256_key.expose()),
            ] {
                cases.push(json!({
                    "root_epoch": root_epoch, "app_epoch": app_epoch, "app_id": hex::encode(app_id.0),
                    "instance_id": hex::encode(instance_id), "label": label, "parent": hex::encode(parent),
                }));
                ours.push(hex::encode(key));
            }
        }
    }
    // A changed byte is another key for everybody.
    assert_eq!(ours[0], FIRST_ANSWER);
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/src/keys/known_answers.py");
    let mut python = Command::new("python3")
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    python.stdin.take().unwrap().write_all(&serde_json::to_vec(&cases).unwrap()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let theirs: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ours, theirs);
}

#[test]
fn no_two_epochs_share_a_key() {
    let app_id = AppId([7; 20]);
    let mut seen = std::collections::HashSet::new();
    for (root_epoch, app_epoch) in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 256), (256, 0)] {
        // The same scalars: only the numbers differ.
        let root = root_of(root_epoch);
        let app = AppAt { id: &app_id, epoch: AppEpoch(app_epoch) };
        let keys = app_keys(&root, app, b"instance").unwrap();
        let shared = app_keys(&root, app, b"").unwrap();
        let secrets = [&keys.disk_crypt_key, &keys.env_crypt_key, &keys.k256_key, &shared.disk_crypt_key];
        let ca = *app_ca_key(&root, app).unwrap().scalar();
        for secret in secrets.map(|secret| *secret.expose()).into_iter().chain([ca]) {
            assert!(seen.insert(secret), "{root_epoch}/{app_epoch}");
        }
        assert!(seen.insert(env_public_key(&root, app).unwrap()), "{root_epoch}/{app_epoch}");
    }
}
