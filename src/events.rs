//! The events of the audit log for readers: queries, live streams, and reports from outside.
//!
//! A thread follows the files of the log. Releases never wait for it, because the writer of the log does not
//! depend on it.

mod follow;
mod index;
mod inventory;
mod live;
mod offsets;
mod outside;
mod pipe;
mod query;
mod reported;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::{Value, json};

pub use self::index::{
    Active, Ask, Counts, Coverage, CvmAsk, CvmPage, Growth, Index, IndexError, Inventory, Order, Page, Reach,
    Recent, Stretch,
};
pub use self::inventory::{Cvm, CvmId, Handover, RELEASES, Refusal, Span, Subject};
pub use self::live::{Gap, Live, Next, Subscription, frame, waiting};
pub use self::outside::{MAX_MESSAGE, Message, MessageError, ReportError, Reports};
pub use self::pipe::{Lines, Pipe, PipeError};
pub use self::query::{
    A_TIME, Filter, Format, MAX_DIGITS, MAX_LIMIT, MAX_QUERY, Query, QueryError, hex, last_event_id, number,
    time,
};
pub use self::reported::{MAX_REPORTED, Reported, Told, check_reported};
use crate::audit::{Audit, Progress, Record};
use crate::config;

/// How long a shutdown waits for the thread.
const MAX_END: Duration = Duration::from_secs(2);

/// The paths of the log and its index.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file of the audit log that is being written.
    pub log: PathBuf,
    /// The file of the index; `None` for no index.
    pub index: Option<PathBuf>,
    /// How many events the index holds. Older ones are in the log only.
    pub keep: u64,
}

/// Without an admin listener there is no index, because no one could query it.
impl From<&config::Core> for Settings {
    fn from(core: &config::Core) -> Self {
        let config::Events { index, keep, .. } = &core.events;
        let index = core.admin.enabled.then(|| index.clone());
        Self { log: core.audit.file.clone(), index, keep: *keep }
    }
}

/// The events of one log. Dropping it ends its thread.
#[derive(Debug)]
pub struct Events {
    progress: Progress,
    index: Arc<ArcSwapOption<Index>>,
    live: Arc<Live>,
    is_damaged: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    ended: std::sync::Mutex<mpsc::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Follows the log. An index that is missing, unusable or of another log is rebuilt.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn follow(settings: Settings, audit: &Audit) -> io::Result<Self> {
        let index = Arc::<ArcSwapOption<Index>>::default();
        let live = Arc::<Live>::default();
        let [is_damaged, is_over] = [(), ()].map(|()| Arc::<AtomicBool>::default());
        let (alive, ended) = mpsc::sync_channel(1);
        let follower = follow::Follower::new(
            settings,
            audit.progress(),
            Arc::clone(&index),
            Arc::clone(&live),
            [Arc::clone(&is_damaged), Arc::clone(&is_over)],
        );
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            let _alive: mpsc::SyncSender<()> = alive;
            follower.run();
        })?;
        Ok(Self {
            progress: audit.progress(),
            index,
            live,
            is_damaged,
            is_over,
            ended: std::sync::Mutex::new(ended),
            thread: Some(thread),
        })
    }

    /// The index; `None` while it is unavailable.
    pub fn index(&self) -> Option<Arc<Index>> {
        self.index.load_full()
    }

    /// Runs a query on the index, on this thread; `None` while it is unavailable. A damaged index is rebuilt.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn ask<T>(
        &self,
        question: impl FnOnce(&Index) -> Result<T, IndexError>,
    ) -> Option<Result<T, IndexError>> {
        let index = self.index()?;
        // The library may panic on a damaged file.
        let answer = catch_unwind(AssertUnwindSafe(|| question(&index))).unwrap_or(Err(IndexError::Damaged));
        if let Err(error) = &answer
            && error.is_damage()
        {
            self.is_damaged.store(true, Ordering::Relaxed);
        }
        Some(answer)
    }

    /// The number of the newest acknowledged record of the log. The index may not have it yet.
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged()
    }

    /// Future events.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Ends every stream, because this KMS stops.
    pub fn end_streams(&self) {
        self.live.end();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.live.end();
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        let ended = self.ended.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Does not wait for a disk that hangs.
        if ended.recv_timeout(MAX_END) != Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = thread.join();
        }
    }
}

/// An event as a line of `/logs`: time and message.
pub fn text(record: &Record) -> String {
    format!("{} {}\n", crate::audit::printable(&record.time), record.sentence())
}

/// An event as an object of `/api/v1/events`.
pub fn json(record: &Record) -> Value {
    let message = match record.kind.as_str() {
        "reported" => record.fields.get("message").cloned().unwrap_or_default(),
        _ => record.sentence().into(),
    };
    let mut event = json!({
        "seq": record.seq,
        "received_at": record.time,
        "source": record.source(),
        "type": record.kind,
        "severity": record.severity().name(),
        "message": message,
    });
    if !record.app_id().is_empty() {
        event["app_id"] = record.app_id().into();
    }
    event["details"] = record.fields.clone().into();
    event
}
