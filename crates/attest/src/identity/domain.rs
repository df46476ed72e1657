//! The name of a domain: a part of a KMS whose apps have keys, rules and operators of their own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name, in bytes.
const MAX_NAME: usize = 64;

/// The name of a domain: 1 to 64 lower-case letters, digits, `-` or `.`, the first of them a letter or a digit.
///
/// [`DomainName::DEFAULT`] has one form only, so that names can be compared.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Option<Arc<str>>);

/// A text that cannot be the name of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a domain's name has 1 to {MAX_NAME} lower-case letters, digits, '-' or '.', and begins with a letter or a digit"
)]
pub struct BadDomainName;

/// The name of [`DomainName::DEFAULT`].
const DEFAULT: &str = "default";

impl DomainName {
    /// The domain that each KMS has, whose keys are those of `Dstack-TEE/dstack`.
    pub const DEFAULT: Self = Self(None);

    /// Whether this is [`DomainName::DEFAULT`].
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }

    /// The name, unless it is that of [`DomainName::DEFAULT`], of which records and answers say nothing.
    pub fn said(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT)
    }
}

impl FromStr for DomainName {
    type Err = BadDomainName;

    fn from_str(text: &str) -> Result<Self, BadDomainName> {
        let is_plain = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        let is_name = text.len() <= MAX_NAME
            && text.bytes().next().is_some_and(is_plain)
            && text.bytes().all(|letter| is_plain(letter) || b"-.".contains(&letter));
        match text {
            DEFAULT => Ok(Self::DEFAULT),
            text if is_name => Ok(Self(Some(text.into()))),
            _ => Err(BadDomainName),
        }
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomainName({self})")
    }
}

impl Serialize for DomainName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for DomainName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_form_and_the_default_one_too() {
        for text in ["a", "0", "team-a.prod", "default", "default2", &"a".repeat(64)] {
            let name: DomainName = text.parse().expect(text);
            assert_eq!((name.as_str(), name.to_string()), (text, text.to_owned()));
            assert_eq!(name.is_default(), text == "default");
            assert_eq!(name.said(), (text != "default").then_some(text));
            let json = serde_json::to_string(&name).expect("a text");
            assert_eq!(serde_json::from_str::<DomainName>(&json).expect(text), name);
        }
        assert_eq!("default".parse(), Ok(DomainName::DEFAULT));
        assert_eq!(DomainName::default(), DomainName::DEFAULT);
        for text in ["", "A", "-a", ".", "a b", "a_b", "ä", "a\0", "Default", &"a".repeat(65)] {
            assert_eq!(text.parse::<DomainName>(), Err(BadDomainName), "{text}");
            assert!(serde_json::from_value::<DomainName>(text.into()).is_err(), "{text}");
        }
    }
}
