//! Freezes as the file has them.

use std::sync::Arc;

use super::super::{Author, Store};
use super::held::{Held, Sharing};
use super::scope::Scope;
use super::{Entries, Freeze, MAX_FREEZES, MAX_REASON, MAX_SHARED};
use crate::state::{FreezeContent, FreezeFile, FreezeFileError, FreezeRecord, KeptIn};

/// What the file has.
pub(super) struct Kept {
    pub(super) freezes: Vec<(Freeze, Sharing)>,
    pub(super) was_shared: bool,
}

/// Parses the entries of the file.
pub(super) fn frozen(file: &FreezeFile) -> Result<Kept, FreezeFileError> {
    let FreezeContent { shared, frozen, .. } = file.read()?;
    let found = frozen.iter().filter(|record| record.scope != Scope::Kms.name()).count();
    // Beside those of the fleet, what this node could not share.
    let most = if shared { 2 * MAX_SHARED } else { MAX_FREEZES };
    if found > most {
        return Err(FreezeFileError::Damaged(format!(
            "at most {most} entries beside that of the KMS are allowed, got {found}"
        )));
    }
    let freezes = frozen.into_iter().map(|record| {
        let sharing = if record.unshared { Sharing::Unshared } else { Sharing::Settled };
        Ok((Freeze::try_from(record).map_err(FreezeFileError::Damaged)?, sharing))
    });
    Ok(Kept { freezes: freezes.collect::<Result<_, _>>()?, was_shared: shared })
}

/// The content of the file.
pub(super) fn records(entries: &Entries, store: &Store) -> (Vec<FreezeRecord>, KeptIn) {
    let (kept_in, marks) = match store {
        Store::File => (KeptIn::ThisMachine, false),
        Store::Shared(_) => (KeptIn::Fleet, true),
    };
    let record = |held: &Arc<Held>| FreezeRecord {
        unshared: marks && held.sharing == Sharing::Unshared,
        ..FreezeRecord::from(&*held.freeze)
    };
    (entries.values().map(record).collect(), kept_in)
}

impl From<&Freeze> for FreezeRecord {
    fn from(freeze: &Freeze) -> Self {
        Self {
            scope: freeze.scope.name().to_owned(),
            value: freeze.scope.value().to_vec(),
            reason: freeze.reason.clone(),
            since: freeze.since,
            expires_at: freeze.expires_at,
            by: freeze.author.by.clone(),
            remote: freeze.author.remote,
            unshared: false,
        }
    }
}

impl TryFrom<FreezeRecord> for Freeze {
    type Error = String;

    fn try_from(record: FreezeRecord) -> Result<Self, String> {
        if record.reason.len() > MAX_REASON {
            return Err(format!("a reason must be at most {MAX_REASON} bytes, got {}", record.reason.len()));
        }
        Ok(Self {
            scope: Scope::parse(&record.scope, &record.value).map_err(|error| error.to_string())?,
            reason: record.reason,
            since: record.since,
            expires_at: record.expires_at,
            author: Author { by: record.by, remote: record.remote },
        })
    }
}
