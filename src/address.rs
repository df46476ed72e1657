//! Addresses that count as one.

use std::net::{IpAddr, Ipv6Addr};

/// One customer of IPv6 has a whole /64; mapped addresses are IPv4.
pub fn bucket(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}
