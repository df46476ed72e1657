//! Hash-chained record of everything that touches keys, on disk before the reply: no line, no key.

mod archived;
mod chain;
mod compress;
mod disk;
mod event;
mod health;
mod ledger;
mod pace;
mod printable;
mod reader;
mod record;
mod records;
mod segments;
mod sentence;
mod tail;
mod verify;
mod witness;
mod writer;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_ledger::tile::Tile;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

pub use archived::{ArchivedFile, note_archived};
pub use event::{Basis, BundleFacts, Event, OnNode, Proof, ROLE_OF_KMS, Subject, Why};
pub use health::{FailureReason, Health, Reserve, Space};
pub use kms_ledger::chain::LinkProblem;
pub use kms_ledger::walk::{Chain, Damage};
pub use ledger::{Head, KeyChanged, Leaf, LegacySalts, LogKey, LogKeys, NodeId, Proven};
pub use printable::printable;
pub use reader::Reader;
pub use record::{Record, RecordKey};
pub use segments::{FileOfLog, files_of_log, segments};
pub use tail::Inspected;
pub use verify::{Verified, verify_file, verify_files};
pub use witness::WitnessState;

use chain::MAX_LINE;
use disk::{Disk, OsDisk};
use health::Status;
use ledger::Published;
use pace::{Pace, Paced};
use writer::{Entry, Job, Writer};

use crate::clock::{ClockBehind, Floor, unix_now};
use crate::config::{self, Core, Ledger};
use crate::metrics::{Metrics, QueueState};

/// Proof that an event is on disk. Only [`Audit::record`] makes one.
#[derive(Debug)]
#[must_use = "a receipt is what allows the reply"]
pub struct Receipt {
    seq: u64,
    leaf: Option<Leaf>,
}

impl Receipt {
    /// The event's number in the file.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The place of the record in the signed tree; `None` where nothing signs: before there are keys, and if the log is not a file.
    pub fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
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
    /// Its file is elsewhere, or lost.
    #[error(
        "audit record {seq} is in none of the files: bring the file with it back. If it is lost, move the \
         closed files before it elsewhere, and the .node file beside the log where there is one: the log is \
         then signed from the next record on, under a new name"
    )]
    Missing {
        /// Number of the record.
        seq: u64,
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
    /// Too few witnesses have seen the tree that has the record.
    #[error("too few witnesses have cosigned the audit log in time")]
    NotWitnessed,
    /// The disk does not answer.
    #[error("the disk does not take the audit record in time")]
    TimedOut,
    /// The writer has ended.
    #[error("the audit writer has ended")]
    Stopped,
}

/// Its last part: where it is, the configuration says, and a log must not.
fn name(path: &Path) -> std::path::Display<'_> {
    path.file_name().map_or(path, Path::new).display()
}

/// The open audit file, with its one writer.
pub struct Audit {
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    pace: Mutex<Pace>,
    pace_of_strangers: Mutex<Pace>,
    beginning: Beginning,
    max_write_time: Duration,
    status: Arc<Status>,
    published: Arc<Published>,
    witness_wait: Option<Duration>,
    floor: Floor,
    /// One operator at a time lowers it.
    lowering: tokio::sync::Mutex<()>,
    /// Closed when the writer has ended.
    ended: Mutex<std_mpsc::Receiver<()>>,
}

/// How much of a disk an audit log takes, and in which pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// Bytes that are kept for it alone; 0 keeps none.
    pub reserve: u64,
    /// A file that is larger is closed.
    pub segment_size: u64,
    /// A file whose first record is older is closed; `None` for no age.
    pub segment_age: Option<Duration>,
    /// Whether closed files are compressed.
    pub compress: bool,
    /// How long a slow disk may take: for the record that a caller waits for, and for what is queued at the end.
    pub max_write_time: Duration,
    /// How long a release waits for witnesses; `None` where none are required.
    pub witness_wait: Option<Duration>,
}

impl Default for Storage {
    fn default() -> Self {
        let segment_age = Some(Duration::from_secs(30 * 24 * 60 * 60));
        let max_write_time = Duration::from_secs(2);
        Self {
            reserve: 0,
            segment_size: 64 << 20,
            segment_age,
            compress: false,
            max_write_time,
            witness_wait: None,
        }
    }
}

