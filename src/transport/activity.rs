//! What a connection does: requests that run, since when none does, and whether its caller is admitted.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::slots::Known;

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    address: IpAddr,
    known: Arc<Known>,
    is_admitted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: usize,
    /// Those of them that are whole, so that we are the ones who take time.
    working: usize,
    quiet_since: Instant,
    /// Since when we have done nothing for it.
    idle_since: Instant,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It asks for something.
    Method,
    /// It asks whether we are there (`/health`), which is no reason to keep a connection that others need.
    Probe,
}

/// A running request; dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    activity: Arc<Activity>,
    purpose: Use,
    is_whole: AtomicBool,
}

impl Activity {
    /// A connection from `address`, on which nothing has run yet.
    pub(super) fn new(address: IpAddr, known: Arc<Known>) -> Self {
        let now = Instant::now();
        let state = State { running: 0, working: 0, quiet_since: now, idle_since: now };
        Self { address, known, is_admitted: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>, purpose: Use) -> Running {
        self.lock().running += 1;
        Running { activity: Arc::clone(self), purpose, is_whole: AtomicBool::new(false) }
    }

    /// The caller has a permit, or an operator's credentials.
    pub(super) fn admit(&self) {
        if !self.is_admitted.swap(true, Ordering::Relaxed) {
            self.known.add(self.address);
        }
    }

    /// How long we have done nothing for the connection. `None` while we do, and for admitted callers.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.is_admitted.load(Ordering::Relaxed) {
            return None;
        }
        let state = self.lock();
        (state.working == 0).then(|| now.duration_since(state.idle_since))
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// The request has come to its end: from now on it waits for us.
    pub(super) fn received(&self) {
        if self.purpose == Use::Method && !self.is_whole.swap(true, Ordering::Relaxed) {
            self.activity.lock().working += 1;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        let now = Instant::now();
        state.running -= 1;
        state.quiet_since = now;
        if self.is_whole.load(Ordering::Relaxed) {
            state.working -= 1;
            state.idle_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    fn activity() -> Activity {
        Activity::new(IpAddr::from([192, 0, 2, 1]), Arc::default())
    }

    #[tokio::test]
    async fn quiet_is_counted_from_the_end_of_the_last_request() {
        let activity = Arc::new(activity());
        let running = activity.begin(Use::Method);
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
        activity().quiet_for(LIMIT).await;
        assert!((LIMIT..LIMIT * 10).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[test]
    fn a_connection_is_idle_until_a_request_is_whole_and_again_when_it_is_answered() {
        let activity = Arc::new(activity());
        let idle = || activity.idle_for(Instant::now());
        let pause = || std::thread::sleep(Duration::from_millis(2));
        pause();
        let never_asked = idle().expect("idle");
        let request = activity.begin(Use::Method);
        assert!(idle() >= Some(never_asked), "its body is not here");
        request.received();
        request.received();
        assert_eq!(idle(), None);
        pause();
        let before = Instant::now();
        drop(request);
        assert!(idle().expect("idle") <= before.elapsed());
        pause();
        let probe = activity.begin(Use::Probe);
        probe.received();
        let idle_with_probe = idle().expect("a probe is no work");
        drop(probe);
        assert!(idle() >= Some(idle_with_probe), "nor does it count afterwards");
        activity.admit();
        assert_eq!(idle(), None, "an admitted caller is never idle");
    }
}
