//! Lists that each node shows to the others: the CVMs that got keys there, and the requests that it refused. They are reports as
//! the status is, but written only when they have changed, and read only where they are new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_postgres::Client;

use super::client::{EXCHANGE, within};
use super::error::DatabaseError;
use super::judge::authentic;
use super::keeper::Keeper;
use super::seal::NodeId;
use super::table;

/// The most bytes of a list.
pub const MAX_LIST: usize = 64 << 10;
/// How often lists are written and read, at most.
const EVERY: Duration = Duration::from_secs(10);
/// How long before it is written a list is made.
const AHEAD: Duration = Duration::from_secs(3);
/// What each other node adds to this interval: otherwise what all nodes read together would grow with the square of their number.
const EACH: Duration = Duration::from_secs(1);
/// A list that has not changed is written again after this time, in case the database has lost it.
const AGAIN: Duration = Duration::from_secs(300);

/// Something of each list of each node.
type OfNodes<T> = BTreeMap<(ListKind, NodeId), T>;

/// Which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListKind {
    /// The CVMs that got keys.
    Inventory,
    /// The requests that were refused.
    Denials,
}

impl ListKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Inventory, Self::Denials];

    /// The kind of its reports.
    fn report(self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::Denials => "denials",
        }
    }
}

/// The lists of a fleet, as they were read last.
#[derive(Debug, Default)]
pub struct Lists {
    due: Notify,
    own: ArcSwap<BTreeMap<ListKind, Arc<[u8]>>>,
    others: ArcSwap<OfNodes<Arc<[u8]>>>,
}

impl Lists {
    /// Waits until the lists of this node are to be made, because they are written soon. What is asked for while nobody waits is
    /// not lost.
    pub async fn due(&self) {
        self.due.notified().await;
    }

    /// Shows a list of this node to the others, soon. One of more than [`MAX_LIST`] bytes is not shown.
    pub fn publish(&self, kind: ListKind, body: Vec<u8>) {
        if body.len() > MAX_LIST || self.own.load().get(&kind).is_some_and(|known| **known == *body) {
            return;
        }
        let body: Arc<[u8]> = body.into();
        self.own.rcu(|own| {
            let mut own = BTreeMap::clone(own);
            own.insert(kind, Arc::clone(&body));
            own
        });
    }

    /// The lists of the other nodes.
    pub fn of_others(&self, kind: ListKind) -> Vec<(NodeId, Arc<[u8]>)> {
        let others = self.others.load();
        let of_kind = others.iter().filter(|((of, _), _)| *of == kind);
        of_kind.map(|((_, node), body)| (*node, Arc::clone(body))).collect()
    }
}

/// When the lists are made, written and read.
#[derive(Debug, Default)]
struct Timetable {
    exchanged: Option<Instant>,
    /// Whether those that are written next are asked for.
    is_asked: bool,
}

/// What is to be done with the lists now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Nothing,
    Make,
    Exchange,
}

impl Timetable {
    /// What is due, each once in the time `every`. At the start both are due at once: then the lists are made.
    fn turn(&mut self, now: Instant, every: Duration) -> Turn {
        let passed = self.exchanged.map(|at| now.duration_since(at));
        if !self.is_asked && passed.is_none_or(|passed| passed >= every.saturating_sub(AHEAD)) {
            self.is_asked = true;
            return Turn::Make;
        }
        if passed.is_none_or(|passed| passed >= every) {
            (self.exchanged, self.is_asked) = (Some(now), false);
            return Turn::Exchange;
        }
        Turn::Nothing
    }
}

/// What was written and read.
#[derive(Debug, Default)]
pub(super) struct Exchanged {
    timetable: Timetable,
    written: BTreeMap<ListKind, (Arc<[u8]>, Instant)>,
    read: OfNodes<(u64, Arc<[u8]>)>,
}

