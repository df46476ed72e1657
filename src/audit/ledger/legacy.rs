//! Records of versions without a ledger. They have no salt, so their guessable contents must not be in the
//! tree.

use std::fmt;
use std::path::Path;

use aws_lc_rs::hmac;
use sha2::{Digest as _, Sha256};

use super::super::AuditError;
use super::super::chain::{Salt, is_salted};
use super::super::event::Event;
use super::super::records::{self, Records};

/// After how many records the progress of an import is told.
const TOLD_RECORDS: u64 = 1024;

/// The salt of their entries: the same at each import, secret without the root keys.
pub struct LegacySalts(hmac::Key);

impl LegacySalts {
    /// From a key that is derived for this purpose only.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// HMAC-SHA-256(key, u64be(index))\[:16\]
    fn salt(&self, index: u64) -> Salt {
        let tag = hmac::sign(&self.0, &index.to_be_bytes());
        let mut salt = [0; 16];
        salt.copy_from_slice(&tag.as_ref()[..16]);
        Salt(salt)
    }

    /// `{"line_sha256":…,"salt":…,"seq":…,"type":"legacy"}`: canonical JSON (RFC 8785). The hash is of the
    /// line without its newline.
    pub(super) fn entry(&self, record: &[u8], seq: u64, index: u64) -> Vec<u8> {
        let (hash, salt) = (hex::encode(Sha256::digest(record)), self.salt(index));
        format!(r#"{{"line_sha256":"{hash}","salt":"{salt}","seq":{seq},"type":"legacy"}}"#).into_bytes()
    }
}

impl fmt::Debug for LegacySalts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegacySalts")
    }
}

/// Verifies all records up to number `last`, and gives the event that seals those at the end that are of a
/// version without a ledger. Tells how far it is.
///
/// # Errors
/// A record does not follow from the previous one.
pub(in super::super) fn import(path: &Path, last: u64, tell: impl Fn(u64)) -> Result<Event, AuditError> {
    let unusable = |source| AuditError::Open { path: path.to_owned(), source };
    let mut first = records::first(path).map_err(unusable)?.unwrap_or(1);
    let mut records = Records::between(path, first, last)?;
    let (mut digest, mut lines, mut bytes) = (Sha256::new(), 0, 0);
    while let Some(record) = records.next()? {
        if (first + lines).is_multiple_of(TOLD_RECORDS) {
            tell(first + lines);
        }
        if is_salted(record) {
            // An older version has continued a log with a ledger.
            first += lines + 1;
            (digest, lines, bytes) = (Sha256::new(), 0, 0);
            continue;
        }
        digest.update(record);
        digest.update(b"\n");
        lines += 1;
        bytes += record.len() as u64 + 1;
    }
    let (sha256, head) = (hex::encode(digest.finalize()), hex::encode(records.head()));
    Ok(Event::Imported { first, lines, bytes, sha256, head })
}
