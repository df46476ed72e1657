//! What a node writes to the shared state: one transaction a change, which holds the head, so that no two nodes change it at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, Transaction};

use super::alarm::Alarm;
use super::client::within;
use super::document::{AdoptError, Arrival, Document, MAX_DOCUMENT};
use super::error::DatabaseError;
use super::head::{Head, HeadId, Listed, Sha256Digest};
use super::keeper::{Keeper, Look, provenance};
use super::schema::Past;
use super::seal::{Sealed, Seals};
use super::table::{self, HeadRow, Hold};
use super::{Asked, EditBytes, Request, Unshared, Wanted};

/// How often a change is made again because another node was faster.
const ATTEMPTS: usize = 8;
/// The end of one transaction.
const TRANSACTION: Duration = Duration::from_secs(6);

/// The result of one attempt to write.
enum Attempt {
    /// It is committed.
    Made(New),
    /// The shared document has it already, which this node has not read yet.
    There(Vec<u8>),
    /// Nothing had to be written.
    Nothing,
    /// Another node has written meanwhile.
    Overtaken,
    Doubted(Alarm),
    Unusable(String),
}

/// What must be in force here before a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Everything,
    /// That document: what stops something does not wait until others can be read. The head must be believed all the same, with what it
    /// lists of the others, which the next one lists again.
    Document,
}

impl Needs {
    fn of(document: &dyn Document) -> Self {
        if document.only_stops() { Self::Document } else { Self::Everything }
    }
}

/// What is to be written.
struct New {
    head: Head,
    id: HeadId,
    body: Vec<u8>,
}

impl Keeper {
    /// Does what a part of `control` asks for, unless it waits no longer. The error ends the connection.
    pub(super) async fn serve(&mut self, client: &mut Client, request: Request) -> Result<(), DatabaseError> {
        let Request { what, asked } = request;
        if asked.reply.is_closed() {
            return Ok(());
        }
        let done = match what {
            // It is written even if nobody waits for it any more.
            Wanted::Push(name) => {
                let done = self.push(client, &name).await;
                self.asked = Some(asked);
                done
            }
            Wanted::Change { document, operator, mut edit } => {
                self.asked = Some(asked);
                self.write(client, document, Needs::Everything, &operator, &mut *edit).await
            }
            Wanted::Repair { operator } => {
                self.asked = Some(asked);
                self.repair(client, &operator).await
            }
            Wanted::Forget(node) => {
                self.asked = Some(asked);
                self.forget(client, node).await
            }
        };
        let lost = match &done {
            Err(Unshared::Database(error)) => Err(error.clone()),
            Err(_) | Ok(()) => Ok(()),
        };
        if let Some(Asked { reply, .. }) = self.asked.take() {
            // The caller may have gone.
            let _ = reply.send(done);
        }
        lost
    }

    /// Commits a change, unless nobody waits for it any more: the caller was told that nothing was changed.
    pub(super) async fn commit(&self, change: Transaction<'_>) -> Result<(), DatabaseError> {
        if let Some(asked) = &self.asked {
            asked.commit()?;
        }
        change.commit().await.map_err(DatabaseError::of_commit)
    }

    /// The error of what took too long.
    fn late(&self) -> DatabaseError {
        self.asked.as_ref().map_or(DatabaseError::Slow, |asked| Asked::given_up(&asked.stage))
    }

    /// Writes what each of these documents has to say. Why some of that is not shared.
    pub(super) async fn tell_news(
        &mut self,
        client: &mut Client,
        documents: Vec<Arc<dyn Document>>,
    ) -> Result<Option<String>, DatabaseError> {
        let mut untold = None;
        for document in documents {
            let is_there =
                self.head.as_ref().is_some_and(|(head, _)| head.documents.contains_key(document.name()));
            let has_news = match is_there {
                true => document.has_news(),
                // Such as a bundle where none is in force yet.
                false => !matches!(document.merge(None), Ok(None)),
            };
            if !has_news {
                continue;
            }
            match self.push(client, document.name()).await {
                Ok(()) => {}
                Err(Unshared::Database(error)) => return Err(error),
                Err(error) => {
                    untold =
                        Some(format!("what this node has of {} is not shared: {error}", document.name()));
                }
            }
        }
        if untold.is_some() && untold != self.view.trouble() {
            tracing::warn!(why = untold, "a change is not shared yet");
        }
        Ok(untold)
    }

    /// The documents that are written even while others cannot be read here.
    pub(super) fn stopping(&self) -> Vec<Arc<dyn Document>> {
        let stops = |document: &&Arc<dyn Document>| self.suffices(Needs::of(&***document), document.name());
        self.documents.iter().filter(stops).cloned().collect()
    }

