//! What must not be accepted, and what is said of it.

use sha3::{Digest as _, Keccak256};

use super::*;
use crate::scalar::SecretScalar;

fn add(example: &Example, share: Share) -> String {
    Combiner::new(example.manifest()).add(share).expect_err("a wrong share").to_string()
}

#[test]
fn wrong_shares_are_refused_by_name() {
    let (example, other) = (example(2, 3), example_of_others());
    // Another index.
    let mut share = example.share(0);
    share.index = 2;
    assert_eq!(add(&example, share), "the share says that it is of officer-0, but index 2 is of officer-1");
    for index in [0, 4, 255] {
        let mut share = example.share(0);
        share.index = index;
        assert_eq!(
            add(&example, share),
            format!("the share of officer-0 says that it has index {index}; the set has 1 to 3")
        );
    }
    // Another officer's value under an own name and index.
    let mut share = example.share(1);
    (share.index, share.officer) = (1, "officer-0".parse().expect("a name"));
    let wrong = "the share of officer-0 (index 1) is wrong: it does not fit the manifest's commitments";
    assert_eq!(add(&example, share), wrong);
    // Zero.
    let mut share = example.share(0);
    share.value = SecretScalar::from_bytes(&[0; 32]).expect("in range");
    assert_eq!(add(&example, share), wrong);
    // Another set, and one that says that it is of this set.
    let set = example.manifest().manifest().set;
    let share = other.share(0);
    assert_eq!(
        add(&example, share),
        format!(
            "the share of officer-0 is of the set {}, not of {set}: use the file of this set",
            other.manifest().manifest().set
        )
    );
    let mut share = other.share(0);
    share.set = set;
    assert_eq!(add(&example, share), wrong);
}

fn example_of_others() -> Example {
    example(2, 3)
}

#[test]
fn a_wrong_share_changes_nothing_and_a_repeated_one_does_not_count() {
    let example = example(2, 3);
    let mut combiner = Combiner::new(example.manifest());
    combiner.add(example.share(0)).expect("a right share");
    assert_eq!(
        combiner.add(example.share(0)).expect_err("repeated").to_string(),
        "the share of officer-0 (index 1) is in already"
    );
    let mut wrong = example.share(1);
    wrong.value = SecretScalar::generate();
    combiner.add(wrong).expect_err("wrong");
    assert_eq!(combiner.progress(), Progress::Waiting { missing: 1 });
    assert_eq!(combiner.add(example.share(2)), Ok(Progress::Complete));
    assert_eq!(combiner.add(example.share(1)), Err(ShareError::Complete));
    assert_eq!(combiner.open().expect("complete")[..], *MATERIAL);
    assert_eq!(combiner.officers().map(|(index, _)| index).collect::<Vec<_>>(), [1, 3]);
}

fn split_with(threshold: usize, officers: &[Named]) -> String {
    let key = root(7);
    split(MATERIAL, threshold, officers, description(&key), |digest| sign(&key, digest))
        .expect_err("no set")
        .to_string()
}

#[test]
fn thresholds_and_officers_that_make_no_set_are_refused() {
    let keys: Vec<_> = (0..33).map(|_| age::x25519::Identity::generate()).collect();
    let mut officers: Vec<Named> =
        keys.iter().enumerate().map(|(at, key)| named(&format!("o{at}"), key)).collect();
    let too_low = |got| {
        format!("the threshold must be at least 2, got {got}: one officer alone must not have the root keys")
    };
    assert_eq!(split_with(0, &officers[..3]), too_low(0));
    assert_eq!(split_with(1, &officers[..3]), too_low(1));
    assert_eq!(
        split_with(4, &officers[..3]),
        "the threshold must be at most the number of officers, 3, got 4"
    );
    assert_eq!(split_with(2, &[]), "the threshold must be at most the number of officers, 0, got 2");
    assert_eq!(split_with(2, &officers), "a recovery set has at most 32 officers, got 33");
    officers[2].recipient = officers[0].recipient.clone();
    assert_eq!(
        split_with(2, &officers[..3]),
        "o0 and o2 have the same recipient: each officer needs a key of their own"
    );
    officers[1].name = "O0".parse().expect("a name");
    assert!(split_with(2, &officers[..2]).contains("the name O0 is there twice"));
}

#[test]
fn material_of_no_bytes_or_too_many_is_refused() {
    let key = root(7);
    let keys = [age::x25519::Identity::generate(), age::x25519::Identity::generate()];
    let officers = [named("a", &keys[0]), named("b", &keys[1])];
    for (length, works) in [(0, false), (1, true), (MAX_MATERIAL, true), (MAX_MATERIAL + 1, false)] {
        let set = split(vec![1; length], 2, &officers, description(&key), |digest| sign(&key, digest));
        assert_eq!(set.is_ok(), works, "{length}");
    }
}

