//! A circuit breaker: a service that has stopped answering is not waited for by everyone who comes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const OPENS_AFTER: u32 = 5;

/// How often an open one lets a question through, and how often the service is probed.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Closed: questions are asked. Open: they are refused at once, but for a trial now and then.
///
/// Only a service that answers nobody opens it: a failure counts only if nobody was answered since the question was
/// asked. Whoever makes the service hang for one app does not take it from all the others.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug)]
struct State {
    position: Position,
    /// When an answer came last, or when it last opened or closed: what was asked before says nothing any more.
    turned: Instant,
    opened: u64,
}

#[derive(Debug)]
enum Position {
    Closed { failures: u32 },
    Open { trial: Instant },
}

/// What an outcome did to it.
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

    /// Whether a question may be asked.
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

    /// The service has answered, whatever it said.
    pub(super) fn answered(&self, now: Instant) -> Option<Change> {
        let mut state = self.state();
        let was_open = matches!(state.position, Position::Open { .. });
        state.position = Position::Closed { failures: 0 };
        state.turned = now;
        was_open.then_some(Change::Closed)
    }

    /// A question that was `asked` then has no answer now.
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

    /// Whether it is open since the n-th time.
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
    fn an_answer_in_between_keeps_it_closed() {
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
    fn questions_that_hang_while_others_are_answered_do_not_open_it() {
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
    fn an_open_one_lets_one_question_through_each_while() {
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
    fn an_answer_closes_it_and_what_hung_before_does_not_open_it_again() {
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
