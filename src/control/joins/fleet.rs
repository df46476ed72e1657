//! The invitations of a fleet: any node makes them and is the source, and two nodes cannot both use one up, since each use is a
//! change of the shared state before the keys leave.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::record::{Turn, prune};
use super::{JoinError, Joins};
use crate::control::adopted::{AdoptedChange, note_adopted};
use crate::control::store::{Store, keep_adopted};
use crate::state::shared::{AdoptError, Arrival, Document, Edit, Format, Provenance, Shared};
use crate::state::{self, JoinRecord, JoinStage};

/// Its name in the database.
const DOCUMENT: &str = "joins";

/// The invitations, as the shared state sees them.
#[derive(Debug)]
pub struct SharedJoins {
    joins: Arc<Joins>,
    /// Those that an owner's repair has opened again although they are over. They are closed again on all nodes.
    reopened: Mutex<Vec<JoinRecord>>,
}

impl SharedJoins {
    /// Shares these.
    pub fn new(joins: Arc<Joins>) -> Self {
        Self { joins, reopened: Mutex::default() }
    }

    fn reopened(&self) -> MutexGuard<'_, Vec<JoinRecord>> {
        self.reopened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, before: &[JoinRecord], after: &[JoinRecord], from: &Provenance) {
        let differs = |it: &&JoinRecord| before.iter().find(|old| old.id == it.id) != Some(it);
        let changed: Vec<_> = after.iter().filter(differs).collect();
        note_adopted(
            &self.joins.audit,
            DOCUMENT,
            from,
            &changed,
            |JoinRecord { id, domain, steps, .. }| {
                let stage = steps.last().map_or("open", |step| step.stage.name());
                let target = format!("the invitation {id} of the replica {domain}, which is {stage},");
                AdoptedChange::of(target, from)
            },
        );
    }
}

impl Document for SharedJoins {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let records = match there {
            Some(_) if !self.has_news() => return Ok(None),
            Some(there) => {
                let mut records = state::parse_joins(there)?;
                close(&mut records, &self.reopened());
                records
            }
            None => self.joins.current.load().to_vec(),
        };
        state::joins_content(&records).map(Some).map_err(|error| error.to_string())
    }

    fn has_news(&self) -> bool {
        !self.reopened().is_empty()
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let joins = &self.joins;
            let mut after = state::parse_joins(body).map_err(AdoptError::Unreadable)?;
            let file = Arc::clone(&joins.file).lock_owned().await;
            let before = joins.current.load_full();
            let is_replaced = from.arrival == Arrival::Joined && !before.is_empty() && *before != after;
            if from.arrival != Arrival::Own {
                self.record(&before, &after, from);
            }
            {
                let mut reopened = self.reopened();
                if from.arrival == Arrival::Repaired {
                    *reopened = before.iter().filter(|record| is_used(record)).cloned().collect();
                }
                if !close(&mut after, &reopened) {
                    reopened.clear();
                }
            }
            joins.put(after.clone());
            let aside = is_replaced.then(|| file.path().to_owned());
            keep_adopted(DOCUMENT, aside, move || file.replace(&after), &joins.audit).await
        })
    }
}

impl Joins {
    /// Shares them with the other nodes of a fleet.
    #[must_use]
    pub fn shared(self, shared: Arc<Shared>) -> Self {
        Self { store: Store::Shared(shared), ..self }
    }

    /// Makes a change on all nodes.
    pub(super) async fn change_everywhere(
        &self,
        shared: &Shared,
        by: &str,
        mut edit: impl FnMut(&mut Vec<JoinRecord>, &Turn) -> Result<bool, JoinError> + Send + 'static,
        turn: Turn,
    ) -> Result<(), JoinError> {
        let edit = move |records: &mut Vec<JoinRecord>| {
            if !edit(records, &turn)? {
                return Ok(Edit::Unchanged);
            }
            prune(records, &turn);
            Ok(Edit::Changed)
        };
        shared.edit(DOCUMENT, by, InFile, edit).await.map(drop)
    }
}

/// Whether its keys were sent, or it was cancelled: it is never open again.
fn is_used(record: &JoinRecord) -> bool {
    [JoinStage::Keys, JoinStage::Cancelled].into_iter().any(|stage| record.step(stage).is_some())
}

/// Puts what is known of used ones in the place of those that are said to be open. Whether there are any.
fn close(records: &mut [JoinRecord], used: &[JoinRecord]) -> bool {
    let mut is_changed = false;
    for record in records.iter_mut().filter(|record| !is_used(record)) {
        if let Some(used) = used.iter().find(|used| used.id == record.id) {
            record.clone_from(used);
            is_changed = true;
        }
    }
    is_changed
}

/// As in the file.
struct InFile;

impl Format for InFile {
    type Content = Vec<JoinRecord>;
    type Error = JoinError;

    fn parse(&self, body: &[u8]) -> Result<Vec<JoinRecord>, JoinError> {
        state::parse_joins(body).map_err(|problem| JoinError::NotKept(io::Error::other(problem)))
    }

    fn encode(&self, records: &Vec<JoinRecord>) -> Result<Vec<u8>, JoinError> {
        state::joins_content(records).map_err(JoinError::NotKept)
    }
}
