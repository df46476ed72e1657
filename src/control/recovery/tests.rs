//! What is kept of recovery, and what is said about it.

use kms_attest::state_file::StateFile;
use kms_recovery::{Bytes, Description, NewSet, split};
use secp256k1::ecdsa::RecoverableSignature;
use secp256k1::{Message, SecretKey};

use super::*;

fn epoch(number: u32) -> EpochFingerprint {
    let key = SecretKey::from_secret_bytes([7; 32]).expect("a key");
    let k256_public = Bytes(key.public_key().serialize());
    EpochFingerprint {
        epoch: number,
        ca_spki_sha256: Bytes([1; 32]),
        k256_public,
        activate_at: (number == 0).then_some(0),
        retired_at: None,
        destroyed_at: None,
    }
}

fn manifest(created_at: u64) -> SignedManifest {
    manifest_of(created_at, vec![epoch(0)])
}

fn manifest_of(created_at: u64, epochs: Vec<EpochFingerprint>) -> SignedManifest {
    let key = SecretKey::from_secret_bytes([7; 32]).expect("a key");
    let officers = ["a", "b"].map(|name| kms_recovery::Named {
        name: name.parse().expect("a name"),
        recipient: match name {
            "a" => "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa",
            _ => "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN",
        }
        .parse()
        .expect("a recipient"),
    });
    let description = Description {
        created_at,
        domain: "kms.example.org".to_owned(),
        identity_epoch: 0,
        epochs,
        ledger: None,
    };
    let sign = |digest| {
        let message = Message::from_digest(digest);
        let (v, compact) = RecoverableSignature::sign_ecdsa_recoverable(message, &key).serialize_compact();
        let mut signature = [0; 65];
        signature[..64].copy_from_slice(&compact);
        signature[64] = u8::from(v);
        signature
    };
    let NewSet { manifest, .. } = split(b"keys", 2, &officers, description, sign).expect("a set");
    manifest
}

fn drill(set: &str, at: u64, failure: Option<&str>) -> Drill {
    let failure = failure.map(str::to_owned);
    Drill { set: set.to_owned(), at, officers: vec!["a".to_owned()], failure }
}

#[tokio::test]
async fn sets_and_drills_outlive_a_restart_and_a_new_set_retires_the_old_one() {
    let home = tempfile::tempdir().expect("a directory");
    let open = || RecoverySets::open(RecoveryFile::new(home.path().join("recovery.json")));
    let sets = open();
    let [first, second] = [manifest(100), manifest(200)];
    let id = first.manifest().set.to_string();
    sets.replace(first, "owner".to_owned(), None).await.and_then(Replaced::safely).expect("a file");
    sets.drilled(drill(&id, 150, None)).await;
    let state = open().state();
    assert_eq!(state.current().expect("a set").manifest.manifest().set.to_string(), id);
    assert_eq!(state.last_proved(), Some(150));
    let sets = open();
    sets.replace(second.clone(), "other".to_owned(), None).await.and_then(Replaced::safely).expect("a file");
    let state = open().state();
    assert_eq!(state.current().expect("a set").manifest.manifest(), second.manifest());
    assert_eq!(state.retired()[0].set, id);
    assert_eq!(state.last_proved(), None, "the drill was of the set before");
    assert_eq!(state.drill_due(), Some(200 + DAY));
    // Damage loses no keys: officers still have theirs.
    std::fs::write(home.path().join("recovery.json"), "{").expect("written");
    let sets = open();
    assert!(sets.state().current().is_none());
    sets.replace(second, "other".to_owned(), None).await.and_then(Replaced::safely).expect("a file");
    assert!(open().state().current().is_some());
}

#[tokio::test]
async fn a_set_whose_directory_is_not_synced_is_what_the_next_start_reads() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("recovery.json");
    let file = StateFile::from(path.clone()).synced_by(|_| Err(io::Error::other("no sync")));
    let sets = RecoverySets::open(RecoveryFile::new(file));
    let made = sets.replace(manifest(100), "owner".to_owned(), None).await.expect("it counts");
    assert!(matches!(made, Replaced::Unsynced(_)), "{made:?}");
    sets.drilled(drill(&manifest(100).manifest().set.to_string(), 150, None)).await;
    for state in [sets.state(), RecoverySets::open(RecoveryFile::new(path)).state()] {
        assert_eq!((state.current().is_some(), state.drills().len()), (true, 1), "{state:?}");
    }
}

