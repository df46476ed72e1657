//! The domain name (or IPv4 address) of this KMS, and reserved names that no app may have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A DNS name or an IPv4 literal that a certificate can carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(String);

/// Why a text is not a [`Domain`]. The texts are the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Empty, too long, or not ASCII.
    #[error("domain must be a non-empty ASCII DNS name of at most 253 bytes")]
    Name,
    /// A label is empty, too long, has other characters, or a hyphen at an end.
    #[error("domain contains an invalid DNS label")]
    Label,
    /// Clients would read it as an address, but it is not a valid one. The text is ours, because the peer
    /// accepts such names.
    #[error(
        "domain ends in a number, so clients read it as an IPv4 address: it must be one such as 10.0.2.2"
    )]
    Address,
}

impl Domain {
    /// Letters, digits and hyphens in labels of 1 to 63 bytes, at most 253 bytes; so no trailing dot,
    /// wildcard, port or IPv6 literal. A name that ends in a number must be an IPv4 address in its usual
    /// form, because clients read it as an address, and would connect elsewhere or not at all.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if text.is_empty() || text.len() > MAX_NAME || !text.is_ascii() {
            return Err(DomainError::Name);
        }
        if !text.split('.').all(is_label) {
            return Err(DomainError::Label);
        }
        if ends_in_a_number(text) && text.parse::<Ipv4Addr>().is_err() {
            return Err(DomainError::Address);
        }
        Ok(Domain(text.to_owned()))
    }

    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name or address of another KMS of the cluster, or of a load balancer: no app's certificate may carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedName(String);

/// Why a text is not a [`ReservedName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be DNS names and IP addresses, without wildcards, ports and final dots")]
pub struct ReservedNameError;

impl From<IpAddr> for ReservedName {
    fn from(address: IpAddr) -> Self {
        Self(address.to_string())
    }
}

impl ReservedName {
    /// A [`Domain`], or an IPv6 address without brackets.
    ///
    /// # Errors
    /// [`ReservedNameError`].
    pub fn parse(text: &str) -> Result<Self, ReservedNameError> {
        match (text.parse::<IpAddr>(), Domain::parse(text)) {
            (Ok(address), _) => Ok(ReservedName(address.to_string())),
            (Err(_), Ok(Domain(name))) => Ok(ReservedName(name)),
            (Err(_), Err(_)) => Err(ReservedNameError),
        }
    }

    /// The name as given; an address in its canonical form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether clients read a name as an IPv4 address, valid or not: its last label is a decimal or hexadecimal
/// number (<https://url.spec.whatwg.org/#ends-in-a-number-checker>).
pub fn ends_in_a_number(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ipv4_literals_are_domains() {
        let longest = format!("{}.{}", [&*"a".repeat(63); 3].join("."), "b".repeat(61));
        for text in [
            "kms.example.com",
            "localhost",
            "10.0.2.2",
            "a",
            "xn--bcher-kva.example",
            "KMS-1",
            "1.kms",
            "kms.0xg",
            &longest,
        ] {
            assert_eq!(Domain::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn names_and_addresses_of_either_kind_can_be_reserved() {
        for (text, name) in
            [("kms2.example.com", "kms2.example.com"), ("10.0.2.2", "10.0.2.2"), ("FD00:0::1", "fd00::1")]
        {
            assert_eq!(ReservedName::parse(text).unwrap().as_str(), name);
        }
        for text in ["", "*.example.com", "kms.example.com.", "kms:8000", "[::1]", "https://kms", "a b"] {
            assert_eq!(ReservedName::parse(text).unwrap_err(), ReservedNameError, "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("{}.{}", [&*"a".repeat(63); 3].join("."), "b".repeat(62));
        let name = "domain must be a non-empty ASCII DNS name of at most 253 bytes";
        let label = "domain contains an invalid DNS label";
        let address =
            "domain ends in a number, so clients read it as an IPv4 address: it must be one such as 10.0.2.2";
        let cases = [
            ("", name),
            (&long, name),
            ("bücher.example", name),
            ("kms.example.com.", label),
            (".example.com", label),
            ("a..b", label),
            ("a_b.example", label),
            ("*.example.com", label),
            ("kms.example.com:8000", label),
            ("-a.example", label),
            ("a-.example", label),
            ("::1", label),
            ("a b", label),
            (&"a".repeat(64), label),
            ("555.1.1.1", address),
            ("1.2.3", address),
            ("127.1", address),
            ("127.0.0.1.1", address),
            ("010.0.2.2", address),
            ("0x7f.1", address),
            ("127.0.0.0x1", address),
            ("0x7f000001", address),
            ("0x", address),
            ("2130706433", address),
            ("kms.0X7F", address),
            ("kms.1", address),
        ];
        for (text, error) in cases {
            assert_eq!(Domain::parse(text).unwrap_err().to_string(), error, "{text:?}");
        }
    }
}
