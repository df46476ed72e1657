//! Names and public keys of the signers of notes (C2SP `signed-note`, `tlog-cosignature`).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// Length of an Ed25519 public key.
pub const ED25519_PUBLIC_KEY: usize = 32;

/// Length of an ML-DSA-44 public key (FIPS 204).
pub const ML_DSA_44_PUBLIC_KEY: usize = 1312;

/// Maximum length of a verifier key: a name, an id, and an ML-DSA-44 key in base64.
const MAX_VKEY: usize = 4096;

/// Why a text is not a key name or a verifier key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Empty, or with a space, a control character or `+`.
    #[error("a key name must not be empty and must not contain spaces, control characters or `+`")]
    Name,
    /// Not `name+id+key`.
    #[error("a verifier key must be <name>+<8 hex digits>+<base64 of type and public key>")]
    Shape,
    /// Not lower-case hex of four bytes.
    #[error("a key id must be 8 lower-case hex digits")]
    Id,
    /// Empty, or not canonical padded base64.
    #[error("the public key must be in padded base64")]
    Base64,
    /// An unsupported signature type.
    #[error("signature type {0:#04x} is not supported")]
    Type(u8),
    /// The public key has a wrong length for its type.
    #[error("the public key has {found} bytes, a key of type {kind:#04x} has {expected}")]
    Length {
        /// The type of signature.
        kind: u8,
        /// Length of a key of this type.
        expected: usize,
        /// Length of this key.
        found: usize,
    },
    /// The id is that of another name, type or key.
    #[error("the key id does not fit name and key: it should be {expected}")]
    Mismatch {
        /// The id of name, type and key.
        expected: KeyId,
    },
}

/// The name of a key. By convention the URL of its owner without a scheme; the name of a log's key is its origin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, KeyError> {
        if is_key_name(name) { Ok(Self(name.to_owned())) } else { Err(KeyError::Name) }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

pub(crate) fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// The short id of a key, a hint for the verifier which key to use. It is not an identifier: ids can collide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 4]);

impl KeyId {
    /// SHA-256(name ‖ `0a` ‖ type ‖ public key)\[:4\].
    fn of(name: &KeyName, key: &PublicKey) -> Self {
        let digest = Sha256::new()
            .chain_update(&name.0)
            .chain_update([b'\n', key.kind()])
            .chain_update(key.as_bytes())
            .finalize();
        Self([digest[0], digest[1], digest[2], digest[3]])
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 4] {
        &self.0
    }
}

impl From<[u8; 4]> for KeyId {
    fn from(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyId({self})")
    }
}

/// A public key with its signature type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PublicKey {
    /// Type 01: signs the text of a note. The key of a log.
    Ed25519([u8; ED25519_PUBLIC_KEY]),
    /// Type 04: cosigns checkpoints with a time. The key of a witness.
    Ed25519Cosignature([u8; ED25519_PUBLIC_KEY]),
    /// Type 06: cosigns checkpoints with a time. The key of a witness.
    MlDsa44Cosignature(Box<[u8; ML_DSA_44_PUBLIC_KEY]>),
}

impl PublicKey {
    /// The byte for the signature type.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Ed25519(_) => 0x01,
            Self::Ed25519Cosignature(_) => 0x04,
            Self::MlDsa44Cosignature(_) => 0x06,
        }
    }

    /// The key alone, without its type.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(key) | Self::Ed25519Cosignature(key) => key,
            Self::MlDsa44Cosignature(key) => key.as_slice(),
        }
    }

    /// Reads type ‖ public key.
    fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let (&kind, key) = bytes.split_first().ok_or(KeyError::Base64)?;
        let length = |expected| KeyError::Length { kind, expected, found: key.len() };
        let ed25519 = || key.try_into().map_err(|_| length(ED25519_PUBLIC_KEY));
        match kind {
            0x01 => ed25519().map(Self::Ed25519),
            0x04 => ed25519().map(Self::Ed25519Cosignature),
            0x06 => {
                let key: Box<[u8]> = key.into();
                let key = key.try_into().map_err(|_| length(ML_DSA_44_PUBLIC_KEY))?;
                Ok(Self::MlDsa44Cosignature(key))
            }
            _ => Err(KeyError::Type(kind)),
        }
    }
}

/// A public key with the name of its owner. Its text form, `name+id+base64(type ‖ public key)`, is the "vkey".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VerifyingKey {
    name: KeyName,
    id: KeyId,
    key: PublicKey,
}

impl VerifyingKey {
    /// Names a public key.
    pub fn new(name: KeyName, key: PublicKey) -> Self {
        let id = KeyId::of(&name, &key);
        Self { name, id, key }
    }

    /// The name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The public key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.key.kind()], self.key.as_bytes()].concat();
        write!(formatter, "{}+{}+{}", self.name, self.id, STANDARD.encode(key))
    }
}

/// Reads exactly what [`fmt::Display`] writes.
impl FromStr for VerifyingKey {
    type Err = KeyError;

    fn from_str(vkey: &str) -> Result<Self, KeyError> {
        if vkey.len() > MAX_VKEY {
            return Err(KeyError::Shape);
        }
        // Base64 has `+` too, so that only the first two separate.
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Shape);
        };
        let name = name.parse()?;
        let mut bytes = [0; 4];
        let is_lower = !id.bytes().any(|digit| digit.is_ascii_uppercase());
        hex::decode_to_slice(id, &mut bytes).ok().filter(|()| is_lower).ok_or(KeyError::Id)?;
        let key = STANDARD.decode(key).map_err(|_| KeyError::Base64)?;
        let read = Self::new(name, PublicKey::from_bytes(&key)?);
        if read.id.0 == bytes { Ok(read) } else { Err(KeyError::Mismatch { expected: read.id }) }
    }
}
