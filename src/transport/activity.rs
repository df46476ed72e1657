//! How long a connection has had nothing to do.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// The requests of one connection: how many run, and since when none does.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    running: usize,
    quiet_since: Instant,
}

/// A running request; dropping it ends it.
pub(super) struct Running<'a>(&'a Activity);

impl Activity {
    /// Nothing has run yet.
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { running: 0, quiet_since: Instant::now() }))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Running<'_> {
        self.lock().running += 1;
        Running(self)
    }

    /// Ends when nothing has run for `limit`. A streaming answer counts as nothing once it has begun.
    pub(super) async fn quiet_for(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let since = {
                let state = self.lock();
                if state.running > 0 { now } else { state.quiet_since }
            };
            if since + limit <= now {
                return;
            }
            sleep_until(since + limit).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        state.quiet_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn quiet_is_counted_from_the_end_of_the_last_request() {
        let activity = Activity::new();
        let running = activity.begin();
        let began = Instant::now();
        let ends = async {
            tokio::time::sleep(LIMIT * 2).await;
            drop(running);
        };
        tokio::join!(activity.quiet_for(LIMIT), ends);
        assert!(began.elapsed() >= LIMIT * 3, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_connection_that_never_asks_is_quiet_from_its_beginning() {
        let began = Instant::now();
        Activity::new().quiet_for(LIMIT).await;
        assert!((LIMIT..LIMIT * 10).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
