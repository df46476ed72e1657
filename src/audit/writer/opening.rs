//! How the log is opened: where its chain ends, which file goes on with it, and what a crash left.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kms_ledger::compressed::Stored;

use super::super::Beginning;
use super::super::Storage;
use super::super::ledger::{Published, legacy};
use super::super::segments;
use super::super::tail::{End, Rest};
use super::{
    AuditError, Cause, Disk, Event, Failure, FailureReason, Floor, Link, Need, Seen, Segment, Status, Writer,
    is_full,
};

impl Writer {
    /// Opens or creates the file, checks its end and cuts off what a crash left there. A disk that is full, or fails in
    /// another way that may pass, is not a reason not to start: what needs no record is served meanwhile.
    pub(in super::super) fn open(
        disk: Box<dyn Disk>,
        path: &Path,
        storage: Storage,
        (status, published): (Arc<Status>, Arc<Published>),
        floor: Floor,
    ) -> Result<Self, AuditError> {
        let mut writer = Self {
            disk,
            path: path.to_owned(),
            segment: None,
            link: Link::GENESIS,
            unproven: None,
            is_directory_in_doubt: false,
            trouble: None,
            pause: Duration::ZERO,
            recovered: None,
            looked: None,
            synced_tree: None,
            tree_sync: None,
            opened_trees: 0,
            compressor: None,
            looked_for_closed: None,
            asked_space: None,
            is_import_due: false,
            announcement: None,
            importer: None,
            import: None,
            kept: VecDeque::new(),
            lost: 0,
            reserve: storage.reserve,
            storage,
            keys: None,
            ledger: None,
            published,
            spent: None,
            status,
            floor,
        };
        match writer.attach() {
            Ok(()) => {
                writer.hold_reserve();
                if writer.is_import_due {
                    // The writer's thread does it, so that others see that this process lives.
                    writer.status.failed(FailureReason::Importing);
                } else if let Err(failure) = writer.settle(None) {
                    writer.fail(failure);
                }
            }
            Err(AuditError::Open { source, .. }) if may_pass(&source) => {
                writer.fail(Failure::write(Need::Open)(source));
            }
            Err(error) => return Err(error),
        }
        writer.status.acknowledges(writer.link.seq());
        writer.status.rests();
        Ok(writer)
    }

    /// What the log held when it was opened.
    pub(in super::super) fn beginning(&self) -> Beginning {
        let is_empty = match &self.segment {
            Some(_) => self.link == Link::GENESIS,
            None => matches!(Seen::at(&self.path), Ok(None)),
        };
        if is_empty { Beginning::Empty } else { Beginning::Continued }
    }

    /// Opens what could not be opened before, and goes on.
    pub(super) fn open_again(&mut self, resumed: Event) -> Result<(), Failure> {
        self.attach().map_err(|error| match error {
            AuditError::Open { source, .. } => Failure::write(Need::Open)(source),
            other => Failure::write(Need::Open)(io::Error::other(other.to_string())),
        })?;
        if let Some(trouble) = &mut self.trouble {
            trouble.need = Need::Write;
        }
        self.settle(Some(resumed))
    }

