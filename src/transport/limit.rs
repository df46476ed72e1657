//! How often an address may ask before it has proved anything.

use std::{fmt, net::IpAddr, num::NonZeroU32, sync::Arc};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::{address::bucket, metrics::Metrics, service::Caller};

/// Above this many addresses those that are quiet are forgotten.
const ADDRESSES: usize = 16 * 1024;

/// A token bucket per IPv4 address or IPv6 /64.
#[derive(Debug)]
pub struct AddressLimit(DefaultKeyedRateLimiter<IpAddr>);

impl AddressLimit {
    /// `per_second` on average, `burst` at once.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self(RateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst)))
    }

    /// Takes one token of `address`; false when it has none left.
    pub fn admits(&self, address: IpAddr) -> bool {
        self.0.check_key(&bucket(address)).is_ok()
    }

    /// Forgets quiet addresses; called now and then.
    pub fn prune(&self) {
        if self.0.len() > ADDRESSES {
            self.0.retain_recent();
            self.0.shrink_to_fit();
        }
    }
}

/// The limit as one request meets it: each message of a stream counts as a request.
#[derive(Clone)]
pub(super) struct MessageLimit {
    limit: Arc<AddressLimit>,
    caller: Caller,
    metrics: Arc<Metrics>,
}

impl MessageLimit {
    /// What a caller is told beyond the limit.
    pub(super) const REFUSAL: &str = "too many requests from this address; slow down";

    pub(super) fn new(limit: Arc<AddressLimit>, caller: Caller, metrics: Arc<Metrics>) -> Self {
        Self { limit, caller, metrics }
    }

    /// Takes a token for a message, unless policy has given a permit on the connection.
    pub(super) fn admits(&self) -> bool {
        let admits = self.caller.peer().is_admitted() || self.limit.admits(self.caller.remote());
        if !admits {
            self.metrics.address_limited();
        }
        admits
    }
}

impl fmt::Debug for MessageLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageLimit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(burst: u32) -> AddressLimit {
        AddressLimit::new(NonZeroU32::MIN, NonZeroU32::new(burst).expect("not zero"))
    }

    #[test]
    fn a_burst_is_admitted_and_the_next_is_not() {
        let limit = limit(3);
        let address: IpAddr = "192.0.2.1".parse().expect("address");
        assert!((0..3).all(|_| limit.admits(address)));
        assert!(!limit.admits(address));
        assert!(limit.admits("192.0.2.2".parse().expect("address")));
    }

    #[test]
    fn one_ipv6_customer_is_one_bucket() {
        let limit = limit(1);
        assert!(limit.admits("2001:db8::1".parse().expect("address")));
        assert!(!limit.admits("2001:db8::2".parse().expect("address")));
        assert!(limit.admits("2001:db8:0:1::1".parse().expect("address")));
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let limit = limit(1);
        assert!(limit.admits("192.0.2.9".parse().expect("address")));
        assert!(!limit.admits("::ffff:192.0.2.9".parse().expect("address")));
    }
}
