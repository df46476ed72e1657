//! The chain: each record names the hash of the one before it and carries its own.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::bundle::MAX_ENTRY;

/// No line is longer, newline included.
///
/// Its entry in the tree is shorter by the hash and the newline, so that it fits into a bundle.
pub const MAX_LINE: usize = 64 << 10;

const _: () = assert!(MAX_LINE - 1 - (SEAL - 1) <= MAX_ENTRY);

/// `,"hash":"` + 64 hex digits + `"}`
const SEAL: usize = 9 + 64 + 2;

/// Why a record does not follow from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkProblem {
    /// No newline at the end: a crash or someone truncated it.
    #[error("it is cut short")]
    Unfinished,
    /// Zeros in the place of records: damage, not what a crash leaves.
    #[error("there are zeros in its place")]
    Zeros,
    /// The first record of a log is not in the files.
    #[error("the records before it are missing")]
    NoBeginning,
    /// Not a record of this file format.
    #[error("it is not an audit record")]
    Malformed,
    /// Its content is not what it was written with.
    #[error("its hash does not fit its content")]
    Hash,
    /// It does not name the hash of the record before.
    #[error("it names another predecessor")]
    Predecessor,
    /// Its number is not one more than that of the record before.
    #[error("its number is out of order")]
    Order,
}

/// Random bytes in a record, so that its hash and its leaf hash do not reveal the rest of it.
///
/// Random, not derived: two contents at one number after a roll-back must not share it.
#[derive(Debug, Clone, Copy)]
pub struct Salt(pub [u8; 16]);

impl Salt {
    /// A new one.
    ///
    /// # Panics
    /// The system has no randomness.
    pub fn random() -> Self {
        let mut salt = [0; 16];
        aws_lc_rs::rand::fill(&mut salt).expect("the system has randomness");
        Self(salt)
    }
}

/// 22 characters of base64url.
impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// The end of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    seq: u64,
    hash: [u8; 32],
}

#[derive(Deserialize)]
struct Head {
    seq: u64,
    prev: String,
}

impl Link {
    /// Before the first record: number 0 and 32 zero bytes.
    pub const GENESIS: Self = Self { seq: 0, hash: [0; 32] };

    /// A record of which only the number is known.
    pub const fn numbered(seq: u64) -> Self {
        Self { seq, hash: [0; 32] }
    }

    /// The number of the record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Its hash: SHA-256 of its content.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Appends a record with its newline to `lines` and returns the new end. `fields` is the event's JSON object.
    ///
    /// `{"seq":…,"time":…,"prev":…,"salt":…,<fields>,"hash":…}`, where `hash` is the SHA-256 of the same line
    /// without it.
    pub fn append(&self, time: &str, salt: Salt, fields: &str, lines: &mut Vec<u8>) -> Self {
        let seq = self.seq + 1;
        let start = lines.len();
        let prev = hex::encode(self.hash);
        let head = format!(r#"{{"seq":{seq},"time":"{time}","prev":"{prev}","salt":"{salt}","#);
        lines.extend_from_slice(head.as_bytes());
        lines.extend_from_slice(fields.trim_start_matches('{').as_bytes());
        let hash: [u8; 32] = Sha256::digest(&lines[start..]).into();
        lines.pop();
        lines.extend_from_slice(format!("{}\n", seal(&hash)).as_bytes());
        Self { seq, hash }
    }

    /// The end after `record`, if it follows.
    ///
    /// # Errors
    /// [`LinkProblem`].
    pub fn next(&self, record: &[u8]) -> Result<Self, LinkProblem> {
        let (link, prev) = Self::parse(record)?;
        if prev != self.hash {
            return Err(LinkProblem::Predecessor);
        }
        if link.seq != self.seq + 1 {
            return Err(LinkProblem::Order);
        }
        Ok(link)
    }

    /// The end after the first `record` of a file or of a part of one. Only record 1 follows nothing.
    ///
    /// # Errors
    /// [`LinkProblem`].
    pub fn first(record: &[u8]) -> Result<Self, LinkProblem> {
        let (link, prev) = Self::parse(record)?;
        if (link.seq == 1) != (prev == Self::GENESIS.hash) || link.seq == 0 {
            return Err(LinkProblem::Predecessor);
        }
        Ok(link)
    }

    /// What `record` says that it follows.
    ///
    /// # Errors
    /// [`LinkProblem`].
    pub fn before(record: &[u8]) -> Result<Self, LinkProblem> {
        let (link, hash) = Self::parse(record)?;
        let seq = link.seq.checked_sub(1).ok_or(LinkProblem::Order)?;
        Ok(Self { seq, hash })
    }

    fn parse(record: &[u8]) -> Result<(Self, [u8; 32]), LinkProblem> {
        let end = record.len().checked_sub(SEAL).ok_or(LinkProblem::Malformed)?;
        let (content, sealed) = record.split_at(end);
        let mut digest = Sha256::new();
        digest.update(content);
        digest.update(b"}");
        let hash: [u8; 32] = digest.finalize().into();
        if sealed != seal(&hash).as_bytes() {
            return Err(if sealed.starts_with(br#","hash":""#) {
                LinkProblem::Hash
            } else {
                LinkProblem::Malformed
            });
        }
        let Head { seq, prev } = serde_json::from_slice(record).map_err(|_| LinkProblem::Malformed)?;
        let mut previous = [0; 32];
        hex::decode_to_slice(prev, &mut previous).map_err(|_| LinkProblem::Malformed)?;
        Ok((Self { seq, hash }, previous))
    }
}

/// The bytes that the hash of a record is over: the record without its hash. `None` if `record` is too short for a record.
pub fn content(record: &[u8]) -> Option<Vec<u8>> {
    let content = &record[..record.len().checked_sub(SEAL)?];
    Some([content, b"}"].concat())
}

/// Whether a record has a salt: those of versions without a ledger have none.
pub fn is_salted(record: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Salted {
        #[serde(rename = "salt")]
        _salt: String,
    }
    serde_json::from_slice::<Salted>(record).is_ok()
}

/// The number that a line begins with, read without looking at anything else of it.
pub fn number(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(br#"{"seq":"#)?;
    let digits = digits.split(|byte| *byte == b',').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn seal(hash: &[u8; 32]) -> String {
    format!(r#","hash":"{}"}}"#, hex::encode(hash))
}
