//! The writer's tree: opened when there are keys to sign with, and again after whatever made it doubtful.

use std::io;
use std::sync::Arc;

use kms_ledger::store::{Staged, StoreError};

use super::super::ledger::{Ledger, LedgerError, LogKeys};
use super::{AuditError, Failure, FailureReason, Need, Writer, is_full};

impl Writer {
    /// From now on a record counts when it is in a signed tree. Until the tree is open, nothing is recorded.
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
            let mut ledger = ledger.map_err(failure)?;
            if let Some(fields) = ledger.take_renamed().and_then(|event| event.fields().ok()) {
                self.keep(fields);
            }
            self.ledger = Some(ledger);
        }
        Ok(())
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

    /// Brings the tree's files to the disk. No record waits for it.
    pub(super) fn sync_tree(&mut self) {
        if let Some(ledger) = &mut self.ledger
            && let Err(error) = ledger.sync()
        {
            // What the files hold is in doubt.
            self.ledger = None;
            self.fail(failure(error.into()));
        }
    }
}

fn failure(error: LedgerError) -> Failure {
    let (cause, reason) = match &error {
        LedgerError::Disk(error) | LedgerError::Store(StoreError::Disk(error)) if is_full(error) => {
            ("disk_full", FailureReason::DiskFull)
        }
        LedgerError::RolledBack { .. }
        | LedgerError::Forked
        | LedgerError::Forgotten
        | LedgerError::AnotherEnd { .. } => ("not_as_signed", FailureReason::NotAsSigned),
        LedgerError::Disk(_) | LedgerError::Store(_) | LedgerError::Records(_) | LedgerError::Origin => {
            ("tree_failed", FailureReason::Tree)
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
