//! What known answers cannot say of derivations; `tests/vectors.rs` runs those of the peer.

use std::io::Write as _;
use std::process::{Command, Stdio};

use kms_attest::identity::{AppId, DomainName, InstanceId};
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
fn keys_of_other_domains_and_later_epochs_are_those_that_a_python_program_computes() {
    let app_id = AppId(std::array::from_fn(|index| index as u8));
    let instance = [0xa5; 20];
    let mut cases = Vec::new();
    let mut ours = Vec::new();
    let own = InstanceId(instance);
    for (domain, root_epoch, app_epoch) in [
        ("default", 0, 1),
        ("default", 1, 0),
        ("default", 1, 1),
        ("default", 2, 7),
        ("default", 255, u32::MAX),
        ("sandbox", 0, 0),
        ("sandbox", 1, 7),
        ("team-a.prod", 0, 0),
    ] {
        let root = root_of(root_epoch);
        let name: DomainName = domain.parse().unwrap();
        // The instance of the disk, and the one that has an app key and an app CA of its own.
        for (instance, own) in [(&instance[..], None), (&[], None), (&instance[..], Some(&own))] {
            let app = AppAt { domain: &name, id: &app_id, instance: own, epoch: AppEpoch(app_epoch) };
            let keys = app_keys(&root, app, instance).unwrap();
            let ca = app_ca_key(&root, app).unwrap();
            let own = own.map_or(&[][..], |own| &own.0);
            for (label, parent, instance_id, key) in [
                ("app-disk-crypt-key", [0x11; 32], instance, keys.disk_crypt_key.expose()),
                ("env-encrypt-key", [0x11; 32], &[], keys.env_crypt_key.expose()),
                ("app-ca", [0x11; 32], own, ca.scalar()),
                ("app-key", [0x33; 32], own, keys.k256_key.expose()),
            ] {
                cases.push(json!({
                    "domain": domain, "root_epoch": root_epoch, "app_epoch": app_epoch,
                    "app_id": hex::encode(app_id.0), "instance_id": hex::encode(instance_id), "label": label,
                    "parent": hex::encode(parent),
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
        let app = AppAt { epoch: AppEpoch(app_epoch), ..(&app_id).into() };
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

/// Every key that the KMS derives for an app, and the public key of its environment.
fn all_keys(root: &RootKeys, app: AppAt<'_>, instance: &[u8]) -> [(&'static str, [u8; 32]); 5] {
    let keys = app_keys(root, app, instance).unwrap();
    [
        ("disk", *keys.disk_crypt_key.expose()),
        ("env", *keys.env_crypt_key.expose()),
        ("k256", *keys.k256_key.expose()),
        ("ca", *app_ca_key(root, app).unwrap().scalar()),
        ("env public", env_public_key(root, app).unwrap()),
    ]
}

#[test]
fn no_domain_has_a_key_of_another_and_the_default_one_has_those_of_the_peer() {
    let names = ["default", "default0", "defaul", "d", "0", "sandbox", "sandbox.default", "team-a"];
    let names = names.map(|name| name.parse::<DomainName>().unwrap());
    let apps = [AppId([0; 20]), AppId([7; 20]), AppId(std::array::from_fn(|index| (index == 19).into()))];
    let instances = [InstanceId([0; 20]), InstanceId([7; 20])];
    // Which scopes have a key, by its bytes.
    let mut seen = std::collections::HashMap::new();
    let mut count = 0;
    for (root_epoch, app_epoch) in [(0, 0), (0, 1), (1, 0)] {
        let root = root_of(root_epoch);
        for domain in &names {
            for id in &apps {
                for instance in &instances {
                    for own in [None, Some(instance)] {
                        let app = AppAt { domain, id, instance: own, epoch: AppEpoch(app_epoch) };
                        for (purpose, key) in all_keys(&root, app, &instance.0) {
                            // What the scope of this key says; two scopes that are the same have the same key.
                            let instance = match purpose {
                                "disk" => Some(instance),
                                "k256" | "ca" => own,
                                _ => None,
                            };
                            let scope =
                                (root_epoch, app_epoch, domain.clone(), *id, instance.copied(), purpose);
                            let first = seen.entry(key).or_insert_with(|| {
                                count += 1;
                                scope.clone()
                            });
                            assert_eq!(*first, scope);
                        }
                    }
                }
            }
        }
    }
    // Disk keys of 2 instances, one env key with its public half, app key and app CA for all and for 2 instances.
    assert_eq!(count, 3 * 8 * 3 * (2 + 2 + 2 * 3));
    let root = root_of(0);
    for id in &apps {
        let named = AppAt { domain: &names[0], id, instance: None, epoch: AppEpoch::FIRST };
        assert_eq!(named, AppAt::from(id));
        let (ours, context) = (all_keys(&root, named, b"instance"), [&id.0[..], b"app-key"]);
        assert_eq!(ours[2].1, kdf(root.k256().scalar(), &context, 32).unwrap()[..], "as the peer derives it");
    }
}
