//! SHA-384, the hash of the TDX registers.

use sha2::{Digest as _, Sha384};

/// A SHA-384 value.
pub(super) type Digest = [u8; 48];

/// SHA-384 of the concatenated parts.
pub(super) fn sha384(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha384::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}
