//! Addresses whose callers claimed to belong to a domain and did not prove it: their next claims are ignored.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Lane;

/// For how long an address is blamed for a false claim.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// How many false claims are remembered; the oldest are forgotten first.
const MAX_REMEMBERED: usize = 16 * 1024;

/// False claims, by address and claimed lane. A proof in one domain excuses no false claim of another.
#[derive(Debug, Default)]
pub(super) struct FalseClaims {
    by_address: HashMap<(IpAddr, Lane), (Instant, u64)>,
    /// The same in the order of the last false claim.
    order: BTreeMap<u64, (IpAddr, Lane)>,
    next: u64,
}

impl FalseClaims {
    /// Whether a claim of this address is disregarded.
    pub(super) fn holds(&self, address: IpAddr, lane: &Lane, now: Instant) -> bool {
        let last = self.by_address.get(&(address, lane.clone()));
        last.is_some_and(|(last, _)| now.saturating_duration_since(*last) < REMEMBERED)
    }

    pub(super) fn add(&mut self, address: IpAddr, lane: &Lane, now: Instant) {
        let key = (address, lane.clone());
        self.forget(&key);
        if self.by_address.len() >= MAX_REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.by_address.remove(&oldest);
        }
        self.order.insert(self.next, key.clone());
        self.by_address.insert(key, (now, self.next));
        self.next += 1;
    }

    /// A caller at this address has proved that it belongs there.
    pub(super) fn proved(&mut self, address: IpAddr, lane: &Lane) {
        if !self.by_address.is_empty() {
            self.forget(&(address, lane.clone()));
        }
    }

    fn forget(&mut self, key: &(IpAddr, Lane)) {
        if let Some((_, number)) = self.by_address.remove(key) {
            self.order.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    fn lane(name: &str) -> Lane {
        Lane::Domain(name.parse().unwrap())
    }

    #[test]
    fn a_false_claim_counts_for_a_while_against_that_address_and_domain_only() {
        let (mut claims, now) = (FalseClaims::default(), Instant::now());
        claims.add(address(1), &lane("victim"), now);
        let holds = |claims: &FalseClaims, number, name, after| {
            claims.holds(address(number), &lane(name), now + after)
        };
        assert!(holds(&claims, 1, "victim", REMEMBERED - Duration::from_nanos(1)));
        assert!(!holds(&claims, 1, "victim", REMEMBERED));
        assert!(!holds(&claims, 2, "victim", Duration::ZERO));
        assert!(!holds(&claims, 1, "other", Duration::ZERO));
        claims.proved(address(1), &lane("other"));
        assert!(holds(&claims, 1, "victim", Duration::ZERO), "a proof elsewhere excuses nothing");
        claims.proved(address(1), &lane("victim"));
        assert!(!holds(&claims, 1, "victim", Duration::ZERO));
        assert!(claims.order.is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let (mut claims, now) = (FalseClaims::default(), Instant::now());
        for number in 0..MAX_REMEMBERED as u32 {
            claims.add(address(number), &lane("a"), now);
        }
        claims.add(address(0), &lane("a"), now);
        claims.add(address(u32::MAX >> 8), &lane("a"), now);
        assert!(claims.holds(address(0), &lane("a"), now), "it was renewed");
        assert!(!claims.holds(address(1), &lane("a"), now), "the oldest");
        assert_eq!((claims.by_address.len(), claims.order.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
    }
}
