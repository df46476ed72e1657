//! Signatures that the program `minisign` made, and what attackers make of them. Files: `tests/vectors/minisign`.

use proptest::prelude::*;

use super::super::{Bundle, BundleError, SecretKey, UnverifiedBundle, add_signature, sign_text};
use super::vectors::{BY_ONE, BY_TWO, FIRST, LEGACY, ONE, SECOND, SECOND_BY_ONE, SECOND_BY_ONE_LEGACY, TWO};
use super::*;
use crate::settings::PinnedKeys;

fn pinned(keys: &[&str], threshold: u64) -> PinnedKeys {
    PinnedKeys::with_minisign([], keys.iter().copied(), threshold).expect("keys")
}

fn open(text: &str, signatures: &[&str], keys: &PinnedKeys) -> Result<Vec<String>, BundleError> {
    let bytes = with_minisig(text.as_bytes(), signatures.concat().as_bytes());
    Bundle::open(&bytes, keys, "default").map(|bundle| bundle.signers().to_vec())
}

#[test]
fn what_the_program_signed_is_verified_prehashed_and_not() {
    const NAMES: [&str; 2] = ["minisign/DDFD49498CF8CC92", "minisign/FDFBC3481592DD7B"];
    let both = pinned(&[ONE, TWO], 2);
    for first in [BY_ONE, LEGACY] {
        assert_eq!(open(FIRST, &[first], &pinned(&[ONE], 1)).expect("one"), NAMES[..1]);
        assert_eq!(open(FIRST, &[first, BY_TWO], &both).expect("both"), NAMES);
    }
    assert_eq!(open(SECOND, &[SECOND_BY_ONE], &pinned(&[ONE], 1)).expect("the second"), NAMES[..1]);
    // As Windows writes it, and without the last newline.
    assert!(open(FIRST, &[&BY_ONE.replace('\n', "\r\n")], &pinned(&[ONE], 1)).is_ok());
    assert!(open(FIRST, &[BY_ONE.trim_end()], &pinned(&[ONE], 1)).is_ok());
    // The line of the key, as configurations have it.
    assert!(open(FIRST, &[BY_ONE], &pinned(&[ONE.lines().nth(1).expect("a line")], 1)).is_ok());
}

#[test]
fn both_kinds_of_signatures_count_to_one_threshold_in_any_order() {
    let ann = SecretKey::generate("team/ann".parse().expect("a name")).expect("a key");
    let vkey = ann.verifying_key().to_string();
    let keys = PinnedKeys::with_minisign([&*vkey], [ONE], 2).expect("keys");
    let expected = ["team/ann", "minisign/DDFD49498CF8CC92"];
    let noted = sign_text(FIRST, &ann).expect("a bundle");
    let first = [&noted[..], BY_ONE.as_bytes()].concat();
    let unverified =
        UnverifiedBundle::parse(&with_minisig(FIRST.as_bytes(), BY_ONE.as_bytes())).expect("a bundle");
    let second = add_signature(&unverified, &ann).expect("a further signature");
    for bytes in [&first, &second] {
        let bundle = Bundle::open(bytes, &keys, "default").expect("both");
        assert_eq!(
            (bundle.signers(), bundle.digest()),
            (&expected.map(str::to_owned)[..], unverified.digest())
        );
        assert_eq!(bundle.bytes(), &**bytes);
    }
    for one in [&noted, &with_minisig(FIRST.as_bytes(), BY_ONE.as_bytes())] {
        assert!(matches!(
            Bundle::open(one, &keys, "default"),
            Err(BundleError::Threshold { signed: 1, threshold: 2 })
        ));
    }
}

#[test]
fn a_key_counts_once_however_often_it_signs() {
    let both = pinned(&[ONE, TWO], 2);
    for signatures in [&[BY_ONE, BY_ONE][..], &[BY_ONE, LEGACY], &[LEGACY, BY_ONE, LEGACY]] {
        assert!(matches!(
            open(FIRST, signatures, &both),
            Err(BundleError::Threshold { signed: 1, threshold: 2 })
        ));
    }
    // The signature of a key that nobody pinned is not looked at.
    assert!(matches!(
        open(FIRST, &[BY_TWO], &pinned(&[ONE], 1)),
        Err(BundleError::Threshold { signed: 0, .. })
    ));
    assert!(open(FIRST, &[BY_TWO, BY_ONE], &pinned(&[ONE], 1)).is_ok());
}