#[test]
fn a_set_that_another_key_signs_is_not_made() {
    let (key, other) = (root(7), root(8));
    let keys = [age::x25519::Identity::generate(), age::x25519::Identity::generate()];
    let officers = [named("a", &keys[0]), named("b", &keys[1])];
    let set = split(MATERIAL, 2, &officers, description(&key), |digest| sign(&other, digest));
    assert!(set.expect_err("no set").to_string().contains("not signed by the root key that it names"));
}

/// Changes the text of a manifest, and says what is read of it.
fn altered(example: &Example, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut value = serde_json::from_str(&example.set.manifest.to_text()).expect("JSON");
    change(&mut value);
    SignedManifest::parse(value.to_string().as_bytes()).expect_err("an altered manifest").to_string()
}

#[test]
fn every_member_of_a_manifest_is_signed() {
    let example = example(3, 5);
    let signed = "not signed by the root key that it names";
    let said = altered(&example, |all| {
        let commitments = all["manifest"]["commitments"].as_array_mut().expect("a list");
        commitments.swap(0, 1);
    });
    assert!(said.contains(signed), "{said}");
    for (member, value) in [
        ("created_at", serde_json::json!(1)),
        ("domain", serde_json::json!("other")),
        ("set", serde_json::json!("00".repeat(16))),
        ("salt", serde_json::json!("00".repeat(32))),
        ("sealed", serde_json::json!("A".repeat(96))),
        ("ledger", serde_json::Value::Null),
        ("identity_epoch", serde_json::json!(1)),
    ] {
        let said = altered(&example, |all| all["manifest"][member] = value);
        assert!(said.contains(signed) || said.contains("signature is invalid"), "{member}: {said}");
    }
    for (change, expected) in [
        (("threshold", serde_json::json!(1)), "threshold does not fit"),
        (("threshold", serde_json::json!(6)), "threshold does not fit"),
        (("threshold", serde_json::json!(2)), "commitments are not as many"),
        (("epochs", serde_json::json!([])), "epochs are none"),
        (("version", serde_json::json!(2)), "has version 2"),
        (("other", serde_json::json!(2)), "unknown field `other`"),
        (("sealed", serde_json::json!("")), "wrong length"),
        (("identity_epoch", serde_json::json!(7)), "identity epoch is not covered"),
    ] {
        let said = altered(&example, |all| all["manifest"][change.0] = change.1);
        assert!(said.contains(expected), "{}: {said}", change.0);
    }
    let identity = format!("00{}", "00".repeat(32));
    let said = altered(&example, |all| all["manifest"]["commitments"][2] = identity.into());
    assert!(said.contains("no points of the curve"), "{said}");
}

/// Its own manifest in all but the root: it reads, because it is signed by the root that it names, and that is another one.
#[test]
fn a_manifest_of_another_root_names_the_other_root() {
    let example = example(2, 2);
    let other = root(8);
    let mut manifest = example.set.manifest.manifest().clone();
    manifest.epochs = description(&other).epochs;
    let signature = Bytes(sign(&other, digest(&manifest.sha256())));
    let read = SignedManifest::verified(manifest, signature).expect("a manifest of its own");
    assert_eq!(read.manifest().signer().expect("covered").k256_public, Bytes(other.public_key().serialize()));
}