    async fn push(&mut self, client: &mut Client, name: &str) -> Result<(), Unshared> {
        let Some(document) = self.document(name) else { return Ok(()) };
        let mut unreadable = None;
        self.write(client, name, Needs::of(&*document), "", &mut |there| {
            document.merge(there).unwrap_or_else(|problem| {
                unreadable = Some(problem);
                None
            })
        })
        .await?;
        unreadable.map_or(Ok(()), |problem| Err(Unshared::Unusable(problem)))
    }

    /// A head as this node may write it: where it may keep none, it says so.
    fn as_kept(&self, head: Head) -> Head {
        match self.past {
            Past::Kept => head,
            Past::Unkept => Head { traced: 0, ..head },
        }
    }

    pub(super) fn document(&self, name: &str) -> Option<Arc<dyn Document>> {
        self.documents.iter().find(|document| document.name() == name).cloned()
    }

    /// Changes a document. Where another node was faster, adopts what it wrote and tries again.
    async fn write(
        &mut self,
        client: &mut Client,
        name: &str,
        needs: Needs,
        operator: &str,
        edit: &mut EditBytes<'_>,
    ) -> Result<(), Unshared> {
        for _ in 0..ATTEMPTS {
            if self.head.is_none() || self.view.alarm().is_some() {
                match self.look(client).await? {
                    Look::Believed { .. } => {}
                    Look::Unread if self.suffices(needs, name) => {}
                    Look::Empty => self.begin(client).await?,
                    Look::Unread | Look::Doubted => return Err(self.doubt()),
                }
            }
            let attempt = timeout(TRANSACTION, self.attempt(client, name, operator, edit)).await;
            // The disk is waited for when the transaction has ended, so that a slow one holds up no other node.
            match attempt.unwrap_or_else(|_| Err(self.late()))? {
                Attempt::Made(new) => {
                    self.written(name, new).await;
                    return Ok(());
                }
                Attempt::There(body) => {
                    self.known_there(name, &body).await;
                    return Ok(());
                }
                Attempt::Nothing => return Ok(()),
                Attempt::Overtaken => match self.look(client).await? {
                    Look::Believed { .. } | Look::Empty => {}
                    Look::Unread if self.suffices(needs, name) => {}
                    Look::Unread | Look::Doubted => return Err(self.doubt()),
                },
                Attempt::Doubted(alarm) => {
                    self.raise(alarm);
                    return Err(self.doubt());
                }
                Attempt::Unusable(problem) => return Err(Unshared::Unusable(problem)),
            }
        }
        Err(Unshared::Conflict)
    }

    /// Whether a document may be written although another one cannot be read here.
    fn suffices(&self, needs: Needs, name: &str) -> bool {
        needs == Needs::Document && self.head.as_ref().is_some_and(|(head, _)| self.has_read(head, name))
    }

    fn doubt(&self) -> Unshared {
        let trouble = || self.view.trouble().unwrap_or_else(|| "the shared state is not believed".to_owned());
        self.view.alarm().map_or_else(|| Unshared::Unusable(trouble()), Unshared::Alarm)
    }

    async fn attempt(
        &mut self,
        client: &mut Client,
        name: &str,
        operator: &str,
        edit: &mut EditBytes<'_>,
    ) -> Result<Attempt, DatabaseError> {
        let seals = self.seals();
        let change = client.transaction().await?;
        let Some(row) = table::head(&change, seals.fleet, Hold::Head).await? else {
            return Ok(Attempt::Overtaken);
        };
        let digest = Sha256Digest(seals.head_digest(&row.body));
        let Some((head, id)) = self.head.as_ref().filter(|(_, id)| id.digest == digest) else {
            return Ok(Attempt::Overtaken);
        };
        let listed = head.documents.get(name);
        let there = match listed {
            None => None,
            Some(listed) => match table::body(&change, seals.fleet, name, listed.sha256).await? {
                Some(body) => Some(body),
                None => return Ok(Attempt::Doubted(Alarm::Mismatched { row: name.to_owned() })),
            },
        };
        let body = match edit(there.as_deref()) {
            Some(body) if Some(&body) != there.as_ref() => body,
            Some(body) => {
                change.rollback().await?;
                return Ok(Attempt::There(body));
            }
            None => return Ok(Attempt::Nothing),
        };
        if body.len() > MAX_DOCUMENT {
            return Ok(Attempt::Unusable(format!("it must have at most {MAX_DOCUMENT} bytes")));
        }
        let version = listed.map_or(1, |listed| listed.version + 1);
        let mut next = self.as_kept(head.next(id.digest, self.writer(operator)));
        next.documents.insert(name.to_owned(), Listed { version, sha256: Sha256Digest::of(&body) });
        put_document(&change, &seals, &next, name, &body).await?;
        let id = put_head(&change, &seals, &next).await?;
        table::tell(&change, seals.fleet).await?;
        self.commit(change).await?;
        Ok(Attempt::Made(New { head: next, id, body }))
    }

