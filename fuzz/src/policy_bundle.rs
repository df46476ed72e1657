//! Signed policy bundles: as they come, as texts that a pinned key has signed, and the record of those that were seen.

use cvm_kms::state::parse_bundles;
use kms_ledger::signature::SigningKey;
use kms_policy::bundle::{Bundle, UnverifiedBundle, with_minisig};
use kms_policy::settings::PinnedKeys;

/// Bytes of strangers never verify. What a pinned key has signed reads as the one form, and any further byte is refused.
pub fn policy_bundle(data: &[u8]) {
    if let Ok(record) = parse_bundles(data) {
        assert_eq!(record, record.clone());
    }
    let key = SigningKey::from_seed("fuzz/key".parse().expect("a name"), &[7; 32]).expect("a key");
    let keys = PinnedKeys::new([&*key.verifying_key().to_string()], 1).expect("one key");
    if UnverifiedBundle::parse(data).is_ok() {
        assert!(Bundle::open(data, &keys, "default").is_err(), "nobody else has the key");
    }
    minisign(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let signed = format!("{text}\n{}", key.sign(text)).into_bytes();
    let Ok(bundle) = Bundle::open(&signed, &keys, "default") else { return };
    assert_eq!(bundle.signers(), ["fuzz/key"]);
    assert_eq!((bundle.header().domain(), bundle.bytes()), ("default", &*signed));
    assert!(bundle.header().serial() > 0 && bundle.header().expires() > bundle.header().not_before());
    assert!(text.ends_with(bundle.policy()), "the policy is the end of the text");
    let longer = [&signed[..], b"x"].concat();
    assert!(Bundle::open(&longer, &keys, "default").is_err());
}

const MINISIGN_KEY: &str = include_str!("../../tests/vectors/minisign/one.pub");
const MINISIGN_TEXT: &[u8] = include_bytes!("../../tests/vectors/minisign/prod-1.bundle");
const MINISIG: &[u8] = include_bytes!("../../tests/vectors/minisign/prod-1.one.minisig");
const LEGACY_MINISIG: &[u8] = include_bytes!("../../tests/vectors/minisign/prod-1.one.legacy.minisig");

/// A key of minisign has signed one text: no other bytes below or in place of it verify.
fn minisign(data: &[u8]) {
    let keys = PinnedKeys::with_minisign([], [MINISIGN_KEY], 1).expect("one key");
    let text =
        Bundle::open(&with_minisig(MINISIGN_TEXT, MINISIG), &keys, "default").expect("it is signed").digest();
    for bytes in [
        data.to_vec(),
        with_minisig(MINISIGN_TEXT, data),
        with_minisig(data, MINISIG),
        with_minisig(data, LEGACY_MINISIG),
        with_minisig(MINISIGN_TEXT, &[data, MINISIG].concat()),
    ] {
        let Ok(bundle) = Bundle::open(&bytes, &keys, "default") else { continue };
        assert_eq!(bundle.digest(), text, "nothing else was signed");
        assert_eq!(bundle.signers(), [keys.names().next().expect("one key")]);
    }
}
