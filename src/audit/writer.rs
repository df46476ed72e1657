//! The one writer: everything that waits becomes one write and one sync, then is acknowledged.
//!
//! After a failed sync it is not known what is on the disk, so the writer believes what it has acknowledged and nothing
//! else: it goes on in a new file, chained to the last acknowledged record. It does the same when its file is gone,
//! replaced or changed. While it cannot write, releases are refused, and it tries again by itself.
//!
//! How a file is opened, also one that cannot be opened yet, is in `opening`; how the writer leaves one, in
//! `change`; the tree over the records, in `tree`.

mod cause;
mod change;
mod opening;
mod repair;
mod reserve;
mod tree;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use kms_ledger::store::TreeSync;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;

use self::cause::Cause;
use self::repair::{Failure, Need, Trouble};
use self::reserve::is_full;
use super::archived;
use super::chain::{Link, Salt};
use super::compress::Compressor;
use super::disk::{Disk, Identity, Seen};
use super::event::Event;
use super::health::{FailureReason, Status};
use super::ledger::{Ledger, LogKeys, Published, each};
use super::tail::Rest;
use super::{AuditError, Receipt, Storage};
use crate::clock::{Floor, unix_now};

/// No more events share one write.
const MAX_BATCH: usize = 256;

/// Events that nothing waits for and that wait for the disk; further ones are counted.
const MAX_KEPT: usize = 1024;

/// How often the file is looked at while there is nothing to write.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the files of the tree are brought to the disk.
const SYNC_TREE_EVERY: Duration = Duration::from_secs(5);

/// How often closed files are looked for that could not be compressed before.
const COMPRESS_EVERY: Duration = Duration::from_secs(60);

/// How often free space is asked for.
const SPACE_EVERY: Duration = Duration::from_secs(10);

/// What the writer is asked to do.
pub(super) enum Job {
    /// To write an event.
    Record(Entry),
    /// To sign the tree over the records from now on, and to say when it does.
    Sign(Arc<dyn LogKeys>, oneshot::Sender<()>),
}

/// An event on its way to the disk.
pub(super) struct Entry {
    /// A JSON object.
    pub(super) fields: String,
    /// Who waits for it; nobody for events that are recorded best effort.
    pub(super) acknowledge: Option<oneshot::Sender<Result<Receipt, AuditError>>>,
}

pub(super) struct Writer {
    disk: Box<dyn Disk>,
    path: PathBuf,
    /// `None` while it cannot be opened.
    segment: Option<Segment>,
    /// The last acknowledged record.
    link: Link,
    /// A new file of ours of which nothing was acknowledged: its name may not last.
    unproven: Option<Identity>,
    /// Whether the last change of the directory may not be on the disk.
    is_directory_in_doubt: bool,
    trouble: Option<Trouble>,
    pause: Duration,
    recovered: Option<Instant>,
    looked: Option<Instant>,
    synced_tree: Option<Instant>,
    /// A sync of the tree that is under way, and of which opened tree.
    tree_sync: Option<(u64, std_mpsc::Receiver<io::Result<TreeSync>>)>,
    compressor: Option<Compressor>,
    looked_for_closed: Option<Instant>,
    /// How often the tree was opened.
    opened_trees: u64,
    asked_space: Option<Instant>,
    /// Whether records of a version without a ledger are to be verified before anything is written.
    is_import_due: bool,
    /// Who waits for that.
    importer: Option<std_mpsc::SyncSender<Result<(), AuditError>>>,
    /// The change of the log's name or key, while it waits to be recorded.
    announcement: Option<String>,
    /// What seals records of a version without a ledger, until it is written.
    import: Option<String>,
    /// Events that nothing waits for and that are not written yet.
    kept: VecDeque<String>,
    /// How many more there were.
    lost: u64,
    /// How large the reserve is to be.
    reserve: u64,
    storage: Storage,
    /// What signs; `None` before there are keys.
    keys: Option<Arc<dyn LogKeys>>,
    /// The tree over the records up to `link`; `None` while it is not open.
    ledger: Option<Ledger>,
    published: Arc<Published>,
    /// When it was given to the log.
    spent: Option<Instant>,
    status: Arc<Status>,
    floor: Floor,
}

