//! Passwords of operators: hashing one takes a tenth of a second or more, so a flood of them must cost
//! little.
//!
//! Two are hashed at a time. The others wait in a short queue: first those whose address has logged in
//! before, then those whose address has failed least often. A right password is remembered as a keyed digest,
//! so an operator who has logged in is admitted without hashing, lock or queue. A wrong one is remembered
//! too: a program that keeps sending the same wrong password locks out nobody who shares its address.

mod queue;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use kms_attest::single_flight::SingleFlight;

use self::queue::{Queue, Rank};
use crate::address::bucket;
use crate::api::lockout::{Guess, Guesser, Lockout};
use crate::metrics::Metrics;
use crate::operator::wrong::remember;
use crate::operator::{Credentials, Password};

/// How long a right password is remembered before it is hashed again.
const REMEMBERED_FOR: Duration = Duration::from_secs(12 * 3600);
const MAX_REMEMBERED: usize = 256;
/// How many requests may wait for a verdict, over all passwords: several requests may show the same one.
const MAX_WAITERS: usize = 256;
/// How many of them may be from addresses from which nobody has logged in.
const MAX_UNKNOWN_WAITERS: usize = MAX_WAITERS / 4 * 3;
/// How many addresses with a login are remembered.
const MAX_KNOWN_ADDRESSES: usize = 1024;
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The result of checking a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is its user's password; with the version of the credential that it was compared with.
    Right(u64),
    /// It is wrong, and may have locked the guesser for this long.
    Wrong(Option<Duration>),
    /// It was wrong recently, so it is no new guess.
    Again,
    /// The guesser is locked; the password was not checked.
    Locked(Duration),
    /// Too many passwords are being checked; this one was not.
    Busy,
}

/// Tells right passwords from wrong ones.
pub(super) struct Passwords(Arc<Inner>);

struct Inner {
    credentials: Arc<Credentials>,
    lockout: Arc<Lockout>,
    queue: Arc<Queue>,
    key: hmac::Key,
    memory: Mutex<Memory>,
    /// Requests from one address with the same password share one hash.
    hashing: SingleFlight<(IpAddr, Digest), Verdict>,
}

type Digest = [u8; 32];

#[derive(Default)]
struct Memory {
    /// Digests of right passwords, and when they were hashed.
    right: HashMap<Digest, Instant>,
    /// Addresses from which somebody has logged in, and when.
    addresses: HashMap<IpAddr, Instant>,
    /// The number of requests that wait for a verdict, by address.
    waiters: HashMap<IpAddr, usize>,
}

/// One request that waits for a verdict.
struct Waiter<'a> {
    inner: &'a Inner,
    address: IpAddr,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let waiters = &mut self.inner.memory().waiters;
        if let Some(count) = waiters.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                waiters.remove(&self.address);
            }
        }
    }
}

impl Memory {
    /// Whether one more request may wait: an address may have half of the places available to it, so that
    /// others may wait too.
    fn admits_waiter(&self, address: IpAddr) -> bool {
        let all: usize = self.waiters.values().sum();
        let own = self.waiters.get(&address).copied().unwrap_or(0);
        let most = if self.addresses.contains_key(&address) { MAX_WAITERS } else { MAX_UNKNOWN_WAITERS };
        own < (most.saturating_sub(all) + own).div_ceil(2) && all < most
    }
}

