//! Who has a share of what many use.

use std::net::IpAddr;

use kms_attest::identity::AppId;

/// An address, or an app over all its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Party {
    /// An IPv4 address or IPv6 /64.
    Address(IpAddr),
    /// Callers that policy has given a permit as this app.
    App(AppId),
}