impl From<&Core> for Storage {
    fn from(core: &Core) -> Self {
        let Ledger { segment_size, segment_age, compress, witnesses } = &core.ledger;
        Self {
            reserve: core.audit.reserve,
            segment_size: *segment_size,
            segment_age: *segment_age,
            compress: *compress,
            witness_wait: (witnesses.require > 0).then_some(witnesses.max_wait),
            ..Self::default()
        }
    }
}

/// What the audit file held when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing: its first record is still to come.
    Empty,
    /// Records, which the next one follows.
    Continued,
}

/// How long a start waits for the tree.
const MAX_TREE_WAIT: Duration = Duration::from_secs(5);

/// How long a start waits for the import of a log of an older version; it goes on afterwards.
const MAX_IMPORT_WAIT: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 3_000 });

/// Callers wait where more events than this are not on disk yet.
const QUEUE: usize = 1024;

impl Audit {
    /// As [`Audit::open_with`], without a reserve and without a floor of its own.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        Self::open_with(path, Storage::default(), Floor::default())
    }

    /// Opens or creates the file, checks the end of its chain, and repairs a line that a crash cut short: the
    /// rest is cut off and a `recovered` event takes its place. After an end that is no record the log goes
    /// on in a new file. A file that cannot be opened because the disk is full or fails is opened later.
    /// Records of versions without a ledger are verified once and sealed; if that takes longer than some
    /// seconds it goes on afterwards, and until then nothing is recorded. Nothing is recorded while the clock
    /// is below the floor, which rises with each record.
    pub fn open_with(path: &Path, storage: Storage, floor: Floor) -> Result<Self, AuditError> {
        Self::open_on(Box::new(OsDisk), path, storage, floor)
    }

    fn open_on(disk: Box<dyn Disk>, path: &Path, storage: Storage, floor: Floor) -> Result<Self, AuditError> {
        let unusable = |source| AuditError::Open { path: path.to_owned(), source };
        let status = Arc::new(Status::new(storage.max_write_time));
        let published = Arc::<Published>::default();
        let told = (Arc::clone(&status), Arc::clone(&published));
        let mut writer = Writer::open(disk, path, storage, told, floor.clone())?;
        let beginning = writer.beginning();
        let (queue, entries) = mpsc::channel(QUEUE);
        let (alive, ended) = std_mpsc::sync_channel(1);
        let imported = writer.begin_import();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(unusable)?;
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                let _alive: std_mpsc::SyncSender<()> = alive;
                writer.run(entries, &runtime);
            })
            .map_err(unusable)?;
        let [pace, pace_of_strangers] = [pace::VERIFIED, pace::STRANGERS]
            .map(|allowance| Mutex::new(Pace::new(allowance, Instant::now())));
        if let Some(Ok(Err(error))) = imported.map(|imported| imported.recv_timeout(MAX_IMPORT_WAIT)) {
            // The file is free again when this returns.
            drop(queue);
            let _ = writer.join();
            return Err(error);
        }
        Ok(Self {
            queue: Some(queue),
            writer: Some(writer),
            pace,
            pace_of_strangers,
            beginning,
            max_write_time: storage.max_write_time,
            status,
            published,
            witness_wait: storage.witness_wait,
            floor,
            lowering: tokio::sync::Mutex::default(),
            ended: Mutex::new(ended),
        })
    }

    /// Counts syncs and requests to witnesses in `metrics`, and shows what waits for the disk.
    pub fn report_to(&self, metrics: &Arc<Metrics>) {
        self.status.report_to(Arc::clone(metrics));
        let Some(queue) = self.queue.as_ref().map(mpsc::Sender::downgrade) else { return };
        metrics.watch_queue("audit", move || {
            let queue = queue.upgrade()?;
            let (limit, free) = (queue.max_capacity() as u64, queue.capacity() as u64);
            Some(QueueState { waiting: limit - free, limit: Some(limit), shed: 0 })
        });
    }

    /// The date below which the clock cannot be; the records raise it.
    pub fn floor(&self) -> &Floor {
        &self.floor
    }

    /// How many bytes at the end of its files were found to be no records since the start.
    pub fn damaged_bytes(&self) -> u64 {
        self.status.damaged_bytes()
    }

    /// Tells how far the log is, also when this is gone.
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.status))
    }

    /// How much space its disk has, as last looked at. Cheap, as [`Audit::health`].
    pub fn space(&self) -> Space {
        self.status.space()
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

    /// Up to which record the import of a log of an older version is, and of how many; `None` while there is no import.
    pub fn imported(&self) -> Option<(u64, u64)> {
        self.status.imported()
    }

    /// From now on the tree over the records is signed, and a record counts when it is in a signed tree.
    /// Returns when the tree is open, or after some seconds: until it is, no records are taken.
    pub async fn sign_with(&self, keys: Arc<dyn LogKeys>) {
        let Some(queue) = &self.queue else { return };
        let (tell, told) = oneshot::channel();
        if queue.send(Job::Sign(keys, tell)).await.is_ok() {
            // The writer goes on with it; whether it has ended, `health` says.
            let _ = tokio::time::timeout(MAX_TREE_WAIT, told).await;
        }
    }

    /// Shows checkpoints to witnesses, without an end. [`Audit::witnessed`] waits for those that are required.
    ///
    /// # Errors
    /// Requests cannot be made at all.
    pub fn witness_loop(
        &self,
        settings: &config::Witnesses,
    ) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let witnesses = witness::Witnesses::new(settings)?;
        self.published.name_witnesses(settings.list.iter().map(WitnessState::new).collect());
        Ok(witnesses.cosign_loop(Arc::clone(&self.published), Arc::clone(&self.status)))
    }

    /// The witnesses of the log, as they were last asked.
    pub fn witness_states(&self) -> Vec<WitnessState> {
        self.published.witnesses()
    }

    /// When the newest checkpoint was signed, Unix seconds.
    pub fn signed_at(&self) -> Option<u64> {
        self.published.signed_at()
    }

    /// Returns once as many witnesses as are required have cosigned a tree that has the record.
    ///
    /// # Errors
    /// [`AuditError::NotWitnessed`]: they have not in time.
    pub async fn witnessed(&self, receipt: &Receipt) -> Result<(), AuditError> {
        let Some(max_wait) = self.witness_wait else { return Ok(()) };
        let leaf = receipt.leaf().ok_or(AuditError::NotWitnessed)?;
        let witnessed = self.published.witnessed(leaf.index.get() + 1);
        tokio::time::timeout(max_wait, witnessed).await.map_err(|_| AuditError::NotWitnessed)
    }

    /// The newest signed checkpoint with the cosignatures of witnesses, or a newer one without; `None` before
    /// there are keys to sign with.
    pub fn checkpoint(&self) -> Option<Arc<str>> {
        self.published.checkpoint()
    }

    /// The newest signed checkpoint; `None` before there are keys to sign with.
    pub fn head(&self) -> Option<Arc<Head>> {
        self.published.head()
    }

    /// The content of a tile of hashes or of a bundle of entries; `None` if the signed tree does not have it.
    /// Reads files.
    ///
    /// # Errors
    /// They cannot be read, or are elsewhere.
    pub fn tile(&self, tile: &Tile) -> Result<Option<Vec<u8>>, AuditError> {
        self.published.tile(tile)
    }

    /// The proof that `line` is record `seq` of the signed tree; `None` if that does not have it. Reads files.
    ///
    /// # Errors
    /// They cannot be read, or the line is not the record.
    pub fn prove(&self, seq: u64, line: &[u8]) -> io::Result<Option<Proven>> {
        self.published.prove(seq, line)
    }

    /// Returns once the event is on disk, and in a signed tree where there is one. Events that wait together
    /// share one write, one sync and one signature. While the log takes no records it says so at once.
    pub async fn record(&self, event: Event) -> Result<Receipt, AuditError> {
        if let Health::Failing { reason, .. } = self.health() {
            return Err(reason.error());
        }
        self.wait_for(event).await
    }

    async fn wait_for(&self, event: Event) -> Result<Receipt, AuditError> {
        let fields = event.fields()?;
        let queue = self.queue.as_ref().ok_or(AuditError::Stopped)?;
        let recorded = async {
            let (acknowledge, acknowledged) = oneshot::channel();
            let entry = Entry { fields, acknowledge: Some(acknowledge) };
            queue.send(Job::Record(entry)).await.map_err(|_| AuditError::Stopped)?;
            acknowledged.await.unwrap_or(Err(AuditError::Stopped))
        };
        tokio::time::timeout(self.max_write_time, recorded).await.unwrap_or(Err(AuditError::TimedOut))
    }

    /// An operator says that the dates of the records before this are wrong and that the clock is right:
    /// nothing but what is signed says how late it is. Gives the newest date until now; `None` if the clock
    /// is not behind, and nothing changes. Must not be given up half way.
    ///
    /// # Errors
    /// [`LowerFloorError`]; nothing changes then.
    pub async fn lower_clock_floor(
        &self,
        reason: String,
        by: String,
        remote: IpAddr,
    ) -> Result<Option<u64>, LowerFloorError> {
        let _turn = self.lowering.lock().await;
        let now = unix_now();
        self.floor.check_signed(now).map_err(LowerFloorError::Signed)?;
        if self.floor.check(now).is_ok() {
            return Ok(None);
        }
        let from = self.floor.lower_records(now);
        let event = Event::ClockFloorLowered { from, to: now, reason, by: by.clone(), remote };
        match self.wait_for(event).await {
            Ok(_) => {
                tracing::warn!(from, by, "an operator says that the clock is right and was ahead before");
                Ok(Some(from))
            }
            Err(error) => {
                self.floor.raise_by_record(from);
                Err(LowerFloorError::NotRecorded(error))
            }
        }
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
        let Paced::Record { suppressed } = admission else { return };
        let told = (suppressed > 0).then_some(Event::Suppressed { events: suppressed, source: None });
        for event in told.into_iter().chain([event]) {
            if let Err(error) = self.enqueue(event) {
                tracing::warn!(%error, "an event is missing from the audit file");
            }
        }
    }

    fn enqueue(&self, event: Event) -> Result<(), AuditError> {
        let fields = event.fields()?;
        let queue = self.queue.as_ref().ok_or(AuditError::Stopped)?;
        let job = Job::Record(Entry { fields, acknowledge: None });
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => AuditError::Overloaded,
            TrySendError::Closed(_) => AuditError::Stopped,
        })
    }
}