impl Keeper {
    /// Shows the lists of this node, and reads those of the others, every few seconds.
    pub(super) async fn exchange_lists(&mut self, client: &Client) -> Result<(), DatabaseError> {
        let nodes = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        let every = EVERY.max(EACH.saturating_mul(nodes));
        match self.lists.timetable.turn(Instant::now(), every) {
            Turn::Nothing => return Ok(()),
            Turn::Make => {
                self.view.lists().due.notify_one();
                return Ok(());
            }
            Turn::Exchange => {}
        }
        for kind in ListKind::ALL {
            let lists = async {
                self.write_list(client, kind).await?;
                self.read_lists(client, kind).await
            };
            within(EXCHANGE, lists).await?;
        }
        let read = self.lists.read.iter().map(|(key, (_, body))| (*key, Arc::clone(body)));
        self.view.lists().others.store(Arc::new(read.collect()));
        Ok(())
    }

    async fn write_list(&mut self, client: &Client, kind: ListKind) -> Result<(), DatabaseError> {
        let Some(body) = self.view.lists().own.load().get(&kind).cloned() else { return Ok(()) };
        let is_there = |(known, at): &(Arc<[u8]>, Instant)| *known == body && at.elapsed() < AGAIN;
        if self.lists.written.get(&kind).is_some_and(is_there) {
            return Ok(());
        }
        if self.tell(client, kind.report(), &body).await? {
            self.lists.written.insert(kind, (body, Instant::now()));
        }
        Ok(())
    }

    async fn read_lists(&mut self, client: &Client, kind: ListKind) -> Result<(), DatabaseError> {
        let (seals, own) = (self.seals(), self.node());
        let nodes = self.view.nodes();
        self.lists.read.retain(|(_, node), _| nodes.iter().any(|seen| seen.id == *node));
        let known: BTreeMap<NodeId, u64> = self
            .lists
            .read
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|((_, node), (counter, _))| (*node, *counter))
            .collect();
        let rows = table::new_reports(client, seals.fleet, (kind.report(), MAX_LIST), own, &known).await?;
        for (node, counter, body) in authentic(&seals, kind.report(), &rows) {
            // A list that the database shows again is not new.
            if node != own && known.get(&node).is_none_or(|known| counter > *known) {
                self.lists.read.insert((kind, node), (counter, body.into()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_made_once_for_each_time_that_they_are_written_and_shortly_before() {
        let start = Instant::now();
        for every in [EVERY, Duration::from_secs(100)] {
            let mut timetable = Timetable::default();
            // A round a second, as the keeper makes them.
            let turns: Vec<_> = (0..1000)
                .map(|second| (second, timetable.turn(start + Duration::from_secs(second), every)))
                .filter(|(_, turn)| *turn != Turn::Nothing)
                .collect();
            assert_eq!(turns[..2], [(0, Turn::Make), (1, Turn::Exchange)]);
            for pair in turns.windows(2) {
                assert_ne!(pair[0].1, pair[1].1, "by turns: {pair:?}");
            }
            let of = |wanted| turns.iter().filter(move |(_, turn)| *turn == wanted).map(|(at, _)| *at);
            let written: Vec<_> = of(Turn::Exchange).collect();
            assert!(written.windows(2).all(|pair| pair[1] - pair[0] == every.as_secs()), "{written:?}");
            let later = of(Turn::Make).skip(1).zip(&written[1..]);
            assert!(later.clone().all(|(made, written)| written - made == AHEAD.as_secs()));
            assert!(later.count() > 5);
        }
        // Rounds that come late leave neither out.
        let mut timetable = Timetable::default();
        let turns = [0, 60, 120, 180, 240].map(|at| timetable.turn(start + Duration::from_secs(at), EVERY));
        assert_eq!(turns, [Turn::Make, Turn::Exchange, Turn::Make, Turn::Exchange, Turn::Make]);
    }

    #[tokio::test]
    async fn who_makes_the_lists_is_told_also_if_it_was_busy() {
        let lists = Lists::default();
        lists.due.notify_one();
        lists.due().await;
        let again = tokio::time::timeout(Duration::from_millis(10), lists.due());
        assert!(again.await.is_err(), "once");
    }
}
