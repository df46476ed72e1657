//! Addresses that count as one.

use std::net::{IpAddr, Ipv6Addr};

/// The unit that counts as one client: an IPv4 address (also if mapped to IPv6), or an IPv6 /64, which one
/// customer has.
pub fn bucket(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}
