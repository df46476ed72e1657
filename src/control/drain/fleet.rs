//! The drains of a fleet. This node begins its own at once, and writes it to the shared state until it is there; an end must be there
//! before it takes effect anywhere.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{Begun, Drain, DrainError, Drains, Nodes};
use crate::audit::Audit;
use crate::clock::unix_now;
use crate::control::Reach;
use crate::control::adopted::{AdoptedChange, note_adopted};
use crate::control::store::keep_adopted;
use crate::state::shared::{
    AdoptError, Arrival, DatabaseError, Document, Edit, Format, NodeId, Provenance, Shared, Unshared,
};
use crate::state::{self, DrainFile, DrainFileError, DrainRecord, MAX_DRAINED, MAX_DRAINED_BY};

/// Its name in the database.
const DOCUMENT: &str = "drain";
/// How long the drain of this node, which is in force here at once, waits until it is in the shared state.
const SHARE_TIME: Duration = Duration::from_secs(3);

/// Where the drains of all nodes are kept.
#[derive(Debug)]
pub(super) struct Fleet {
    shared: Arc<Shared>,
    /// One change at a time.
    file: Arc<Mutex<DrainFile>>,
}

impl Fleet {
    pub(super) fn own(&self) -> NodeId {
        self.shared.node()
    }

    /// What people call a node.
    fn name(&self, node: NodeId) -> String {
        let nodes = self.shared.view().nodes();
        let known = nodes.iter().find(|seen| seen.id == node);
        known.map_or_else(|| node.to_string(), |seen| seen.name.clone())
    }

    async fn share(&self) -> Reach {
        match tokio::time::timeout(SHARE_TIME, self.shared.push(DOCUMENT)).await {
            Ok(Ok(())) => Reach::Fleet,
            Ok(Err(unshared)) => Reach::NotYet(unshared),
            Err(_) => Reach::NotYet(Unshared::Database(DatabaseError::Slow)),
        }
    }
}

/// The drains, as the shared state sees them.
#[derive(Debug)]
pub struct SharedDrains {
    drain: Arc<Drain>,
    audit: Arc<Audit>,
}

impl SharedDrains {
    /// What other nodes change is recorded in `audit`.
    pub fn new(drain: Arc<Drain>, audit: Arc<Audit>) -> Self {
        Self { drain, audit }
    }

    fn record(&self, fleet: &Fleet, before: &Nodes, after: &Nodes, from: &Provenance) {
        let begun = after.values().filter(|it| !before.contains_key(&it.node));
        let ended = before.keys().filter(|node| !after.contains_key(node));
        let begun = begun.map(|record| ("drained", record.node, record.by.clone()));
        let ended = ended.map(|node| ("undrained", *node, from.operator.clone()));
        let changes: Vec<_> = begun.chain(ended).collect();
        note_adopted(&self.audit, DOCUMENT, from, &changes, |(change, node, by)| {
            let name = fleet.name(*node);
            tracing::warn!(drained = name, by, node = from.node, "{change} on another node");
            AdoptedChange { change, target: format!("the node {name}"), by: by.clone(), domain: None }
        });
    }
}

impl Document for SharedDrains {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        self.drain.lock().merge(there)
    }

    fn has_news(&self) -> bool {
        self.drain.lock().unshared().next().is_some()
    }

    fn only_stops(&self) -> bool {
        true
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let there = parse(body).map_err(AdoptError::Unreadable)?;
            let Some(fleet) = &self.drain.fleet else { return Ok(()) };
            let file = Arc::clone(&fleet.file).lock_owned().await;
            let (before, after) = self.drain.lock().take(there, from.arrival);
            if from.arrival != Arrival::Own {
                self.record(fleet, &before, &after, from);
            }
            let records = self.drain.nodes();
            keep_adopted(DOCUMENT, None, move || file.replace(records), &self.audit).await
        })
    }
}

