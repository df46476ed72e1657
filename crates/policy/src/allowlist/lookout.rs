//! Reads the metadata of a file on a separate thread, so that a file system that hangs blocks only that
//! thread.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::stamp::Stamp;

/// Maximum number of requests that wait for the metadata; they share reads.
const MAX_WAITING: usize = 4096;

type Answer = oneshot::Sender<Option<Stamp>>;

/// The file system does not respond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Silent;

/// Reads the metadata of one file.
pub(super) struct Lookout {
    asks: mpsc::SyncSender<Answer>,
    /// When the current read began.
    under_way: Arc<Mutex<Option<Instant>>>,
    max_wait: Duration,
}

impl Lookout {
    /// Reads the metadata of `path` with `look`, which returns `None` if there is no file. No request waits
    /// longer than `max_wait`.
    pub(super) fn new(
        path: Box<Path>,
        max_wait: Duration,
        look: impl Fn(&Path) -> Option<Stamp> + Send + 'static,
    ) -> Self {
        let (asks, asked) = mpsc::sync_channel::<Answer>(MAX_WAITING);
        let under_way = Arc::<Mutex<Option<Instant>>>::default();
        let began = Arc::clone(&under_way);
        let set = move |time| *began.lock().unwrap_or_else(PoisonError::into_inner) = time;
        // Ends when the `Lookout` is dropped. If the thread cannot start, every request is refused.
        let spawned = thread::Builder::new().name("allowlist".to_owned()).spawn(move || {
            while let Ok(first) = asked.recv() {
                // All of these requests came before this read begins.
                let waiting: Vec<_> = std::iter::once(first).chain(asked.try_iter()).collect();
                set(Some(Instant::now()));
                let seen = look(&path);
                set(None);
                for answer in waiting {
                    // The request may have been cancelled.
                    let _ = answer.send(seen);
                }
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "the thread that watches the allowlist cannot start: everything is refused");
        }
        Self { asks, under_way, max_wait }
    }

    /// The metadata of the file at or after the time of the call; `None` if there is no file.
    pub(super) async fn look(&self) -> Result<Option<Stamp>, Silent> {
        if self.is_silent() {
            return Err(Silent);
        }
        let (answer, seen) = oneshot::channel();
        self.asks.try_send(answer).map_err(|_| Silent)?;
        tokio::time::timeout(self.max_wait, seen).await.map_err(|_| Silent)?.map_err(|_| Silent)
    }

    /// Whether the current read takes too long; then new requests do not wait for it.
    pub(super) fn is_silent(&self) -> bool {
        let under_way = *self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.is_some_and(|began| began.elapsed() > self.max_wait)
    }
}
