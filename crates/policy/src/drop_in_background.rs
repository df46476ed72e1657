//! Drops large values off the request path.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// How long to wait for the last readers. They hold the value only while they decide, which takes
/// microseconds.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// The pause between two checks whether the value is still used.
const PAUSE: Duration = Duration::from_millis(1);

/// Drops `last` on another thread when it has no other users. Freeing the rules of a hundred thousand apps
/// takes long, and the last user would otherwise wait for it. Outside a runtime it is dropped at once.
pub(crate) fn drop_in_background<T: Send + Sync + 'static>(last: Arc<T>) {
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn_blocking(move || {
        let began = Instant::now();
        while Arc::strong_count(&last) > 1 && began.elapsed() < MAX_WAIT {
            thread::sleep(PAUSE);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, SyncSender};
    use std::thread::ThreadId;

    use super::*;

    /// Reports which thread drops it.
    struct Large(SyncSender<ThreadId>);

    impl Drop for Large {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    #[tokio::test]
    async fn it_is_not_dropped_by_its_last_user() {
        let (dropped, by) = mpsc::sync_channel(1);
        let large = Arc::new(Large(dropped));
        let used = Arc::clone(&large);
        drop_in_background(large);
        drop(used);
        assert_ne!(by.recv_timeout(MAX_WAIT * 30).expect("it is dropped"), thread::current().id());
    }

    #[test]
    fn without_a_runtime_it_is_dropped_at_once() {
        let (dropped, by) = mpsc::sync_channel(1);
        drop_in_background(Arc::new(Large(dropped)));
        assert_eq!(by.try_recv(), Ok(thread::current().id()));
    }
}
