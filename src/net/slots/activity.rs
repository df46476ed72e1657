//! What happens on a connection: running requests, idle time, and what its caller has proved.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kms_attest::identity::AppId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Table;

#[derive(Debug)]
pub(in crate::net) struct Activity {
    address: IpAddr,
    table: Weak<Table>,
    evicted: Notify,
    state: Mutex<State>,
}

/// What the caller on a connection has proved: later variants prove more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum PeerTrust {
    /// Nothing.
    Stranger,
    /// Policy has given this app a permit.
    Admitted(AppId),
    /// It has shown an operator's credentials.
    Operator,
}

#[derive(Debug)]
struct State {
    trust: PeerTrust,
    /// Whether a caller from the address was admitted recently.
    is_known: bool,
    running: usize,
    /// Those of them whose body has been received, so that the delay is ours.
    working: usize,
    quiet_since: Instant,
    /// Since when nothing useful has been done for the connection: no request, or only refused ones.
    idle_since: Instant,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Use {
    /// A call of a method.
    Method,
    /// A health probe (`/health`), which is no reason to keep a connection that others need.
    Probe,
}

/// A running request; dropping it ends it.
#[derive(Debug)]
pub(in crate::net) struct Running {
    activity: Arc<Activity>,
    purpose: Use,
    is_whole: AtomicBool,
    is_refused: AtomicBool,
}

impl Activity {
    /// A connection from `address` without requests so far. `table` is told when its caller is admitted.
    pub(in crate::net) fn new(address: IpAddr, table: Weak<Table>, is_known: bool) -> Self {
        let now = Instant::now();
        let trust = PeerTrust::Stranger;
        let state = State { trust, is_known, running: 0, working: 0, quiet_since: now, idle_since: now };
        Self { address, table, evicted: Notify::new(), state: Mutex::new(state) }
    }

    /// The IPv4 address or IPv6 /64 that the connection comes from.
    pub(in crate::net) fn address(&self) -> IpAddr {
        self.address
    }

    /// Tells the connection to close.
    pub(in crate::net) fn evict(&self) {
        self.evicted.notify_one();
    }

    /// Resolves when the connection must close.
    pub(in crate::net) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    pub(in crate::net) fn begin(self: &Arc<Self>, purpose: Use) -> Running {
        self.lock().running += 1;
        let (is_whole, is_refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Running { activity: Arc::clone(self), purpose, is_whole, is_refused }
    }

    /// Records what the caller has proved. The first proof is kept, unless an operator's credentials follow.
    pub(in crate::net) fn admit(&self, trust: PeerTrust) {
        let is_news = {
            let mut state = self.lock();
            let is_news = match state.trust {
                PeerTrust::Stranger => trust != PeerTrust::Stranger,
                PeerTrust::Admitted(_) => trust == PeerTrust::Operator,
                PeerTrust::Operator => false,
            };
            if is_news {
                state.trust = trust;
                state.is_known = true;
            }
            is_news
        };
        if is_news && let Some(table) = self.table.upgrade() {
            table.knows(self.address, trust);
        }
    }

    /// What the caller has proved, and how long the connection has been idle: `None` while we work on a request.
    pub(in crate::net) fn idle_for(&self, now: Instant) -> (PeerTrust, Option<Duration>) {
        let state = self.lock();
        (state.trust, (state.working == 0).then(|| now.duration_since(state.idle_since)))
    }

    /// The app as which callers from its address were admitted recently, if it is one.
    pub(in crate::net) fn known_app(&self) -> Option<AppId> {
        if let PeerTrust::Admitted(app) = self.lock().trust {
            return Some(app);
        }
        self.table.upgrade()?.known_app(self.address)
    }

    /// Whether a caller from its address was admitted recently.
    pub(in crate::net) fn is_known(&self) -> bool {
        self.lock().is_known
    }

    /// Resolves when nothing has run for `limit`. A streaming response does not count as running once it has
    /// begun.
    pub(in crate::net) async fn quiet_for(&self, limit: Duration) {
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
    /// The body has been received: from now on the delay is ours.
    pub(in crate::net) fn received(&self) {
        if self.purpose == Use::Method && !self.is_whole.swap(true, Ordering::Relaxed) {
            self.activity.lock().working += 1;
        }
    }

    /// Closes the connection, because its caller does not read the response.
    pub(in crate::net) fn end_connection(&self) {
        self.activity.evict();
    }

    /// Marks the request as refused: it does not make the connection less idle.
    pub(in crate::net) fn refused(&self) {
        self.is_refused.store(true, Ordering::Relaxed);
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
            if !self.is_refused.load(Ordering::Relaxed) {
                state.idle_since = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    fn activity() -> Activity {
        Activity::new(IpAddr::from([192, 0, 2, 1]), Weak::new(), false)
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
        assert!((LIMIT..LIMIT * 300).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[test]
    fn a_connection_is_idle_until_a_request_is_whole_and_again_when_it_is_answered() {
        let activity = Arc::new(activity());
        let idle = || activity.idle_for(Instant::now()).1;
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
        pause();
        let idle_before = idle();
        let refused = activity.begin(Use::Method);
        refused.received();
        assert_eq!(idle(), None, "we do not know yet that it will be refused");
        refused.refused();
        drop(refused);
        assert!(idle() >= idle_before, "a refused request is no work");
        for (proved, counts) in [
            (PeerTrust::Stranger, PeerTrust::Stranger),
            (PeerTrust::Admitted(app(1)), PeerTrust::Admitted(app(1))),
            (PeerTrust::Admitted(app(2)), PeerTrust::Admitted(app(1))),
            (PeerTrust::Operator, PeerTrust::Operator),
            (PeerTrust::Admitted(app(2)), PeerTrust::Operator),
        ] {
            activity.admit(proved);
            assert_eq!(activity.idle_for(Instant::now()).0, counts, "after {proved:?}");
        }
    }

    fn app(last: u8) -> AppId {
        AppId([last; 20])
    }
}
