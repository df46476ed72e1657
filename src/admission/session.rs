//! One TLS session, as evidence can be bound to it, and the challenges that were given on it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use kms_attest::binding::ReportData;
use kms_attest::binding::session::{self, CHALLENGE_BYTES};

use super::FreshFault;

/// How long a challenge can be used.
pub const CHALLENGE_LIFETIME: Duration = Duration::from_secs(30);

/// The most challenges of one connection; a further one replaces the oldest. A caller uses one at a time.
const MAX_CHALLENGES: usize = 16;

/// 32 random bytes that a caller must put under its fresh evidence.
pub type Challenge = [u8; CHALLENGE_BYTES];

/// The session of one connection: what only its two ends know, and the challenges that were given on it and not used yet.
pub struct Session {
    exporter: [u8; 32],
    server_spki_sha256: [u8; 32],
    given: Mutex<VecDeque<(Challenge, Instant)>>,
}

/// There are no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

impl Session {
    /// The session with this channel binding (`tls-exporter`), and with the server's key whose SubjectPublicKeyInfo has this
    /// SHA-256.
    pub fn new(exporter: [u8; 32], server_spki_sha256: [u8; 32]) -> Self {
        Self { exporter, server_spki_sha256, given: Mutex::default() }
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the server's certificate on this connection.
    pub fn server_spki_sha256(&self) -> &[u8; 32] {
        &self.server_spki_sha256
    }

    /// A new challenge, for [`CHALLENGE_LIFETIME`] from `now`.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn challenge(&self, now: Instant) -> Result<Challenge, NoRandomness> {
        let mut challenge = [0; CHALLENGE_BYTES];
        rand::fill(&mut challenge).map_err(|_| NoRandomness)?;
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() == MAX_CHALLENGES {
            given.pop_front();
        }
        given.push_back((challenge, now + CHALLENGE_LIFETIME));
        Ok(challenge)
    }

    /// Takes a challenge, and returns the report data of evidence that answers it in a call of `method` by the holder of the
    /// key with this SubjectPublicKeyInfo. A challenge is taken once, whatever comes of it.
    pub(super) fn answer(
        &self,
        challenge: &Challenge,
        client_spki: &[u8],
        method: &str,
        now: Instant,
    ) -> Result<ReportData, FreshFault> {
        self.take(challenge, now)?;
        let session = session::Session {
            challenge,
            client_spki_sha256: &session::spki_sha256(client_spki),
            server_spki_sha256: &self.server_spki_sha256,
            exporter: &self.exporter,
            method,
        };
        Ok(session.report_data())
    }

    fn take(&self, challenge: &Challenge, now: Instant) -> Result<(), FreshFault> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let place = given.iter().position(|(known, _)| known == challenge);
        let taken = place.and_then(|place| given.remove(place));
        match taken {
            None => Err(FreshFault::UnknownChallenge),
            Some((_, end)) if now >= end => Err(FreshFault::ExpiredChallenge),
            Some(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new([4; 32], [3; 32])
    }

    #[test]
    fn the_answer_is_bound_to_session_key_and_method() {
        let (session, now) = (session(), Instant::now());
        let challenge = session.challenge(now).unwrap();
        let expected = session::Session {
            challenge: &challenge,
            client_spki_sha256: &session::spki_sha256(b"key"),
            server_spki_sha256: &[3; 32],
            exporter: &[4; 32],
            method: "KMS.GetAppKey",
        };
        assert_eq!(session.answer(&challenge, b"key", "KMS.GetAppKey", now), Ok(expected.report_data()));
    }

    #[test]
    fn a_challenge_is_taken_once_also_by_many_at_the_same_time() {
        let (session, now) = (session(), Instant::now());
        let challenge = session.challenge(now).unwrap();
        let taken = || session.answer(&challenge, b"key", "KMS.GetAppKey", now).is_ok();
        let successes = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(taken)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|taken| *taken).count()
        });
        assert_eq!(successes, 1);
        let again = session.answer(&challenge, b"key", "KMS.GetAppKey", now);
        assert_eq!(again, Err(FreshFault::UnknownChallenge));
    }

    #[test]
    fn a_challenge_expires_and_is_then_gone() {
        let began = Instant::now();
        let last = CHALLENGE_LIFETIME - Duration::from_nanos(1);
        for (after, expected) in [
            (Duration::ZERO, None),
            (last, None),
            (CHALLENGE_LIFETIME, Some(FreshFault::ExpiredChallenge)),
            (CHALLENGE_LIFETIME * 100, Some(FreshFault::ExpiredChallenge)),
        ] {
            let session = session();
            let challenge = session.challenge(began).unwrap();
            let answer = session.answer(&challenge, b"key", "KMS.GetAppKey", began + after);
            assert_eq!(answer.err(), expected, "{after:?}");
            let again = session.answer(&challenge, b"key", "KMS.GetAppKey", began);
            assert_eq!(again, Err(FreshFault::UnknownChallenge), "{after:?}");
        }
    }

    #[test]
    fn a_connection_keeps_few_challenges_and_none_of_another_connection() {
        let (session, other, now) = (session(), session(), Instant::now());
        let all: Vec<Challenge> = (0..10 * MAX_CHALLENGES).map(|_| session.challenge(now).unwrap()).collect();
        assert_eq!(session.given.lock().unwrap().len(), MAX_CHALLENGES);
        let (oldest, newest) = (all.first().unwrap(), all.last().unwrap());
        let answer = |session: &Session, challenge| session.answer(challenge, b"key", "KMS.SignCert", now);
        assert_eq!(answer(&session, oldest), Err(FreshFault::UnknownChallenge));
        assert_eq!(answer(&other, newest), Err(FreshFault::UnknownChallenge));
        assert!(answer(&session, newest).is_ok(), "another connection does not use it up");
    }
}
