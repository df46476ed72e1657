//! The one writer: everything that waits becomes one write and one sync, then is acknowledged.
//!
//! After a failed sync it is not known what is on the disk, so the writer believes what it has acknowledged and nothing
//! else: it goes on in a new file, chained to the last acknowledged record. It does the same when its file is gone,
//! replaced or changed. While it cannot write, releases are refused, and it tries again by itself.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;

use super::chain::{Link, LinkProblem, MAX_LINE, time_of};
use super::disk::{Disk, Seen, directory};
use super::event::Event;
use super::health::{FailureReason, Reserve, Space, Status};
use super::{AuditError, Receipt, segments};
use crate::clock::{Floor, unix_now};

/// How much of the file's end is checked when it is opened. Holds many lines of the largest size.
const TAIL: u64 = 1 << 20;

/// No more events share one write.
const MAX_BATCH: usize = 256;

/// Events that nothing waits for and that wait for the disk; further ones are counted.
const MAX_KEPT: usize = 1024;

/// How often the file is looked at while there is nothing to write.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often free space is asked for.
const SPACE_EVERY: Duration = Duration::from_secs(10);

/// How long after it was spent the reserve is taken again, if there is space.
const RESERVE_AGAIN: Duration = Duration::from_secs(60);

/// Between attempts to write again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// After this time without a failure, the next one is the first again.
const STEADY: Duration = Duration::from_secs(30);

/// No record is shorter: fewer zeros than this hide none.
const MIN_LINE: usize = 200;

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
    segment: Segment,
    /// The last acknowledged record.
    link: Link,
    trouble: Option<Trouble>,
    pause: Duration,
    recovered: Option<Instant>,
    looked: Option<Instant>,
    asked_space: Option<Instant>,
    /// Events that nothing waits for and that are not written yet.
    kept: VecDeque<String>,
    /// How many more there were.
    lost: u64,
    /// How large the reserve is to be.
    reserve: u64,
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
    is_file: bool,
}

/// Why nothing is written, and what must be done first.
struct Trouble {
    cause: &'static str,
    reason: FailureReason,
    need: Need,
    since: Instant,
    next_try: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The file is sound: the next write may do.
    Write,
    /// The file is in doubt, or not ours any more.
    NewSegment,
    /// The new file is written, but not its name.
    DirectorySync,
}

/// A write that did not happen, as far as anyone knows.
struct Failure {
    cause: &'static str,
    reason: FailureReason,
    need: Need,
    error: io::Error,
}

impl Failure {
    fn write(need: Need) -> impl Fn(io::Error) -> Self {
        move |error| {
            let (cause, reason) = match is_full(&error) {
                true => ("disk_full", FailureReason::DiskFull),
                false => ("write_failed", FailureReason::Write),
            };
            Self { cause, reason, need, error }
        }
    }

    fn sync(need: Need) -> impl Fn(io::Error) -> Self {
        move |error| {
            let reason = if is_full(&error) { FailureReason::DiskFull } else { FailureReason::Sync };
            Self { cause: "sync_failed", reason, need, error }
        }
    }

    fn changed(cause: &'static str) -> Self {
        let error = io::Error::other(FailureReason::FileChanged.to_string());
        Self { cause, reason: FailureReason::FileChanged, need: Need::NewSegment, error }
    }
}