impl Passwords {
    /// Checks passwords against `credentials`.
    pub(super) fn new(credentials: Arc<Credentials>, lockout: Arc<Lockout>) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("random numbers");
        let (queue, memory) = (Arc::default(), Mutex::default());
        // The queue limits what waits for a hash.
        let hashing = SingleFlight::new(usize::MAX);
        Self(Arc::new(Inner { credentials, lockout, queue, key, memory, hashing }))
    }

    /// Shows how many passwords wait in `metrics`.
    pub(super) fn report_to(&self, metrics: &Metrics) {
        let queue = Arc::downgrade(&self.0.queue);
        metrics.watch_shedding_queue("passwords", queue::MAX_WAITING as u64, move || {
            Some(queue.upgrade()?.waiting() as u64)
        });
    }

    /// Records a login from `address`, by token or password.
    pub(super) fn knows(&self, address: IpAddr) {
        self.0.knows(address);
    }

    /// Checks a password shown from `address`.
    pub(super) async fn check(&self, shown: Password, address: IpAddr) -> Verdict {
        let versions = self.0.credentials.versions(shown.user());
        let digests: Vec<_> =
            versions.iter().map(|version| (*version, self.0.digest(&shown, *version))).collect();
        let was_wrong = self.0.credentials.named().is_some_and(|named| named.wrong().include(&shown));
        let Some((_, digest)) = digests.first() else { return Verdict::Busy };
        let key = (bucket(address), *digest);
        let _waiter;
        let hashing = {
            let mut memory = self.0.memory();
            let is_remembered =
                |digest: &Digest| memory.right.get(digest).is_some_and(|at| at.elapsed() < REMEMBERED_FOR);
            if let Some((version, _)) = digests.iter().find(|(_, digest)| is_remembered(digest)) {
                return Verdict::Right(*version);
            }
            if was_wrong {
                return Verdict::Again;
            }
            if !memory.admits_waiter(key.0) {
                return Verdict::Busy;
            }
            *memory.waiters.entry(key.0).or_insert(0) += 1;
            _waiter = Waiter { inner: &self.0, address: key.0 };
            let inner = Arc::clone(&self.0);
            // A task of its own, so that the hash ends and is counted even if the caller hangs up. It is joined
            // under the lock: a password is remembered before its hash ends, so it is not hashed twice.
            let hash = || async move { inner.hash(shown, versions, address).await };
            self.0.hashing.join(key, hash)
        };
        // Without a result nothing is known about the password.
        match hashing {
            Ok(hashing) => hashing.result().await.unwrap_or(Verdict::Busy),
            Err(_) => Verdict::Busy,
        }
    }
}

impl Inner {
    async fn hash(self: &Arc<Self>, shown: Password, versions: Vec<u64>, address: IpAddr) -> Verdict {
        let guesser = Guesser::new(address, Guess::Password(self.slot(shown.user())));
        if let Some(wait) = self.lockout.wait(guesser, Instant::now()) {
            return Verdict::Locked(wait);
        }
        let rank = Rank {
            is_stranger: !self.memory().addresses.contains_key(&bucket(address)),
            failures: self.lockout.failures(address),
        };
        let Ok(Some(turn)) = tokio::time::timeout(MAX_WAIT, self.queue.turn(bucket(address), rank)).await
        else {
            return Verdict::Busy;
        };
        // Checked only here, so that requests that came together see the lock that the first of them caused.
        let lock = match self.lockout.begin(guesser, Instant::now()) {
            Ok(lock) => lock,
            Err(wait) => return Verdict::Locked(wait),
        };
        let credentials = Arc::clone(&self.credentials);
        let hashed = tokio::task::spawn_blocking(move || {
            // The turn lasts as long as the work, which cannot be stopped.
            let _turn = turn;
            (credentials.admits(&shown), shown)
        });
        let (version, shown) = match hashed.await {
            Ok((Some(version), shown)) => (version, shown),
            Ok((None, shown)) => {
                if let Some(named) = self.credentials.named() {
                    let still_counts = || self.credentials.versions(shown.user()) == versions;
                    named.wrong().note(&shown, still_counts);
                }
                return Verdict::Wrong(lock);
            }
            // The task panicked, so nothing is known about the password.
            Err(_) => return Verdict::Busy,
        };
        let digest = self.digest(&shown, version);
        self.lockout.succeeded(guesser);
        remember(&mut self.memory().right, digest, MAX_REMEMBERED);
        self.knows(address);
        Verdict::Right(version)
    }

    fn knows(&self, address: IpAddr) {
        remember(&mut self.memory().addresses, bucket(address), MAX_KNOWN_ADDRESSES);
    }

    fn digest(&self, shown: &Password, version: u64) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&version.to_be_bytes());
        context.update(shown.joined().as_bytes());
        let tag = context.sign();
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The number of the lock that the name shares with others.
    fn slot(&self, user: &str) -> u8 {
        hmac::sign(&self.key, user.as_bytes()).as_ref()[0]
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