#[tokio::test]
async fn what_to_do_is_said_when_it_is_due() {
    let home = tempfile::tempdir().expect("a directory");
    let sets = RecoverySets::open(RecoveryFile::new(home.path().join("recovery.json")));
    let now = unix_now();
    let own = [epoch(0)];
    assert_eq!(sets.state().standing(&own, now), Standing::Fine, "a new KMS has a day");
    assert_eq!(sets.state().standing(&own, now + 2 * DAY), Standing::NoSet);
    let manifest = manifest(now);
    let id = manifest.manifest().set.to_string();
    sets.replace(manifest, "owner".to_owned(), None).await.and_then(Replaced::safely).expect("a file");
    let both = [epoch(0), epoch(1)];
    assert_eq!(sets.state().standing(&both, now), Standing::NotCovered { epochs: vec![1] });
    assert_eq!(sets.state().standing(&own, now + DAY - 1), Standing::Fine, "officers get their files first");
    assert_eq!(sets.state().standing(&own, now + DAY), Standing::NeverProved);
    sets.drilled(drill(&id, now, Some("no"))).await;
    assert_eq!(sets.state().standing(&own, now + DAY), Standing::NeverProved, "it failed");
    sets.drilled(drill(&id, now, None)).await;
    for _ in 0..2 * MAX_DRILLS {
        sets.drilled(drill(&id, now + 1, Some("cancelled"))).await;
    }
    assert_eq!(sets.state().drills().len(), MAX_DRILLS);
    assert_eq!(sets.state().last_proved(), Some(now), "drills without a result do not displace the proof");
    assert_eq!(sets.state().standing(&own, now + 89 * DAY), Standing::Fine);
    assert_eq!(sets.state().standing(&own, now + 90 * DAY), Standing::DrillDue { days: 90 });
    sets.drilled(drill(&id, now + 89 * DAY, Some("no"))).await;
    assert_eq!(sets.state().standing(&own, now + 90 * DAY), Standing::DrillDue { days: 90 }, "it failed");
    sets.drilled(drill(&id, now + 89 * DAY, None)).await;
    assert_eq!(sets.state().standing(&own, now + 178 * DAY), Standing::Fine);
}

#[tokio::test]
async fn a_set_is_out_of_date_once_the_state_of_an_epoch_has_changed() {
    let home = tempfile::tempdir().expect("a directory");
    let sets = RecoverySets::open(RecoveryFile::new(home.path().join("recovery.json")));
    let now = unix_now();
    let made = manifest_of(now, vec![epoch(0), epoch(1)]);
    sets.replace(made, "owner".to_owned(), None).await.and_then(Replaced::safely).expect("a file");
    let standing = |own: &[EpochFingerprint]| sets.state().standing(own, now);
    let [first, prepared] = [epoch(0), epoch(1)];
    assert_eq!(standing(&[first.clone(), prepared.clone()]), Standing::Fine);

    let active = EpochFingerprint { activate_at: Some(now), ..prepared.clone() };
    let activated = standing(&[first.clone(), active.clone()]);
    assert_eq!(activated, Standing::OutOfDate { epochs: vec![1] });
    assert!(activated.sentence().is_some_and(|text| text.contains("kmsctl recovery create")));

    let retired = EpochFingerprint { retired_at: Some(now), ..first };
    let own = [retired.clone(), active.clone()];
    assert_eq!(standing(&own), Standing::OutOfDate { epochs: vec![0, 1] });
    let destroyed = EpochFingerprint { destroyed_at: Some(now), ..retired };
    let own = [destroyed, active];
    let held = standing(&own);
    assert_eq!(held, Standing::StillHolds { epochs: vec![0] });
    assert!(held.sentence().is_some_and(|text| text.contains("destroy their shares")));

    sets.replace(manifest_of(now, own.to_vec()), "owner".to_owned(), None)
        .await
        .and_then(Replaced::safely)
        .expect("a file");
    assert_eq!(sets.state().standing(&own, now), Standing::Fine, "a set of now");
    // It is signed, and read back with the same states.
    let reopened = RecoverySets::open(RecoveryFile::new(home.path().join("recovery.json")));
    assert_eq!(reopened.state().standing(&own, now), Standing::Fine);
    // Destroyed keys that the set does not have are no reason for another one.
    let [destroyed, active] = own;
    let gone = EpochFingerprint { destroyed_at: Some(now), ..epoch(2) };
    assert_eq!(reopened.state().standing(&[destroyed, active, gone], now), Standing::Fine);
}

#[tokio::test]
async fn a_set_is_out_of_date_once_other_epochs_are_chosen_for_apps() {
    let home = tempfile::tempdir().expect("a directory");
    let open = || RecoverySets::open(RecoveryFile::new(home.path().join("recovery.json")));
    let (own, now) = ([epoch(0)], 1_000_000);
    let sets = open();
    let standing = |sets: &RecoverySets, choices, now| sets.state().standing_with(&own, &[choices; 32], now);
    assert_eq!(
        standing(&sets, 2, 2 * now + u64::MAX / 2),
        Standing::NoSet,
        "there is no set to be out of date"
    );
    sets.replace(manifest(now), "owner".to_owned(), None).await.and_then(Replaced::safely).expect("a file");
    assert_eq!(standing(&sets, 2, now), Standing::Fine, "what a set of an older version has is not known");
    sets.replace(manifest(now), "owner".to_owned(), Some([1; 32]))
        .await
        .and_then(Replaced::safely)
        .expect("a file");
    for sets in [sets, open()] {
        assert_eq!(standing(&sets, 1, now), Standing::Fine);
        assert_eq!(standing(&sets, 2, now), Standing::ChoicesChanged);
        assert_eq!(standing(&sets, 1, now + DAY), Standing::NeverProved);
        assert_eq!(
            standing(&sets, 2, now + DAY),
            Standing::ChoicesChanged,
            "a new set needs a drill of its own"
        );
        let both = [epoch(0), epoch(1)];
        assert!(matches!(sets.state().standing_with(&both, &[2; 32], now), Standing::NotCovered { .. }));
    }
}
