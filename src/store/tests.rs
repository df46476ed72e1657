//! What a key directory is taken for, what is refused, and that the peer's directories and ours are the same.

use std::fs::{self, Permissions as Mode};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;

use kms_attest::p256::P256Key;
use serde_json::Value;
use tempfile::TempDir;

use super::file::File;
use super::fingerprints::Fingerprints;
use super::*;
use crate::ca;
use crate::domain::Domain;
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{Epoch, EpochChange, EpochKeys, EpochParts, EpochTimes, Keyring};
use crate::keys::{K256Key, RootKeys};

/// Everything that a commit takes.
pub(super) struct Set {
    root: Arc<RootKeys>,
    keyring: Keyring,
    rpc_key: P256Key,
    root_ca_pem: String,
    temp_ca_pem: String,
    rpc_pem: String,
    domain: Domain,
    bootstrap_info: Option<Vec<u8>>,
}

impl Set {
    /// The same set for the same number, in any process.
    pub(super) fn number(number: u8) -> Self {
        let p256 =
            |last| P256Key::from_scalar(&[&[number; 31][..], &[last]].concat().try_into().unwrap()).unwrap();
        let k256 = K256Key::from_scalar(&[number; 32]).unwrap();
        let root = RootKeys::from_parts(p256(1), p256(2), k256);
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        let root_ca_pem = ca::root_ca(&root, None, now).unwrap().pem;
        let domain = Domain::parse(&format!("kms{number}.example.com")).unwrap();
        let rpc_key = p256(3);
        let issuer = ca::root_issuer(&root, &root_ca_pem).unwrap();
        let rpc = ca::rpc_leaf(&issuer, &domain, &rpc_key, None, now).unwrap();
        let keyring = Keyring::first(root);
        let root = keyring.epochs()[0].keys().unwrap();
        Set {
            temp_ca_pem: ca::temp_ca(root, None, now).unwrap().pem,
            rpc_pem: kms_attest::certificate::pem(&rpc),
            bootstrap_info: Some(format!("{{\"number\":{number}}}").into_bytes()),
            rpc_key,
            root_ca_pem,
            domain,
            root: Arc::clone(keyring.epochs()[0].keys().unwrap()),
            keyring,
        }
    }

    /// The same set with two more epochs: 1 is active, and 2 is prepared.
    pub(super) fn several(number: u8) -> Self {
        let set = Set::number(number);
        let later = |epoch: u8, activate_at| EpochParts {
            epoch: RootEpoch(epoch.into()),
            times: EpochTimes { prepared_at: Some(5), activate_at, ..EpochTimes::default() },
            keys: EpochKeys::Held {
                ca: P256Key::from_scalar(&[number + 16 * epoch; 32]).unwrap(),
                k256: K256Key::from_scalar(&[number + 16 * epoch; 32]).unwrap(),
            },
            root_ca_pem: None,
        };
        let received = set.keyring.received(vec![later(1, Some(6)), later(2, None)]).unwrap();
        Set { keyring: set.keyring.after(EpochChange::Adopt(&received), 10).unwrap(), ..set }
    }

    /// The temporary CA's key again.
    pub(super) fn temp_ca(&self) -> P256Key {
        P256Key::from_scalar(self.root.temp_ca().scalar()).unwrap()
    }

    /// As of a replica.
    fn without_bootstrap_info(self) -> Self {
        Set { bootstrap_info: None, ..self }
    }

    pub(super) fn keys(&self) -> NewKeys<'_> {
        NewKeys {
            keyring: &self.keyring,
            rpc_key: &self.rpc_key,
            root_ca_pem: Some(&self.root_ca_pem),
            temp_ca_pem: &self.temp_ca_pem,
            rpc_pem: &self.rpc_pem,
            domain: &self.domain,
            bootstrap_info: self.bootstrap_info.as_deref(),
            app_epochs: (!self.keyring.is_first_only()).then_some(b"{}"),
            domains: (!self.keyring.is_first_only()).then_some(b"{}"),
        }
    }

    /// Whether the directory holds the keys of this set, all of them. Certificates have random signatures.
    pub(super) fn is(&self, stored: &Stored) -> bool {
        has_same_keys(&stored.keyring, &self.keyring)
            && stored.keyring.temp_ca().scalar() == self.root.temp_ca().scalar()
            && stored.temp_ca_key_pem == *self.root.temp_ca().pem()
            && stored.rpc_key.as_ref().is_some_and(|key| key.scalar() == self.rpc_key.scalar())
            && [&stored.temp_ca_pem, &stored.rpc_pem].iter().all(|pem| pem.is_some())
            && stored.root_ca_pem.is_some() == self.keyring.epochs()[0].keys().is_some()
            && stored.domain.as_deref() == Some(self.domain.as_str())
            && stored.bootstrap_info == self.bootstrap_info
    }
}

