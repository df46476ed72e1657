//! The thread that follows the log and feeds the index and the streams.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use arc_swap::ArcSwapOption;

use super::Settings;
use super::index::{Growth, Index, IndexError};
use super::live::Live;
use crate::audit::{Progress, Reader};

/// How often the log is checked for new records.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The most records read at a time, and their size.
const MAX_BATCH: usize = 1000;
const MAX_BATCH_BYTES: usize = 2 << 20;
/// How often a changing index is synced to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// The pause before a failed index is opened again.
const RETRY: Duration = Duration::from_secs(30);
/// The same if another process or a running query still has it open, or if it is rebuilt.
const RETRY_SOON: Duration = Duration::from_millis(500);

pub(super) struct Follower {
    settings: Settings,
    progress: Progress,
    index: Arc<ArcSwapOption<Index>>,
    live: Arc<Live>,
    is_damaged: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    /// Reads what is live.
    reader: Reader,
    /// Reads what the index lacks of what was live before; `None` if it lacks nothing.
    catching_up: Option<Reader>,
    try_again: Instant,
    /// The time of the oldest change that is not synced.
    unsynced: Option<Instant>,
    /// Whether the index may have records that its inventory has not counted: one of an older version.
    has_uncounted: bool,
}

impl Follower {
    pub(super) fn new(
        settings: Settings,
        progress: Progress,
        index: Arc<ArcSwapOption<Index>>,
        live: Arc<Live>,
        [is_damaged, is_over]: [Arc<AtomicBool>; 2],
    ) -> Self {
        let begin = progress.acknowledged();
        live.begin(begin);
        let reader = Reader::after(&settings.log, begin);
        let try_again = Instant::now();
        Self {
            settings,
            progress,
            index,
            live,
            is_damaged,
            is_over,
            reader,
            catching_up: None,
            try_again,
            unsynced: None,
            has_uncounted: false,
        }
    }

    /// Follows the log until told to end. After a fault of the index it is opened again, or rebuilt.
    pub(super) fn run(mut self) {
        while !self.is_over() {
            // The library may panic on a damaged file.
            match catch_unwind(AssertUnwindSafe(|| self.step())) {
                Ok(Ok(Step::Worked)) => {}
                Ok(Ok(Step::Rested)) => thread::park_timeout(LOOK_EVERY),
                Ok(Err(error)) => self.give_up(&error),
                Err(_) => self.give_up(&IndexError::Damaged),
            }
        }
        if let Some(index) = self.index.swap(None) {
            let _ = catch_unwind(AssertUnwindSafe(|| index.sync()));
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn step(&mut self) -> Result<Step, IndexError> {
        if self.is_damaged.swap(false, Ordering::Relaxed) {
            return Err(IndexError::Damaged);
        }
        if self.index.load().is_none() && Instant::now() >= self.try_again {
            self.open()?;
        }
        let acknowledged = self.progress.acknowledged();
        let batch = read(&mut self.reader, acknowledged)?;
        let has_news = !batch.is_empty();
        // The reader is past this batch, so streams get it even if the index fails or its library panics.
        let indexed = catch_unwind(AssertUnwindSafe(|| self.add_to_index(&batch)));
        let indexed = indexed.unwrap_or(Err(IndexError::Damaged));
        self.live.publish(batch);
        let has_caught_up = indexed?;
        let has_counted = self.count_more()?;
        if self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_EVERY)
            && let Some(index) = &*self.index.load()
        {
            index.sync()?;
            self.unsynced = None;
        }
        Ok(if has_news || has_caught_up || has_counted { Step::Worked } else { Step::Rested })
    }

    /// Adds new records, or older ones as long as the index lacks any; whether there were older ones.
    fn add_to_index(&mut self, batch: &[(u64, Vec<u8>)]) -> Result<bool, IndexError> {
        let Some(index) = self.index.load_full() else { return Ok(false) };
        let Some(mut reader) = self.catching_up.take() else {
            self.add(&index, batch)?;
            return Ok(false);
        };
        let published = self.live.newest();
        let older = read(&mut reader, published)?;
        self.add(&index, &older)?;
        if reader.is_past(published) {
            self.add(&index, batch)?;
        } else {
            self.catching_up = Some(reader);
        }
        Ok(!older.is_empty())
    }

    /// Counts in the inventory what is in the index and not counted; whether there was something.
    fn count_more(&mut self) -> Result<bool, IndexError> {
        let Some(index) = self.index.load_full().filter(|_| self.has_uncounted) else { return Ok(false) };
        self.has_uncounted = catch_unwind(AssertUnwindSafe(|| index.catch_up(self.growth())))
            .unwrap_or(Err(IndexError::Damaged))?;
        if self.has_uncounted {
            self.unsynced.get_or_insert_with(Instant::now);
        }
        Ok(self.has_uncounted)
    }

    fn add(&mut self, index: &Index, batch: &[(u64, Vec<u8>)]) -> Result<(), IndexError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.unsynced.get_or_insert_with(Instant::now);
        index.add(batch, self.keep(index), self.growth())
    }