impl Writer {
    /// Opens or creates the file, checks its end and cuts off what a crash left there.
    pub(super) fn open(
        disk: Box<dyn Disk>,
        path: &Path,
        reserve: u64,
        status: Arc<Status>,
        floor: Floor,
    ) -> Result<Self, AuditError> {
        let unusable = |source| AuditError::Open { path: path.to_owned(), source };
        let mut file = disk.open(path).map_err(unusable)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => AuditError::Locked { path: path.to_owned() },
            TryLockError::Error(source) => unusable(source),
        })?;
        let seen = Seen::of(&file.metadata().map_err(unusable)?);
        let tail = Tail::read(&mut file, seen.size).map_err(unusable)?;
        let End { link, newest, sound } = tail.check()?;
        floor.raise(newest);
        let length = tail.start + sound as u64;
        let mut writer = Self {
            disk,
            path: path.to_owned(),
            segment: Segment { file, length, is_file: seen.is_file },
            link,
            trouble: None,
            pause: Duration::ZERO,
            recovered: None,
            looked: None,
            asked_space: None,
            kept: VecDeque::new(),
            lost: 0,
            reserve: if seen.is_file { reserve } else { 0 },
            spent: None,
            status,
            floor,
        };
        writer.clear_away();
        writer.hold_reserve();
        if length < seen.size {
            let dropped_bytes = seen.size - length;
            tracing::warn!(dropped_bytes, "the audit file's unfinished end is cut off");
            writer.keep(Event::Recovered { dropped_bytes }.fields()?);
            let cut = writer.rewind().map_err(Failure::write(Need::NewSegment));
            if let Err(failure) = cut.and_then(|()| writer.write_kept(None)) {
                // Not a reason not to start: what needs no record is served.
                writer.fail(failure);
            }
        }
        Ok(writer)
    }

    /// Whether there is no record yet.
    pub(super) fn is_empty(&self) -> bool {
        self.link == Link::GENESIS
    }

    /// Serves until every sender is gone.
    pub(super) fn run(&mut self, mut entries: Receiver<Entry>, runtime: &Runtime) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let wait = match &self.trouble {
                Some(trouble) => trouble.next_try.saturating_duration_since(Instant::now()),
                None => LOOK_EVERY,
            };
            let received = runtime.block_on(async {
                tokio::time::timeout(wait, entries.recv_many(&mut batch, MAX_BATCH)).await
            });
            match received {
                Ok(0) => break,
                Ok(_) => self.serve(std::mem::take(&mut batch)),
                Err(_) => {}
            }
            self.keep_house();
        }
        self.repair();
    }

    /// What is due although nothing is to be recorded.
    fn keep_house(&mut self) {
        let now = Instant::now();
        let is_due = |last: Option<Instant>, every| last.is_none_or(|last| now.duration_since(last) >= every);
        match &self.trouble {
            Some(trouble) if now >= trouble.next_try => self.repair(),
            None if is_due(self.looked, LOOK_EVERY) => self.look_and_repair(),
            _ => {}
        }
        if is_due(self.asked_space, SPACE_EVERY) {
            self.asked_space = Some(now);
            self.hold_reserve();
        }
    }

    fn serve(&mut self, batch: Vec<Entry>) {
        if self.trouble.is_none() {
            self.look_and_repair();
        }
        if let Some(trouble) = &self.trouble {
            let reason = trouble.reason;
            return self.refuse(batch, || reason.error());
        }
        let first = self.link.seq() + 1;
        let fields: Vec<&str> = batch.iter().map(|entry| entry.fields.as_str()).collect();
        self.status.begins();
        match self.write(&fields) {
            Ok(()) => {
                self.status.succeeded();
                for (seq, entry) in (first..).zip(batch) {
                    // A caller that gave up does not wait for its receipt.
                    drop(entry.acknowledge.map(|acknowledge| acknowledge.send(Ok(Receipt { seq }))));
                }
            }
            Err(failure) => {
                let error = copy(&failure.error);
                self.fail(failure);
                self.refuse(batch, || AuditError::Write(copy(&error)));
            }
        }
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

    fn fail(&mut self, failure: Failure) {
        let Failure { cause, reason, need, error } = failure;
        let now = Instant::now();
        if self.trouble.is_none() {
            if self.recovered.is_none_or(|recovered| now.duration_since(recovered) > STEADY) {
                self.pause = Duration::ZERO;
            }
            tracing::error!(cause, %error, "audit records cannot be written: no keys are released");
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        self.status.failed(reason);
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        // What is in doubt stays so, whatever else fails later.
        let (cause, need) = match &self.trouble {
            Some(old) if need == Need::Write => (old.cause, old.need),
            _ => (cause, need),
        };
        self.trouble = Some(Trouble { cause, reason, need, since, next_try: now + self.pause });
    }

    /// Tries to write again.
    fn repair(&mut self) {
        let Some(trouble) = &self.trouble else { return };
        let (cause, seconds) = (trouble.cause, trouble.since.elapsed().as_secs());
        self.status.begins();
        let outcome = match trouble.need {
            Need::Write => {
                self.look().and_then(|()| self.write_kept(Some(Event::Resumed { reason: cause, seconds })))
            }
            Need::NewSegment => self.begin_segment(cause),
            Need::DirectorySync => self.sync_directory(),
        };
        match outcome {
            Ok(()) => {
                self.trouble = None;
                self.recovered = Some(Instant::now());
                self.status.succeeded();
                tracing::warn!(cause, seconds, "audit records are written again");
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn look_and_repair(&mut self) {
        self.looked = Some(Instant::now());
        if let Err(failure) = self.look() {
            self.fail(failure);
            self.repair();
        }
    }

    /// Whether the clock can be right.
    fn check_clock(&self, now: u64) -> Result<(), Failure> {
        self.floor.check(now).map_err(|behind| Failure {
            cause: "clock_behind",
            reason: FailureReason::ClockBehind,
            need: Need::Write,
            error: io::Error::other(behind),
        })
    }

    /// Whether the clock can be right, and the file is still ours alone.
    fn look(&self) -> Result<(), Failure> {
        self.check_clock(unix_now())?;
        if !self.segment.is_file {
            return Ok(());
        }
        let own = self.segment.file.metadata().map_err(Failure::write(Need::Write))?;
        let own = Seen::of(&own).identity;
        let named = Seen::at(&self.path).map_err(Failure::write(Need::Write))?;
        Err(Failure::changed(match named {
            None => "file_gone",
            Some(named) if named.identity != own => "file_replaced",
            Some(named) if named.size < self.segment.length => "file_truncated",
            Some(named) if named.size > self.segment.length => "file_written_by_others",
            Some(_) => return Ok(()),
        }))
    }

    /// All of them, or none.
    fn write(&mut self, events: &[&str]) -> Result<(), Failure> {
        let (lines, link) = self.lines(events)?;
        while let Err(error) = self.disk.write(&self.segment.file, &lines) {
            if self.rewind().is_err() {
                return Err(Failure::write(Need::NewSegment)(error));
            }
            // A file that may not grow any more has no use for space.
            if error.kind() == io::ErrorKind::FileTooLarge {
                return Err(Failure::write(Need::NewSegment)(error));
            }
            if !self.spend_reserve(&error) {
                return Err(Failure::write(Need::Write)(error));
            }
        }
        if let Err(error) = self.disk.sync(&self.segment.file) {
            self.spend_reserve(&error);
            // The kernel may have dropped the pages: whatever is read back proves nothing.
            let need = if self.segment.is_file { Need::NewSegment } else { Need::Write };
            return Err(Failure::sync(need)(error));
        }
        self.segment.length += lines.len() as u64;
        self.link = link;
        Ok(())
    }

    /// Writes what nothing waits for, after `first`.
    fn write_kept(&mut self, first: Option<Event>) -> Result<(), Failure> {
        let events = self.with_kept(first)?;
        self.write(&events.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.forget_kept();
        Ok(())
    }

    fn with_kept(&self, first: Option<Event>) -> Result<Vec<String>, Failure> {
        let lost = (self.lost > 0).then_some(Event::Suppressed { events: self.lost });
        let fields = |event: Event| {
            event.fields().map_err(|error| Failure::write(Need::Write)(io::Error::other(error.to_string())))
        };
        let mut events: Vec<String> = first.map(fields).transpose()?.into_iter().collect();
        events.extend(self.kept.iter().cloned());
        events.extend(lost.map(fields).transpose()?);
        Ok(events)
    }

    fn forget_kept(&mut self) {
        self.kept.clear();
        self.lost = 0;
    }

    fn lines(&self, events: &[&str]) -> Result<(Vec<u8>, Link), Failure> {
        let now = OffsetDateTime::now_utc();
        let unix = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        self.check_clock(unix)?;
        let time = now.replace_millisecond(now.millisecond()).unwrap_or(now);
        let time =
            time.format(&Rfc3339).map_err(|error| Failure::write(Need::Write)(io::Error::other(error)))?;
        let mut lines = Vec::new();
        let link = events.iter().fold(self.link, |link, fields| link.append(&time, fields, &mut lines));
        self.floor.raise(unix);
        Ok((lines, link))
    }

    fn rewind(&mut self) -> io::Result<()> {
        if self.segment.is_file {
            self.disk.cut(&self.segment.file, self.segment.length)?;
            self.disk.sync(&self.segment.file)?;
        }
        Ok(())
    }

    /// Leaves the file and goes on in a new one, which is complete before it has the name.
    fn begin_segment(&mut self, cause: &'static str) -> Result<(), Failure> {
        let failed = Failure::write(Need::NewSegment);
        let new = segments::new_name(&self.path);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let events = self.with_kept(Some(Event::SegmentBegan { reason: cause, after: self.link.seq() }))?;
        let (lines, link) = self.lines(&events.iter().map(String::as_str).collect::<Vec<_>>())?;
        let file = self.disk.create(&new).map_err(&failed)?;
        file.try_lock().map_err(|error| failed(error.into()))?;
        let written = self.disk.write(&file, &lines).map_err(&failed);
        let written = written.and_then(|()| self.disk.sync(&file).map_err(Failure::sync(Need::NewSegment)));
        if let Err(failure) = written {
            self.spend_reserve(&failure.error);
            return Err(failure);
        }
        self.leave(cause).map_err(&failed)?;
        fs::rename(&new, &self.path).map_err(&failed)?;
        self.segment = Segment { file, length: lines.len() as u64, is_file: true };
        self.link = link;
        self.forget_kept();
        self.sync_directory()
    }

    /// Keeps what has the name of the log under another one.
    fn leave(&mut self, cause: &str) -> io::Result<()> {
        let own = Seen::of(&self.segment.file.metadata()?);
        match Seen::at(&self.path)? {
            // Nothing, or emptied by the program that copied it.
            None => Ok(()),
            Some(named) if named.size == 0 => Ok(()),
            Some(named) if named.identity != own.identity => segments::set_aside(&self.path, self.link.seq()),
            Some(_) => {
                if matches!(cause, "sync_failed" | "write_failed" | "disk_full") {
                    // Never acknowledged; where it stays, verification sees that the chain goes on without it.
                    let _ = self.disk.cut(&self.segment.file, self.segment.length);
                }
                if self.segment.length == 0 { Ok(()) } else { segments::close(&self.path, self.link.seq()) }
            }
        }
    }

    fn sync_directory(&self) -> Result<(), Failure> {
        File::open(directory(&self.path))
            .and_then(|directory| self.disk.sync(&directory))
            .map_err(Failure::sync(Need::DirectorySync))
    }

    /// Takes away what a crash left of a change of files. Nothing of it matters.
    fn clear_away(&self) {
        if self.segment.is_file {
            let _ = fs::remove_file(segments::new_name(&self.path));
            let _ = segments::forget_second_names(&self.path);
        }
    }

    /// Looks how much space there is, and takes the reserve back where there is enough.
    fn hold_reserve(&mut self) {
        let Ok((free, total)) = self.disk.space(&self.path) else { return };
        let name = segments::reserve_name(&self.path);
        let is_held = Seen::at(&name).is_ok_and(|seen| seen.is_some_and(|seen| seen.size >= self.reserve));
        let low = Space::low_below(self.reserve, total);
        let may_take = self.reserve > 0
            && self.trouble.is_none()
            && self.spent.is_none_or(|spent| spent.elapsed() > RESERVE_AGAIN)
            && free > 4 * self.reserve;
        let is_held = is_held
            || may_take && {
                let held = self.disk.allocate(&name, self.reserve);
                if let Err(error) = &held {
                    tracing::warn!(%error, "no space can be reserved for the audit log");
                    // A file without its space would be taken for the reserve.
                    let _ = fs::remove_file(&name);
                    self.reserve = 0;
                }
                held.is_ok()
            };
        let reserve = match (self.reserve, is_held) {
            (0, _) => Reserve::None,
            (_, true) => Reserve::Held,
            (_, false) => Reserve::Spent,
        };
        let space = Space { free, is_low: free < low || reserve == Reserve::Spent, reserve };
        if self.status.set_space(space) {
            tracing::warn!(free_bytes = free, "the disk of the audit log is nearly full");
        }
    }

    /// Gives the reserve to the log, if it is space that is missing. Whether that was so.
    fn spend_reserve(&mut self, error: &io::Error) -> bool {
        let is_spent =
            is_full(error) && self.reserve > 0 && fs::remove_file(segments::reserve_name(&self.path)).is_ok();
        if is_spent {
            self.spent = Some(Instant::now());
            tracing::error!("the disk is full: the audit log goes on in the space that was reserved for it");
            self.hold_reserve();
        }
        is_spent
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn copy(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// What [`Writer::open`] would say of a file that is there, and whether a process writes to it.
pub(super) fn inspect(path: &Path) -> Result<super::Use, AuditError> {
    let unusable = |source| AuditError::Open { path: path.to_owned(), source };
    let mut file = OpenOptions::new().read(true).append(true).open(path).map_err(unusable)?;
    // Not locked for longer than this takes.
    let used = match file.try_lock_shared() {
        Ok(()) => super::Use::Free,
        // Its end may be half written.
        Err(TryLockError::WouldBlock) => return Ok(super::Use::InUse),
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    };
    let size = file.metadata().map_err(unusable)?.len();
    Tail::read(&mut file, size).map_err(unusable)?.check()?;
    Ok(used)
}

/// The file's last lines.
struct Tail {
    /// Where `bytes` starts in the file.
    start: u64,
    bytes: Vec<u8>,
}

/// The end of a chain in a file.
struct End {
    link: Link,
    /// Unix seconds of the last record.
    newest: u64,
    /// How many bytes of the tail belong to it.
    sound: usize,
}

impl Tail {
    fn read(file: &mut File, size: u64) -> io::Result<Self> {
        let mut start = size.saturating_sub(TAIL);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.take(size - start).read_to_end(&mut bytes)?;
        if start > 0 {
            let partial =
                bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |newline| newline + 1);
            bytes.drain(..partial);
            start += partial as u64;
        }
        Ok(Self { start, bytes })
    }

    /// Everything up to the last newline must be records. The rest is what a crash can leave at the end: one unfinished
    /// line. Zeros are that only where they are too few to be in the place of a record: more of them are damage.
    fn check(&self) -> Result<End, AuditError> {
        let sound = self.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let mut link = None;
        let mut newest = 0;
        for line in self.bytes[..sound].split_inclusive(|byte| *byte == b'\n') {
            let record = line.strip_suffix(b"\n").unwrap_or(line);
            let next = match link {
                None => Link::first(record),
                Some(link) => Link::next(&link, record),
            };
            let seq = link.map_or(0, |link| link.seq() + 1);
            link = Some(next.map_err(|problem| AuditError::Broken { seq, problem })?);
            newest = time_of(record).max(newest);
        }
        let link = match link {
            Some(link) => link,
            None if self.start == 0 => Link::GENESIS,
            None => return Err(AuditError::Broken { seq: 0, problem: LinkProblem::Unfinished }),
        };
        let rest = &self.bytes[sound..];
        let broken = |problem| Err(AuditError::Broken { seq: link.seq() + 1, problem });
        if rest.len() >= MIN_LINE && rest.contains(&0) {
            return broken(LinkProblem::Zeros);
        }
        if rest.len() > MAX_LINE {
            return broken(LinkProblem::Malformed);
        }
        Ok(End { link, newest, sound })
    }
}
