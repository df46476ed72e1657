//! The unit that limits and turns apply to: an address or an app.

use std::net::IpAddr;

use kms_attest::identity::AppId;

/// An address, or an app at all its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Party {
    /// An IPv4 address or IPv6 /64.
    Address(IpAddr),
    /// Callers to which policy has given a permit as this app.
    App(AppId),
}