/// An end of the drain of a node on all nodes.
#[derive(Debug)]
pub(super) struct End {
    node: NodeId,
    /// Whether the drain of the node began again: that one is not ended.
    is_overtaken: AtomicBool,
}

impl End {
    fn is_overtaken(&self) -> bool {
        self.is_overtaken.load(Ordering::Acquire)
    }

    /// Takes the node out of what is shared.
    fn edit(&self, nodes: &mut Nodes) -> Edit {
        match !self.is_overtaken() && nodes.remove(&self.node).is_some() {
            true => Edit::Changed,
            false => Edit::Unchanged,
        }
    }
}

impl Drains {
    fn is_ending(&self, node: NodeId) -> bool {
        self.ending.iter().any(|end| end.node == node && !end.is_overtaken())
    }

    /// The ends of a node's drain that are being written do not end a drain that begins from now on. Whether there are any.
    fn overtake_ends(&self, node: NodeId) -> bool {
        let is_ending = self.is_ending(node);
        for end in self.ending.iter().filter(|end| end.node == node) {
            end.is_overtaken.store(true, Ordering::Release);
        }
        is_ending
    }

    /// The drains that began here and are not in the shared state yet.
    fn unshared(&self) -> impl Iterator<Item = &DrainRecord> {
        self.nodes.values().filter(|record| record.unshared && !self.is_ending(record.node))
    }

    /// The shared document `there`, with the drains that began here added. Where it has a drain of the node already, that one stays.
    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let Some(there) = there else {
            let all = self.nodes.values().filter(|record| !self.is_ending(record.node));
            return encode(all).map(Some);
        };
        let mut unshared = self.unshared().peekable();
        if unshared.peek().is_none() {
            return Ok(None);
        }
        let mut union = parse(there)?;
        for record in unshared {
            union.entry(record.node).or_insert_with(|| record.clone());
        }
        encode(union.values()).map(Some)
    }

    /// Puts the shared document in force. Returns the drains before and after.
    fn take(&mut self, there: Nodes, arrival: Arrival) -> (Nodes, Nodes) {
        let mut after = there;
        let is_ended = |node: &NodeId| arrival == Arrival::Own && self.is_ending(*node);
        for record in self.nodes.values().filter(|record| !is_ended(&record.node)) {
            // What only this node knows is not lost, whatever it finds.
            if record.unshared || matches!(arrival, Arrival::Joined | Arrival::Repaired) {
                after.entry(record.node).or_insert_with(|| DrainRecord { unshared: true, ..record.clone() });
            }
        }
        (std::mem::replace(&mut self.nodes, after.clone()), after)
    }
}

impl Drain {
    /// The drains of a node of a fleet, read from the file at `path`; a missing file means that no node is drained.
    ///
    /// # Errors
    /// [`DrainFileError`]: it is not known whether this node is drained.
    pub fn of_fleet(path: PathBuf, shared: Arc<Shared>) -> Result<Self, DrainFileError> {
        let file = DrainFile::new(path);
        let nodes: Nodes = file.read()?.into_iter().map(|record| (record.node, record)).collect();
        let fleet = Fleet { shared, file: Arc::new(Mutex::new(file)) };
        let drain = Self { drains: Drains { nodes, ..Drains::default() }.into(), fleet: Some(fleet) };
        if let Some(current) = drain.current() {
            tracing::warn!(
                by = current.by,
                "this node is DRAINED: it is not ready until an operator undrains it"
            );
        }
        Ok(drain)
    }

    /// Whether [`Drain::of_fleet`] would accept the existing file.
    ///
    /// # Errors
    /// [`DrainFileError`].
    pub fn inspect(path: PathBuf) -> Result<(), DrainFileError> {
        DrainFile::new(path).read().map(drop)
    }

    /// The state that is shared with other nodes; `None` without any.
    pub fn shared(&self) -> Option<&Arc<Shared>> {
        self.fleet.as_ref().map(|fleet| &fleet.shared)
    }