    /// Adopts a change that the shared document has already as one that this node has written.
    async fn known_there(&self, name: &str, body: &[u8]) {
        let (Some(document), Some((head, _))) = (self.document(name), &self.head) else { return };
        if let Err(error) = document.adopt(body, &provenance(head, Arrival::Own)).await {
            tracing::error!(document = name, %error, "what is shared is not on the disk of this node");
        }
    }

    /// Adopts what this node has written.
    async fn written(&mut self, name: &str, new: New) {
        let New { head, id, body } = new;
        if let Some(document) = self.document(name) {
            match document.adopt(&body, &provenance(&head, Arrival::Own)).await {
                Ok(()) => self.adopted_as(name, &head),
                // The next look reads it again, and raises it.
                Err(error @ (AdoptError::Unreadable(_) | AdoptError::Contradicts(_))) => {
                    tracing::error!(document = name, %error, "what this node has written cannot be read here");
                }
                Err(error @ AdoptError::NotKept(_)) => {
                    tracing::error!(document = name, %error, "a change is shared and in force, but not on the disk of this node");
                    self.adopted_as(name, &head);
                }
            }
        }
        self.remember(&head, id).await;
        self.head = Some((head, id));
    }

    fn adopted_as(&mut self, name: &str, head: &Head) {
        if let Some(listed) = head.documents.get(name) {
            self.adopted.insert(name.to_owned(), *listed);
        }
    }

    /// Writes the first state: the documents of this node. Another node may be faster.
    pub(super) async fn begin(&mut self, client: &mut Client) -> Result<(), DatabaseError> {
        let seals = self.seals();
        let mut bodies = Vec::new();
        for document in &self.documents {
            match document.merge(None) {
                Ok(Some(body)) => bodies.push((document.name().to_owned(), body)),
                Ok(None) => {}
                Err(problem) => {
                    tracing::error!(document = document.name(), problem, "a document cannot be shared")
                }
            }
        }
        let head = self.as_kept(Head::first(self.writer("")));
        let written = async {
            let change = client.transaction().await?;
            self.write_all(change, &seals, head, &bodies, None).await
        };
        match within(TRANSACTION, written).await? {
            Some((head, id)) => {
                tracing::info!("this node begins the shared state of its fleet");
                self.written_all(&head, id, bodies).await;
            }
            None => {
                let why = "the first state of the fleet was not written: another node was faster, or the database ignores it";
                self.view.unanswered(why.to_owned());
                self.wake();
            }
        }
        Ok(())
    }

    /// Writes a first head with all documents, each with the version after the one that is known. `None` if there is a head, or no key.
    async fn write_all(
        &self,
        change: Transaction<'_>,
        seals: &Seals,
        mut head: Head,
        bodies: &[(String, Vec<u8>)],
        known: Option<&BTreeMap<String, Listed>>,
    ) -> Result<Option<(Head, HeadId)>, DatabaseError> {
        for (name, body) in bodies {
            let listed = known.and_then(|known| known.get(name));
            let version = listed.map_or(1, |listed| listed.version + 1);
            head.documents.insert(name.clone(), Listed { version, sha256: Sha256Digest::of(body) });
        }
        let Some(row) = head_row(seals, &head) else { return Ok(None) };
        if !table::first_head(&change, seals.fleet, &row).await? {
            return Ok(None);
        }
        for (name, body) in bodies {
            put_document(&change, seals, &head, name, body).await?;
        }
        table::tell(&change, seals.fleet).await?;
        self.commit(change).await?;
        let id = HeadId { seq: head.seq, digest: Sha256Digest(seals.head_digest(&row.body)) };
        Ok(Some((head, id)))
    }

    /// Adopts a whole state that this node has written.
    async fn written_all(&mut self, head: &Head, id: HeadId, bodies: Vec<(String, Vec<u8>)>) {
        for (name, body) in bodies {
            self.written(&name, New { head: head.clone(), id, body }).await;
        }
        self.head = Some((head.clone(), id));
        self.wake();
    }

    /// Looks again at once.
    fn wake(&self) {
        self.woken.notify_one();
    }

