//! Freezes as the shared state has them.

use std::collections::BTreeMap;

use super::super::{Freeze, FreezeError, MAX_SHARED, Scope};
use crate::state::shared::{Format, Unshared};
use crate::state::{self, FreezeRecord};

/// As in the file.
pub(super) struct InFile;

impl Format for InFile {
    type Content = BTreeMap<Scope, Freeze>;
    type Error = FreezeError;

    fn parse(&self, body: &[u8]) -> Result<BTreeMap<Scope, Freeze>, FreezeError> {
        parse(body).map_err(|problem| Unshared::Unusable(problem).into())
    }

    fn encode(&self, freezes: &BTreeMap<Scope, Freeze>) -> Result<Vec<u8>, FreezeError> {
        encode(freezes.values()).map_err(|problem| Unshared::Unusable(problem).into())
    }
}

/// Reads the document.
///
/// # Errors
/// What is wrong with it.
pub(in super::super) fn parse(body: &[u8]) -> Result<BTreeMap<Scope, Freeze>, String> {
    let records = state::parse_freezes(body)?.frozen;
    let found = beside_kms(&records);
    if found > MAX_SHARED {
        return Err(format!("at most {MAX_SHARED} freezes beside that of the KMS are allowed, got {found}"));
    }
    records.into_iter().map(|record| Freeze::try_from(record).map(|freeze| (freeze.scope, freeze))).collect()
}

/// How many there are beside that of the whole KMS, for which there is always room.
fn beside_kms(records: &[FreezeRecord]) -> usize {
    records.iter().filter(|record| record.scope != Scope::Kms.name()).count()
}

/// As [`beside_kms`].
pub(super) fn count(freezes: &BTreeMap<Scope, Freeze>) -> usize {
    freezes.len() - usize::from(freezes.contains_key(&Scope::Kms))
}

/// Whether one more freeze, of `scope`, may be added.
pub(super) fn has_room(freezes: &BTreeMap<Scope, Freeze>, scope: Scope) -> bool {
    scope == Scope::Kms || count(freezes) < MAX_SHARED
}

pub(super) fn too_many() -> String {
    format!("the nodes of the fleet would have more than {MAX_SHARED} freezes: end some")
}

/// The bytes of the document.
///
/// # Errors
/// There are more than the nodes of the fleet would read.
pub(super) fn encode<'a>(freezes: impl Iterator<Item = &'a Freeze>) -> Result<Vec<u8>, String> {
    let records: Vec<_> = freezes.map(FreezeRecord::from).collect();
    if beside_kms(&records) > MAX_SHARED {
        return Err(too_many());
    }
    state::freezes_content(records, state::KeptIn::Fleet).map_err(|error| error.to_string())
}
