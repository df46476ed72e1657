//! A circuit breaker: while a service does not respond, requests fail at once instead of waiting for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The breaker opens after this many failures in a row.
const OPENS_AFTER: u32 = 5;

/// How often an open breaker lets a request through, and how often the service is probed.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Closed: requests are sent. Open: they are refused at once, except for a trial every [`RETRY`].
///
/// It opens only if the service responds to no request: a failure counts only if there was no response since
/// the request was sent. A caller that makes the service hang for one app therefore does not block the
/// others.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug)]
struct State {
    position: Position,
    /// The time of the last response or change of position. Requests that were sent earlier no longer count.
    turned: Instant,
    opened: u64,
}

#[derive(Debug)]
enum Position {
    Closed { failures: u32 },
    Open { trial: Instant },
}

/// How an outcome changed the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It opened, for the n-th time.
    Opened(u64),
    /// It closed.
    Closed,
}

impl Breaker {
    pub(super) fn closed(now: Instant) -> Self {
        Self(Mutex::new(State { position: Position::Closed { failures: 0 }, turned: now, opened: 0 }))
    }

    /// Whether a request may be sent.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match &mut self.state().position {
            Position::Closed { .. } => true,
            Position::Open { trial } if now.saturating_duration_since(*trial) >= RETRY => {
                *trial = now;
                true
            }
            Position::Open { .. } => false,
        }
    }

    /// Records a response of the service, with any content.
    pub(super) fn answered(&self, now: Instant) -> Option<Change> {
        let mut state = self.state();
        let was_open = matches!(state.position, Position::Open { .. });
        state.position = Position::Closed { failures: 0 };
        state.turned = now;
        was_open.then_some(Change::Closed)
    }

    /// Records that a request, sent when `asked`, failed.
    pub(super) fn failed(&self, asked: Instant, now: Instant) -> Option<Change> {
        let mut state = self.state();
        if asked < state.turned {
            return None;
        }
        let Position::Closed { failures } = &mut state.position else { return None };
        *failures += 1;
        if *failures < OPENS_AFTER {
            return None;
        }
        state.position = Position::Open { trial: now };
        state.turned = now;
        state.opened += 1;
        Some(Change::Opened(state.opened))
    }

    /// Whether it is still open since its n-th opening.
    pub(super) fn is_open_since(&self, opened: u64) -> bool {
        let state = self.state();
        state.opened == opened && matches!(state.position, Position::Open { .. })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(breaker: &Breaker, now: Instant) -> Instant {
        for _ in 1..OPENS_AFTER {
            assert_eq!(breaker.failed(now, now), None);
            assert!(breaker.admits(now));
        }
        assert_eq!(breaker.failed(now, now), Some(Change::Opened(1)));
        now
    }

    #[test]
    fn failures_in_a_row_open_it_once() {
        let now = Instant::now();
        let breaker = Breaker::closed(now);
        opened(&breaker, now);
        assert!(breaker.is_open_since(1) && !breaker.is_open_since(2));
        assert_eq!(breaker.failed(now, now), None, "it is open already");
        assert!(!breaker.admits(now));
    }

    #[test]
    fn a_response_in_between_keeps_it_closed() {
        let now = Instant::now();
        let breaker = Breaker::closed(now);
        for _ in 0..100 {
            for _ in 1..OPENS_AFTER {
                assert_eq!(breaker.failed(now, now), None);
            }
            assert_eq!(breaker.answered(now), None);
        }
    }

    #[test]
    fn requests_that_hang_while_others_succeed_do_not_open_it() {
        let start = Instant::now();
        let breaker = Breaker::closed(start);
        let mut now = start;
        for _ in 0..100 {
            let asked = now;
            now += Duration::from_secs(2);
            breaker.answered(now);
            now += Duration::from_secs(8);
            assert_eq!(breaker.failed(asked, now), None);
        }
    }

    #[test]
    fn an_open_breaker_lets_one_request_through_at_each_retry() {
        let now = Instant::now();
        let breaker = Breaker::closed(now);
        let mut now = opened(&breaker, now);
        for _ in 0..10 {
            now += RETRY - Duration::from_millis(1);
            assert!(!breaker.admits(now));
            now += Duration::from_millis(1);
            assert!(breaker.admits(now), "a trial");
            assert!(!breaker.admits(now), "one");
            assert_eq!(breaker.failed(now, now), None, "it stays open");
        }
    }

    #[test]
    fn a_response_closes_it_and_earlier_requests_do_not_open_it_again() {
        let start = Instant::now();
        let breaker = Breaker::closed(start);
        opened(&breaker, start);
        let later = start + RETRY * 3;
        assert_eq!(breaker.answered(later), Some(Change::Closed));
        assert_eq!(breaker.answered(later), None);
        assert!(breaker.admits(later) && !breaker.is_open_since(1));
        for _ in 0..100 {
            assert_eq!(breaker.failed(start, later), None, "asked before");
        }
        let now = later + RETRY;
        for _ in 1..OPENS_AFTER {
            assert_eq!(breaker.failed(now, now), None);
        }
        assert_eq!(breaker.failed(now, now), Some(Change::Opened(2)));
        assert!(breaker.is_open_since(2) && !breaker.is_open_since(1));
    }
}