/// Whether two keyrings have the same keys in the same states.
pub(super) fn has_same_keys(one: &Keyring, other: &Keyring) -> bool {
    let scalars = |epoch: &Epoch| epoch.keys().map(|keys| (*keys.ca().scalar(), *keys.k256().scalar()));
    one.epochs().len() == other.epochs().len()
        && one.epochs().iter().zip(other.epochs()).all(|(one, other)| {
            one.number() == other.number()
                && one.times() == other.times()
                && one.public() == other.public()
                && scalars(one) == scalars(other)
        })
}

pub(super) fn open(path: &Path) -> KeyDirectory {
    KeyDirectory::open(path, Permissions::OwnerOnly).unwrap()
}

/// The content of a directory that must be complete.
pub(super) fn stored(directory: &KeyDirectory) -> Stored {
    match directory.state().unwrap() {
        State::Complete(stored) => *stored,
        other => panic!("{other:?}"),
    }
}

fn filled() -> (TempDir, Set) {
    let directory = tempfile::tempdir().unwrap();
    let set = Set::number(1);
    open(directory.path()).commit(&set.keys()).unwrap();
    (directory, set)
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file with its content.
fn content(path: &Path) -> Vec<(String, Vec<u8>)> {
    names(path).into_iter().map(|name| (name.clone(), fs::read(path.join(name)).unwrap())).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_configuration_knows_the_files_of_the_key_directory() {
    assert_eq!(File::ALL.map(File::name), crate::config::KEY_FILES);
}

#[test]
fn a_commit_writes_the_peers_nine_files_and_the_fingerprints() {
    let (directory, set) = filled();
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    let expected = [
        ("bootstrap-info.json", set.bootstrap_info.clone().unwrap()),
        ("root-ca.crt", set.root_ca_pem.clone().into_bytes()),
        ("root-ca.key", set.root.ca().pem().as_bytes().to_vec()),
        ("root-fingerprints.json", Fingerprints::of(&set.keyring, 0).text()),
        ("root-k256.key", set.root.k256().scalar().to_vec()),
        ("rpc-domain", b"kms1.example.com".to_vec()),
        ("rpc.crt", set.rpc_pem.clone().into_bytes()),
        ("rpc.key", set.rpc_key.pem().as_bytes().to_vec()),
        ("tmp-ca.crt", set.temp_ca_pem.clone().into_bytes()),
        ("tmp-ca.key", set.root.temp_ca().pem().as_bytes().to_vec()),
    ];
    assert_eq!(names(directory.path()), expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, expected) in expected {
        assert!(read(name) == expected, "{name}");
        let others = mode(&directory.path().join(name)) & 0o077;
        assert_eq!(name.ends_with(".key"), others == 0, "{name}");
    }
    assert!(set.is(&stored(&open(directory.path()))));
}

#[test]
fn a_directory_of_the_peer_is_complete_and_its_texts_are_kept() {
    let [keys, certificates] = ["keys.json", "certs.json"].map(kms_attest::test_vectors::json);
    let certificate = |name: &str| {
        certificates["certificates"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        fs::write(directory.path().join(name), content).unwrap();
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        fs::set_permissions(directory.path().join(name), Mode::from_mode(mode)).unwrap();
    };
    let temp_ca_key = text(&certificate("temp-ca")["private_key_pem"]).replace('\n', "\r\n");
    write("root-ca.key", text(&keys["root_ca"]["pkcs8_pem"]).as_bytes());
    write("root-k256.key", &hex::decode(text(&keys["root_k256"]["file_bytes"])).unwrap());
    write("tmp-ca.key", temp_ca_key.as_bytes());
    write("rpc.key", text(&certificate("kms-rpc")["private_key_pem"]).as_bytes());
    write("root-ca.crt", text(&certificate("kms-root-ca")["pem"]).as_bytes());
    write("tmp-ca.crt", text(&certificate("temp-ca")["pem"]).as_bytes());
    write("rpc.crt", text(&certificate("kms-rpc")["pem"]).as_bytes());
    write("rpc-domain", b"kms.example.com\n");
    let stored = stored(&open(directory.path()));
    assert_eq!(hex::encode(stored.keyring.epochs()[0].public().ca_spki), keys["root_ca"]["spki_der"]);
    assert_eq!(
        hex::encode(stored.keyring.epochs()[0].public().k256),
        keys["root_k256"]["public_key_compressed"]
    );
    assert_eq!(stored.temp_ca_key_pem, temp_ca_key);
    assert_eq!(stored.root_ca_pem, Some(text(&certificate("kms-root-ca")["pem"])));
    assert_eq!(stored.temp_ca_pem, Some(text(&certificate("temp-ca")["pem"])));
    assert_eq!(stored.rpc_pem, Some(text(&certificate("kms-rpc")["pem"])));
    assert!(stored.rpc_key.is_some());
    assert_eq!((stored.domain.as_deref(), stored.bootstrap_info), (Some("kms.example.com"), None));
}

#[test]
fn a_new_directory_and_its_parents_are_for_the_owner_only() {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("a/b");
    assert!(matches!(open(&path).state().unwrap(), State::Empty));
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
}

#[test]
fn an_existing_directory_is_used_as_it_is() {
    let outer = tempfile::tempdir().unwrap();
    fs::set_permissions(outer.path(), Mode::from_mode(0o755)).unwrap();
    fs::create_dir(outer.path().join("lost+found")).unwrap();
    let directory = open(outer.path());
    directory.commit(&Set::number(1).keys()).unwrap();
    assert!(Set::number(1).is(&stored(&directory)));
    assert_eq!(mode(outer.path()), 0o755);
}

#[test]
fn what_can_be_derived_may_be_missing_or_damaged() {
    for file in ["rpc.key", "rpc.crt", "root-ca.crt", "tmp-ca.crt", "rpc-domain", "bootstrap-info.json"] {
        let (directory, set) = filled();
        let path = directory.path().join(file);
        for step in ["damaged", "missing"] {
            if step == "damaged" {
                fs::write(&path, b"").unwrap()
            } else {
                fs::remove_file(&path).unwrap()
            }
            let stored = stored(&open(directory.path()));
            assert!(stored.keyring.epochs()[0].public() == set.keyring.epochs()[0].public(), "{file} {step}");
            let error = open(directory.path()).commit(&Set::number(2).keys()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the key directory already holds root-ca.key; root keys are never overwritten"
            );
        }
    }
}

#[test]
fn half_or_unusable_sets_are_broken_and_left_alone() {
    let foreign = Set::number(2);
    let foreign_key = foreign.root.ca().pem();
    let cases: [(&str, Option<&[u8]>, &str); 12] = [
        ("root-ca.key", None, "root-ca.key is missing although root-k256.key is there"),
        ("root-k256.key", None, "root-k256.key is missing although root-ca.key is there"),
        ("tmp-ca.key", None, "take it from a backup, or from temp_ca_key in a replica's answer"),
        ("root-ca.key", Some(b""), "root-ca.key is not a usable private key"),
        ("root-ca.key", Some(&[0xff; 10]), "root-ca.key is not a usable private key"),
        ("root-k256.key", Some(&[1; 31]), "root-k256.key is not a usable private key"),
        ("root-k256.key", Some(&[0; 32]), "root-k256.key is not a usable private key"),
        ("root-k256.key", Some(&[1; 33]), "root-k256.key is not a usable private key"),
        ("tmp-ca.key", Some(b"text"), "tmp-ca.key is not a usable private key"),
        ("root-ca.key", Some(foreign_key.as_bytes()), "root-ca.crt is of another key"),
        ("root-ca.crt", Some(foreign.root_ca_pem.as_bytes()), "root-ca.crt is of another key"),
        ("tmp-ca.crt", Some(foreign.temp_ca_pem.as_bytes()), "tmp-ca.crt is of another key"),
    ];
    for (file, replacement, told) in cases {
        let (directory, _) = filled();
        match replacement {
            None => fs::remove_file(directory.path().join(file)).unwrap(),
            Some(bytes) => fs::write(directory.path().join(file), bytes).unwrap(),
        }
        let before = content(directory.path());
        let opened = open(directory.path());
        match opened.state().unwrap() {
            State::Broken { missing, reason } => {
                assert_eq!(missing == [file], replacement.is_none(), "{file}: {missing:?}");
                assert!(reason.contains(told), "{file}: {reason}");
            }
            other => panic!("{file}: {other:?}"),
        }
        assert!(matches!(opened.commit(&foreign.keys()), Err(StoreError::HoldsRootKey(_))), "{file}");
        assert!(content(directory.path()) == before, "{file}");
    }
}

#[test]
fn an_attempt_that_never_had_root_keys_may_be_redone() {
    let leftovers =
        [&["bootstrap-info.json"][..], &["bootstrap-info.json", "tmp-ca.key"], &["tmp-ca.crt", "rpc-domain"]];
    for leftovers in leftovers {
        let (directory, _) = filled();
        for name in names(directory.path()) {
            if !leftovers.contains(&name.as_str()) {
                fs::remove_file(directory.path().join(name)).unwrap();
            }
        }
        let opened = open(directory.path());
        assert!(matches!(opened.state().unwrap(), State::Empty), "{leftovers:?}");
        let replica = Set::number(2).without_bootstrap_info();
        opened.commit(&replica.keys()).unwrap();
        assert!(replica.is(&stored(&opened)), "{leftovers:?}");
        assert!(!directory.path().join("bootstrap-info.json").exists());
    }
}

#[test]
fn key_files_that_others_may_use_are_refused_unless_allowed() {
    for (file, mode) in
        [("root-ca.key", 0o644), ("root-k256.key", 0o640), ("tmp-ca.key", 0o604), ("rpc.key", 0o620)]
    {
        let (directory, set) = filled();
        fs::set_permissions(directory.path().join(file), Mode::from_mode(mode)).unwrap();
        let error = open(directory.path()).state().unwrap_err().to_string();
        assert_eq!(error, format!("{file} has mode {mode:04o}, others may use the key: run chmod 600 on it"));
        let loose = KeyDirectory::open(directory.path(), Permissions::InsecureAllowLoose).unwrap();
        assert!(set.is(&stored(&loose)));
    }
}

#[test]
fn a_directory_that_others_may_write_is_refused_unless_allowed() {
    let (directory, set) = filled();
    let empty = tempfile::tempdir().unwrap();
    for mode in [0o770, 0o775, 0o702, 0o777, 0o1777] {
        for path in [directory.path(), empty.path()] {
            fs::set_permissions(path, Mode::from_mode(mode)).unwrap();
            let told = format!(
                "the key directory has mode {mode:04o}, others may replace the keys: run chmod go-w on it"
            );
            assert_eq!(open(path).state().unwrap_err().to_string(), told);
            assert_eq!(KeyDirectory::inspect(path, Permissions::OwnerOnly).unwrap_err().to_string(), told);
        }
        let loose = KeyDirectory::open(directory.path(), Permissions::InsecureAllowLoose).unwrap();
        assert!(set.is(&stored(&loose)));
    }
    for mode in [0o700, 0o750, 0o755] {
        fs::set_permissions(directory.path(), Mode::from_mode(mode)).unwrap();
        assert!(set.is(&stored(&open(directory.path()))));
    }
}

#[test]
fn the_outline_is_another_one_after_each_change_and_the_same_without() {
    let (directory, _) = filled();
    let at = |name: &str| directory.path().join(name);
    let kept = open(directory.path());
    let mut before = kept.snapshot().unwrap();
    let mut changes = |what: &str, does: bool| {
        let now = kept.snapshot().unwrap();
        assert_eq!(now != before, does, "{what}");
        before = now;
    };
    kept.state().unwrap();
    kept.probe().unwrap();
    fs::write(at("audit.jsonl"), "{}").unwrap();
    changes("reading, a probe, a file of others", false);
    let key = fs::read(at("root-ca.key")).unwrap();
    fs::write(at("root-ca.key"), vec![b'x'; key.len()]).unwrap();
    changes("other content of the same size", true);
    fs::rename(at("root-k256.key"), at("away")).unwrap();
    changes("a file that goes", true);
    fs::rename(at("away"), at("root-k256.key")).unwrap();
    changes("a file that comes back", true);
    for path in [at("rpc.key"), directory.path().to_owned()] {
        fs::set_permissions(&path, Mode::from_mode(0o770)).unwrap();
        changes("a mode", true);
    }
    fs::create_dir(at(".commit")).unwrap();
    fs::copy(at("root-k256.key"), at(".commit/root-k256.key")).unwrap();
    changes("a second set", true);
    fs::write(at(".commit/root-k256.key"), [7; 32]).unwrap();
    changes("another second set", true);
}

#[test]
fn links_devices_and_directories_are_not_read() {
    for file in ["root-ca.key", "root-k256.key", "rpc.crt", "bootstrap-info.json"] {
        let (directory, _) = filled();
        let (path, kept) = (directory.path().join(file), directory.path().join("kept"));
        fs::rename(&path, &kept).unwrap();
        let told = format!("{file} is not a regular file");
        let refused = || open(directory.path()).state().unwrap_err().to_string();
        symlink(&kept, &path).unwrap();
        assert_eq!(refused(), told);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(refused(), told);
        fs::remove_dir(&path).unwrap();
        assert!(Command::new("mkfifo").arg("-m").arg("600").arg(&path).status().unwrap().success());
        assert_eq!(refused(), told);
    }
}

#[test]
fn a_commit_is_refused_where_a_file_cannot_be_put() {
    for file in ["root-ca.key", "rpc.crt"] {
        let directory = tempfile::tempdir().unwrap();
        symlink("/nowhere", directory.path().join(file)).unwrap();
        let error = open(directory.path()).commit(&Set::number(1).keys()).unwrap_err();
        assert!(matches!(error, StoreError::NotAFile(_) | StoreError::HoldsRootKey(_)), "{error}");
        assert_eq!(names(directory.path()), [file]);
    }
}

#[test]
fn oversized_files_are_refused() {
    for (file, limit) in [("root-ca.key", 64 << 10), ("root-k256.key", 1 << 10), ("rpc.crt", 32 << 20)] {
        let (directory, _) = filled();
        let path = directory.path().join(file);
        fs::File::options().write(true).open(path).unwrap().set_len(limit + 1).unwrap();
        let error = open(directory.path()).state().unwrap_err().to_string();
        assert_eq!(error, format!("{file} is larger than {limit} bytes"));
    }
}

#[test]
fn an_interrupted_commit_does_not_replace_root_keys_that_appeared_meanwhile() {
    let (directory, set) = filled();
    let commit = directory.path().join(".commit");
    let (other, _) = filled();
    fs::create_dir(&commit).unwrap();
    fs::copy(other.path().join("root-ca.key"), commit.join("root-ca.key")).unwrap();
    fs::write(commit.join("root-k256.key"), [9; 32]).unwrap();
    let opened = open(directory.path());
    match opened.state().unwrap() {
        State::Broken { reason, .. } => assert!(reason.contains("two sets of root keys"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(opened.commit(&Set::number(2).keys()), Err(StoreError::TwoSets("root-k256.key"))));
    fs::remove_dir_all(&commit).unwrap();
    assert!(set.is(&stored(&opened)));
}

#[test]
fn of_two_commits_at_once_one_wins_and_the_other_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let sets = [Set::number(1), Set::number(2)];
    let results = thread::scope(|scope| {
        let running = sets.each_ref().map(|set| scope.spawn(|| open(directory.path()).commit(&set.keys())));
        running.map(|thread| thread.join().unwrap())
    });
    let winner = results.iter().position(Result::is_ok).unwrap();
    assert!(matches!(results[1 - winner], Err(StoreError::HoldsRootKey(_))));
    assert!(sets[winner].is(&stored(&open(directory.path()))));
}

#[test]
fn a_directory_that_another_process_holds_is_not_changed() {
    let (directory, set) = filled();
    let held = fs::File::open(directory.path()).unwrap();
    held.lock().unwrap();
    let opened = open(directory.path());
    assert!(set.is(&stored(&opened)));
    let error = opened.write_derived(Derived::RpcCertificate, b"new").unwrap_err();
    assert_eq!(error.to_string(), "the key directory is in use by another process");
    drop(held);
    opened.write_derived(Derived::RpcCertificate, b"new").unwrap();
    assert_eq!(stored(&opened).rpc_pem.as_deref(), Some("new"));
}

#[test]
fn derived_files_are_replaced_one_by_one() {
    for derived in Derived::ALL {
        let (directory, _) = filled();
        let before = content(directory.path());
        open(directory.path()).write_derived(derived, b"new").unwrap();
        let after = content(directory.path());
        assert_eq!(after.len(), before.len());
        for ((name, old), (_, new)) in before.into_iter().zip(after) {
            let expected = if name == derived.file().name() { b"new".to_vec() } else { old };
            assert!(new == expected, "{name}");
        }
        let is_key = derived == Derived::RpcKey;
        assert_eq!(mode(&directory.path().join(derived.file().name())) & 0o077 == 0, is_key);
    }
}

#[test]
fn a_complete_directory_may_be_read_only() {
    let (directory, set) = filled();
    fs::set_permissions(directory.path(), Mode::from_mode(0o500)).unwrap();
    let opened = open(directory.path());
    assert!(set.is(&stored(&opened)));
    fs::set_permissions(directory.path(), Mode::from_mode(0o700)).unwrap();
}

#[test]
fn printing_a_state_shows_no_secret() {
    let (directory, set) = filled();
    let shown = format!("{:?}", stored(&open(directory.path())).keyring);
    assert!(shown.contains(&hex::encode(set.root.k256_public())));
    assert!(!shown.contains(&hex::encode(set.root.k256().scalar())));
    assert!(!shown.contains(&hex::encode(set.root.ca().scalar())));
}

#[test]
fn errors_name_the_file_and_not_where_it_is() {
    for (path, expected) in [
        ("/secret/place/root-ca.key", "cannot write root-ca.key in the key directory: "),
        ("/secret/place/.staging/rpc.key", "cannot write rpc.key in the key directory: "),
        ("/secret/place/.commit", "cannot write .commit in the key directory: "),
        ("/secret/place/.rpc.crt.new", "cannot write .rpc.crt.new in the key directory: "),
        ("/secret/place", "cannot write the key directory: "),
    ] {
        let cause = std::io::ErrorKind::StorageFull.into();
        let error = StoreError::Io { doing: "write", path: path.into(), cause }.to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("place"), "{error}");
    }
}

#[test]
fn a_flipped_bit_in_a_root_key_is_found_and_the_file_is_named() {
    let statement = |set: &Set| {
        serde_json::to_vec(&crate::proto::BootstrapResponse {
            ca_pubkey: set.root.ca_spki().to_vec(),
            k256_pubkey: set.root.k256_public().to_vec(),
            attestation: Vec::new(),
        })
        .unwrap()
    };
    // What is damaged, whether there are fingerprints, and which file is named.
    let flip_k256: fn(&Path) = |path| {
        let file = path.join("root-k256.key");
        let mut key = fs::read(&file).unwrap();
        key[17] ^= 4;
        fs::write(file, key).unwrap();
    };
    let other_statement: fn(&Path) = |path| {
        let file = path.join("bootstrap-info.json");
        let text = fs::read_to_string(&file).unwrap();
        let (before, rest) = text.split_once("\"k256_pubkey\":\"").unwrap();
        fs::write(&file, format!("{before}\"k256_pubkey\":\"03{}", &rest[2..])).unwrap();
    };
    let damaged_fingerprints: fn(&Path) = |path| fs::write(path.join("root-fingerprints.json"), "{").unwrap();
    let remove_fingerprints = |path: &Path| fs::remove_file(path.join("root-fingerprints.json")).unwrap();
    for (damage, has_fingerprints, named) in [
        (flip_k256, true, "root-k256.key is not the key that was saved"),
        (flip_k256, false, "root-k256.key is not the key that bootstrap-info.json names"),
        (other_statement, true, "bootstrap-info.json names another public key than that of root-k256.key"),
        (damaged_fingerprints, true, "root-fingerprints.json is damaged"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let set = (1..=9)
            .map(Set::number)
            .find(|set| set.root.k256_public()[0] == 2)
            .expect("half of all points are even");
        let set = Set { bootstrap_info: Some(statement(&set)), ..set };
        open(directory.path()).commit(&set.keys()).unwrap();
        assert!(stored(&open(directory.path())).is_fingerprinted);
        if !has_fingerprints {
            remove_fingerprints(directory.path());
            assert!(!stored(&open(directory.path())).is_fingerprinted);
        }
        damage(directory.path());
        match open(directory.path()).state().unwrap() {
            State::Broken { reason, .. } => assert!(reason.starts_with(named), "{reason}"),
            other => panic!("{named}: {other:?}"),
        }
    }
}

#[test]
fn fingerprints_hold_no_secret_and_are_made_for_a_directory_of_the_peer() {
    let (directory, set) = filled();
    let file = directory.path().join("root-fingerprints.json");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&hex::encode(set.root.k256().scalar())));
    fs::remove_file(&file).unwrap();
    let opened = open(directory.path());
    opened.write_fingerprints(&stored(&opened).keyring).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_directory_is_for_one_process_at_a_time() {
    let (directory, set) = filled();
    assert!(!is_occupied(directory.path()));
    let occupancy = Arc::new(Occupancy::take(directory.path()).unwrap());
    assert!(is_occupied(directory.path()));
    assert!(matches!(Occupancy::take(directory.path()), Err(StoreError::InUse)));
    let opened =
        KeyDirectory::open_occupied(directory.path(), Permissions::OwnerOnly, Arc::clone(&occupancy))
            .unwrap();
    opened.write_derived(Derived::RpcCertificate, b"new").unwrap();
    assert!(set.is(&Stored { rpc_pem: Some(String::new()), ..stored(&opened) }));
    drop((opened, occupancy));
    assert!(!is_occupied(directory.path()));
}

/// A directory with two more epochs.
fn several() -> (TempDir, Set) {
    let directory = tempfile::tempdir().unwrap();
    let set = Set::several(1);
    open(directory.path()).commit(&set.keys()).unwrap();
    assert!(set.is(&stored(&open(directory.path()))));
    (directory, set)
}

#[test]
fn keyring_json_is_for_the_owner_only_and_absent_while_there_is_epoch_0_only() {
    let (directory, _) = filled();
    assert!(!directory.path().join("keyring.json").exists());
    let (directory, set) = several();
    let path = directory.path().join("keyring.json");
    assert_eq!(mode(&path), 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&hex::encode(set.root.ca().scalar())), "keys of epoch 0 have their own files");
    assert!(!text.contains(&hex::encode(set.root.k256().scalar())));
    // The peer's files are the same as without further epochs.
    let (peers, _) = filled();
    for file in ["root-ca.key", "root-k256.key", "tmp-ca.key"] {
        assert_eq!(
            fs::read(directory.path().join(file)).unwrap(),
            fs::read(peers.path().join(file)).unwrap()
        );
    }
    fs::set_permissions(&path, Mode::from_mode(0o640)).unwrap();
    let refused = open(directory.path()).state().unwrap_err().to_string();
    assert_eq!(refused, "keyring.json has mode 0640, others may use the key: run chmod 600 on it");
}

#[test]
fn a_keyring_that_is_damaged_or_missing_is_broken_and_never_empty() {
    let damage: fn(&Path) = |path| {
        let file = path.join("keyring.json");
        let text = fs::read(&file).unwrap();
        fs::write(file, &text[..text.len() / 2]).unwrap();
    };
    let another_key: fn(&Path) = |path| {
        let file = path.join("keyring.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, text.replace(&"11".repeat(32), &"12".repeat(32))).unwrap();
    };
    let another_file: fn(&Path) = |path| {
        let other = tempfile::tempdir().unwrap();
        let set = Set::several(2);
        open(other.path()).commit(&set.keys()).unwrap();
        fs::copy(other.path().join("keyring.json"), path.join("keyring.json")).unwrap();
    };
    let remove: fn(&Path) = |path| fs::remove_file(path.join("keyring.json")).unwrap();
    let remove_all: fn(&Path) = |path| {
        for file in ["keyring.json", "root-ca.key", "root-k256.key"] {
            fs::remove_file(path.join(file)).unwrap();
        }
    };
    let remove_first: fn(&Path) = |path| {
        for file in ["root-ca.key", "root-k256.key"] {
            fs::remove_file(path.join(file)).unwrap();
        }
    };
    let everything_is_gone = "keyring.json is missing although there were 2 root epochs after 0: ";
    for (change, told) in [
        (damage, "keyring.json is not a file of root epochs, or it is cut off: restore it from a backup"),
        (
            another_key,
            "keyring.json has a key that is not the one of its public key: restore it from a backup",
        ),
        (another_file, "keyring.json does not have the keys of root epoch 1 that were saved"),
        (remove, "keyring.json is missing although there were 2 root epochs after 0"),
        (remove_all, everything_is_gone),
        (remove_first, "root-ca.key is missing although keyring.json is there"),
    ] {
        let (directory, _) = several();
        change(directory.path());
        let before = content(directory.path());
        let opened = open(directory.path());
        match opened.state().unwrap() {
            State::Broken { reason, .. } => assert!(reason.starts_with(told), "{reason}"),
            other => panic!("{told}: {other:?}"),
        }
        let refused = opened.commit(&Set::number(2).keys());
        match told == everything_is_gone {
            false => assert!(matches!(refused, Err(StoreError::HoldsRootKey(_))), "{told}"),
            true => assert!(matches!(refused, Err(StoreError::LostRootKeys(_))), "{told}"),
        }
        assert!(content(directory.path()) == before, "{told}");
    }
}

/// Epoch 0 is destroyed.
fn destroyed() -> (TempDir, Set) {
    let (directory, set) = several();
    let keyring = set.keyring.after(EpochChange::Retire(RootEpoch::FIRST), 30).unwrap();
    let keyring = keyring.after(EpochChange::Destroy(RootEpoch::FIRST), 40).unwrap();
    assert_eq!(open(directory.path()).write_keyring(&keyring).unwrap(), Swept::Now);
    (directory, Set { keyring, ..set })
}

#[test]
fn without_epoch_0_the_keyring_makes_a_directory_complete() {
    let (directory, set) = destroyed();
    assert!(!directory.path().join("root-ca.key").exists());
    assert!(!directory.path().join("root-k256.key").exists());
    let opened = open(directory.path());
    let found = stored(&opened);
    assert!(has_same_keys(&found.keyring, &set.keyring) && found.is_fingerprinted);
    assert!(matches!(opened.commit(&Set::number(2).keys()), Err(StoreError::HoldsRootKey("keyring.json"))));
    // A replica of such a node is made by one commit too.
    let replica = tempfile::tempdir().unwrap();
    open(replica.path()).commit(&NewKeys { root_ca_pem: None, ..set.keys() }).unwrap();
    assert!(has_same_keys(&stored(&open(replica.path())).keyring, &set.keyring));
    fs::remove_file(directory.path().join("keyring.json")).unwrap();
    assert!(matches!(open(directory.path()).state().unwrap(), State::Broken { .. }));
}

#[test]
fn the_statement_of_a_destroyed_root_stays_in_the_keyring_and_a_damaged_one_does_not() {
    let (directory, set) = several();
    let first = Arc::clone(set.keyring.epochs()[0].keys().unwrap());
    let stated = set.keyring.clone().stated(&first);
    let keyring = stated.after(EpochChange::Retire(RootEpoch::FIRST), 30).unwrap();
    let keyring = keyring.after(EpochChange::Destroy(RootEpoch::FIRST), 40).unwrap();
    assert_eq!(open(directory.path()).write_keyring(&keyring).unwrap(), Swept::Now);
    let kept = || stored(&open(directory.path())).keyring.epochs()[1].statement();
    assert_eq!(kept(), stated.epochs()[1].statement());
    let signature = hex::encode(kept().expect("a statement").signature);
    let path = directory.path().join("keyring.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&signature, &hex::encode([7; 65]))).unwrap();
    assert_eq!(kept(), None);
    fs::write(&path, text.replace(&signature, "07")).unwrap();
    assert!(matches!(open(directory.path()).state().unwrap(), State::Broken { .. }));
}

#[test]
fn an_older_keyring_does_not_bring_retired_epochs_back() {
    let (directory, set) = several();
    let path = directory.path().join("keyring.json");
    let fingerprints = directory.path().join("root-fingerprints.json");
    let read = |path: &Path| fs::read(path).unwrap();
    let at = [(read(&path), read(&fingerprints))];
    let retired = set.keyring.after(EpochChange::Retire(RootEpoch::FIRST), 30).unwrap();
    let opened = open(directory.path());
    assert_eq!(opened.write_keyring(&retired).unwrap(), Swept::Now);
    let [(older, older_fingerprints)] = at;
    let newer = read(&path);
    let is_retired =
        || stored(&open(directory.path())).keyring.epochs()[0].times() == retired.epochs()[0].times();
    assert!(is_retired());

    // The same epochs as before, with the same keys.
    fs::write(&path, &older).unwrap();
    match open(directory.path()).state().unwrap() {
        State::Broken { missing, reason } => {
            assert!(missing.is_empty());
            let told = "keyring.json is older than the last one: it is that of change 1, and there were 2.";
            assert!(reason.starts_with(told) && reason.contains("kmsctl epoch fetch"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    // As the error says.
    fs::write(&path, &newer).unwrap();
    assert!(is_retired() && stored(&open(directory.path())).is_fingerprinted);

    // The count alone does not make it the last one.
    let counted = String::from_utf8(older.clone()).unwrap().replace("\"changes\": 1", "\"changes\": 2");
    fs::write(&path, counted).unwrap();
    match open(directory.path()).state().unwrap() {
        State::Broken { reason, .. } => {
            assert!(reason.contains("has other states of root epochs"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    // Nor does a file from before changes were counted.
    let uncounted = String::from_utf8(older).unwrap().replace("  \"changes\": 1,\n", "");
    fs::write(&path, &uncounted).unwrap();
    match open(directory.path()).state().unwrap() {
        State::Broken { reason, .. } => assert!(reason.contains("it is that of change 0"), "{reason}"),
        other => panic!("{other:?}"),
    }

    // A change that stopped before its fingerprints were written is finished.
    fs::write(&path, &newer).unwrap();
    fs::write(&fingerprints, older_fingerprints).unwrap();
    let opened = open(directory.path());
    assert!(is_retired() && !stored(&opened).is_fingerprinted);
    opened.write_fingerprints(&stored(&opened).keyring).unwrap();
    assert!(stored(&opened).is_fingerprinted);
    // A directory from before changes were counted is complete, and its next change is counted.
    fs::write(&path, uncounted).unwrap();
    fs::write(&fingerprints, Fingerprints::of(&set.keyring, 0).text()).unwrap();
    assert!(stored(&opened).is_fingerprinted);
    assert_eq!(opened.write_keyring(&retired).unwrap(), Swept::Now);
    assert!(String::from_utf8(read(&path)).unwrap().contains("\"changes\": 1"));
    assert!(is_retired());
}

/// Otherwise a node that makes its keys by itself would make another root.
#[test]
fn a_directory_that_lost_every_root_key_is_broken_whatever_is_left_of_it() {
    let fingerprints = "root-fingerprints.json";
    let damaged: fn(&Path) = |path| fs::write(path.join("root-fingerprints.json"), b"{").unwrap();
    let emptied: fn(&Path) = |path| fs::write(path.join("root-fingerprints.json"), b"").unwrap();
    let first_only: fn(&Path) = |path| {
        let text = Fingerprints::of(&Set::number(1).keyring, 0).text();
        fs::write(path.join("root-fingerprints.json"), text).unwrap();
    };
    let old_and_no_fingerprints: fn(&Path) = |path| {
        fs::rename(path.join("root-fingerprints.json"), path.join(".keyring.json.old")).unwrap();
    };
    // The keys of epoch 0 alone are not what the directory held.
    let (directory, _) = several();
    fs::rename(directory.path().join("keyring.json"), directory.path().join(".keyring.json.old")).unwrap();
    fs::remove_file(directory.path().join(fingerprints)).unwrap();
    assert!(matches!(open(directory.path()).state().unwrap(), State::Broken { .. }));
    assert!(directory.path().join(".keyring.json.old").exists());
    for (damage, left) in [
        (damaged, fingerprints),
        (emptied, fingerprints),
        (first_only, fingerprints),
        (old_and_no_fingerprints, ".keyring.json.old"),
    ] {
        let (directory, _) = destroyed();
        fs::remove_file(directory.path().join("keyring.json")).unwrap();
        damage(directory.path());
        let before = content(directory.path());
        let opened = open(directory.path());
        match opened.state().unwrap() {
            State::Broken { missing, reason } => {
                assert_eq!(missing, ["keyring.json"]);
                let told = format!("missing although {left} is there");
                assert!(reason.contains(&told) && reason.contains("from a backup"), "{reason}");
            }
            other => panic!("{left}: {other:?}"),
        }
        let refused = opened.commit(&Set::number(2).keys());
        assert!(matches!(refused, Err(StoreError::LostRootKeys(name)) if name == left), "{refused:?}");
        assert!(content(directory.path()) == before, "{left}");
        // As the error says.
        fs::remove_file(directory.path().join(left)).unwrap();
        assert!(matches!(open(directory.path()).state().unwrap(), State::Empty), "{left}");
    }
}

#[test]
fn destroyed_keys_that_come_back_are_removed_and_new_keys_of_another_program_are_not() {
    let (directory, set) = destroyed();
    let path = directory.path().join("root-k256.key");
    for content in [&set.root.k256().scalar()[..], &[0; 32], &[0; 16]] {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Mode::from_mode(0o600)).unwrap();
        assert!(has_same_keys(&stored(&open(directory.path())).keyring, &set.keyring));
        assert!(!path.exists());
    }
    fs::write(&path, [9; 32]).unwrap();
    fs::set_permissions(&path, Mode::from_mode(0o600)).unwrap();
    match open(directory.path()).state().unwrap() {
        State::Broken { reason, .. } => assert!(reason.contains("two sets of root keys"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), [9; 32]);
}
