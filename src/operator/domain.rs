//! The domain of a credential: the part of a KMS to which its holder is limited.

use std::fmt;
use std::str::FromStr;

/// The name of a domain, in the form of a credential's name. This KMS has only [`DomainName::DEFAULT`]; others are in files
/// of a KMS with several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainName(String);

/// A text that cannot be the name of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a domain's name has 1 to {MAX_NAME} lower-case letters, digits, '-' or '.', and begins with a letter or a digit"
)]
pub struct BadDomainName;

/// The longest name, in bytes.
const MAX_NAME: usize = 64;

impl DomainName {
    /// The domain that each KMS has.
    pub const DEFAULT: &str = "default";

    /// Whether this KMS has the domain.
    pub fn is_here(&self) -> bool {
        self.0 == Self::DEFAULT
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainName {
    type Err = BadDomainName;

    fn from_str(text: &str) -> Result<Self, BadDomainName> {
        if text.len() <= MAX_NAME && super::named::is_plain_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadDomainName)
        }
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
