//! One officer's share: what is inside the officer's file, and what is sent to the KMS.

use std::fmt;

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::bytes::Bytes;
use crate::manifest::SetId;
use crate::officer::Name;
use crate::scalar::SecretScalar;

/// The longest share as JSON.
pub const MAX_SHARE: usize = 1024;
/// The longest officer's file.
pub const MAX_SHARE_FILE: usize = 64 << 10;
/// The only version.
const VERSION: u32 = 1;

/// A share. It cannot be cloned, prints its officer only, and is overwritten when dropped.
pub struct Share {
    /// The set that it belongs to.
    pub set: SetId,
    /// Its index in the set, from 1.
    pub index: u8,
    /// Whose it is.
    pub officer: Name,
    pub(crate) value: SecretScalar,
}

/// Why bytes are no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareFormatError {
    /// Too long.
    #[error("a share has at most {MAX_SHARE} bytes")]
    TooLong,
    /// Not the JSON of a share. The cause is not told: it could repeat a part of the share.
    #[error("not a share of a recovery set: JSON with version, set, index, officer and share")]
    Malformed,
    /// Made by another version of the program.
    #[error("the share has version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// Not a number that a share can be.
    #[error("the share of {0} is not a number below the group order: it was altered")]
    OutOfRange(Name),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<'a> {
    version: u32,
    set: SetId,
    index: u8,
    officer: Name,
    /// Borrowed, so that there is no copy that is not overwritten.
    #[serde(borrow)]
    share: &'a str,
}

impl Share {
    /// Reads `{"version", "set", "index", "officer", "share"}`.
    ///
    /// # Errors
    /// [`ShareFormatError`]; it repeats nothing of the share.
    pub fn parse(bytes: &[u8]) -> Result<Self, ShareFormatError> {
        if bytes.len() > MAX_SHARE {
            return Err(ShareFormatError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ShareFormatError::Malformed)?;
        let content: Content<'_> = serde_json::from_str(text).map_err(|_| ShareFormatError::Malformed)?;
        if content.version != VERSION {
            return Err(ShareFormatError::Version(content.version));
        }
        let bytes = Bytes::<32>::parse(content.share).map(|bytes| Zeroizing::new(bytes.0));
        let bytes = bytes.ok_or(ShareFormatError::Malformed)?;
        let Some(value) = SecretScalar::from_bytes(&bytes) else {
            return Err(ShareFormatError::OutOfRange(content.officer));
        };
        Ok(Share { set: content.set, index: content.index, officer: content.officer, value })
    }

    /// The same JSON: the body of `POST /recovery/shares`.
    pub fn to_json(&self) -> Zeroizing<String> {
        use fmt::Write as _;
        let mut digits = Zeroizing::new([0; 64]);
        hex::encode_to_slice(&self.value.to_bytes()[..], &mut digits[..]).expect("twice as long");
        let share = std::str::from_utf8(&digits[..]).expect("digits");
        // With its full capacity, so that no copy is left behind. A name needs no escapes.
        let mut text = Zeroizing::new(String::with_capacity(MAX_SHARE));
        let Share { set, index, officer, .. } = self;
        write!(
            text,
            r#"{{"version":{VERSION},"set":"{set}","index":{index},"officer":"{officer}","share":"{share}"}}"#
        )
        .expect("memory");
        text
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} {} of {})", self.index, self.officer, self.set)
    }
}