    /// Seals everything under the current root epoch, so that an older one can be retired.
    pub(super) async fn renew_seals(&mut self, client: &mut Client) -> Result<(), DatabaseError> {
        let seals = self.seals();
        let Some((head, id)) = &self.head else { return Ok(()) };
        let renewed = async {
            let change = client.transaction().await?;
            let Some(row) = table::head(&change, seals.fleet, Hold::Head).await? else { return Ok(()) };
            if seals.head_digest(&row.body) != id.digest.0 {
                return Ok(());
            }
            let Some(seal) = seals.seal(Sealed::Head { body: &row.body }) else { return Ok(()) };
            table::replace_head(&change, seals.fleet, &HeadRow { seal, ..row }).await?;
            for (name, listed) in &head.documents {
                let sealed =
                    Sealed::Row { document: name, version: listed.version, sha256: &listed.sha256.0 };
                if let Some(seal) = seals.seal(sealed) {
                    table::reseal(&change, seals.fleet, name, &seal).await?;
                }
            }
            change.commit().await?;
            tracing::info!("the shared state is authenticated under the current root epoch now");
            Ok::<_, DatabaseError>(())
        };
        within(TRANSACTION, renewed).await
    }

    /// Writes the state of this node over whatever is there, with a number above every one that was seen. A newer state that follows
    /// the one of this node is taken over instead.
    async fn repair(&mut self, client: &mut Client, operator: &str) -> Result<(), Unshared> {
        let before = self.memory.known(self.seals().fleet).map(|known| known.head);
        self.look(client).await?;
        let seals = self.seals();
        let known = self.memory.known(seals.fleet).cloned();
        if known.as_ref().map(|known| known.head) != before {
            return Err(Unshared::Behind);
        }
        let mut bodies = Vec::new();
        for document in &self.documents {
            let merged = document.merge(None).map_err(Unshared::Unusable)?;
            bodies.extend(merged.map(|body| (document.name().to_owned(), body)));
        }
        let repaired = async {
            let change = client.transaction().await?;
            let (seen, judged) = self.judged(&change, &seals, Hold::Head).await?;
            // What this version cannot read, it cannot take over either.
            let is_readable =
                !matches!(self.view.alarm(), Some(Alarm::Unreadable { .. } | Alarm::Contradicts { .. }));
            if let Ok(Some(believed)) = judged
                && known.as_ref().is_none_or(|known| known.head != believed.id)
                && is_readable
            {
                return Ok(None);
            }
            // A number that somebody made up does not count: no node would believe it either.
            let shown = seen.head.and_then(|row| super::judge::number(&seals, &row));
            let elsewhere = super::judge::newest(&seals, &seen.beats);
            let newest =
                [shown, elsewhere, known.as_ref().map(|known| known.head.seq)].into_iter().flatten().max();
            let seq = newest.unwrap_or(0).saturating_add(1);
            let head = self.as_kept(Head { seq, repaired: seq, ..Head::first(self.writer(operator)) });
            table::clear(&change, seals.fleet).await?;
            let known = known.as_ref().map(|known| &known.documents);
            self.write_all(change, &seals, head, &bodies, known).await
        };
        let repaired = timeout(TRANSACTION, repaired).await.unwrap_or_else(|_| Err(self.late()))?;
        let Some((head, id)) = repaired else {
            // Another node has written since this one looked.
            return Err(match self.look(client).await? {
                Look::Believed { .. } => Unshared::Behind,
                Look::Empty | Look::Unread | Look::Doubted => Unshared::Conflict,
            });
        };
        tracing::warn!(
            operator,
            state = head.seq,
            "the state of this node was written over what was in the database"
        );
        self.written_all(&head, id, bodies).await;
        Ok(())
    }
}

fn head_row(seals: &Seals, head: &Head) -> Option<HeadRow> {
    let body = head.encode();
    let seal = seals.seal(Sealed::Head { body: &body })?;
    Some(HeadRow { seq: i64::try_from(head.seq).ok()?, body, seal })
}

/// Writes the head, which is held, and keeps some for nodes that are away.
async fn put_head(change: &Transaction<'_>, seals: &Seals, head: &Head) -> Result<HeadId, DatabaseError> {
    let row = head_row(seals, head).ok_or_else(no_keys)?;
    table::replace_head(change, seals.fleet, &row).await?;
    if head.is_kept() {
        table::keep_head(change, seals.fleet, &row).await?;
    }
    Ok(HeadId { seq: head.seq, digest: Sha256Digest(seals.head_digest(&row.body)) })
}

/// Writes a document with the version that the head lists.
async fn put_document(
    change: &Transaction<'_>,
    seals: &Seals,
    head: &Head,
    name: &str,
    body: &[u8],
) -> Result<(), DatabaseError> {
    let listed = head.documents.get(name).ok_or_else(no_keys)?;
    let sealed = Sealed::Row { document: name, version: listed.version, sha256: &listed.sha256.0 };
    let seal = seals.seal(sealed).ok_or_else(no_keys)?;
    let version = i64::try_from(listed.version).unwrap_or(i64::MAX);
    table::put(change, seals.fleet, (name, version), (body, &seal)).await
}

fn no_keys() -> DatabaseError {
    DatabaseError::Settings("there are no keys of the current root epoch".to_owned())
}
