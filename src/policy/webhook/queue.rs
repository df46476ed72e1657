//! How many questions are asked at once, and how many wait for their turn.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Turns, and places to wait for one.
#[derive(Debug)]
pub(super) struct Queue {
    places: Semaphore,
    turns: Semaphore,
    patience: Duration,
}

/// A question's turn; dropping it gives it to the next.
pub(super) struct Turn<'a> {
    _place: SemaphorePermit<'a>,
    _turn: SemaphorePermit<'a>,
}

/// There are too many questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shed;

impl Queue {
    /// `turns` at once, `waiting` more in line, each for `patience` at most.
    pub(super) fn new(turns: usize, waiting: usize, patience: Duration) -> Self {
        Self { places: Semaphore::new(turns + waiting), turns: Semaphore::new(turns), patience }
    }

    /// A turn, as soon as there is one.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, Shed> {
        let place = self.places.try_acquire().map_err(|_| Shed)?;
        let turn = tokio::time::timeout(self.patience, self.turns.acquire()).await;
        // Neither semaphore is ever closed.
        Ok(Turn { _place: place, _turn: turn.map_err(|_| Shed)?.map_err(|_| Shed)? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn one_too_many_is_shed_at_once_and_who_waits_too_long_later() {
        let queue = Queue::new(2, 1, PATIENCE);
        let first = queue.turn().await;
        let second = queue.turn().await;
        assert!(first.is_ok() && second.is_ok());
        let started = Instant::now();
        let (third, fourth) =
            tokio::join!(queue.turn(), async { (queue.turn().await.err(), Instant::now()) });
        assert_eq!(third.err(), Some(Shed));
        assert_eq!(fourth.0, Some(Shed));
        assert!(started.elapsed() >= PATIENCE && fourth.1.duration_since(started) < PATIENCE);
        drop(first);
        assert!(queue.turn().await.is_ok());
    }

    #[tokio::test]
    async fn a_turn_passes_on() {
        let queue = Queue::new(1, 1, Duration::from_secs(60));
        let first = queue.turn().await.ok();
        let (second, ()) = tokio::join!(queue.turn(), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert!(second.is_ok());
    }
}
