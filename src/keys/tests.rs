//! What known answers cannot say of derivations; `tests/vectors.rs` runs those of the peer.

use kms_attest::identity::AppId;

use super::RootKeys;
use super::derive::{DeriveError, app_keys, kdf};

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
