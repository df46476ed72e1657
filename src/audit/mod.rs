//! Hash-chained record of everything that touches keys, on disk before the reply: no line, no key.

mod chain;
mod event;
mod health;
mod pace;
mod writer;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

pub use chain::LinkProblem;
pub use event::{Basis, Event, Subject, Why};
pub use health::{FailureReason, Health};

use chain::{Link, MAX_LINE};
use health::Status;
use pace::{Admission, Pace};
use writer::{Entry, Writer};

/// Proof that an event is on disk. Only [`Audit::record`] makes one.
#[derive(Debug)]
#[must_use = "a receipt is what allows the reply"]
pub struct Receipt {
    seq: u64,
}

impl Receipt {
    /// The event's number in the file.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// Why an event is not recorded, or a file not usable.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened, read or repaired.
    #[error("audit file {} cannot be used", name(path))]
    Open {
        /// The audit file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another process writes to it.
    #[error("audit file {} is in use by another process", name(path))]
    Locked {
        /// The audit file.
        path: PathBuf,
    },
    /// The chain does not hold: somebody changed the file.
    #[error(
        "audit record {seq} does not follow from the one before: {problem}; keep the file and start a new one"
    )]
    Broken {
        /// Number of the first record that is wrong.
        seq: u64,
        /// What is wrong with it.
        problem: LinkProblem,
    },
    /// The event is larger than a line may be.
    #[error("audit event is larger than {MAX_LINE} bytes")]
    TooLarge,
    /// The disk refused the line.
    #[error("audit record cannot be written")]
    Write(#[source] io::Error),
    /// Too many events wait already.
    #[error("too many audit events are waiting for the disk")]
    Overloaded,
    /// An earlier failure left the file in doubt; only a restart helps.
    #[error("audit file is in doubt since an earlier failure")]
    Stopped,
}

/// Its last part: where it is, the configuration says, and a log must not.
fn name(path: &Path) -> std::path::Display<'_> {
    path.file_name().map_or(path, Path::new).display()
}

/// The open audit file, with its one writer.
pub struct Audit {
    queue: Option<mpsc::Sender<Entry>>,
    writer: Option<JoinHandle<()>>,
    pace: Mutex<Pace>,
    pace_of_strangers: Mutex<Pace>,
    beginning: Beginning,
    status: Arc<Status>,
}

/// What the audit file held when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing: its first record is still to come.
    Empty,
    /// Records, which the next one follows.
    Continued,
}

/// Callers wait where more events than this are not on disk yet.
const QUEUE: usize = 1024;

impl Audit {
    /// Opens or creates the file, checks the end of its chain, and repairs a line that a crash cut short: the rest is
    /// cut off and a `recovered` event takes its place.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let status = Arc::new(Status::new());
        let mut writer = Writer::open(path, Arc::clone(&status))?;
        let beginning = if writer.is_empty() { Beginning::Empty } else { Beginning::Continued };
        let (queue, entries) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(entries))
            .map_err(|source| AuditError::Open { path: path.to_owned(), source })?;
        let [pace, pace_of_strangers] = [pace::VERIFIED, pace::STRANGERS]
            .map(|allowance| Mutex::new(Pace::new(allowance, Instant::now())));
        Ok(Self { queue: Some(queue), writer: Some(writer), pace, pace_of_strangers, beginning, status })
    }

    /// What the file held when it was opened.
    pub fn beginning(&self) -> Beginning {
        self.beginning
    }

    /// Whether records are taken, as far as the writer knows. Cheap: it waits for nothing.
    pub fn health(&self) -> Health {
        match &self.writer {
            Some(writer) if writer.is_finished() => {
                self.status.failed(FailureReason::Ended);
                self.status.health()
            }
            _ => self.status.health(),
        }
    }

    /// Returns once the event is on disk. Events that wait together share one write and one sync.
    pub async fn record(&self, event: Event) -> Result<Receipt, AuditError> {
        let fields = event.fields()?;
        let (acknowledge, acknowledged) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(AuditError::Stopped)?;
        queue.send(Entry { fields, acknowledge }).await.map_err(|_| AuditError::Stopped)?;
        acknowledged.await.unwrap_or(Err(AuditError::Stopped))
    }

    /// Records an event that nothing waits for, unless too many come at once: those are counted, and the count is
    /// recorded.
    pub fn note(&self, event: Event) {
        self.note_at(&self.pace, event);
    }

    /// As [`Audit::note`], for what anyone can cause: one in five seconds on average, and none in the place of others.
    pub fn note_of_strangers(&self, event: Event) {
        self.note_at(&self.pace_of_strangers, event);
    }

    fn note_at(&self, pace: &Mutex<Pace>, event: Event) {
        let admission = pace.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        let Admission::Record { suppressed } = admission else { return };
        let told = (suppressed > 0).then_some(Event::Suppressed { events: suppressed });
        for event in told.into_iter().chain([event]) {
            if let Err(error) = self.enqueue(event) {
                tracing::warn!(%error, "an event is missing from the audit file");
            }
        }
    }

    fn enqueue(&self, event: Event) -> Result<(), AuditError> {
        let fields = event.fields()?;
        let queue = self.queue.as_ref().ok_or(AuditError::Stopped)?;
        let (acknowledge, _) = oneshot::channel();
        queue.try_send(Entry { fields, acknowledge }).map_err(|error| match error {
            TrySendError::Full(_) => AuditError::Overloaded,
            TrySendError::Closed(_) => AuditError::Stopped,
        })
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

/// Waits for what is queued, so that the file can be opened again.
impl Drop for Audit {
    fn drop(&mut self) {
        self.queue.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit writer ended in a panic");
        }
    }
}

/// Whether [`Audit::open`] would take the file that is there, without changing it.
pub fn inspect(path: &Path) -> Result<(), AuditError> {
    writer::inspect(path)
}

/// What a whole audit file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many records it holds.
    pub records: u64,
    /// SHA-256 of the last one: who keeps it elsewhere can later tell whether the end was cut off.
    pub head: [u8; 32],
}

/// Checks every link of a file; the error names the first broken one.
pub fn verify_file(path: &Path) -> Result<Verified, AuditError> {
    let unusable = |source| AuditError::Open { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(unusable)?);
    let mut link = Link::GENESIS;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length =
            (&mut reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).map_err(unusable)?;
        if length == 0 {
            return Ok(Verified { records: link.seq(), head: *link.hash() });
        }
        let broken = |problem| AuditError::Broken { seq: link.seq() + 1, problem };
        let record = line.strip_suffix(b"\n").ok_or_else(|| broken(LinkProblem::Unfinished))?;
        link = link.next(record).map_err(broken)?;
    }
}

#[cfg(test)]
mod tests;
