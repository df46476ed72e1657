//! Reads and judges what is there, and puts it in force.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::super::alarm::Alarm;
use super::super::beat;
use super::super::document::{AdoptError, Arrival, Document, Provenance};
use super::super::error::DatabaseError;
use super::super::head::{Head, HeadId};
use super::super::history::{self, DeadEnd};
use super::super::judge::{Before, Believed, Seen, judge};
use super::super::memory::Known;
use super::super::schema::{self, Past};
use super::super::seal::Seals;
use super::super::table::{self, Hold};
use super::Keeper;

impl Keeper {
    /// Reads everything at one moment, judges it, and reads the documents that are new here.
    pub(super) async fn read(
        &mut self,
        client: &mut Client,
        seals: &Seals,
    ) -> Result<Result<Option<(Believed, Vec<(String, Vec<u8>)>)>, Alarm>, DatabaseError> {
        let snapshot =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let snapshot = snapshot.start().await?;
        let believed = match self.judged(&snapshot, seals, Hold::Nothing).await?.1 {
            Ok(Some(believed)) => believed,
            Ok(None) => return Ok(Ok(None)),
            Err(alarm) => return Ok(Err(alarm)),
        };
        let mut bodies = Vec::new();
        for document in &self.documents {
            let name = document.name();
            let Some(listed) = believed.head.documents.get(name) else { continue };
            if self.adopted.get(name) == Some(listed) {
                continue;
            }
            match table::body(&snapshot, seals.fleet, name, listed.sha256).await? {
                Some(body) => bodies.push((name.to_owned(), body)),
                None => return Ok(Err(Alarm::Mismatched { row: name.to_owned() })),
            }
        }
        snapshot.commit().await?;
        Ok(Ok(Some((believed, bodies))))
    }

    /// Reads the shared state without the documents, and judges it.
    pub(in super::super) async fn judged(
        &mut self,
        snapshot: &Transaction<'_>,
        seals: &Seals,
        hold: Hold,
    ) -> Result<(Seen, Result<Option<Believed>, Alarm>), DatabaseError> {
        let own = self.memory.node();
        let mut seen = Seen {
            head: table::head(snapshot, seals.fleet, hold).await?,
            documents: table::documents(snapshot, seals.fleet).await?,
            beats: table::reports(snapshot, seals.fleet, own, beat::KIND, beat::MAX_BEAT).await?,
            followed: None,
        };
        self.watch.rows(seals, beat::KIND, &seen.beats, Instant::now());
        let known = self.memory.known(seals.fleet);
        let before = known.map(|known| Before { head: known.head, documents: &known.documents });
        let mut judged = judge(seals, before, &seen);
        if let (Err(Alarm::Unproven { .. }), Some(row), Some(before)) = (&judged, &seen.head, before) {
            if self.past == Past::Unkept {
                // The right may have been granted since.
                self.past = schema::past(snapshot.client()).await?;
                self.view.show_past(self.past);
            }
            // The database itself says what this node may not read, so that lets it believe nothing.
            let way = DeadEnd::of(seals, row, before.head);
            if self.past == Past::Kept && self.dead_end.is_none_or(|known| !known.is_still(way)) {
                seen.followed = history::follow(snapshot, seals, row, before.head).await?;
                self.dead_end = seen.followed.is_none().then_some(way);
                judged = judge(seals, Some(before), &seen);
            }
        }
        Ok((seen, judged))
    }

    /// Puts what is believed in force, as far as it can be read here, and gives the first problem: what another document says does not
    /// keep a freeze from its effect.
    pub(super) async fn adopt(
        &mut self,
        believed: Believed,
        bodies: Vec<(String, Vec<u8>)>,
    ) -> Option<Alarm> {
        let Believed { head, id, .. } = believed;
        let before = self.memory.known(self.seals().fleet).cloned();
        let mut unread = None;
        for (name, body) in bodies {
            let Some(document) = self.document(&name) else { continue };
            let arrival = match &before {
                Some(before) if before.is_repaired_by(&head, &name) => Arrival::Repaired,
                Some(before) if before.documents.contains_key(&name) => Arrival::Other,
                Some(_) | None => Arrival::Joined,
            };
            match document.adopt(&body, &provenance(&head, arrival)).await {
                Ok(()) => {}
                Err(AdoptError::Unreadable(problem)) => {
                    unread.get_or_insert(Alarm::Unreadable { row: name, problem });
                    continue;
                }
                Err(AdoptError::Contradicts(problem)) => {
                    unread.get_or_insert(Alarm::Contradicts { row: name, problem });
                    continue;
                }
                Err(error @ AdoptError::NotKept(_)) => {
                    tracing::error!(document = name, %error, "what another node changed is in force, but only until this process ends");
                }
            }
            if let Some(listed) = head.documents.get(&name) {
                self.adopted.insert(name, *listed);
            }
        }
        self.remember(&head, id).await;
        self.head = Some((head, id));
        unread
    }

    /// Whether what a head lists of a document of this node is in force here.
    pub(in super::super) fn has_read(&self, head: &Head, name: &str) -> bool {
        head.documents.get(name).is_none_or(|listed| self.adopted.get(name) == Some(listed))
    }

    /// Remembers a state over restarts. Each start adopts all documents again, so it does not matter which of them are on the disk.
    pub(in super::super) async fn remember(&mut self, head: &Head, id: HeadId) {
        let fleet = self.seals().fleet;
        let before = self.memory.known(fleet);
        let unread = |document: &Arc<dyn Document>| {
            (!self.has_read(head, document.name())).then(|| document.name().to_owned())
        };
        let mut unread_repairs = BTreeSet::new();
        let mut documents = head.documents.clone();
        for name in self.documents.iter().filter_map(unread) {
            match before.and_then(|before| before.documents.get(&name)) {
                Some(listed) => documents.insert(name.clone(), *listed),
                None => documents.remove(&name),
            };
            // When it is read, it must still be known that it was repaired.
            if before.is_some_and(|before| before.is_repaired_by(head, &name)) {
                unread_repairs.insert(name);
            }
        }
        let known = Known { fleet, head: id, documents, unread_repairs };
        if before == Some(&known) {
            return;
        }
        if let Err(error) = self.memory.remember(known).await {
            tracing::error!(%error, "fleet.json of the key directory cannot be written: after a restart this node may not notice that the database went back");
        }
    }
}

pub(in super::super) fn provenance(head: &Head, arrival: Arrival) -> Provenance {
    Provenance { state: head.seq, node: head.by.name.clone(), operator: head.by.operator.clone(), arrival }
}
