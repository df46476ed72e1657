//! How many wrong shares an address may send: a stranger costs little, and stops no officer behind the same address for long.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::address::bucket;

/// How many wrong shares one address may send at once.
const BURST: u32 = 20;
/// After how long the address may send another one.
const REFILL: Duration = Duration::from_secs(10);
/// How many addresses are remembered.
const MAX_ADDRESSES: usize = 4096;

/// The addresses that have sent wrong shares recently, with the time at which all of them are forgiven.
#[derive(Debug, Default)]
pub(in crate::api) struct Attempts(BTreeMap<IpAddr, Instant>);

impl Attempts {
    /// Whether a share of this address is looked at.
    pub(in crate::api) fn may_send(&self, remote: IpAddr, now: Instant) -> bool {
        let forgiven = self.0.get(&bucket(remote));
        forgiven.is_none_or(|at| at.saturating_duration_since(now) <= REFILL * (BURST - 1))
    }

    /// The share was wrong.
    pub(in crate::api) fn count(&mut self, remote: IpAddr, now: Instant) {
        let address = bucket(remote);
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&address) {
            self.0.retain(|_, forgiven| *forgiven > now);
            // Those who sent the most stay.
            let least = self.0.iter().min_by_key(|(_, forgiven)| **forgiven).map(|(address, _)| *address);
            if let Some(least) = least.filter(|_| self.0.len() >= MAX_ADDRESSES) {
                self.0.remove(&least);
            }
        }
        let forgiven = self.0.entry(address).or_insert(now);
        *forgiven = (*forgiven).max(now) + REFILL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn an_address_is_stopped_for_seconds_and_others_are_not() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..BURST {
            assert!(attempts.may_send(address(1), now));
            attempts.count(address(1), now);
        }
        assert!(!attempts.may_send(address(1), now));
        assert!(attempts.may_send(address(2), now));
        assert!(attempts.may_send(address(1), now + REFILL));
        attempts.count(address(1), now + REFILL);
        assert!(!attempts.may_send(address(1), now + REFILL));
        assert!(attempts.may_send(address(1), now + 2 * REFILL));
    }

    #[test]
    fn many_addresses_do_not_free_the_one_that_is_stopped() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        (0..BURST).for_each(|_| attempts.count(address(0), now));
        for number in 1..2 * u32::try_from(MAX_ADDRESSES).unwrap() {
            attempts.count(address(number), now);
        }
        assert!(attempts.0.len() <= MAX_ADDRESSES);
        assert!(!attempts.may_send(address(0), now));
    }

    #[test]
    fn a_bounded_number_of_addresses_is_remembered() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 10 {
            attempts.count(address(number), now + Duration::from_millis(number.into()));
        }
        assert_eq!(attempts.0.len(), MAX_ADDRESSES);
        assert!(!attempts.0.contains_key(&address(0)));
    }
}
