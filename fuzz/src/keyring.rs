//! The file of root epochs, and the encoding of a keyring that recovery sets seal.

use cvm_kms::keys::material::{self, Material};
use cvm_kms::store::check_keyring_file;

/// Uses the bytes as both: what is read is the same after it is written again, and what is refused is told in words.
pub fn keyring(data: &[u8]) {
    if let Ok(Material { keyring, choices }) = material::import(data) {
        assert!(material::export(&keyring, choices.as_deref())[..] == *data, "there is one encoding");
        // Whatever the clock says, there is an epoch that apps get keys of.
        for now in [0, 1, u64::MAX] {
            assert!(keyring.readable(keyring.current(now), now).is_ok());
        }
    }
    if let Err(wrong) = check_keyring_file(data) {
        assert!(!wrong.is_empty() && wrong.len() < 100);
    }
}
