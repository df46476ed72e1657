//! Officers: their names, their `age` recipients, the threshold, and the file that lists them.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::envelope::Key;

/// The most officers of a set.
pub const MAX_OFFICERS: usize = 32;
/// The longest file of officers.
pub const MAX_OFFICERS_FILE: usize = 256 << 10;
/// The longest name.
const MAX_NAME: usize = 64;
/// The longest recipient.
const MAX_RECIPIENT: usize = 4096;

/// An officer's name, which is also part of a file's name: letters, digits and `.`, `_`, `-`, `@`, `+`, not first a dot or dash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an officer's name has 1 to {MAX_NAME} letters, digits, dots, dashes, underscores, @ or +, begins with a letter or digit, \
     and is not a recipient"
)]
pub struct NameError;

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both would be the name of the same file where the case of letters does not count.
    pub fn is_same(&self, other: &Name) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+');
        let fits = (1..=MAX_NAME).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(allowed)
            && !is_recipient(text);
        if fits { Ok(Name(text.to_owned())) } else { Err(NameError) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// An `age` recipient, in its one canonical text: an SSH key without its comment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Recipient(String);

/// Why a text is no recipient that officers can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// Too long.
    #[error("a recipient has at most {MAX_RECIPIENT} characters")]
    TooLong,
    /// A private key.
    #[error(
        "this is a private key; give the recipient (age1…, ssh-ed25519 … or ssh-rsa …), and make a new key, because this one was shown"
    )]
    Private,
    /// Everybody could open the file.
    #[error("this public key is of small order: everybody could open what is encrypted to it")]
    SmallOrder,
    /// A key of SSH that is not supported.
    #[error(
        "age does not encrypt to SSH keys of this type or length; use ssh-ed25519, or ssh-rsa with 2048 to 4096 bits"
    )]
    SshKey,
    /// Something else.
    #[error("not a recipient: use age1… (of age-keygen, or of a plugin), ssh-ed25519 … or ssh-rsa …")]
    Unknown,
}

impl Recipient {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key. It was parsed once already.
    pub(crate) fn key(&self) -> Key {
        Key::parse(&self.0).expect("the text of a recipient is one").0
    }

    /// The program `age-plugin-NAME` that must be beside the KMS to encrypt to it.
    pub fn plugin(&self) -> Option<String> {
        self.key().plugin()
    }
}

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, RecipientError> {
        let text = text.trim();
        if text.len() > MAX_RECIPIENT {
            return Err(RecipientError::TooLong);
        }
        Key::parse(text).map(|(_, canonical)| Recipient(canonical))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Recipient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// How many officers restore: at least 2, at most all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold(u8);

/// Why a number is no threshold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// One officer alone could restore.
    #[error("the threshold must be at least 2, got {0}: one officer alone must not have the root keys")]
    TooLow(usize),
    /// Nobody could restore.
    #[error("the threshold must be at most the number of officers, {officers}, got {threshold}")]
    TooHigh {
        /// The threshold.
        threshold: usize,
        /// How many officers there are.
        officers: usize,
    },
    /// Too many officers.
    #[error("a recovery set has at most {MAX_OFFICERS} officers, got {0}")]
    TooManyOfficers(usize),
}

impl Threshold {
    /// A threshold among so many officers.
    ///
    /// # Errors
    /// [`ThresholdError`]
    pub fn new(threshold: usize, officers: usize) -> Result<Self, ThresholdError> {
        if officers > MAX_OFFICERS {
            return Err(ThresholdError::TooManyOfficers(officers));
        }
        if threshold < 2 {
            return Err(ThresholdError::TooLow(threshold));
        }
        if threshold > officers {
            return Err(ThresholdError::TooHigh { threshold, officers });
        }
        Ok(Threshold(u8::try_from(threshold).expect("at most 32")))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// An officer as the caller names one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The officer's name.
    pub name: Name,
    /// The officer's recipient.
    pub recipient: Recipient,
}

/// Why officers cannot be those of a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfficersError {
    /// The file is too long.
    #[error("a file of officers has at most {MAX_OFFICERS_FILE} bytes")]
    TooLong,
    /// The file is no text.
    #[error("the file of officers is not UTF-8 text")]
    NotText,
    /// A name is invalid.
    #[error("line {line}: {error}")]
    Name {
        /// From 1.
        line: usize,
        /// Why.
        error: NameError,
    },
    /// A recipient is invalid.
    #[error("line {line}: {error}")]
    Recipient {
        /// From 1.
        line: usize,
        /// Why.
        error: RecipientError,
    },
    /// There are too many.
    #[error("a recovery set has at most {MAX_OFFICERS} officers")]
    TooMany,
    /// A name is there twice.
    #[error("the name {0} is there twice; officers' files are named after them, in any case of letters")]
    SameName(Name),
    /// A recipient is there twice.
    #[error("{0} and {1} have the same recipient: each officer needs a key of their own")]
    SameRecipient(Name, Name),
}

/// Reads a file of officers: `NAME RECIPIENT` or a recipient alone a line, whose name is then its number; `#` begins a comment line.
///
/// # Errors
/// [`OfficersError`]
pub fn parse_officers(bytes: &[u8]) -> Result<Vec<Named>, OfficersError> {
    if bytes.len() > MAX_OFFICERS_FILE {
        return Err(OfficersError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| OfficersError::NotText)?;
    let mut officers: Vec<Named> = Vec::new();
    for (text, line) in text.lines().map(str::trim).zip(1..) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if officers.len() == MAX_OFFICERS {
            return Err(OfficersError::TooMany);
        }
        let number = (officers.len() + 1).to_string();
        let (name, recipient) = match text.split_once(char::is_whitespace) {
            Some((name, recipient)) if !is_recipient(name) => (name, recipient),
            _ => (number.as_str(), text),
        };
        officers.push(Named {
            name: name.parse().map_err(|error| OfficersError::Name { line, error })?,
            recipient: recipient.parse().map_err(|error| OfficersError::Recipient { line, error })?,
        });
    }
    distinct(&officers)?;
    Ok(officers)
}

/// No two have the same name or recipient.
pub(crate) fn distinct(officers: &[Named]) -> Result<(), OfficersError> {
    let mut names = HashSet::new();
    for (at, officer) in officers.iter().enumerate() {
        if !names.insert(officer.name.as_str().to_ascii_lowercase()) {
            return Err(OfficersError::SameName(officer.name.clone()));
        }
        if let Some(other) = officers[..at].iter().find(|other| other.recipient == officer.recipient) {
            return Err(OfficersError::SameRecipient(other.name.clone(), officer.name.clone()));
        }
    }
    Ok(())
}

fn is_recipient(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    ["age1", "ssh-", "ecdsa-", "sk-ssh-", "age-secret-key-", "age-plugin-"]
        .iter()
        .any(|start| word.starts_with(start))
}
