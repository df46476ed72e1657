//! The hashes of an RFC 6962 Merkle tree.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// A leaf hash, a node hash or a root: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

/// Not a hash: another length, or not base64 in its one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash must be 32 bytes in padded base64")]
pub struct NotAHash;

impl Hash {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// The root of the empty tree: SHA-256 of nothing.
    pub const EMPTY_ROOT: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
        0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ]);

    /// SHA-256(`00` ‖ entry): RFC 6962 section 2.1.
    pub fn leaf(entry: &[u8]) -> Self {
        Self(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
    }

    /// SHA-256(`01` ‖ left ‖ right): RFC 6962 section 2.1.
    pub fn node(left: &Self, right: &Self) -> Self {
        Self(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the text form: padded base64 (RFC 4648 section 4), no bit set that is not part of the hash.
    ///
    /// # Errors
    /// [`NotAHash`].
    pub fn from_base64(text: &str) -> Result<Self, NotAHash> {
        let mut bytes = [0; Self::LEN + 1];
        match STANDARD.decode_slice(text, &mut bytes) {
            Ok(Self::LEN) => Self::try_from(&bytes[..Self::LEN]),
            _ => Err(NotAHash),
        }
    }

    /// The text form: 44 characters.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

impl From<[u8; 32]> for Hash {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = NotAHash;

    fn try_from(bytes: &[u8]) -> Result<Self, NotAHash> {
        bytes.try_into().map(Self).map_err(|_| NotAHash)
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Hex, as people compare hashes.
impl fmt::Display for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Hash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_empty_tree_is_the_hash_of_nothing() {
        assert_eq!(Hash::EMPTY_ROOT.as_bytes()[..], Sha256::digest(b"")[..]);
        assert_eq!(Hash::EMPTY_ROOT.to_base64(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn only_one_text_stands_for_a_hash() {
        let text = Hash::EMPTY_ROOT.to_base64();
        assert_eq!(Hash::from_base64(&text), Ok(Hash::EMPTY_ROOT));
        let longer = STANDARD.encode([0; 33]);
        for other in [
            text.trim_end_matches('=').to_owned(),
            text.replace("uFU=", "uFV="),
            text.replace('+', "-"),
            format!("{text}\n"),
            format!(" {text}"),
            format!("{text}{text}"),
            STANDARD.encode([0; 31]),
            longer,
            String::new(),
            "A".repeat(1 << 20),
        ] {
            assert_eq!(Hash::from_base64(&other), Err(NotAHash), "{other:.60}");
        }
    }
}
