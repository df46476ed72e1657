//! Addresses that send wrong shares to a restore: they wait, so that a check costs strangers more than it costs the KMS.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::address::bucket;
use crate::error::{Code, Error, Result};

/// How many wrong shares an address may send at once.
const AT_ONCE: u32 = 20;
/// Then one in this time.
const EVERY: Duration = Duration::from_secs(10);
/// How many addresses are remembered; then the one that has waited the longest is forgotten.
const MAX_ADDRESSES: usize = 4096;
/// Log lines in a minute.
const LINES: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// Who sent wrong shares: for each address, when all of them are forgiven.
#[derive(Debug)]
pub(super) struct WrongShares {
    forgiven: Mutex<BTreeMap<IpAddr, Instant>>,
    lines: DefaultDirectRateLimiter,
}

impl Default for WrongShares {
    fn default() -> Self {
        Self { forgiven: Mutex::default(), lines: RateLimiter::direct(Quota::per_minute(LINES)) }
    }
}

impl WrongShares {
    /// Refuses an address that sent too many.
    pub(super) fn expect_few(&self, remote: IpAddr, now: Instant) -> Result<()> {
        let forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        match forgiven.get(&bucket(remote)) {
            Some(forgiven) if forgiven.saturating_duration_since(now) > EVERY * (AT_ONCE - 1) => {
                let text = "too many wrong shares came from this address; try again in ten seconds";
                Err(Error::new(Code::TooManyRequests, text).because("too_many_wrong_shares"))
            }
            _ => Ok(()),
        }
    }

    /// Counts one, and logs it unless there are many.
    pub(super) fn count(&self, remote: IpAddr, now: Instant, officer: &str, index: u8) {
        if self.lines.check().is_ok() {
            tracing::warn!(officer, index, %remote, "a wrong share was refused");
        }
        let mut forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        let address = bucket(remote);
        if forgiven.len() >= MAX_ADDRESSES && !forgiven.contains_key(&address) {
            let first = forgiven.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address);
            first.map(|first| forgiven.remove(&first));
        }
        let until = forgiven.entry(address).or_insert(now);
        *until = (*until).max(now) + EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_send_twenty_and_then_one_in_ten_seconds() {
        let (wrong, now) = (WrongShares::default(), Instant::now());
        let [one, other] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        let may = |address, now| wrong.expect_few(address, now).is_ok();
        for _ in 0..AT_ONCE {
            assert!(may(one, now));
            wrong.count(one, now, "ann", 1);
        }
        assert!(!may(one, now) && may(other, now));
        assert!(!may(one, now + EVERY / 2) && may(one, now + EVERY));
        wrong.count(one, now + EVERY, "ann", 1);
        assert!(!may(one, now + EVERY) && may(one, now + EVERY * 2));
        assert!((0..AT_ONCE).all(|_| may(one, now + EVERY * (AT_ONCE + 1))));
    }

    #[test]
    fn a_bounded_number_of_addresses_is_remembered() {
        let (wrong, now) = (WrongShares::default(), Instant::now());
        for number in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 10 {
            wrong.count(
                IpAddr::from(number.to_be_bytes()),
                now + Duration::from_millis(number.into()),
                "ann",
                1,
            );
        }
        let forgiven = wrong.forgiven.lock().unwrap();
        assert_eq!(forgiven.len(), MAX_ADDRESSES);
        assert!(!forgiven.contains_key(&IpAddr::from([0, 0, 0, 0])));
    }
}
