//! A caller with repeated wrong credentials must wait, longer each time.
//!
//! An attempt is counted before its result is known, so that many parallel attempts cannot bypass a lock.
//! What was guessed is part of the key: guesses at one user's password lock out neither the token nor other
//! users.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::address::bucket;

/// This many failures within [`WINDOW`] lock a guesser out; each further one doubles the time.
const FAILURES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);
const MAX_LOCK: Duration = Duration::from_secs(60);
/// After this time without a failure a guesser's count is reset.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// How many guessers are remembered; the one idle for longest goes first.
const MAX_GUESSERS: usize = 4096;

/// What a guess is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guess {
    /// The token.
    Token,
    /// The password of a user, whose name falls into this slot: names that do not exist share the same slots,
    /// so that locks do not tell which users exist, and an address has few of them.
    Password(u8),
}

/// An IPv4 address or IPv6 /64, and what it guesses at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guesser {
    bucket: IpAddr,
    guess: Guess,
}

impl Guesser {
    /// A caller at `address` that guesses `guess`.
    pub fn new(address: IpAddr, guess: Guess) -> Self {
        Self { bucket: bucket(address), guess }
    }
}

/// The failures of each guesser.
#[derive(Debug, Default)]
pub struct Lockout(Mutex<HashMap<Guesser, Failures>>);

#[derive(Debug)]
struct Failures {
    count: u32,
    /// The start of the window that `count` refers to.
    since: Instant,
    last: Instant,
    /// How often the guesser was locked out, and until when.
    locks: u32,
    until: Option<Instant>,
}

impl Lockout {
    /// Counts an attempt as a failure, until [`Lockout::succeeded`] corrects that. Returns the lock that it
    /// caused, if any.
    ///
    /// # Errors
    /// How long the guesser has to wait; the attempt is not counted then.
    pub fn begin(&self, guesser: Guesser, now: Instant) -> Result<Option<Duration>, Duration> {
        let mut guessers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = guessers.get(&guesser).and_then(|failures| failures.wait(now)) {
            return Err(wait);
        }
        if guessers.len() >= MAX_GUESSERS && !guessers.contains_key(&guesser) {
            make_room(&mut guessers, now);
        }
        let failures = guessers.entry(guesser).or_insert_with(|| Failures::new(now));
        Ok(failures.add(now))
    }

    /// How long a guesser has to wait before its next attempt.
    pub fn wait(&self, guesser: Guesser, now: Instant) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&guesser)?.wait(now)
    }

    /// The credentials were right: resets the guesser.
    pub fn succeeded(&self, guesser: Guesser) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&guesser);
    }

    /// How many recent failures `address` has, over all guesses.
    pub fn failures(&self, address: IpAddr) -> u32 {
        let bucket = bucket(address);
        let guessers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = guessers.iter().filter(|(guesser, _)| guesser.bucket == bucket);
        of_address.fold(0, |sum, (_, failures)| sum.saturating_add(failures.count))
    }
}

impl Failures {
    fn new(now: Instant) -> Self {
        Self { count: 0, since: now, last: now, locks: 0, until: None }
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        self.until?.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Adds a failure; returns the lock that it caused.
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
        let lock = Duration::from_secs(1 << self.locks.min(6)).min(MAX_LOCK);
        self.locks = self.locks.saturating_add(1);
        self.until = Some(now + lock);
        Some(lock)
    }
}

fn make_room(guessers: &mut HashMap<Guesser, Failures>, now: Instant) {
    guessers.retain(|_, failures| now.saturating_duration_since(failures.last) <= FORGOTTEN);
    if guessers.len() >= MAX_GUESSERS
        && let Some(quietest) =
            guessers.iter().min_by_key(|(_, failures)| failures.last).map(|(guesser, _)| *guesser)
    {
        guessers.remove(&quietest);
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

    fn at(address: IpAddr) -> Guesser {
        Guesser::new(address, Guess::Token)
    }

    /// A lockout with four failures of `HERE`.
    fn almost(now: Instant) -> Lockout {
        let lockout = Lockout::default();
        for _ in 1..FAILURES {
            assert!(lockout.begin(at(HERE), now).is_ok());
            assert_eq!(lockout.wait(at(HERE), now), None);
        }
        lockout
    }

    #[test]
    fn the_fifth_failure_locks_one_address_and_each_further_one_for_twice_as_long() {
        let mut now = Instant::now();
        let lockout = almost(now);
        for lock in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert!(lockout.begin(at(HERE), now).is_ok());
            assert_eq!(lockout.wait(at(HERE), now), Some(seconds(lock)));
            assert_eq!(lockout.begin(at(HERE), now), Err(seconds(lock)));
            assert_eq!(lockout.wait(at(THERE), now), None);
            now += seconds(lock);
            assert_eq!(lockout.wait(at(HERE), now), None);
        }
    }

    #[test]
    fn what_is_guessed_at_is_locked_and_nothing_else() {
        let now = Instant::now();
        let lockout = almost(now);
        assert!(lockout.begin(at(HERE), now).is_ok());
        for guess in [Guess::Password(0), Guess::Password(1)] {
            assert_eq!(lockout.wait(Guesser::new(HERE, guess), now), None);
        }
        assert_eq!(lockout.failures(HERE), FAILURES);
        assert!(lockout.begin(Guesser::new(HERE, Guess::Password(0)), now).is_ok());
        assert_eq!((lockout.failures(HERE), lockout.failures(THERE)), (FAILURES + 1, 0));
        lockout.succeeded(Guesser::new(HERE, Guess::Password(0)));
        assert!(lockout.wait(at(HERE), now).is_some(), "another's success frees no guesser");
    }

    #[test]
    fn right_credentials_begin_again() {
        let now = Instant::now();
        let lockout = almost(now);
        lockout.succeeded(at(HERE));
        for _ in 1..FAILURES {
            assert!(lockout.begin(at(HERE), now).is_ok());
        }
        assert_eq!(lockout.wait(at(HERE), now), None);
    }

    #[test]
    fn failures_that_are_far_apart_lock_nobody_out_and_old_locks_are_forgotten() {
        let mut now = Instant::now();
        let lockout = almost(now);
        now += WINDOW + seconds(1);
        assert!(lockout.begin(at(HERE), now).is_ok());
        assert_eq!(lockout.wait(at(HERE), now), None);

        let lockout = almost(now);
        assert!(lockout.begin(at(HERE), now).is_ok());
        now += FORGOTTEN + seconds(1);
        assert!(lockout.begin(at(HERE), now).is_ok());
        assert_eq!(lockout.wait(at(HERE), now), None);
    }

    #[test]
    fn the_guessers_are_bounded_and_the_quietest_is_forgotten() {
        let start = Instant::now();
        let lockout = almost(start);
        for number in 0..MAX_GUESSERS as u32 + 10 {
            let now = start + Duration::from_millis(1 + u64::from(number));
            let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
            assert!(lockout.begin(at(address), now).is_ok());
        }
        let guessers = lockout.0.lock().expect("no panic");
        assert_eq!(guessers.len(), MAX_GUESSERS);
        assert!(!guessers.contains_key(&at(HERE)));
    }

    #[test]
    fn one_ipv6_customer_is_one_address() {
        let now = Instant::now();
        let lockout = Lockout::default();
        for host in 1..=FAILURES {
            let address: IpAddr = format!("2001:db8::{host}").parse().expect("address");
            assert!(lockout.begin(at(address), now).is_ok());
        }
        assert!(lockout.wait(at("2001:db8::ffff".parse().expect("address")), now).is_some());
    }
}