/// How far a log is.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Status>);

impl Progress {
    /// Every record up to this number is on the disk.
    pub fn acknowledged(&self) -> u64 {
        self.0.acknowledged()
    }

    /// As [`Audit::space`].
    pub fn space(&self) -> Space {
        self.0.space()
    }

    /// Whether too few witnesses cosign: one at least, or as many as are required.
    pub fn lacks_witnesses(&self) -> bool {
        self.0.lacks_witnesses()
    }

    /// As [`Audit::health`], but a writer that has ended is not noticed.
    pub fn health(&self) -> Health {
        self.0.health()
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

/// Waits for what is queued, so that the file can be opened again; but not for a disk that does not answer.
impl Drop for Audit {
    fn drop(&mut self) {
        self.queue.take();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(self.max_write_time) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the disk of the audit log does not answer: what waits for it may be lost");
            return;
        }
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit writer ended in a panic");
        }
    }
}

/// Why the clock floor is as it was.
#[derive(Debug, thiserror::Error)]
pub enum LowerFloorError {
    /// Not our records alone say so.
    #[error("{0}, by collateral that Intel has signed: the clock is wrong now; nothing was changed")]
    Signed(ClockBehind),
    /// It does not count without a record.
    #[error("the audit log does not take the record ({0}); nothing was changed")]
    NotRecorded(#[source] AuditError),
}

/// Whether a process writes to an audit file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// None does.
    Free,
    /// One does, so the end of the file was not checked.
    InUse,
}

/// Whether [`Audit::open`] would take the file that is there, without changing it.
pub fn inspect(path: &Path) -> Result<Inspected, AuditError> {
    tail::inspect(path)
}

#[cfg(test)]
mod tests;
