//! How long a decision counts: what was allowed may have been revoked while something else was waited for.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// The oldest decision that releases anything.
pub const MAX_DECISION_AGE: Duration = Duration::from_secs(10);

/// From which age on a decision is made again before a release begins, so that what follows has time left.
const RENEWED_FROM: Duration = Duration::from_secs(5);

/// What was decided at some time.
pub trait Decided {
    /// When.
    fn decided_at(&self) -> Instant;

    /// Whether it is too old to release anything at `now`.
    fn is_outdated(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.decided_at()) > MAX_DECISION_AGE
    }

    /// Whether it must be made again before a release begins at `now`.
    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.decided_at()) > RENEWED_FROM
    }
}

/// Tells that evidence has verified: from then on the caller may make us ask others. Dropped when it does not verify.
#[derive(Debug)]
pub struct Verification(oneshot::Sender<()>);

impl Verification {
    /// With what waits for it: `Ok` once evidence has verified, an error when it never will.
    pub fn pending() -> (Self, oneshot::Receiver<()>) {
        let (verified, waiting) = oneshot::channel();
        (Self(verified), waiting)
    }

    pub(super) fn succeeded(self) {
        // Nobody may be waiting any more.
        let _ = self.0.send(());
    }
}

/// Two decisions that a release needs, made at the same time. One that has become old while the other was waited for, or
/// while an OS image was fetched, is made once more.
pub async fn both<A: Decided, B: Decided, E>(
    first: impl Future<Output = Result<A, E>>,
    second: impl Future<Output = Result<B, E>>,
    first_again: impl AsyncFnOnce() -> Result<A, E>,
    second_again: impl AsyncFnOnce(B) -> Result<B, E>,
    clock: impl Fn() -> Instant,
) -> (Result<A, E>, Result<B, E>) {
    let (first, second) = match tokio::join!(first, second) {
        (Ok(first), Ok(second)) => (first, second),
        other => return other,
    };
    let now = clock();
    let first = async {
        match first.is_due(now) {
            // On the heap, like the other: they are rare, and each request would carry the room for them.
            true => Box::pin(first_again()).await,
            false => Ok(first),
        }
    };
    let second = async {
        match second.is_due(now) {
            true => Box::pin(second_again(second)).await,
            false => Ok(second),
        }
    };
    tokio::join!(first, second)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A decision with the answer that it was made with.
    #[derive(Debug, PartialEq)]
    struct Answer(&'static str, Instant);

    impl Decided for Answer {
        fn decided_at(&self) -> Instant {
            self.1
        }
    }

    #[tokio::test]
    async fn what_became_old_while_something_else_was_waited_for_is_decided_again() {
        // When each is decided, when both are there, and which are asked again, in seconds.
        for (first, second, there, asked_again) in [
            (0, 0, 0, (false, false)),
            (5, 5, 5, (false, false)),
            (0, 5, 5, (false, false)),
            (0, 6, 6, (true, false)),
            (60, 0, 60, (false, true)),
            // Both were quick, and then an image was fetched.
            (1, 1, 120, (true, true)),
            (60, 60, 60, (false, false)),
        ] {
            let begin = Instant::now();
            let at = |seconds| begin + Duration::from_secs(seconds);
            let again = (Cell::new(false), Cell::new(false));
            let outcome: (Result<_, ()>, Result<_, ()>) = both(
                async { Ok(Answer("allowed", at(first))) },
                async { Ok(Answer("allowed", at(second))) },
                async || {
                    again.0.set(true);
                    Ok(Answer("again", at(there)))
                },
                async |old: Answer| {
                    again.1.set(true);
                    assert_eq!(old, Answer("allowed", at(second)));
                    Ok(Answer("again", at(there)))
                },
                || at(there),
            )
            .await;
            let case = format!("{first} {second} {there}");
            assert_eq!((again.0.get(), again.1.get()), asked_again, "{case}");
            for decision in [outcome.0.expect("allowed"), outcome.1.expect("allowed")] {
                assert!(!decision.is_outdated(at(there)), "{case}: {decision:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_permission_that_was_revoked_meanwhile_is_none() {
        let begin = Instant::now();
        let late = begin + Duration::from_secs(11);
        let (self_authorization, permit) = both(
            async { Ok(Answer("allowed", late)) },
            async { Ok(Answer("allowed", begin)) },
            async || panic!("it is young"),
            async |_| Err::<Answer, _>("revoked"),
            || late,
        )
        .await;
        assert_eq!(self_authorization, Ok(Answer("allowed", late)));
        assert_eq!(permit, Err("revoked"));
        // What is refused is not asked again.
        let (self_authorization, permit) = both(
            async { Err("no standing") },
            async { Ok(Answer("allowed", begin)) },
            async || panic!("it was refused"),
            async |_| panic!("nothing is released"),
            || late,
        )
        .await;
        assert!(matches!(
            (self_authorization, permit),
            (Err::<Answer, _>("no standing"), Ok(Answer("allowed", _)))
        ));
    }

    #[test]
    fn a_decision_counts_for_ten_seconds() {
        let decided = Instant::now();
        for (milliseconds, due, outdated) in [
            (0, false, false),
            (5_000, false, false),
            (5_001, true, false),
            (10_000, true, false),
            (10_001, true, true),
        ] {
            let now = decided + Duration::from_millis(milliseconds);
            let answer = Answer("allowed", decided);
            assert_eq!((answer.is_due(now), answer.is_outdated(now)), (due, outdated), "{milliseconds}");
        }
    }
}
