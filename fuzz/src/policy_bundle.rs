//! Signed policy bundles: as they come, as texts that a pinned key has signed, and the record of those that were seen.

use cvm_kms::state::parse_bundles;
use kms_ledger::signature::SigningKey;
use kms_policy::bundle::{Bundle, UnverifiedBundle};
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