#[test]
fn one_key_is_pinned_once_under_whatever_name() {
    let ann = SecretKey::generate("team/ann".parse().expect("a name")).expect("a key");
    let vkey = ann.verifying_key().to_string();
    let of = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let kms_ledger::key::PublicKey::Ed25519(key) = ann.verifying_key().key() else { panic!("not Ed25519") };
    let same = of(&[b"Ed12345678", &key[..]].concat());
    let refused =
        |keys: &[&str]| PinnedKeys::with_minisign([&*vkey], keys.iter().copied(), 1).expect_err("refused");
    assert!(refused(&[&same]).contains("have the same key"));
    let renamed = of(&[b"Ed87654321", &[7; 32][..]].concat());
    let again = of(&[b"Ed12345678", &[7; 32][..]].concat());
    assert!(refused(&[&renamed, &again]).contains("have the same key"));
    let twin = of(&[b"Ed87654321", &[8; 32][..]].concat());
    assert!(refused(&[&renamed, &twin]).contains("two keys are called"));
    for bad in
        ["", "RW", "x\nRWSSzPiMSUn93c", &of(&[b"ED12345678", &[7; 32][..]].concat()), &of(&[0; 41]), BY_ONE]
    {
        assert!(refused(&[bad]).contains("must be a public key of minisign"), "{bad}");
    }
}

#[test]
fn signatures_of_other_texts_keys_and_modes_are_refused() {
    let key = pinned(&[ONE], 1);
    let invalid = |text: &str, signature: &str| match open(text, &[signature], &key) {
        Err(error @ BundleError::MinisignSignature(_)) => {
            assert_eq!(error.code(), "bundle_signature_invalid")
        }
        other => panic!("{other:?}: {signature}"),
    };
    // Of another serial.
    for other in [BY_ONE, LEGACY] {
        invalid(SECOND, other);
    }
    for other in [SECOND_BY_ONE, SECOND_BY_ONE_LEGACY] {
        invalid(FIRST, other);
    }
    // The comment that is signed was altered, or is that of another signature.
    invalid(FIRST, &BY_ONE.replace("serial 1", "serial 2"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let spliced = [&lines(BY_ONE)[..2], &lines(LEGACY)[2..]].concat().join("\n");
    invalid(FIRST, &spliced);
    // Prehashed given out as not prehashed, and the other way.
    invalid(FIRST, &BY_ONE.replacen("RUS", "RWS", 1));
    invalid(FIRST, &LEGACY.replacen("RWS", "RUS", 1));
    // Of another key, under the id of the pinned one.
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let mut bytes = engine.decode(lines(BY_TWO)[1].as_str()).expect("base64");
    bytes[2..10].copy_from_slice(&pinned(&[ONE], 1).minisign_keys()[0].id());
    invalid(FIRST, &BY_TWO.replace(&lines(BY_TWO)[1], &engine.encode(bytes)));
    // The comment that is not signed may say anything.
    assert!(open(FIRST, &[&BY_ONE.replace("signature from", "by somebody else,")], &key).is_ok());
}

#[test]
fn what_is_not_four_lines_is_refused() {
    let key = pinned(&[ONE], 1);
    let lines: Vec<&str> = BY_ONE.lines().collect();
    let long = format!("trusted comment: {}", "x".repeat(MAX_LINE));
    let malformed = [
        lines[..3].join("\n"),
        lines[..1].join("\n"),
        BY_ONE.replace("trusted comment: s", "comment: s"),
        BY_ONE.replace("RUS", "RXS"),
        BY_ONE.replace(lines[1], "RUSS"),
        BY_ONE.replace(lines[2], &long),
        BY_ONE.replace(lines[3], ""),
        BY_ONE.repeat(MAX_SIGNATURES + 1),
    ];
    for bad in malformed {
        let error = open(FIRST, &[&bad], &key).expect_err(&bad);
        assert_eq!(error.code(), "bundle_malformed", "{error}: {bad}");
    }
    let cut = with_minisig(FIRST.as_bytes(), BY_ONE.as_bytes());
    assert!(matches!(
        UnverifiedBundle::parse(&cut[..cut.len() - 1]),
        Err(BundleError::Minisign { number: 1 })
    ));
    assert!(matches!(UnverifiedBundle::parse(FIRST.as_bytes()), Err(BundleError::Unsigned)));
    assert!(open(FIRST, &[BY_ONE, "other lines\n"], &key).is_err());
}

proptest! {
    #[test]
    fn any_altered_byte_but_of_the_comment_that_is_not_signed_is_refused(
        at in any::<prop::sample::Index>(),
        change in 1u8..,
        is_legacy in any::<bool>(),
    ) {
        let signature = if is_legacy { LEGACY } else { BY_ONE };
        let keys = pinned(&[ONE], 1);
        let good = with_minisig(FIRST.as_bytes(), signature.as_bytes());
        let comment = FIRST.len() + 1..FIRST.len() + 1 + signature.find('\n').expect("a line");
        let at = at.index(good.len());
        let mut bytes = good.clone();
        bytes[at] ^= change;
        let opened = Bundle::open(&bytes, &keys, "default");
        if comment.contains(&at) {
            let policy = opened.map(|bundle| bundle.policy().to_owned());
            prop_assert!(policy.is_err() || policy.is_ok_and(|policy| FIRST.ends_with(&policy)));
        } else {
            prop_assert!(opened.is_err(), "byte {at}");
        }
    }
}