    pub(super) async fn begin_here(&self, fleet: &Fleet, by: &str) -> Result<Begun, DrainError> {
        let own = fleet.own();
        let already = {
            let mut drains = self.lock();
            // This is the later of the two, so it is not ended with the earlier one.
            let ends = drains.overtake_ends(own);
            let before = drains.nodes.get(&own).filter(|_| !ends).cloned();
            if before.is_none() {
                drains.nodes.insert(own, DrainRecord { unshared: true, ..record(own, by) });
            }
            before
        };
        if already.as_ref().is_some_and(|before| !before.unshared) {
            return self.begin_again(fleet, by).await;
        }
        let kept = self.keep(fleet).await;
        let reach = fleet.share().await;
        kept.map_err(DrainError::NotKept)?;
        Ok(Begun { already: already.map(|before| before.by), reach })
    }

    /// Begins the drain of this node where one is known already: another node may have ended that, which is not adopted here yet.
    async fn begin_again(&self, fleet: &Fleet, by: &str) -> Result<Begun, DrainError> {
        let own = fleet.own();
        let unshared = match tokio::time::timeout(SHARE_TIME, self.begin_elsewhere(fleet, own, by)).await {
            Ok(Err(DrainError::NotShared(unshared))) => unshared,
            Ok(begun) => return begun,
            Err(_) => Unshared::Database(DatabaseError::Slow),
        };
        // Whatever this node adopts later, it began after that.
        let already = {
            let mut drains = self.lock();
            let before = drains.nodes.get(&own).map(|record| record.by.clone());
            drains.nodes.entry(own).or_insert_with(|| record(own, by)).unshared = true;
            before
        };
        self.keep(fleet).await.map_err(DrainError::NotKept)?;
        Ok(Begun { already, reach: Reach::NotYet(unshared) })
    }

    pub(super) async fn begin_elsewhere(
        &self,
        fleet: &Fleet,
        node: NodeId,
        by: &str,
    ) -> Result<Begun, DrainError> {
        let already = Arc::new(std::sync::Mutex::new(None));
        let (found, new) = (Arc::clone(&already), record(node, by));
        let edit = move |nodes: &mut Nodes| {
            let there = nodes.get(&node).map(|record| record.by.clone());
            let is_new = there.is_none();
            *found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = there;
            nodes.entry(node).or_insert_with(|| new.clone());
            Ok(if is_new { Edit::Changed } else { Edit::Unchanged })
        };
        fleet.shared.edit(DOCUMENT, by, InFile, edit).await?;
        let already = already.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        Ok(Begun { already, reach: Reach::Fleet })
    }

    /// Ends the drain of a node on all nodes. Whether there was one.
    pub(super) async fn end_everywhere(
        &self,
        fleet: &Fleet,
        node: NodeId,
        by: &str,
    ) -> Result<bool, DrainError> {
        let ending = Ending::begin(self, node);
        let end = Arc::clone(&ending.end);
        let edited = fleet.shared.edit(DOCUMENT, by, InFile, move |nodes| Ok(end.edit(nodes))).await?;
        // What no other node has seen is not in the shared state, so its end is not adopted from there.
        let was_here = ending.take();
        if was_here {
            self.keep(fleet).await.map_err(DrainError::EndNotKept)?;
        }
        match was_here || edited == Edit::Changed {
            false if ending.end.is_overtaken() => Err(DrainError::Overtaken),
            is_over => Ok(is_over),
        }
    }

    /// Writes what is in force to the disk.
    async fn keep(&self, fleet: &Fleet) -> io::Result<()> {
        let file = Arc::clone(&fleet.file).lock_owned().await;
        let records = self.nodes();
        state::written(move || file.replace(records)).await?.safely()
    }
}

fn record(node: NodeId, by: &str) -> DrainRecord {
    let by = by[..by.floor_char_boundary(MAX_DRAINED_BY)].to_owned();
    DrainRecord { node, by, since: unix_now(), unshared: false }
}

