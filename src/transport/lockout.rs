//! Who shows wrong credentials again and again waits, longer each time.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::limit::bucket;

/// So many failures within [`WINDOW`] lock an address out; each further one does it again, for twice as long.
const FAILURES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);
const LONGEST_LOCK: Duration = Duration::from_secs(60);
/// After this time without a failure an address begins anew.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Of more addresses than this, the one that has been quiet for longest is forgotten.
const ADDRESSES: usize = 4096;

/// The failures of each IPv4 address or IPv6 /64.
#[derive(Debug, Default)]
pub(super) struct Lockout(Mutex<HashMap<IpAddr, Failures>>);

#[derive(Debug)]
struct Failures {
    count: u32,
    /// Start of the window in which `count` is counted.
    since: Instant,
    last: Instant,
    /// How often the address was locked out, and until when.
    locks: u32,
    until: Option<Instant>,
}

/// What shown credentials come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are right.
    Admitted,
    /// They are wrong.
    Wrong,
    /// Right or wrong, the address has to wait this long.
    Locked(Duration),
}

impl Lockout {
    /// How long `address` has to wait before it may try.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&bucket(address))?.wait(now)
    }

    /// Takes note of whether credentials were right. A lock that began while they were checked holds for them too, or
    /// many attempts at once would pass it by.
    pub(super) fn settle(&self, address: IpAddr, is_right: bool, now: Instant) -> Verdict {
        let bucket = bucket(address);
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = addresses.get(&bucket).and_then(|failures| failures.wait(now)) {
            return Verdict::Locked(wait);
        }
        if is_right {
            addresses.remove(&bucket);
            return Verdict::Admitted;
        }
        if addresses.len() >= ADDRESSES && !addresses.contains_key(&bucket) {
            make_room(&mut addresses, now);
        }
        let failures = addresses.entry(bucket).or_insert_with(|| Failures::new(now));
        if let Some(lock) = failures.add(now) {
            tracing::warn!(%address, seconds = lock.as_secs(), "an address is locked out: too many wrong credentials");
        }
        Verdict::Wrong
    }
}

impl Failures {
    fn new(now: Instant) -> Self {
        Self { count: 0, since: now, last: now, locks: 0, until: None }
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        self.until?.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// One failure more; the lock that it brings.
    fn add(&mut self, now: Instant) -> Option<Duration> {
        if now.saturating_duration_since(self.last) > FORGOTTEN {
            *self = Self::new(now);
        }
        if self.locks == 0 && now.saturating_duration_since(self.since) > WINDOW {
            (self.count, self.since) = (0, now);
        }
        self.last = now;
        self.count = self.count.saturating_add(1);
        if self.count < FAILURES {
            return None;
        }
        let lock = Duration::from_secs(1 << self.locks.min(6)).min(LONGEST_LOCK);
        self.locks = self.locks.saturating_add(1);
        self.until = Some(now + lock);
        Some(lock)
    }
}

fn make_room(addresses: &mut HashMap<IpAddr, Failures>, now: Instant) {
    addresses.retain(|_, failures| now.saturating_duration_since(failures.last) <= FORGOTTEN);
    if addresses.len() >= ADDRESSES
        && let Some(quietest) =
            addresses.iter().min_by_key(|(_, failures)| failures.last).map(|(address, _)| *address)
    {
        addresses.remove(&quietest);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A lockout with four failures of `HERE`.
    fn almost(now: Instant) -> Lockout {
        let lockout = Lockout::default();
        for _ in 1..FAILURES {
            assert_eq!(lockout.settle(HERE, false, now), Verdict::Wrong);
            assert_eq!(lockout.wait(HERE, now), None);
        }
        lockout
    }

    #[test]
    fn the_fifth_failure_locks_one_address_and_each_further_one_for_twice_as_long() {
        let mut now = Instant::now();
        let lockout = almost(now);
        for lock in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert_eq!(lockout.settle(HERE, false, now), Verdict::Wrong);
            assert_eq!(lockout.wait(HERE, now), Some(seconds(lock)));
            assert_eq!(lockout.settle(HERE, false, now), Verdict::Locked(seconds(lock)));
            assert_eq!(lockout.settle(HERE, true, now), Verdict::Locked(seconds(lock)), "also if right");
            assert_eq!(lockout.wait(THERE, now), None);
            now += seconds(lock);
            assert_eq!(lockout.wait(HERE, now), None);
        }
    }

    #[test]
    fn right_credentials_begin_anew() {
        let now = Instant::now();
        let lockout = almost(now);
        assert_eq!(lockout.settle(HERE, true, now), Verdict::Admitted);
        for _ in 1..FAILURES {
            assert_eq!(lockout.settle(HERE, false, now), Verdict::Wrong);
        }
        assert_eq!(lockout.wait(HERE, now), None);
    }

    #[test]
    fn failures_that_are_far_apart_lock_nobody_out_and_old_locks_are_forgotten() {
        let mut now = Instant::now();
        let lockout = almost(now);
        now += WINDOW + seconds(1);
        assert_eq!(lockout.settle(HERE, false, now), Verdict::Wrong);
        assert_eq!(lockout.wait(HERE, now), None);

        let lockout = almost(now);
        lockout.settle(HERE, false, now);
        now += FORGOTTEN + seconds(1);
        lockout.settle(HERE, false, now);
        assert_eq!(lockout.wait(HERE, now), None);
    }

    #[test]
    fn the_addresses_are_bounded_and_the_quietest_is_forgotten() {
        let start = Instant::now();
        let lockout = almost(start);
        for number in 0..ADDRESSES as u32 + 10 {
            let now = start + Duration::from_millis(1 + u64::from(number));
            lockout.settle(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)), false, now);
        }
        let addresses = lockout.0.lock().expect("no panic");
        assert_eq!(addresses.len(), ADDRESSES);
        assert!(!addresses.contains_key(&HERE));
    }

    #[test]
    fn one_ipv6_customer_is_one_address() {
        let now = Instant::now();
        let lockout = Lockout::default();
        for host in 1..=FAILURES {
            lockout.settle(format!("2001:db8::{host}").parse().expect("address"), false, now);
        }
        assert!(lockout.wait("2001:db8::ffff".parse().expect("address"), now).is_some());
    }
}