    /// Opens the file and finds the end of the chain. Writes nothing.
    fn attach(&mut self) -> Result<(), AuditError> {
        let path = self.path.clone();
        let unusable = |source| AuditError::Open { path: path.clone(), source };
        self.segment = None;
        let mut file = self.disk.open(&path).map_err(unusable)?;
        lock(&file, &path)?;
        let seen = Seen::of(&file.metadata().map_err(unusable)?);
        let mut end = End::read(&path, &file, seen.size)?;
        let mut gap = None;
        if seen.is_file {
            if seen.size == 0 {
                // A new file's name must last, and one whose name did not last yet is empty.
                self.sync_directory().map_err(|failure| unusable(failure.error))?;
            } else {
                // A process that was killed may have left records that are not on the disk yet; they are signed next.
                self.disk.sync(&file).map_err(unusable)?;
            }
            if end.before.is_none()
                && let Some(closed) = self.last_closed()
            {
                let after = closed.link.seq();
                tracing::error!(
                    after,
                    "the audit file has no records: the log goes on after the closed files"
                );
                if end.rest == Rest::None {
                    gap = Some(Event::SegmentBegan {
                        reason: Cause::FileGone.name(),
                        after,
                        damaged_bytes: None,
                    });
                }
                end = End { length: 0, rest: end.rest, began: None, ..closed };
            }
            if let Some((adopted, new)) = self.adopt(&end, seen).map_err(unusable)? {
                (file, end, gap) = (adopted, new, None);
            }
            let _ = segments::forget_second_names(&path);
        } else {
            self.reserve = 0;
        }
        let crashed = match end.rest {
            Rest::Unfinished(dropped_bytes) => {
                tracing::warn!(dropped_bytes, "the audit file's unfinished end is cut off");
                Some(Event::Recovered { dropped_bytes })
            }
            Rest::Damaged(bytes) => {
                tracing::error!(
                    bytes,
                    after = end.link.seq(),
                    "DAMAGED: the end of the audit file is no record. The file is kept as it is, and the log \
                     goes on in another one; kms audit verify tells"
                );
                None
            }
            Rest::None => None,
        };
        for event in crashed.into_iter().chain(gap) {
            self.kept.push_front(event.fields()?);
        }
        self.floor.raise_by_record(end.newest);
        self.link = end.link;
        self.status.damaged(end.rest.damaged());
        let (length, rest, began) = (end.length, end.rest, end.began);
        self.segment = Some(Segment { file, length, rest, is_file: seen.is_file, began });
        self.is_import_due = end.is_legacy && seen.is_file;
        Ok(())
    }

    /// What the start waits for, for some time; `None` if there is nothing to import.
    pub(in super::super) fn begin_import(&mut self) -> Option<mpsc::Receiver<Result<(), AuditError>>> {
        let (tell, told) = mpsc::sync_channel(1);
        (self.is_import_due && self.trouble.is_none()).then(|| {
            self.importer = Some(tell);
            told
        })
    }

    /// Imports, and writes what waits.
    pub(super) fn end_import(&mut self) {
        let Some(importer) = self.importer.take() else { return };
        let imported = self.import();
        let failure = imported.as_ref().err().map(not_imported);
        // The start can no longer wait for it.
        let _ = importer.send(imported);
        if let Some(failure) = failure {
            return self.fail(failure);
        }
        match self.settle(None) {
            Ok(()) => self.status.succeeded(),
            Err(failure) => self.fail(failure),
        }
    }

    /// Verifies the records of a version without a ledger, if there are any that are not sealed.
    fn import(&mut self) -> Result<(), AuditError> {
        if !self.is_import_due {
            return Ok(());
        }
        let last = self.link.seq();
        self.status.failed(FailureReason::Importing);
        let status = Arc::clone(&self.status);
        let event = legacy::import(&self.path, last, |record| status.imports(Some((record, last))));
        self.status.imports(None);
        let fields = event.and_then(|event| event.fields())?;
        (self.import, self.is_import_due) = (Some(fields), false);
        Ok(())
    }

    /// Brings the file into a state in which it can grow, and writes what waits, after `first`.
    fn settle(&mut self, first: Option<Event>) -> Result<(), Failure> {
        self.import().map_err(|error| not_imported(&error))?;
        match self.segment()?.rest {
            Rest::Damaged(_) => return self.begin_segment(Cause::DamagedEnd),
            _ if self.is_directory_in_doubt => return self.begin_segment(Cause::SyncFailed),
            Rest::Unfinished(_) => self.rewind().map_err(Failure::write(Need::NewSegment))?,
            Rest::None => {}
        }
        if first.is_none() && self.kept.is_empty() && self.import.is_none() {
            return Ok(());
        }
        self.write_kept(first)
    }

