//! Passwords of operators: hashing one takes a tenth of a second and more, so a flood of them must cost little.
//!
//! Two are hashed at a time. The others wait in a short queue, in which those go first whose address has logged in before,
//! and then those whose address has failed least. What was right once is remembered as a keyed digest: an operator who
//! has logged in is known without hashing, and no lock and no queue holds him up. So is what was wrong: a program that
//! shows the same wrong password again and again locks nobody out who shares its address.

mod queue;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use self::queue::{Queue, Rank};
use crate::address::bucket;
use crate::api::lockout::{Guess, Guesser, Lockout};
use crate::operator::{Credentials, Password};

/// How long the right password is remembered. Its user hashes it once more then.
const REMEMBERED_FOR: Duration = Duration::from_secs(12 * 3600);
/// As many of them as are remembered.
const MAX_REMEMBERED: usize = 256;
/// How long a wrong password is remembered.
const WRONG_FOR: Duration = Duration::from_secs(600);
/// As many of them as are remembered.
const MAX_WRONG: usize = 1024;
/// As many requests wait for a verdict, over all passwords: several may show the same one.
const MAX_WAITERS: usize = 256;
/// As many of them are from addresses from which nobody has logged in.
const MAX_UNKNOWN_WAITERS: usize = MAX_WAITERS / 4 * 3;
/// As many addresses as are remembered to have logged in.
const MAX_KNOWN_ADDRESSES: usize = 1024;
/// Longer than this nobody waits for a turn.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What a password comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is its user's.
    Right,
    /// It is not; the lock that this brings.
    Wrong(Option<Duration>),
    /// It was wrong recently, and is no guess.
    Again,
    /// Its guesser has to wait; it was not looked at.
    Locked(Duration),
    /// Too many others are being hashed, or wait for it; it was not looked at.
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
}

type Digest = [u8; 32];
type Hashing = Shared<BoxFuture<'static, Verdict>>;

#[derive(Default)]
struct Memory {
    /// Digests of passwords that were right, and when they were hashed.
    right: HashMap<Digest, Instant>,
    /// Digests of passwords that were wrong.
    wrong: HashMap<Digest, Instant>,
    /// Addresses from which somebody has logged in, and when.
    addresses: HashMap<IpAddr, Instant>,
    /// What is being hashed: the same password from the same address is hashed once, however many show it at a time.
    hashing: HashMap<(IpAddr, Digest), Hashing>,
    /// Requests that wait for a verdict, by address.
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
    /// Whether one more may wait: of what is there for it, an address may have half, so that others may wait too.
    fn admits_waiter(&self, address: IpAddr) -> bool {
        let all: usize = self.waiters.values().sum();
        let own = self.waiters.get(&address).copied().unwrap_or(0);
        let most = if self.addresses.contains_key(&address) { MAX_WAITERS } else { MAX_UNKNOWN_WAITERS };
        own < (most.saturating_sub(all) + own).div_ceil(2) && all < most
    }
}

impl Passwords {
    /// Those of the users of `credentials`.
    pub(super) fn new(credentials: Arc<Credentials>, lockout: Arc<Lockout>) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("random numbers");
        let (queue, memory) = (Arc::default(), Mutex::default());
        Self(Arc::new(Inner { credentials, lockout, queue, key, memory }))
    }

    /// Somebody has logged in from `address`, by token or password.
    pub(super) fn knows(&self, address: IpAddr) {
        self.0.knows(address);
    }

    /// What a password comes to that is shown from `address`.
    pub(super) async fn check(&self, shown: Password, address: IpAddr) -> Verdict {
        let digest = self.0.digest(&shown);
        let key = (bucket(address), digest);
        let _waiter;
        let hashing = {
            let mut memory = self.0.memory();
            if memory.right.get(&digest).is_some_and(|at| at.elapsed() < REMEMBERED_FOR) {
                return Verdict::Right;
            }
            if memory.wrong.get(&digest).is_some_and(|at| at.elapsed() < WRONG_FOR) {
                return Verdict::Again;
            }
            if !memory.admits_waiter(key.0) {
                return Verdict::Busy;
            }
            *memory.waiters.entry(key.0).or_insert(0) += 1;
            _waiter = Waiter { inner: &self.0, address: key.0 };
            match memory.hashing.get(&key) {
                Some(hashing) => hashing.clone(),
                None => {
                    let hashing = Arc::clone(&self.0).hashing(shown, address, digest);
                    memory.hashing.insert(key, hashing.clone());
                    hashing
                }
            }
        };
        hashing.await
    }
}

impl Inner {
    /// A task of its own: it ends, and is counted, though the caller hangs up.
    fn hashing(self: Arc<Self>, shown: Password, address: IpAddr, digest: Digest) -> Hashing {
        let work = tokio::spawn(async move {
            let verdict = self.hash(shown, address, digest).await;
            self.memory().hashing.remove(&(bucket(address), digest));
            verdict
        });
        // A task that ends in a panic admits nobody.
        async move { work.await.unwrap_or(Verdict::Busy) }.boxed().shared()
    }

    async fn hash(self: &Arc<Self>, shown: Password, address: IpAddr, digest: Digest) -> Verdict {
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
        // Only now: those that came together and waited find the lock that the first of them brought.
        let lock = match self.lockout.begin(guesser, Instant::now()) {
            Ok(lock) => lock,
            Err(wait) => return Verdict::Locked(wait),
        };
        let credentials = Arc::clone(&self.credentials);
        let hashed = tokio::task::spawn_blocking(move || {
            // It lasts as long as the work, which nothing stops.
            let _turn = turn;
            credentials.admits(&shown)
        });
        match hashed.await {
            Ok(true) => {}
            Ok(false) => {
                remember(&mut self.memory().wrong, digest, MAX_WRONG);
                return Verdict::Wrong(lock);
            }
            // It is not known what the password is worth.
            Err(_) => return Verdict::Busy,
        }
        self.lockout.succeeded(guesser);
        remember(&mut self.memory().right, digest, MAX_REMEMBERED);
        self.knows(address);
        Verdict::Right
    }

    fn knows(&self, address: IpAddr) {
        remember(&mut self.memory().addresses, bucket(address), MAX_KNOWN_ADDRESSES);
    }

    fn digest(&self, shown: &Password) -> Digest {
        let tag = hmac::sign(&self.key, shown.joined().as_bytes());
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// Where the name falls among those that share a lock.
    fn slot(&self, user: &str) -> u8 {
        hmac::sign(&self.key, user.as_bytes()).as_ref()[0]
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps at most so many, the newest.
fn remember<K: std::hash::Hash + Eq + Copy>(memory: &mut HashMap<K, Instant>, key: K, most: usize) {
    if memory.len() >= most
        && !memory.contains_key(&key)
        && let Some(oldest) = memory.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key)
    {
        memory.remove(&oldest);
    }
    memory.insert(key, Instant::now());
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
