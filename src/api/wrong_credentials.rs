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

/// What somebody who is locked out waits for an answer that says so: a program that tries again at once is slowed down.
const SLOWED: Duration = Duration::from_secs(1);
/// As many are slowed down at a time; further ones are answered at once, so that they hold nothing.
const MAX_SLOWED: usize = 64;
/// Lines a second.
const LINES: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

/// Those that are shown on one listener.
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
    /// Those of `listener`, as the logs name it.
    pub fn new(listener: &'static str, audit: Arc<Audit>, metrics: Arc<Metrics>) -> Self {
        let (lockout, slowed) = (Arc::default(), Semaphore::new(MAX_SLOWED));
        Self { listener, lockout, slowed, audit, metrics, log: LogLimit::per_second(LINES) }
    }

    /// Who has failed how often.
    pub fn lockout(&self) -> &Arc<Lockout> {
        &self.lockout
    }

    /// The right token was shown: its address begins again.
    pub fn token_was_right(&self, address: IpAddr) {
        self.lockout.succeeded(Guesser::new(address, Guess::Token));
    }

    /// A wrong token was shown. How long its address has to wait, if it is locked out; it has waited a part of that then.
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

    /// A wrong password was shown, which brought this lock.
    pub fn password(&self, address: IpAddr, lock: Option<Duration>) {
        self.tell("password", address);
        tell_lock(address, lock);
    }

    /// The answer to somebody who is locked out comes late.
    pub async fn slow(&self, wait: Duration) {
        if let Ok(_slot) = self.slowed.try_acquire() {
            tokio::time::sleep(wait.min(SLOWED)).await;
        }
    }

    /// What was shown, never what it said. A name may be a password that was typed into the wrong field.
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