    fn growth(&self) -> Growth {
        if self.progress.space().is_low { Growth::Stopped } else { Growth::Bounded }
    }

    /// How many records the index holds. It does not grow when disk space is low, because the log needs it.
    fn keep(&self, index: &Index) -> u64 {
        let keep = self.settings.keep;
        match self.growth() {
            Growth::Stopped => index.count().map_or(keep, |count| keep.min(count)),
            Growth::Bounded => keep,
        }
    }

    /// Opens the index and continues after its last record. An index of another log is rebuilt.
    fn open(&mut self) -> Result<(), IndexError> {
        let Some(path) = self.settings.index.clone() else { return Ok(()) };
        self.try_again = Instant::now() + RETRY;
        let mut index = Index::open(&path).or_else(|error| {
            if error.is_in_use() || error.is_of_the_system() || !path.exists() {
                return Err(error);
            }
            // Renamed instead of removed, because core.events.index may name someone else's file by mistake.
            tracing::warn!(%error, "the index of events is unusable: its file is set aside and it is built again");
            fs::rename(&path, path.with_added_extension("unusable"))?;
            Index::open(&path)
        })?;
        let mut last = index.last()?;
        if let Some((seq, line)) = &last
            && !self.is_in_log(*seq, line)?
        {
            tracing::warn!("the index of events is of another audit log: it is built again");
            index.remove()?;
            index = Index::open(&path)?;
            last = None;
        }
        let last = last.map_or(0, |(seq, _)| seq);
        if last < self.progress.acknowledged() {
            tracing::debug!(after = last, "the index of events is catching up with the audit log");
        }
        self.catching_up = Some(Reader::after(&self.settings.log, last));
        self.has_uncounted = true;
        self.index.store(Some(Arc::new(index)));
        Ok(())
    }

    /// Whether the log has this record, or no longer has any with its number.
    fn is_in_log(&self, seq: u64, line: &[u8]) -> Result<bool, IndexError> {
        let acknowledged = self.progress.acknowledged();
        let mut found = Vec::new();
        let number = Reader::after(&self.settings.log, seq - 1).next(acknowledged, &mut found)?;
        Ok(seq <= acknowledged && (number != Some(seq) || found == line))
    }

    fn give_up(&mut self, error: &IndexError) {
        let pause = if error.is_in_use() || error.is_damage() { RETRY_SOON } else { RETRY };
        tracing::warn!(error = error as &dyn std::error::Error, "the index of events is unavailable for now");
        self.index.store(None);
        if error.is_damage()
            && let Some(path) = &self.settings.index
        {
            let _ = fs::remove_file(path);
        }
        self.unsynced = None;
        self.try_again = Instant::now() + pause;
        // The streams continue without an index.
        self.catching_up = None;
        thread::park_timeout(LOOK_EVERY);
    }
}

/// The next records up to `limit`, by number and line.
fn read(reader: &mut Reader, limit: u64) -> Result<Vec<(u64, Vec<u8>)>, IndexError> {
    reader.renew()?;
    let (mut batch, mut bytes, mut line) = (Vec::new(), 0, Vec::new());
    while batch.len() < MAX_BATCH
        && bytes < MAX_BATCH_BYTES
        && let Some(seq) = reader.next(limit, &mut line)?
    {
        bytes += line.len();
        line.shrink_to_fit();
        batch.push((seq, std::mem::take(&mut line)));
    }
    Ok(batch)
}

enum Step {
    /// There may be more records.
    Worked,
    /// There was nothing to read.
    Rested,
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