/// A node whose drain is being ended on all nodes.
struct Ending<'a> {
    drain: &'a Drain,
    end: Arc<End>,
}

impl<'a> Ending<'a> {
    fn begin(drain: &'a Drain, node: NodeId) -> Self {
        let end = Arc::new(End { node, is_overtaken: AtomicBool::new(false) });
        drain.lock().ending.push(Arc::clone(&end));
        Self { drain, end }
    }

    /// Ends what only this node has of it, unless it began again meanwhile. Whether there was something.
    fn take(&self) -> bool {
        let mut drains = self.drain.lock();
        // What is in the shared state now, another operator began after this end.
        let is_own = drains.nodes.get(&self.end.node).is_some_and(|record| record.unshared);
        is_own && !self.end.is_overtaken() && drains.nodes.remove(&self.end.node).is_some()
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.drain.lock().ending.retain(|end| !Arc::ptr_eq(end, &self.end));
    }
}

/// As in the file.
struct InFile;

impl Format for InFile {
    type Content = Nodes;
    type Error = Unshared;

    fn parse(&self, body: &[u8]) -> Result<Nodes, Unshared> {
        parse(body).map_err(Unshared::Unusable)
    }

    fn encode(&self, nodes: &Nodes) -> Result<Vec<u8>, Unshared> {
        encode(nodes.values()).map_err(Unshared::Unusable)
    }
}

fn parse(body: &[u8]) -> Result<Nodes, String> {
    let records = state::parse_drains(body)?;
    if records.len() > MAX_DRAINED {
        return Err(format!("at most {MAX_DRAINED} drained nodes are allowed, got {}", records.len()));
    }
    // Marks are of the node that wrote them.
    let settled = records.into_iter().map(|record| DrainRecord { unshared: false, ..record });
    Ok(settled.map(|record| (record.node, record)).collect())
}

