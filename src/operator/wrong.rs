//! Passwords that were wrong recently, as keyed digests of name and password.
//!
//! They do not depend on the valid secret: otherwise the answer to a repeated wrong password would tell outsiders when a
//! secret changes. Only another htpasswd file ends them all: whether it makes one of them right cannot be known.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use super::Password;

/// How long a wrong password is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
const MAX_REMEMBERED: usize = 1024;
const MAX_EXEMPT: usize = 64;

type Digest = [u8; 32];

/// The passwords that were wrong.
pub struct WrongPasswords {
    key: hmac::Key,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// When each was compared.
    digests: HashMap<Digest, Instant>,
    /// Those that are not remembered, the newest last.
    exempt: VecDeque<Digest>,
}

impl Default for WrongPasswords {
    fn default() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("random numbers");
        Self { key, memory: Mutex::default() }
    }
}

impl WrongPasswords {
    /// Whether this password was wrong recently.
    pub fn include(&self, shown: &Password) -> bool {
        let digest = self.digest(&shown.joined());
        self.memory().digests.get(&digest).is_some_and(|at| at.elapsed() < REMEMBERED_FOR)
    }

    /// Notes a wrong password, if `is_current` says that the secret with which it was compared is still valid.
    pub fn note(&self, shown: &Password, is_current: impl FnOnce() -> bool) {
        let digest = self.digest(&shown.joined());
        let mut memory = self.memory();
        if is_current() && !memory.exempt.contains(&digest) {
            remember(&mut memory.digests, digest, MAX_REMEMBERED);
        }
    }

    /// Forgets a password that is valid from now on, or once another owner approves it, and does not remember it again. Callers
    /// that have not shown it cannot notice.
    pub fn exempt(&self, user: &str, password: &str) {
        let digest = self.digest(&super::joined(user, password));
        let mut memory = self.memory();
        memory.digests.remove(&digest);
        memory.exempt.retain(|known| *known != digest);
        if memory.exempt.len() >= MAX_EXEMPT {
            memory.exempt.pop_front();
        }
        memory.exempt.push_back(digest);
    }

    /// Forgets all, because any of them may be right from now on.
    pub(super) fn forget(&self) {
        self.memory().digests.clear();
    }

    fn digest(&self, joined: &str) -> Digest {
        hmac::sign(&self.key, joined.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for WrongPasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrongPasswords").finish_non_exhaustive()
    }
}

/// Keeps at most `most` entries, the newest ones.
pub fn remember<K: Hash + Eq + Copy>(memory: &mut HashMap<K, Instant>, key: K, most: usize) {
    if memory.len() >= most
        && !memory.contains_key(&key)
        && let Some(oldest) = memory.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key)
    {
        memory.remove(&oldest);
    }
    memory.insert(key, Instant::now());
}
