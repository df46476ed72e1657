//! The operator behind a change.

use std::net::IpAddr;

/// Who changed something over the admin listener, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// `token`, `user <name>`, `credential <name>` or `anyone`.
    pub by: String,
    /// The address that the request came from.
    pub remote: IpAddr,
}

#[cfg(test)]
impl Author {
    /// The token of the configuration, from this machine.
    pub fn example() -> Self {
        Self { by: "token".to_owned(), remote: std::net::Ipv4Addr::LOCALHOST.into() }
    }
}
