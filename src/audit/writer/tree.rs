//! The writer's tree: opened when there are keys to sign with, and again after whatever made it doubtful.

use std::io;
use std::sync::mpsc::TryRecvError;
use std::sync::{Arc, mpsc};

use kms_ledger::store::{Staged, StoreError};

use super::super::ledger::{Ledger, LedgerError, LogKeys};
use super::{AuditError, Cause, Failure, FailureReason, Need, Writer, is_full};

impl Writer {
    /// From now on a record has its receipt once it is in a signed tree. Until the tree is open, nothing is recorded.
    pub(super) fn sign_with(&mut self, keys: Arc<dyn LogKeys>) {
        if self.segment.as_ref().is_some_and(|segment| !segment.is_file) {
            tracing::warn!("the audit log is no file: nothing signs it, and releases have no receipts");
            return;
        }
        (self.keys, self.ledger) = (Some(keys), None);
        if self.trouble.is_some() {
            // It is opened when the rest can be used.
            return;
        }
        self.status.failed(FailureReason::BuildingTree);
        match self.open_ledger() {
            Ok(()) => self.status.succeeded(),
            Err(failure) => self.fail(failure),
        }
    }

    fn open_ledger(&mut self) -> Result<(), Failure> {
        if let (Some(keys), None) = (&self.keys, &self.ledger) {
            let ledger = Ledger::open(&self.path, keys.as_ref(), &self.link, &self.published);
            let ledger = ledger.map_err(failure)?;
            if self.announcement.is_none()
                && let Some(fields) = ledger.announcement().and_then(|event| event.fields().ok())
            {
                // However many wait already.
                self.kept.push_back(fields.clone());
                self.announcement = Some(fields);
            }
            self.ledger = Some(ledger);
            self.opened_trees += 1;
        }
        Ok(())
    }

    /// The change of the log's name or key is in the log: it need not be remembered.
    pub(super) fn announced(&mut self) {
        self.announcement = None;
        let Some(ledger) = &mut self.ledger else { return };
        if let Err(error) = ledger.announced(&self.path) {
            tracing::warn!(%error, "a new name or key of the audit log is recorded again at the next start");
        }
    }

    /// Writes the hashes of these lines; `None` where nothing signs.
    pub(super) fn stage(&mut self, lines: &[u8]) -> Result<Option<Staged>, Failure> {
        self.open_ledger()?;
        loop {
            let Some(ledger) = &self.ledger else { return Ok(None) };
            match ledger.stage(lines) {
                Ok(staged) => return Ok(Some(staged)),
                Err(LedgerError::Store(StoreError::Disk(error))) if self.spend_reserve(&error) => {}
                Err(error) => return Err(failure(error)),
            }
        }
    }

    /// Counts and signs what was staged, now that it is on the disk.
    pub(super) fn commit(&mut self, staged: Option<Staged>) -> Result<(), Failure> {
        let (Some(ledger), Some(staged)) = (&mut self.ledger, staged) else { return Ok(()) };
        ledger.commit(staged).map_err(|error| {
            self.ledger = None;
            failure(error)
        })
    }

    /// Begins to bring the tree's files to the disk, on another thread: no record waits for it.
    pub(super) fn begin_tree_sync(&mut self) {
        let Some(ledger) = self.ledger.as_ref().filter(|_| self.tree_sync.is_none()) else { return };
        let (sync, checkpoint) = match ledger.begin_sync() {
            Ok(Some(begun)) => begun,
            Ok(None) => return,
            Err(error) => return self.doubt_tree(error),
        };
        let (tell, done) = mpsc::sync_channel(1);
        let sync_file = self.disk.syncer();
        let thread = std::thread::Builder::new().name("audit-tree".to_owned()).spawn(move || {
            let synced = sync.files().iter().chain([&checkpoint]).try_for_each(sync_file);
            // The writer may have ended.
            let _ = tell.send(synced.map(|()| sync));
        });
        match thread {
            Ok(_) => self.tree_sync = Some((self.opened_trees, done)),
            Err(error) => tracing::warn!(%error, "the tree over the audit log is synced later"),
        }
    }

    /// Says in the tree's files how far they are on the disk, if that is known by now.
    pub(super) fn end_tree_sync(&mut self) {
        let Some((opened, done)) = &self.tree_sync else { return };
        let (is_of_this_tree, synced) = match done.try_recv() {
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => (false, Err(io::ErrorKind::Other.into())),
            Ok(synced) => (*opened == self.opened_trees, synced),
        };
        self.tree_sync = None;
        let Some(ledger) = self.ledger.as_mut().filter(|_| is_of_this_tree) else { return };
        if let Err(error) = synced.and_then(|sync| ledger.end_sync(&sync)) {
            self.doubt_tree(error);
        }
    }

    /// Brings the tree's files to the disk and waits for it.
    pub(super) fn sync_tree(&mut self) {
        if let Some(Err(error)) = self.ledger.as_mut().map(Ledger::sync) {
            self.doubt_tree(error);
        }
    }

    /// What the files hold is in doubt.
    fn doubt_tree(&mut self, error: io::Error) {
        self.ledger = None;
        self.fail(failure(error.into()));
    }
}

fn failure(error: LedgerError) -> Failure {
    let (cause, reason) = match &error {
        LedgerError::Disk(error) | LedgerError::Store(StoreError::Disk(error)) if is_full(error) => {
            (Cause::DiskFull, FailureReason::DiskFull)
        }
        LedgerError::RolledBack { .. }
        | LedgerError::Forked
        | LedgerError::Forgotten
        | LedgerError::AnotherEnd { .. } => (Cause::NotAsSigned, FailureReason::NotAsSigned),
        LedgerError::Disk(_) | LedgerError::Store(_) | LedgerError::Records(_) | LedgerError::Origin => {
            (Cause::TreeFailed, FailureReason::Tree)
        }
    };
    let error = match error {
        LedgerError::Disk(error)
        | LedgerError::Store(StoreError::Disk(error))
        | LedgerError::Records(AuditError::Open { source: error, .. }) => error,
        error => io::Error::other(error.to_string()),
    };
    Failure { cause, reason, need: Need::Write, error }
}
