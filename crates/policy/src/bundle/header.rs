//! The header of a bundle: one line of JSON, in exactly one form.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::BundleDigest;

/// The longest header in bytes.
const MAX_HEADER: usize = 1024;
/// The longest name of a bundle or a domain.
const MAX_NAME: usize = 64;
/// The highest serial: programs of others read it as a number of JSON, exact up to 2^53 − 1.
pub const MAX_SERIAL: u64 = (1 << 53) - 1;
/// The end of the year 9999, Unix seconds.
const LAST_TIME: u64 = 253_402_300_799;

/// Why a line is not a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Too long.
    #[error("has more than {MAX_HEADER} bytes")]
    TooLong,
    /// Not the object, or with other keys.
    #[error("is not the expected JSON object: {0}")]
    Json(String),
    /// A name of the bundle or the domain.
    #[error("must have a {0} of 1 to {MAX_NAME} lower-case letters, digits, '-' and '.'")]
    Name(&'static str),
    /// The serial.
    #[error("must have a serial from 1 to {MAX_SERIAL}")]
    Serial,
    /// A time.
    #[error("must have {0} as RFC 3339 in UTC, such as 2026-01-01T00:00:00Z")]
    Time(&'static str),
    /// It is never valid.
    #[error("must have an expiry after not_before")]
    NeverValid,
    /// The digest of the bundle before.
    #[error("must have 64 lower-case hex digits or null as previous")]
    Previous,
    /// The first bundle names one before it, or another one does not.
    #[error("must have previous = null for serial 1, and a digest for others")]
    Chain,
    /// The same content, written in another way.
    #[error("is not in the canonical form, which is {0}")]
    NotCanonical(String),
}

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    name: String,
    domain: String,
    serial: u64,
    not_before: u64,
    expires: u64,
    previous: Option<BundleDigest>,
}

/// The line, in the order of its keys.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    domain: String,
    serial: u64,
    not_before: String,
    expires: String,
    previous: Option<String>,
}

impl Header {
    /// Puts a header together. Times are Unix seconds.
    ///
    /// # Errors
    /// [`HeaderError`]
    pub fn new(
        name: &str,
        domain: &str,
        serial: u64,
        (not_before, expires): (u64, u64),
        previous: Option<BundleDigest>,
    ) -> Result<Self, HeaderError> {
        for (text, what) in [(name, "name"), (domain, "domain")] {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
            if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(is_plain) {
                return Err(HeaderError::Name(what));
            }
        }
        if serial == 0 || serial > MAX_SERIAL {
            return Err(HeaderError::Serial);
        }
        for (time, what) in [(not_before, "not_before"), (expires, "expires")] {
            if time > LAST_TIME {
                return Err(HeaderError::Time(what));
            }
        }
        if expires <= not_before {
            return Err(HeaderError::NeverValid);
        }
        if (serial == 1) != previous.is_none() {
            return Err(HeaderError::Chain);
        }
        let (name, domain) = (name.to_owned(), domain.to_owned());
        Ok(Self { name, domain, serial, not_before, expires, previous })
    }

    pub(super) fn parse(text: &str) -> Result<Self, HeaderError> {
        if text.len() > MAX_HEADER {
            return Err(HeaderError::TooLong);
        }
        let line: Line = serde_json::from_str(text)
            .map_err(|error| HeaderError::Json(error.to_string().chars().take(200).collect()))?;
        let not_before = unix(&line.not_before).ok_or(HeaderError::Time("not_before"))?;
        let expires = unix(&line.expires).ok_or(HeaderError::Time("expires"))?;
        let previous =
            line.previous.as_deref().map(|text| BundleDigest::parse(text).ok_or(HeaderError::Previous));
        let header =
            Self::new(&line.name, &line.domain, line.serial, (not_before, expires), previous.transpose()?)?;
        let canonical = header.line();
        if canonical == text { Ok(header) } else { Err(HeaderError::NotCanonical(canonical)) }
    }

    /// The line, without its newline.
    pub(super) fn line(&self) -> String {
        let line = Line {
            name: self.name.clone(),
            domain: self.domain.clone(),
            serial: self.serial,
            not_before: rfc3339(self.not_before),
            expires: rfc3339(self.expires),
            previous: self.previous.map(|digest| digest.to_string()),
        };
        serde_json::to_string(&line).expect("texts and numbers")
    }

    /// The name that its authors gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The domain whose requests it decides.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Its number, 1 or more. Those of later bundles are higher.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// From when on it decides, Unix seconds.
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// When it expires, Unix seconds.
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// The digest of the bundle with the serial before; `None` for the first.
    pub fn previous(&self) -> Option<BundleDigest> {
        self.previous
    }
}

fn unix(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp()).ok()
}

fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds.min(LAST_TIME)).unwrap_or_default();
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}
