//! The one writer: everything that waits becomes one write and one sync, then is acknowledged.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;

use super::chain::{Link, LinkProblem};
use super::event::Event;
use super::health::{FailureReason, Status};
use super::{AuditError, Receipt};

/// How much of the file's end is checked when it is opened. Holds many lines of the largest size.
const TAIL: u64 = 1 << 20;

/// No more events share one write.
const BATCH: usize = 256;

/// An event on its way to the disk.
pub(super) struct Entry {
    /// A JSON object.
    pub(super) fields: String,
    pub(super) acknowledge: oneshot::Sender<Result<Receipt, AuditError>>,
}

pub(super) struct Writer {
    file: File,
    /// Where the last acknowledged record ends.
    length: u64,
    link: Link,
    state: State,
    status: Arc<Status>,
}

#[derive(PartialEq, Eq)]
enum State {
    Sound,
    /// It is not known what is on disk.
    InDoubt,
}

impl Writer {
    pub(super) fn open(path: &Path, status: Arc<Status>) -> Result<Self, AuditError> {
        let unusable = |source| AuditError::Open { path: path.to_owned(), source };
        let mut file = create(path).map_err(unusable)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => AuditError::Locked { path: path.to_owned() },
            TryLockError::Error(source) => unusable(source),
        })?;
        let size = file.metadata().map_err(unusable)?.len();
        let tail = Tail::read(&mut file, size).map_err(unusable)?;
        let (link, sound) = tail.check()?;
        let length = tail.start + sound as u64;
        let mut writer = Self { file, length, link, state: State::Sound, status };
        if length < size {
            writer.rewind().map_err(unusable)?;
            let recovered = Event::Recovered { dropped_bytes: size - length }.fields()?;
            writer.write(&[&recovered]).map_err(unusable)?;
            tracing::warn!(dropped_bytes = size - length, "the audit file's unfinished end was cut off");
        }
        Ok(writer)
    }

    /// Whether there is no record yet.
    pub(super) fn is_empty(&self) -> bool {
        self.link == Link::GENESIS
    }

    /// Serves until every sender is gone.
    pub(super) fn run(&mut self, mut entries: Receiver<Entry>) {
        let mut batch = Vec::with_capacity(BATCH);
        while entries.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.serve(std::mem::take(&mut batch));
        }
    }

    fn serve(&mut self, batch: Vec<Entry>) {
        if self.state == State::InDoubt {
            return;
        }
        let first = self.link.seq() + 1;
        let fields: Vec<&str> = batch.iter().map(|entry| entry.fields.as_str()).collect();
        self.status.begins();
        let written = self.write(&fields);
        match &written {
            Ok(()) => self.status.succeeded(),
            Err(_) if self.state == State::InDoubt => self.status.failed(FailureReason::Sync),
            Err(error) => self.status.failed(reason(error)),
        }
        if let Err(error) = &written {
            tracing::error!(%error, events = batch.len(), "audit records cannot be written: no keys are released");
        }
        for (seq, entry) in (first..).zip(batch) {
            let outcome = match &written {
                Ok(()) => Ok(Receipt { seq }),
                Err(error) => Err(AuditError::Write(copy(error))),
            };
            // A caller that gave up does not wait for its receipt.
            drop(entry.acknowledge.send(outcome));
        }
    }

    /// All of them, or none.
    fn write(&mut self, events: &[&str]) -> io::Result<()> {
        let time = OffsetDateTime::now_utc();
        let time = time.replace_millisecond(time.millisecond()).unwrap_or(time);
        let time = time.format(&Rfc3339).map_err(io::Error::other)?;
        let mut lines = Vec::new();
        let link = events.iter().fold(self.link, |link, fields| link.append(&time, fields, &mut lines));
        if let Err(error) = self.file.write_all(&lines) {
            if self.rewind().is_err() {
                self.state = State::InDoubt;
            }
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            // The kernel may have dropped the pages: whatever is read back proves nothing.
            self.state = State::InDoubt;
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.link = link;
        Ok(())
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_data()
    }
}

fn reason(error: &io::Error) -> FailureReason {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => FailureReason::DiskFull,
        _ => FailureReason::Write,
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// What [`Writer::open`] would say of a file that is there. It is not locked for longer than this takes.
pub(super) fn inspect(path: &Path) -> Result<(), AuditError> {
    let unusable = |source| AuditError::Open { path: path.to_owned(), source };
    let mut file = OpenOptions::new().read(true).append(true).open(path).map_err(unusable)?;
    file.try_lock_shared().map_err(|error| match error {
        TryLockError::WouldBlock => AuditError::Locked { path: path.to_owned() },
        TryLockError::Error(source) => unusable(source),
    })?;
    let size = file.metadata().map_err(unusable)?.len();
    Tail::read(&mut file, size).map_err(unusable)?.check().map(drop)
}

/// Opens the file for appending, readable by its owner only, and makes a new one's name last.
fn create(path: &Path) -> io::Result<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    match options.open(path) {
        Ok(file) => {
            if file.metadata()?.is_file() {
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = options.create_new(true).open(path)?;
            File::open(directory)?.sync_all()?;
            Ok(file)
        }
        Err(error) => Err(error),
    }
}

/// The file's last lines.
struct Tail {
    /// Where `bytes` starts in the file.
    start: u64,
    bytes: Vec<u8>,
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

    /// The end of the chain, and how many bytes belong to it. The rest is what a crash can leave at the end: an
    /// unfinished line, and zeros where the disk never wrote. A line that is complete was acknowledged: a zero inside
    /// it is no debris, but somebody's doing.
    fn check(&self) -> Result<(Link, usize), AuditError> {
        let written = self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let sound =
            self.bytes[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let mut link = (self.start == 0).then_some(Link::GENESIS);
        for line in self.bytes[..sound].split_inclusive(|byte| *byte == b'\n') {
            let record = line.strip_suffix(b"\n").unwrap_or(line);
            let next = link.map_or_else(|| Link::at(record), |link| link.next(record));
            let seq = link.map_or(0, |link| link.seq() + 1);
            link = Some(next.map_err(|problem| AuditError::Broken { seq, problem })?);
        }
        let link = link.ok_or(AuditError::Broken { seq: 0, problem: LinkProblem::Unfinished })?;
        Ok((link, sound))
    }
}
