//! Request rates: per address until a caller has proved something, then per app.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use kms_attest::identity::AppId;

use crate::address::bucket;
use crate::api::Caller;
use crate::config::{Limits, Rate};
use crate::metrics::Metrics;

/// From this many addresses or apps on, idle ones are forgotten.
const MAX_REMEMBERED: usize = 16 * 1024;
/// How many requests pass between two checks of that number.
const LOOK_EACH: u32 = 4096;

/// A token bucket per IPv4 address or IPv6 /64 for callers that have proved nothing, and one per app for the
/// others.
#[derive(Debug)]
pub struct RequestLimit {
    buckets: ArcSwap<Buckets>,
    asked: AtomicU32,
}

#[derive(Debug)]
struct Buckets {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    apps: DefaultKeyedRateLimiter<AppId>,
    rates: [Rate; 2],
}

impl RequestLimit {
    /// The rates for an address and for an app.
    pub fn new(address: Rate, app: Rate) -> Self {
        Self { buckets: ArcSwap::from_pointee(Buckets::new(address, app)), asked: AtomicU32::new(0) }
    }

    /// The configured rates. An allowed app, over all its instances, gets the rate of an address, or the rate
    /// of its releases if that is higher: an app must not keep others out either.
    pub fn of(limits: &Limits) -> Self {
        let address =
            Rate { per_second: limits.unauthenticated_per_second, burst: limits.unauthenticated_burst };
        Self::new(address, of_app(address, limits.app))
    }

    /// Puts these rates in force, with full bursts. The same rates change nothing.
    pub fn change(&self, address: Rate, app: Rate) {
        let app = of_app(address, app);
        if self.buckets.load().rates != [address, app] {
            self.buckets.store(Arc::new(Buckets::new(address, app)));
        }
    }

    /// Takes one token of `address`; false if it has none left.
    fn admits(&self, address: IpAddr) -> bool {
        self.look();
        self.buckets.load().addresses.check_key(&bucket(address)).is_ok()
    }

    /// Takes one token of `app`; false if it has none left.
    fn admits_app(&self, app: AppId) -> bool {
        self.buckets.load().apps.check_key(&app).is_ok()
    }

    /// Prunes every [`LOOK_EACH`] requests, because many addresses can come between two regular prunings.
    fn look(&self) {
        if self.asked.fetch_add(1, Ordering::Relaxed) % LOOK_EACH == LOOK_EACH - 1 {
            self.prune();
        }
    }

    /// Forgets idle addresses and apps; called periodically.
    pub fn prune(&self) {
        let Buckets { addresses, apps, .. } = &**self.buckets.load();
        if addresses.len() > MAX_REMEMBERED {
            addresses.retain_recent();
            addresses.shrink_to_fit();
        }
        if apps.len() > MAX_REMEMBERED {
            apps.retain_recent();
            apps.shrink_to_fit();
        }
    }
}

impl Buckets {
    fn new(address: Rate, app: Rate) -> Self {
        let quota = |rate: Rate| Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Self {
            addresses: RateLimiter::keyed(quota(address)),
            apps: RateLimiter::keyed(quota(app)),
            rates: [address, app],
        }
    }
}

/// The rate of an allowed app: that of its releases, but no lower than that of an address.
fn of_app(address: Rate, app: Rate) -> Rate {
    Rate { per_second: app.per_second.max(address.per_second), burst: app.burst.max(address.burst) }
}

/// The limit as it applies to one request: each message of a stream counts as a request.
#[derive(Clone)]
pub(super) struct MessageLimit {
    limit: Arc<RequestLimit>,
    caller: Caller,
    metrics: Arc<Metrics>,
}

impl MessageLimit {
    /// The message for a caller over the limit.
    pub(super) fn refusal(&self) -> &'static str {
        match self.caller.peer().is_admitted() {
            true => "too many requests of this app; slow down",
            false => "too many requests from this address; slow down",
        }
    }

    pub(super) fn new(limit: Arc<RequestLimit>, caller: Caller, metrics: Arc<Metrics>) -> Self {
        Self { limit, caller, metrics }
    }

    /// Takes a token for one message: of the app that policy has permitted on this connection, or else of the
    /// address.
    pub(super) fn admits(&self) -> bool {
        let admits = match self.caller.peer().admitted_as() {
            Some(app) => self.limit.admits_app(app),
            None => self.limit.admits(self.caller.remote()),
        };
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
    use std::num::NonZeroU32;

    use super::*;

    fn limit(burst: u32) -> RequestLimit {
        let rate =
            |burst| Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(burst).expect("not zero") };
        RequestLimit::new(rate(burst), rate(2 * burst))
    }

    #[test]
    fn a_changed_rate_counts_from_the_next_request_on() {
        let limit = limit(1);
        let address: IpAddr = "192.0.2.1".parse().expect("address");
        let rate =
            |burst| Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(burst).expect("not zero") };
        assert!(limit.admits(address) && !limit.admits(address));
        limit.change(rate(1), rate(2));
        assert!(!limit.admits(address), "nothing has changed");
        limit.change(rate(2), rate(1));
        assert!(limit.admits(address) && limit.admits(address) && !limit.admits(address));
        assert!(
            limit.admits_app(AppId([1; 20])) && limit.admits_app(AppId([1; 20])),
            "no less than an address"
        );
    }

    #[test]
    fn an_app_has_a_limit_of_its_own() {
        let limit = limit(3);
        assert!((0..6).all(|_| limit.admits_app(AppId([1; 20]))));
        assert!(!limit.admits_app(AppId([1; 20])));
        assert!(limit.admits_app(AppId([2; 20])));
        assert!(limit.admits("192.0.2.1".parse().expect("address")));
    }

    #[test]
    fn addresses_that_are_quiet_are_forgotten_in_a_flood_too() {
        let fast = Rate { per_second: NonZeroU32::MAX, burst: NonZeroU32::MIN };
        let limit = RequestLimit::new(fast, fast);
        let many = MAX_REMEMBERED as u32 + 2 * LOOK_EACH;
        for number in 0..many {
            limit.admits(IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
        }
        assert!(limit.buckets.load().addresses.len() <= LOOK_EACH as usize + 1);
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
