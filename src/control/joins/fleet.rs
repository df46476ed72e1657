//! The invitations of a fleet: any node makes them and is the source, and two nodes cannot both use one up, since each use is a
//! change of the shared state before the keys leave.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::record::{Turn, prune};
use super::{JoinError, Joins};
use crate::audit::Event;
use crate::control::Store;
use crate::state::shared::{AdoptError, Arrival, Document, Edit, Format, Provenance, Shared};
use crate::state::{self, JoinRecord};

/// Its name in the database.
const DOCUMENT: &str = "joins";
/// The most changes of one adoption that are recorded one by one.
const MAX_RECORDED: usize = 50;

/// The invitations, as the shared state sees them.
#[derive(Debug)]
pub struct SharedJoins(Arc<Joins>);

impl SharedJoins {
    /// Shares these.
    pub fn new(joins: Arc<Joins>) -> Self {
        Self(joins)
    }

    fn record(&self, before: &[JoinRecord], after: &[JoinRecord], from: &Provenance) {
        let changed = after.iter().filter(|it| before.iter().find(|old| old.id == it.id) != Some(it));
        for record in changed.take(MAX_RECORDED) {
            let stage = record.steps.last().map_or("open", |step| step.stage.name());
            self.0.audit.note(Event::StateAdopted {
                document: DOCUMENT,
                change: "changed",
                target: format!(
                    "the invitation {} of the replica {}, which is {stage},",
                    record.id, record.domain
                ),
                by: from.operator.clone(),
                node: from.node.clone(),
                state: from.state,
                domain: None,
            });
        }
    }
}

impl Document for SharedJoins {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        match there {
            Some(_) => Ok(None),
            None => state::joins_content(&self.0.current.load()).map(Some).map_err(|error| error.to_string()),
        }
    }

    fn has_news(&self) -> bool {
        false
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let joins = &self.0;
            let after = state::parse_joins(body).map_err(AdoptError::Unreadable)?;
            let file = Arc::clone(&joins.file).lock_owned().await;
            let before = joins.current.load_full();
            let is_replaced = from.arrival == Arrival::Joined && !before.is_empty() && *before != after;
            if from.arrival != Arrival::Own {
                self.record(&before, &after, from);
            }
            joins.put(after.clone());
            let written = tokio::task::spawn_blocking(move || {
                let aside = is_replaced.then(|| state::set_aside(file.path())).transpose();
                file.replace(&after).map(|()| aside)
            });
            let written =
                written.await.unwrap_or_else(|_| Err(io::Error::other("the writer ended in a panic")));
            if let Some(aside) = written.map_err(AdoptError::NotKept)?.map_err(AdoptError::NotKept)? {
                joins.audit.note(Event::StateSetAside { document: DOCUMENT, file: aside });
            }
            Ok(())
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
        shared.edit(DOCUMENT, by, InFile, edit).await
    }
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