/// The file that grows.
struct Segment {
    file: File,
    /// Where the last acknowledged record ends.
    length: u64,
    /// What follows that was there when the file was opened, and is no record.
    rest: Rest,
    is_file: bool,
    /// When its first record was made, in Unix seconds; `None` without one.
    began: Option<u64>,
}

impl Drop for Segment {
    /// Closing alone would leave the lock with a child process that is about to execute another program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Writer {
    /// Serves until every sender is gone.
    pub(super) fn run(&mut self, mut jobs: Receiver<Job>, runtime: &Runtime) {
        self.end_import();
        if self.storage.compress && self.segment.as_ref().is_none_or(|segment| segment.is_file) {
            match Compressor::start(self.path.clone()) {
                Ok(compressor) => self.compressor = Some(compressor),
                Err(error) => tracing::warn!(%error, "closed files of the audit log are not compressed"),
            }
        }
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            self.status.acknowledges(self.link.seq());
            let wait = match &self.trouble {
                Some(trouble) => trouble.next_try.saturating_duration_since(Instant::now()),
                None => LOOK_EVERY,
            };
            let received = runtime
                .block_on(async { tokio::time::timeout(wait, jobs.recv_many(&mut batch, MAX_BATCH)).await });
            // Any look at a disk can hang: what takes long is told while it does.
            self.status.begins();
            match received {
                Ok(0) => break,
                Ok(_) => self.work(std::mem::take(&mut batch)),
                Err(_) => {}
            }
            self.spawn_background();
            self.status.rests();
        }
        self.repair();
        self.sync_tree();
        self.status.rests();
    }

    fn work(&mut self, jobs: Vec<Job>) {
        let mut entries = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job {
                Job::Record(entry) => entries.push(entry),
                Job::Sign(keys, tell) => {
                    self.sign_with(keys);
                    let _ = tell.send(());
                }
            }
        }
        if !entries.is_empty() {
            self.serve(entries);
        }
    }

    /// Starts the periodic work that is due, whether or not there are records to write.
    fn spawn_background(&mut self) {
        self.end_tree_sync();
        let now = Instant::now();
        let is_due = |last: Option<Instant>, every| last.is_none_or(|last| now.duration_since(last) >= every);
        match &self.trouble {
            Some(trouble) if now >= trouble.next_try => self.repair(),
            None if is_due(self.looked, LOOK_EVERY) => self.look_and_repair(),
            _ => {}
        }
        if self.trouble.is_none() && is_due(self.synced_tree, SYNC_TREE_EVERY) {
            self.synced_tree = Some(now);
            self.begin_tree_sync();
            self.record_archived();
        }
        if self.trouble.is_none()
            && !self.kept.is_empty()
            && let Err(failure) = self.write_kept(None)
        {
            self.fail(failure);
        }
        if let Some(compressor) = &self.compressor
            && is_due(self.looked_for_closed, COMPRESS_EVERY)
        {
            self.looked_for_closed = Some(now);
            compressor.wake();
        }
        if is_due(self.asked_space, SPACE_EVERY) {
            self.asked_space = Some(now);
            self.hold_reserve();
        }
    }

    fn serve(&mut self, batch: Vec<Entry>) {
        match &self.trouble {
            None => self.look_and_repair(),
            // The clock was set, or its floor was lowered: nothing is left to wait for.
            Some(trouble)
                if trouble.reason == FailureReason::ClockBehind && self.check_clock(unix_now()).is_ok() =>
            {
                self.repair();
            }
            Some(_) => {}
        }
        self.rotate();
        if let Some(trouble) = &self.trouble {
            let reason = trouble.reason;
            return self.refuse(batch, || reason.error());
        }
        let first = self.link.seq() + 1;
        let fields: Vec<&str> = batch.iter().map(|entry| entry.fields.as_str()).collect();
        self.status.begins();
        match self.write(&fields) {
            Ok(lines) => {
                self.status.succeeded();
                for ((seq, record), entry) in (first..).zip(each(&lines)).zip(batch) {
                    // A caller that gave up does not wait for its receipt.
                    drop(entry.acknowledge.map(|acknowledge| acknowledge.send(self.receipt(seq, record))));
                }
            }
            Err(failure) => {
                let error = copy(&failure.error);
                self.fail(failure);
                self.refuse(batch, || AuditError::Write(copy(&error)));
            }
        }
    }

    fn receipt(&self, seq: u64, record: &[u8]) -> Result<Receipt, AuditError> {
        let leaf = self.ledger.as_ref().map(|ledger| ledger.leaf(seq, record)).transpose();
        Ok(Receipt { seq, leaf: leaf.map_err(AuditError::Write)? })
    }

    /// Callers that wait are told; what nobody waits for is written later.
    fn refuse(&mut self, batch: Vec<Entry>, error: impl Fn() -> AuditError) {
        for entry in batch {
            match entry.acknowledge {
                Some(acknowledge) => drop(acknowledge.send(Err(error()))),
                None => self.keep(entry.fields),
            }
        }
    }

    fn keep(&mut self, fields: String) {
        if self.kept.len() < MAX_KEPT { self.kept.push_back(fields) } else { self.lost += 1 }
    }

    /// Records what an operator has moved away. After a crash in between, it is recorded twice.
    fn record_archived(&mut self) {
        let notes = archived::unrecorded(&self.path);
        if notes.is_empty() || self.trouble.is_some() {
            return;
        }
        for fields in notes.iter().filter_map(|note| note.event().fields().ok()) {
            self.keep(fields);
        }
        if let Err(failure) = self.write_kept(None) {
            return self.fail(failure);
        }
        for note in notes {
            if let Err(error) = note.remove() {
                tracing::warn!(%error, "the note of an archived file cannot be removed: it is recorded again");
            }
        }
    }

    /// Whether the clock can be right.
    fn check_clock(&self, now: u64) -> Result<(), Failure> {
        self.floor.check(now).map_err(|behind| Failure {
            cause: Cause::ClockBehind,
            reason: FailureReason::ClockBehind,
            need: Need::Write,
            error: io::Error::other(behind),
        })
    }

    /// Whether the clock can be right, and the file is still ours alone.
    fn look(&self) -> Result<(), Failure> {
        self.check_clock(unix_now())?;
        let Some(segment) = self.segment.as_ref().filter(|segment| segment.is_file) else { return Ok(()) };
        let own = segment.file.metadata().map_err(Failure::write(Need::Write))?;
        let own = Seen::of(&own).identity;
        let named = Seen::at(&self.path).map_err(Failure::write(Need::Write))?;
        Err(Failure::changed(match named {
            None => Cause::FileGone,
            Some(named) if named.identity != own => Cause::FileReplaced,
            Some(named) if named.size < segment.length => Cause::FileTruncated,
            Some(named) if named.size > segment.length => Cause::FileWrittenByOthers,
            Some(_) => return Ok(()),
        }))
    }

    /// Starts a new file if this one is large or old enough.
    fn rotate(&mut self) {
        let Some(segment) = self.segment.as_ref().filter(|segment| segment.is_file) else { return };
        let age = segment.began.map_or(0, |began| unix_now().saturating_sub(began));
        let cause = match () {
            () if segment.length >= self.storage.segment_size => Cause::Size,
            () if self.storage.segment_age.is_some_and(|max| age >= max.as_secs()) => Cause::Age,
            () => return,
        };
        if self.trouble.is_none()
            && let Err(failure) = self.begin_segment(cause)
        {
            self.fail(failure);
        }
    }

    /// All of them, or none. Gives the lines.
    fn write(&mut self, events: &[&str]) -> Result<Vec<u8>, Failure> {
        let (lines, link) = self.lines(events)?;
        let staged = self.stage(&lines)?;
        while let Err(error) = self.disk.write(&self.segment()?.file, &lines) {
            if self.rewind().is_err() {
                return Err(Failure::write(Need::NewSegment)(error));
            }
            // A file that no longer grows needs no space.
            if error.kind() == io::ErrorKind::FileTooLarge {
                return Err(Failure::write(Need::NewSegment)(error));
            }
            if !self.spend_reserve(&error) {
                return Err(Failure::write(Need::Write)(error));
            }
        }
        let segment = self.segment()?;
        let begin = Instant::now();
        if let Err(error) = self.disk.sync(&segment.file) {
            // The kernel may have dropped the pages: whatever is read back proves nothing. What was not acknowledged is
            // taken away, so that no later process believes it.
            let need = if segment.is_file { Need::NewSegment } else { Need::Write };
            if segment.is_file {
                let _ = self.disk.cut(&segment.file, segment.length);
            }
            self.spend_reserve(&error);
            return Err(Failure::sync(need)(error));
        }
        if let Some(segment) = &mut self.segment {
            segment.length += lines.len() as u64;
            segment.began.get_or_insert_with(unix_now);
        }
        self.link = link;
        self.commit(staged)?;
        if let Some(metrics) = self.status.metrics() {
            metrics.ledger_synced(begin.elapsed());
        }
        Ok(lines)
    }

    fn segment(&self) -> Result<&Segment, Failure> {
        let closed = || Failure::write(Need::Open)(io::Error::other("the audit file is not open"));
        self.segment.as_ref().ok_or_else(closed)
    }

    /// Writes what nothing waits for, after `first`.
    fn write_kept(&mut self, first: Option<Event>) -> Result<(), Failure> {
        let (events, kept) = (self.with_kept(first)?, self.kept.len());
        self.write(&events.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.forget_kept(kept);
        Ok(())
    }

    fn with_kept(&self, first: Option<Event>) -> Result<Vec<String>, Failure> {
        let lost = (self.lost > 0).then_some(Event::Suppressed { events: self.lost, source: None });
        let fields = |event: Event| {
            event.fields().map_err(|error| Failure::write(Need::Write)(io::Error::other(error.to_string())))
        };
        let mut events: Vec<String> = self.import.iter().cloned().collect();
        events.extend(first.map(fields).transpose()?);
        events.extend(self.kept.iter().cloned());
        events.extend(lost.map(fields).transpose()?);
        Ok(events)
    }

    /// Forgets the first `kept` events that waited: they are written.
    fn forget_kept(&mut self, kept: usize) {
        self.import = None;
        let is_announced = self.kept.drain(..kept).any(|fields| Some(&fields) == self.announcement.as_ref());
        self.lost = 0;
        if is_announced {
            self.announced();
        }
    }

    fn lines(&self, events: &[&str]) -> Result<(Vec<u8>, Link), Failure> {
        let now = OffsetDateTime::now_utc();
        let unix = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        self.check_clock(unix)?;
        let time = now.replace_millisecond(now.millisecond()).unwrap_or(now);
        let time =
            time.format(&Rfc3339).map_err(|error| Failure::write(Need::Write)(io::Error::other(error)))?;
        let mut lines = Vec::new();
        let link = events
            .iter()
            .fold(self.link, |link, fields| link.append(&time, Salt::random(), fields, &mut lines));
        self.floor.raise_by_record(unix);
        Ok((lines, link))
    }

    fn rewind(&mut self) -> io::Result<()> {
        if let Some(segment) = self.segment.as_ref().filter(|segment| segment.is_file) {
            self.disk.cut(&segment.file, segment.length)?;
            self.disk.sync(&segment.file)?;
        }
        Ok(())
    }
}

fn copy(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}
