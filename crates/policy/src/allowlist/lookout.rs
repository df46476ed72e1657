//! Looks at a file on a thread of its own: a file system that hangs holds up that thread and nobody else.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::stamp::Stamp;

/// Who may wait for a look at a time; they share looks.
const MAX_WAITING: usize = 4096;

type Answer = oneshot::Sender<Option<Stamp>>;

/// The file system does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Silent;

/// Looks at one file.
pub(super) struct Lookout {
    asks: mpsc::SyncSender<Answer>,
    /// Since when a look is under way.
    under_way: Arc<Mutex<Option<Instant>>>,
    patience: Duration,
}

impl Lookout {
    /// Looks at `path` by `look`, which is `None` where there is no file. Nobody waits for longer than `patience`.
    pub(super) fn new(
        path: Box<Path>,
        patience: Duration,
        look: impl Fn(&Path) -> Option<Stamp> + Send + 'static,
    ) -> Self {
        let (asks, asked) = mpsc::sync_channel::<Answer>(MAX_WAITING);
        let under_way = Arc::<Mutex<Option<Instant>>>::default();
        let began = Arc::clone(&under_way);
        let set = move |time| *began.lock().unwrap_or_else(PoisonError::into_inner) = time;
        // Ends when nobody can ask any more. Without it nobody gets an answer, and everything is refused.
        let spawned = thread::Builder::new().name("allowlist".to_owned()).spawn(move || {
            while let Ok(first) = asked.recv() {
                // All of them asked before the look begins.
                let waiting: Vec<_> = std::iter::once(first).chain(asked.try_iter()).collect();
                set(Some(Instant::now()));
                let seen = look(&path);
                set(None);
                for answer in waiting {
                    // Who gave up needs none.
                    let _ = answer.send(seen);
                }
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "there is no thread that looks at the allowlist: everything is refused");
        }
        Self { asks, under_way, patience }
    }

    /// The file as it is after this was called; `None` where there is none.
    pub(super) async fn look(&self) -> Result<Option<Stamp>, Silent> {
        if self.is_silent() {
            return Err(Silent);
        }
        let (answer, seen) = oneshot::channel();
        self.asks.try_send(answer).map_err(|_| Silent)?;
        tokio::time::timeout(self.patience, seen).await.map_err(|_| Silent)?.map_err(|_| Silent)
    }

    /// Whether a look takes too long: who asks now need not wait for it.
    pub(super) fn is_silent(&self) -> bool {
        let under_way = *self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.is_some_and(|began| began.elapsed() > self.patience)
    }
}
