//! Wrong credentials of operators: counted, logged, recorded, and slowed down.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::lockout::{Guess, Guesser, Lockout};
use crate::audit::{Audit, Event};
use crate::log_limit::LogLimit;
use crate::metrics::Metrics;

/// How long a locked-out caller waits for its response, which slows down a program that retries at once.
const SLOWED: Duration = Duration::from_secs(1);
/// How many are delayed at a time; further ones get their response at once, so that they hold no memory.
const MAX_SLOWED: usize = 64;
/// Log lines a second.
const LINES: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

/// Wrong credentials on one listener.
#[derive(Debug)]
pub struct WrongCredentials {
    listener: &'static str,
    lockout: Arc<Lockout>,
    slowed: Semaphore,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    log: LogLimit,
}

impl WrongCredentials {
    /// For `listener`, as the logs name it.
    pub fn new(listener: &'static str, audit: Arc<Audit>, metrics: Arc<Metrics>) -> Self {
        let (lockout, slowed) = (Arc::default(), Semaphore::new(MAX_SLOWED));
        Self { listener, lockout, slowed, audit, metrics, log: LogLimit::per_second(LINES) }
    }

    /// The failures of each guesser.
    pub fn lockout(&self) -> &Arc<Lockout> {
        &self.lockout
    }

    /// Resets an address that has shown the right token.
    pub fn token_was_right(&self, address: IpAddr) {
        self.lockout.succeeded(Guesser::new(address, Guess::Token));
    }

    /// Counts a wrong token. Returns how long its address is locked out, if it is; part of that time has then
    /// passed.
    pub async fn token(&self, address: IpAddr) -> Option<Duration> {
        self.tell("token", address);
        match self.lockout.begin(Guesser::new(address, Guess::Token), Instant::now()) {
            Ok(lock) => {
                tell_lock(address, lock);
                None
            }
            Err(wait) => {
                self.slow(wait).await;
                Some(wait)
            }
        }
    }

    /// Counts a wrong password and the lock that it caused.
    pub fn password(&self, address: IpAddr, lock: Option<Duration>) {
        self.tell("password", address);
        tell_lock(address, lock);
    }

    /// Delays the response to a locked-out caller.
    pub async fn slow(&self, wait: Duration) {
        if let Ok(_slot) = self.slowed.try_acquire() {
            tokio::time::sleep(wait.min(SLOWED)).await;
        }
    }

    /// Logs what kind of credentials was shown, never their content: a user name may be a password typed into
    /// the wrong field.
    fn tell(&self, shown: &'static str, remote: IpAddr) {
        let listener = self.listener;
        self.metrics.credentials_failed();
        if let Some(omitted) = self.log.admit() {
            tracing::warn!(%remote, shown, omitted, "wrong credentials on the {listener} listener");
        }
        self.audit.note_of_strangers(Event::CredentialsRefused { listener, shown, remote });
    }
}

fn tell_lock(address: IpAddr, lock: Option<Duration>) {
    if let Some(lock) = lock {
        tracing::warn!(%address, seconds = lock.as_secs(), "an address is locked out: too many wrong credentials");
    }
}
