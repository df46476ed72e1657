//! A concurrency limit for work that callers can cause: slow work is moved aside and cannot hold the slots.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Slots for normal work, and further ones for slow work.
pub(super) struct Lane {
    turns: Semaphore,
    slow: Semaphore,
    turn_time: Duration,
}

impl Lane {
    /// `turns` slots, held for at most `turn_time`, and up to `slow` jobs that take longer.
    pub(super) fn new(turns: usize, slow: usize, turn_time: Duration) -> Self {
        Self { turns: Semaphore::new(turns), slow: Semaphore::new(slow), turn_time }
    }

    /// Runs `work` when a slot is free. `None` if it takes longer than `turn_time` and there is no room for
    /// slow work.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let turn = self.turns.acquire().await.ok()?;
        let mut work = pin!(work);
        if let Ok(done) = timeout(self.turn_time, &mut work).await {
            return Some(done);
        }
        let _room = self.slow.try_acquire().ok()?;
        drop(turn);
        Some(work.await)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_leaves_the_turns_to_others() {
        let lane = Arc::new(Lane::new(2, 3, Duration::from_millis(20)));
        let hanging: Vec<_> = (0..8)
            .map(|_| {
                let lane = Arc::clone(&lane);
                tokio::spawn(async move { lane.run(std::future::pending::<()>()).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let start = Instant::now();
        assert_eq!(lane.run(async { 7 }).await, Some(7));
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        let given_up = || hanging.iter().filter(|hanging| hanging.is_finished()).count();
        while given_up() < 5 {
            assert!(start.elapsed() < Duration::from_secs(60), "there is room for three only");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        hanging.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
