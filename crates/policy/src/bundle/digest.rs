//! The digest of a bundle.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// SHA-256 of the text of a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BundleDigest(pub(super) [u8; 32]);

impl BundleDigest {
    pub(super) fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Reads 64 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        (!text.bytes().any(|digit| digit.is_ascii_uppercase())).then_some(Self(digest))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BundleDigest({self})")
    }
}