/// The bytes of the document.
fn encode<'a>(records: impl Iterator<Item = &'a DrainRecord>) -> Result<Vec<u8>, String> {
    let records: Vec<_> = records.map(|record| DrainRecord { unshared: false, ..record.clone() }).collect();
    if records.len() > MAX_DRAINED {
        return Err(format!("more than {MAX_DRAINED} nodes would be drained: undrain some"));
    }
    state::drains_content(records).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: NodeId = NodeId([1; 16]);
    const OTHER: NodeId = NodeId([2; 16]);

    fn of(records: &[(NodeId, &str, bool)]) -> Nodes {
        let record = |(node, by, unshared): &(NodeId, &str, bool)| {
            (*node, DrainRecord { node: *node, by: (*by).to_owned(), since: 5, unshared: *unshared })
        };
        records.iter().map(record).collect()
    }

    fn end(node: NodeId) -> Arc<End> {
        Arc::new(End { node, is_overtaken: AtomicBool::new(false) })
    }

    fn drains(records: &[(NodeId, &str, bool)]) -> Drains {
        Drains { nodes: of(records), ..Drains::default() }
    }

    fn document(records: &[(NodeId, &str, bool)]) -> Vec<u8> {
        encode(of(records).values()).unwrap()
    }

    #[test]
    fn what_began_here_is_added_to_what_is_there_and_the_first_operator_stays() {
        let here = drains(&[(OWN, "amy", true), (OTHER, "amy", false)]);
        let merged = here.merge(Some(&document(&[(OTHER, "bob", false)]))).unwrap().expect("news");
        assert_eq!(parse(&merged).unwrap(), of(&[(OWN, "amy", false), (OTHER, "bob", false)]));
        let merged = here.merge(Some(&document(&[(OWN, "bob", false)]))).unwrap().expect("news");
        assert_eq!(
            parse(&merged).unwrap(),
            of(&[(OWN, "bob", false)]),
            "what is settled comes from there only"
        );
        let settled = drains(&[(OWN, "amy", false)]);
        assert_eq!(settled.merge(Some(&document(&[]))), Ok(None));
        assert_eq!(
            settled.merge(None),
            Ok(Some(document(&[(OWN, "amy", false)]))),
            "the whole where there is none"
        );
        assert_eq!(drains(&[]).merge(None), Ok(Some(document(&[]))));
        let ending = Drains { ending: vec![end(OWN)], ..drains(&[(OWN, "amy", true)]) };
        assert_eq!(ending.merge(Some(&document(&[]))), Ok(None), "it is not written again while it is ended");
    }

    #[test]
    fn an_adopted_document_counts_and_what_only_this_node_knows_stays() {
        for (here, there, arrival, after) in [
            (&[(OWN, "amy", false)][..], &[][..], Arrival::Other, &[][..]),
            (&[(OWN, "amy", false)], &[], Arrival::Own, &[]),
            (&[(OWN, "amy", true)], &[], Arrival::Other, &[(OWN, "amy", true)]),
            (&[(OWN, "amy", true)], &[(OWN, "amy", false)], Arrival::Own, &[(OWN, "amy", false)]),
            (&[(OWN, "amy", true)], &[(OWN, "bob", false)], Arrival::Other, &[(OWN, "bob", false)]),
            (&[(OTHER, "amy", false)], &[], Arrival::Joined, &[(OTHER, "amy", true)]),
            (
                &[(OTHER, "amy", false)],
                &[(OWN, "bob", false)],
                Arrival::Repaired,
                &[(OTHER, "amy", true), (OWN, "bob", false)],
            ),
        ] {
            let mut drains = drains(here);
            let (was, is) = drains.take(of(there), arrival);
            assert_eq!((was, &is), (of(here), &of(after)), "{arrival:?}");
            assert_eq!(drains.nodes, is);
        }
        let mut ending = Drains { ending: vec![end(OWN)], ..drains(&[(OWN, "amy", true)]) };
        assert_eq!(ending.take(of(&[]), Arrival::Other).1.len(), 1, "its end is not written yet");
        assert!(ending.take(of(&[]), Arrival::Own).1.is_empty());
    }

    #[test]
    fn an_end_takes_what_only_this_node_has_unless_it_began_again() {
        for (unshared, begins_again, taken) in
            [(true, false, true), (true, true, false), (false, false, false)]
        {
            let drain = Drain { drains: drains(&[(OWN, "amy", unshared)]).into(), fleet: None };
            let ending = Ending::begin(&drain, OWN);
            if begins_again {
                assert!(drain.lock().overtake_ends(OWN), "once");
                assert!(!drain.lock().overtake_ends(OWN) && !drain.lock().is_ending(OWN));
            }
            let mut there = of(&[(OWN, "amy", false)]);
            assert_eq!(ending.end.edit(&mut there) == Edit::Changed, !begins_again);
            assert_eq!(there.is_empty(), !begins_again, "what began again is not ended anywhere");
            assert_eq!(ending.take(), taken, "{unshared} {begins_again}");
            assert_eq!(drain.nodes().is_empty(), taken);
            drop(ending);
            assert!(drain.lock().ending.is_empty());
        }
    }

    #[test]
    fn too_many_drained_nodes_are_not_written_and_not_read() {
        let node = |number: usize| NodeId(u128::try_from(number).unwrap().to_be_bytes());
        let records = |count: usize| (0..count).map(|number| record(node(number), "amy")).collect::<Vec<_>>();
        let full = encode(records(MAX_DRAINED).iter()).unwrap();
        let here = drains(&[(OWN, "amy", true)]);
        assert_eq!(
            here.merge(Some(&full)).unwrap_err(),
            "more than 256 nodes would be drained: undrain some"
        );
        let more = state::drains_content(records(MAX_DRAINED + 1)).unwrap();
        assert_eq!(parse(&more).unwrap_err(), "at most 256 drained nodes are allowed, got 257");
    }
}
