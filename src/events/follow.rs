//! The thread that follows the log into the index and to the streams.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use arc_swap::ArcSwapOption;

use super::Settings;
use super::index::{Index, IndexError};
use super::live::Live;
use crate::audit::{Progress, Reader, Record};

/// How often the log is asked for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Records that are taken together, and their size.
const MAX_BATCH: usize = 1000;
const MAX_BATCH_BYTES: usize = 2 << 20;
/// How often the index is brought to the disk while it changes.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// How long after a failure the index is opened again.
const RETRY: Duration = Duration::from_secs(30);
/// The same, where another process or an answer of this one has it, and where it is built again.
const RETRY_SOON: Duration = Duration::from_millis(500);

pub(super) struct Follower {
    settings: Settings,
    progress: Progress,
    index: Arc<ArcSwapOption<Index>>,
    live: Arc<Live>,
    is_damaged: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    reader: Reader,
    try_again: Instant,
    /// When what is in the index and not on the disk began.
    unsynced: Option<Instant>,
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
        Self { settings, progress, index, live, is_damaged, is_over, reader, try_again, unsynced: None }
    }

    /// Follows until it is over. A fault of the index ends nothing: it is opened again, or built again.
    pub(super) fn run(mut self) {
        while !self.is_over() {
            // The library says that it panics on a damaged file.
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
        self.reader.renew()?;
        let (mut batch, mut bytes, mut line) = (Vec::new(), 0, Vec::new());
        while batch.len() < MAX_BATCH
            && bytes < MAX_BATCH_BYTES
            && self.reader.next(acknowledged, &mut line)?.is_some()
        {
            bytes += line.len();
            if let Some(record) = Record::read(&line) {
                batch.push((record, std::mem::take(&mut line)));
            }
        }
        let has_news = !batch.is_empty();
        let added = match &*self.index.load() {
            Some(index) if has_news => {
                self.unsynced.get_or_insert_with(Instant::now);
                index.add(&batch, self.keep(index))
            }
            _ => Ok(()),
        };
        let known = self.live.newest();
        self.live.publish(batch.into_iter().map(|(record, _)| record).filter(|record| record.seq > known));
        added?;
        if self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_EVERY)
            && let Some(index) = &*self.index.load()
        {
            index.sync()?;
            self.unsynced = None;
        }
        Ok(if has_news { Step::Worked } else { Step::Rested })
    }

    /// How many records the index holds. It does not grow on a disk that the log needs.
    fn keep(&self, index: &Index) -> u64 {
        let keep = self.settings.keep;
        match self.progress.space().is_low {
            true => index.count().map_or(keep, |count| keep.min(count)),
            false => keep,
        }
    }

    /// Opens the index and goes on after its last record. One that is of another log is built again.
    fn open(&mut self) -> Result<(), IndexError> {
        let Some(path) = self.settings.index.clone() else { return Ok(()) };
        self.try_again = Instant::now() + RETRY;
        let mut index = Index::open(&path).or_else(|error| {
            if error.is_in_use() || error.is_of_the_system() || !path.exists() {
                return Err(error);
            }
            // Not removed: core.events.index may name a file of somebody else by mistake.
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
            tracing::debug!(after = last, "the index of events is brought up to the audit log");
        }
        self.reader = Reader::after(&self.settings.log, last);
        self.index.store(Some(Arc::new(index)));
        Ok(())
    }

    /// Whether the log has this record, or is not known to have another one.
    fn is_in_log(&self, seq: u64, line: &[u8]) -> Result<bool, IndexError> {
        let acknowledged = self.progress.acknowledged();
        let mut found = Vec::new();
        let number = Reader::after(&self.settings.log, seq - 1).next(acknowledged, &mut found)?;
        Ok(seq <= acknowledged && (number != Some(seq) || found == line))
    }

    fn give_up(&mut self, error: &IndexError) {
        let pause = if error.is_in_use() || error.is_damage() { RETRY_SOON } else { RETRY };
        tracing::warn!(error = error as &dyn std::error::Error, "the index of events is not kept for now");
        self.index.store(None);
        if error.is_damage()
            && let Some(path) = &self.settings.index
        {
            let _ = fs::remove_file(path);
        }
        self.unsynced = None;
        self.try_again = Instant::now() + pause;
        // Without an index the streams go on.
        self.reader = Reader::after(&self.settings.log, self.live.newest());
        thread::park_timeout(LOOK_EVERY);
    }
}

enum Step {
    /// There may be more.
    Worked,
    /// There was nothing to do.
    Rested,
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
