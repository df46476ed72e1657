//! Public keys of minisign, which may sign bundles beside verifier keys.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};

/// What the bytes of a public key begin with, for either way to sign.
const ALGORITHM: [u8; 2] = *b"Ed";

/// A public key of minisign: `base64("Ed" ‖ key id (8) ‖ Ed25519 key (32))`, the second line of a `minisign.pub`.
#[derive(Clone, PartialEq, Eq)]
pub struct MinisignKey {
    name: String,
    id: [u8; 8],
    ed25519: [u8; 32],
    key: PublicKey,
}

impl MinisignKey {
    /// Reads the line, or the two lines of a `minisign.pub`.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape = || {
            "must be a public key of minisign: the line of minisign.pub that begins with RW, 56 characters"
                .to_owned()
        };
        let text = text.trim();
        let line = match text.split_once('\n') {
            Some((comment, line)) if comment.starts_with("untrusted comment:") => line.trim(),
            Some(_) => return Err(shape()),
            None => text,
        };
        let bytes = STANDARD.decode(line).ok().and_then(|bytes| <[u8; 42]>::try_from(bytes).ok());
        let bytes = bytes.filter(|bytes| bytes[..2] == ALGORITHM).ok_or_else(shape)?;
        let key = PublicKey::from_base64(line).map_err(|_| shape())?;
        let (id, ed25519) = bytes[2..].split_first_chunk::<8>().expect("40 bytes");
        let ed25519 = ed25519.try_into().expect("32 bytes");
        Ok(Self { name: name(*id), id: *id, ed25519, key })
    }

    /// `minisign/` and the id as `minisign` prints it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id that its signatures name.
    pub fn id(&self) -> [u8; 8] {
        self.id
    }

    pub(super) fn ed25519(&self) -> &[u8; 32] {
        &self.ed25519
    }

    /// Whether `signature` holds over `text`, prehashed or not, and over its own trusted comment.
    pub fn verifies(&self, text: &str, signature: &Signature) -> bool {
        self.key.verify(text.as_bytes(), signature, true).is_ok()
    }
}

impl fmt::Debug for MinisignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MinisignKey({})", self.name)
    }
}

/// The name of the key with this id, which `minisign` prints as a number.
pub(crate) fn name(id: [u8; 8]) -> String {
    format!("minisign/{:016X}", u64::from_le_bytes(id))
}
