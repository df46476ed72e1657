//! Addresses that send wrong shares to a restore: they wait, so that a check costs strangers more than it costs the KMS.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::api::ceremony::Attempts;
use crate::error::{Code, Error, Result};

/// Log lines in a minute.
const LINES: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// The addresses that sent wrong shares, and how many log lines there may be about them.
#[derive(Debug)]
pub(super) struct WrongShares {
    attempts: Mutex<Attempts>,
    lines: DefaultDirectRateLimiter,
}

impl Default for WrongShares {
    fn default() -> Self {
        Self { attempts: Mutex::default(), lines: RateLimiter::direct(Quota::per_minute(LINES)) }
    }
}

impl WrongShares {
    /// Refuses an address that sent too many.
    pub(super) fn expect_few(&self, remote: IpAddr, now: Instant) -> Result<()> {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.may_send(remote, now) {
            return Ok(());
        }
        let text = "too many wrong shares came from this address; try again in ten seconds";
        Err(Error::new(Code::TooManyRequests, text).because("too_many_wrong_shares"))
    }

    /// Counts one, and logs it unless there are many.
    pub(super) fn count(&self, remote: IpAddr, now: Instant, officer: &str, index: u8) {
        if self.lines.check().is_ok() {
            tracing::warn!(officer, index, %remote, "a wrong share was refused");
        }
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).count(remote, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const AT_ONCE: u32 = 20;
    const EVERY: Duration = Duration::from_secs(10);

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
}