/// No altered byte is accepted, but for white space between members, which says nothing.
#[test]
fn no_altered_byte_of_a_manifest_changes_what_it_says() {
    let example = example(2, 2);
    let text = example.set.manifest.to_text();
    let before = example.manifest();
    let mut refused = 0;
    for at in 0..text.len() {
        for flip in [0x01, 0x20, 0x80] {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= flip;
            match SignedManifest::parse(&bytes) {
                Ok(read) => assert_eq!(read.manifest(), before.manifest(), "byte {at}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > text.len() * 2, "{refused} of {}", text.len() * 3);
}

#[test]
fn no_altered_byte_of_a_file_gives_another_share() {
    use age::secrecy::ExposeSecret;
    let example = example(2, 2);
    let identity = example.identities[0].to_string();
    let identities = Identities::parse(identity.expose_secret().as_bytes(), NoCallbacks).expect("a key");
    let file = example.set.files[0].content.as_bytes();
    let right = example.share(0).to_json();
    for at in 0..file.len() {
        let mut bytes = file.to_vec();
        bytes[at] ^= 0x01;
        if let Ok(share) = decrypt(&bytes, &identities) {
            assert_eq!(share.to_json(), right, "byte {at}");
        }
        match decrypt(&file[..at], &identities) {
            Ok(share) => assert!(at == file.len() - 1 && share.to_json() == right, "byte {at}"),
            Err(error) => {
                assert!(matches!(error, DecryptError::NotAge | DecryptError::Altered), "{at}: {error}");
            }
        }
    }
    let other = example.identities[1].to_string();
    let other = Identities::parse(other.expose_secret().as_bytes(), NoCallbacks).expect("a key");
    assert_eq!(decrypt(file, &other).err(), Some(DecryptError::OtherKey));
}

#[test]
fn no_altered_byte_of_a_share_is_accepted() {
    let example = example(2, 2);
    let json = example.share(0).to_json();
    for at in 0..json.len() {
        for flip in [0x01, 0x02, 0x20] {
            let mut bytes = json.as_bytes().to_vec();
            bytes[at] ^= flip;
            if let Ok(share) = Share::parse(&bytes) {
                let said = add(&example, share);
                assert!(said.contains("share"), "{said}");
            }
        }
    }
}

#[test]
fn long_input_is_refused_before_it_is_read() {
    let long = vec![b' '; MAX_MANIFEST + 1];
    let identities = Identities::of(&age::x25519::Identity::generate());
    assert_eq!(SignedManifest::parse(&long).err(), Some(ManifestError::TooLong));
    assert_eq!(Share::parse(&long).err(), Some(ShareFormatError::TooLong));
    assert_eq!(decrypt(&long, &identities).err(), Some(DecryptError::TooLong));
    assert_eq!(parse_officers(&long).err(), Some(OfficersError::TooLong));
    assert!(matches!(Identities::parse(&long, NoCallbacks), Err(IdentityError::TooLong)));
}

/// A file that is short, but to a passphrase with much work, or with a long content.
#[test]
fn files_that_cost_much_are_refused() {
    let example = example(2, 2);
    let mut passphrase = age::scrypt::Recipient::new(SecretString::from("passphrase".to_owned()));
    passphrase.set_work_factor(2);
    let file = age::encrypt_and_armor(&passphrase, b"content").expect("a file");
    let identities = Identities::of(&example.identities[0]);
    assert_eq!(decrypt(file.as_bytes(), &identities).err(), Some(DecryptError::OtherKey));
    let recipient = example.identities[0].to_public();
    let file = age::encrypt_and_armor(&recipient, &[b' '; 30_000]).expect("a file");
    assert_eq!(
        decrypt(file.as_bytes(), &identities).err(),
        Some(DecryptError::Share(ShareFormatError::TooLong))
    );
}

/// What was checked with one manifest is not checked with another one.
#[test]
fn a_share_that_was_checked_counts_for_its_manifest_only() {
    let (one, other) = (example(2, 2), example(2, 2));
    let mut combiner = Combiner::new(one.manifest());
    let checked = other.manifest().checked(other.share(0)).expect("a right share");
    assert!(matches!(combiner.add_checked(checked), Err(ShareError::OtherSet { .. })));
    let checked = one.manifest().checked(one.share(0)).expect("a right share");
    assert_eq!(combiner.add_checked(checked), Ok(Progress::Waiting { missing: 1 }));
    let checked = one.manifest().checked(one.share(0)).expect("a right share");
    assert!(matches!(combiner.add_checked(checked), Err(ShareError::Repeated { index: 1, .. })));
}

#[test]
fn what_is_made_for_another_purpose_is_no_share_and_no_manifest() {
    let example = example(2, 3);
    let share = example.share(0).to_json();
    for (from, to) in [
        ("{", r#"{"purpose":"backup","#),
        (r#""version":1"#, r#""version":2"#),
        (r#""share":"#, r#""secret":"#),
        (r#""officer":"#, r#""label":"x","officer":"#),
        ("}", r#","purpose":"recovery"}"#),
    ] {
        let other = share.replacen(from, to, 1);
        assert_ne!(other, *share, "{from}");
        assert!(Share::parse(other.as_bytes()).is_err(), "{to}");
    }
    // The same root key signs other statements, under labels of their own.
    let (manifest, key) = (example.manifest(), root(7));
    let content = manifest.manifest().sha256();
    for label in [&b"cvm-kms-log-key-v1"[..], b"cvm-kms-root-epoch-v1", b"cvm-kms-recovery-set-v2"] {
        let digest: [u8; 32] = Keccak256::digest([label, b":", &content[..]].concat()).into();
        assert_ne!(digest, crate::digest(&content));
        let mut document: serde_json::Value = serde_json::from_str(&manifest.to_text()).expect("JSON");
        document["signature"] = hex::encode(sign(&key, digest)).into();
        assert!(SignedManifest::parse(document.to_string().as_bytes()).is_err());
    }
}