    /// The end of the newest closed file, if its chain can be followed.
    fn last_closed(&self) -> Option<End> {
        let (last, path) = segments::numbered(&self.path).ok()?.pop()?;
        let unusable = |source| AuditError::Open { path: path.clone(), source };
        let end = Stored::open(&path).map_err(unusable).and_then(|stored| match stored {
            Stored::Plain(file) => {
                let size = file.metadata().map_err(unusable)?.len();
                End::read(&path, &file, size)
            }
            Stored::Compressed(_) => End::of_compressed(&self.path, last),
        });
        match end {
            Ok(end) => Some(end).filter(|end| end.link != Link::GENESIS),
            Err(error) => {
                tracing::error!(%error, "a closed file of the audit log cannot be followed");
                None
            }
        }
    }

    /// Replaces the file at `path` with the file that has the temporary name, if that file continues the log. A
    /// rename that never reached the disk leaves these two files, and the second has acknowledged records. Any
    /// other file with the temporary name is renamed and kept.
    fn adopt(&mut self, end: &End, named: Seen) -> io::Result<Option<(File, End)>> {
        let new = segments::new_name(&self.path);
        let Some(seen) = Seen::at(&new)? else { return Ok(None) };
        if seen.identity == named.identity || seen.is_file && seen.size == 0 {
            fs::remove_file(&new)?;
            return Ok(None);
        }
        let found = match seen.is_file {
            true => {
                let file = OpenOptions::new().read(true).append(true).open(&new)?;
                match (lock(&file, &new), End::read(&new, &file, seen.size)) {
                    (Ok(()), Ok(found)) if end.is_continued_by(&found) => Some((file, found)),
                    (_, Err(AuditError::Open { source, .. })) => return Err(source),
                    (Ok(()) | Err(_), Ok(_))
                    | (
                        _,
                        Err(
                            AuditError::Locked { .. }
                            | AuditError::Broken { .. }
                            | AuditError::Missing { .. }
                            | AuditError::TooLarge
                            | AuditError::Write(_)
                            | AuditError::Overloaded
                            | AuditError::NotWitnessed
                            | AuditError::TimedOut
                            | AuditError::Stopped,
                        ),
                    ) => None,
                }
            }
            false => None,
        };
        let Some((file, found)) = found else {
            let kept = segments::set_new_aside(&self.path, end.link.seq())?;
            tracing::error!(
                kept = %super::super::name(&kept),
                "a new file of the audit log does not go on with the log: it is kept aside"
            );
            return Ok(None);
        };
        if named.size > 0 {
            let last = found.before.map_or(0, |before| before.seq());
            segments::close(&self.path, last)?;
            self.sync_directory().map_err(|failure| failure.error)?;
        }
        fs::rename(&new, &self.path)?;
        self.sync_directory().map_err(|failure| failure.error)?;
        tracing::warn!(
            first = found.before.map_or(0, |before| before.seq()) + 1,
            last = found.link.seq(),
            "a new file of the audit log had not got its name before a crash: it is the log now"
        );
        Ok(Some((file, found)))
    }
}

/// A disk that fails can recover; records that are no log stay so until somebody brings the right files back.
fn not_imported(error: &AuditError) -> Failure {
    let need = match error {
        AuditError::Open { source, .. } if may_pass(source) => Need::Open,
        AuditError::Open { .. }
        | AuditError::Locked { .. }
        | AuditError::Broken { .. }
        | AuditError::Missing { .. }
        | AuditError::TooLarge
        | AuditError::Write(_)
        | AuditError::Overloaded
        | AuditError::NotWitnessed
        | AuditError::TimedOut
        | AuditError::Stopped => Need::Restart,
    };
    let error = io::Error::other(error.to_string());
    Failure { cause: Cause::NotImported, reason: FailureReason::NotImported, need, error }
}

fn lock(file: &File, path: &Path) -> Result<(), AuditError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => AuditError::Locked { path: path.to_owned() },
        TryLockError::Error(source) => AuditError::Open { path: path.to_owned(), source },
    })
}

/// Whether a later attempt can succeed without anybody changing the configuration.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{ReadOnlyFilesystem, StaleNetworkFileHandle, TimedOut};
    is_full(error)
        || matches!(error.kind(), ReadOnlyFilesystem | StaleNetworkFileHandle | TimedOut)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
