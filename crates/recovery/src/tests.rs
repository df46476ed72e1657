//! Tests of whole sets.

mod attacks;
mod known_answer;
mod officers;
mod plugins;
mod properties;

use secp256k1::ecdsa::RecoverableSignature;
use secp256k1::{Message, SecretKey};

use crate::*;

/// A set, with all that opens it.
struct Example {
    set: NewSet,
    identities: Vec<age::x25519::Identity>,
}

const MATERIAL: &[u8] = b"root keys of every epoch, as bytes that nothing here understands";

fn root(byte: u8) -> SecretKey {
    SecretKey::from_secret_bytes([byte; 32]).expect("a scalar")
}

fn sign(key: &SecretKey, digest: [u8; 32]) -> [u8; 65] {
    let (recovery, compact) =
        RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest), key).serialize_compact();
    let mut signature = [0; 65];
    signature[..64].copy_from_slice(&compact);
    signature[64] = u8::from(recovery);
    signature
}

fn description(root: &SecretKey) -> Description {
    let fingerprint = |epoch, key: &SecretKey| EpochFingerprint {
        epoch,
        ca_spki_sha256: Bytes([0xca; 32]),
        k256_public: Bytes(key.public_key().serialize()),
        activate_at: (epoch == 0).then_some(0),
        retired_at: None,
        destroyed_at: None,
    };
    Description {
        created_at: 1_790_000_000,
        domain: "kms.example.org".to_owned(),
        identity_epoch: 0,
        epochs: vec![fingerprint(0, root), fingerprint(1, &self::root(99))],
        ledger: Some(Checkpoint {
            origin: "kms.example.org/log".to_owned(),
            checkpoint: "kms.example.org/log\n7\nAAAA\n\n— kms.example.org/log AAAA\n".to_owned(),
        }),
    }
}

fn named(name: &str, identity: &age::x25519::Identity) -> Named {
    Named {
        name: name.parse().expect("a name"),
        recipient: identity.to_public().to_string().parse().expect("a recipient"),
    }
}

fn example(threshold: usize, officers: usize) -> Example {
    let identities: Vec<_> = (0..officers).map(|_| age::x25519::Identity::generate()).collect();
    let named: Vec<Named> =
        identities.iter().enumerate().map(|(at, key)| named(&format!("officer-{at}"), key)).collect();
    let root = root(7);
    let set =
        split(MATERIAL, threshold, &named, description(&root), |digest| sign(&root, digest)).expect("a set");
    Example { set, identities }
}

impl Example {
    /// The share of the officer at a position, from 0, as that officer's program decrypts it.
    fn share(&self, at: usize) -> Share {
        use age::secrecy::ExposeSecret;
        let identity = self.identities[at].to_string();
        let identities = Identities::parse(identity.expose_secret().as_bytes(), NoCallbacks).expect("a key");
        decrypt(self.set.files[at].content.as_bytes(), &identities).expect("the officer's own file")
    }

    fn manifest(&self) -> SignedManifest {
        SignedManifest::parse(self.set.manifest.to_text().as_bytes()).expect("its own manifest")
    }
}

/// All subsets of `0..n` with `k` members.
fn subsets(n: usize, k: usize) -> Vec<Vec<usize>> {
    (0_u32..1 << n)
        .filter(|set| set.count_ones() as usize == k)
        .map(|set| (0..n).filter(|at| set & 1 << at != 0).collect())
        .collect()
}

#[test]
fn every_k_subset_of_five_opens_and_every_smaller_one_does_not() {
    for threshold in 2..=5 {
        let example = example(threshold, 5);
        for subset in subsets(5, threshold) {
            let mut combiner = Combiner::new(example.manifest());
            for (count, at) in (1..).zip(&subset) {
                assert!(combiner.open().is_err(), "{subset:?} before its share {count}");
                let missing = u8::try_from(threshold - count).expect("small");
                let expected = if missing == 0 { Progress::Complete } else { Progress::Waiting { missing } };
                assert_eq!(combiner.add(example.share(*at)), Ok(expected));
            }
            assert_eq!(combiner.open().expect("enough shares")[..], *MATERIAL, "{subset:?}");
        }
        for subset in subsets(5, threshold - 1) {
            let mut combiner = Combiner::new(example.manifest());
            for at in subset {
                combiner.add(example.share(at)).expect("a right share");
            }
            assert_eq!(combiner.open().err(), Some(OpenError::Incomplete { missing: 1 }));
        }
    }
}

/// The threshold is not only a count: fewer shares, combined, give another scalar.
#[test]
fn fewer_shares_than_the_threshold_do_not_give_the_scalar() {
    let example = example(3, 5);
    let manifest = example.manifest();
    for subset in subsets(5, 2) {
        let shares: Vec<Share> = subset.iter().map(|at| example.share(*at)).collect();
        let combined = scalar::combine(shares.iter().map(|share| (share.index, &share.value)));
        assert!(!manifest.commitments().is_of(&combined.expect("a scalar")), "{subset:?}");
    }
}

#[test]
fn the_files_of_a_set_are_named_and_hashed_in_its_manifest() {
    let Example { set, .. } = example(2, 3);
    let manifest = set.manifest.manifest();
    assert_eq!(set.files.len(), 3);
    for (officer, file) in manifest.officers.iter().zip(&set.files) {
        assert_eq!(officer.name, file.officer);
        assert_eq!(file.name, format!("{}-of-{}.age", officer.name, manifest.set));
        assert_eq!(officer.file_sha256.0, manifest::sha256(file.content.as_bytes()));
        assert!(file.content.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
    }
}

#[test]
fn two_sets_of_the_same_material_have_nothing_in_common() {
    let (one, other) = (example(2, 2), example(2, 2));
    let (one, other) = (one.set.manifest.manifest(), other.set.manifest.manifest());
    assert!(one.set != other.set && one.salt != other.salt && one.sealed != other.sealed);
    assert!(one.commitments.iter().all(|commitment| !other.commitments.contains(commitment)));
}

#[test]
fn nothing_secret_is_printed() {
    let example = example(2, 3);
    let share = example.share(0);
    let value = hex::encode(&share.value.to_bytes()[..]);
    let mut combiner = Combiner::new(example.manifest());
    let shown = format!("{share:?} {:?}", example.set);
    combiner.add(share).expect("a right share");
    let shown = format!("{shown} {combiner:?}");
    assert!(!shown.contains(&value[..8]), "{shown}");
    assert!(shown.contains("officer-0"));
}
