//! Keeps this node and the database the same: connects, looks each second, adopts what others changed, and writes what this node
//! has to say.

mod adoption;
mod session;
mod statuses;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_postgres::Client;

pub(super) use self::adoption::provenance;
use self::statuses::Status;
use super::alarm::Alarm;
use super::beat::{self, Answer, Beat, Challenge, Challenges};
use super::client::{EXCHANGE, within};
use super::document::Document;
use super::error::DatabaseError;
use super::head::{Head, HeadId, Listed, Writer};
use super::history::DeadEnd;
use super::judge::{Believed, authentic};
use super::lists::Exchanged;
use super::memory::Memory;
use super::schema::Past;
use super::seal::{NodeId, Sealed, Seals};
use super::skew::Skew;
use super::split::Watch;
use super::table;
use super::view::{NodeSeen, View};
use super::{Asked, Request};
use crate::clock::{unix_now, unix_now_ms};
use crate::config::Postgres;
use crate::keys::keyring::Keyring;
use crate::metrics::Metrics;

/// The most bytes of one.
pub const MAX_STATUS: usize = 64 << 10;
/// For how long a database to which this node has just connected shows nothing new, unless another node answers there. A node that knows
/// more needs a pause between two connections and a look, before it can say that the database went back.
const STRANGE: Duration = Duration::from_secs(4);

/// Gives the root keys that there are now.
pub trait Roots: fmt::Debug + Send + Sync {
    /// All root epochs.
    fn keyring(&self) -> Arc<Keyring>;
}

/// Gives what a node says of itself, for people and programs that look at the whole fleet.
pub trait Reporter: fmt::Debug + Send + Sync {
    /// The report, at most [`MAX_STATUS`] bytes. Only nodes with the same root keys can write one.
    fn status(&self) -> Vec<u8>;

    /// After how long all nodes decide by the same rules, once those were published.
    fn poll_interval(&self) -> Duration;
}

/// What shares the state, before it has keys.
#[derive(Debug)]
pub struct Keeping {
    pub(super) settings: Arc<Postgres>,
    pub(super) view: Arc<View>,
    pub(super) memory: Memory,
    pub(super) metrics: Arc<Metrics>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) woken: Arc<Notify>,
}

/// Another node.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    challenge: Challenge,
    /// When the last challenge of this node that it has answered was made.
    answered: Option<Instant>,
    skew: Option<Skew>,
}

pub(super) struct Keeper {
    pub(super) settings: Arc<Postgres>,
    pub(super) view: Arc<View>,
    pub(super) memory: Memory,
    pub(super) metrics: Arc<Metrics>,
    pub(super) woken: Arc<Notify>,
    /// Who waits for what is done now.
    pub(super) asked: Option<Asked>,
    pub(super) roots: Arc<dyn Roots>,
    pub(super) documents: Vec<Arc<dyn Document>>,
    /// What was adopted since the start.
    pub(super) adopted: BTreeMap<String, Listed>,
    pub(super) head: Option<(Head, HeadId)>,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    challenges: Challenges,
    counter: u64,
    /// When this node connected, after it was not connected.
    connected: Instant,
    reporter: Arc<dyn Reporter>,
    statuses: BTreeMap<NodeId, Status>,
    status_at: Option<Instant>,
    watch: Watch,
    /// Which start this is.
    run: Option<Challenge>,
    pub(super) lists: Exchanged,
    pub(super) looked_for_gone: Option<Instant>,
    /// Whether this run has written a beat.
    has_written: bool,
    /// Of this connection.
    pub(super) past: Past,
    /// The last way back to the known head that was not there.
    dead_end: Option<DeadEnd>,
}

/// What one look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// What is there is believed, and adopted; whether it also shows that it is new.
    Believed { needs_seals: bool, is_fresh: bool },
    /// It is believed, but a document cannot be read here, which is an alarm; the others are adopted.
    Unread,
    /// There is nothing, and nothing was known.
    Empty,
    /// It is not believed, or does not show what this node wrote.
    Doubted,
}

impl Keeping {
    /// Shares `documents` with the other nodes that have the root keys of `roots`, and says what `reporter` gives, until dropped.
    pub async fn run(
        self,
        roots: Arc<dyn Roots>,
        documents: Vec<Arc<dyn Document>>,
        reporter: Arc<dyn Reporter>,
    ) {
        let Self { settings, view, memory, metrics, mut requests, woken } = self;
        let keeper = Keeper {
            counter: memory.first_counter(),
            connected: Instant::now(),
            adopted: BTreeMap::new(),
            head: None,
            asked: None,
            peers: BTreeMap::new(),
            challenges: Challenges::default(),
            reporter,
            statuses: BTreeMap::new(),
            status_at: None,
            watch: Watch::default(),
            run: Challenge::new(),
            lists: Exchanged::default(),
            looked_for_gone: None,
            has_written: false,
            past: Past::Unkept,
            dead_end: None,
            settings,
            view,
            memory,
            metrics,
            woken,
            roots,
            documents,
        };
        keeper.run(&mut requests).await;
    }
}

impl Keeper {
    /// Writes the beat of this node, reads the shared state, and adopts it if it is believed.
    pub(super) async fn look(&mut self, client: &mut Client) -> Result<Look, DatabaseError> {
        let seals = self.seals();
        let started = Instant::now();
        let Some(challenge) = self.beat(client, &seals, started).await? else { return Ok(Look::Doubted) };
        let read = within(EXCHANGE, self.read(client, &seals)).await?;
        let (believed, bodies) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Look::Empty),
            Err(alarm) => {
                self.raise(alarm);
                return Ok(Look::Doubted);
            }
        };
        let own = believed.beats.get(&self.memory.node());
        if own.is_none_or(|(counter, beat)| (*counter, beat.challenge) != (self.counter, challenge)) {
            self.unanswered("the database does not show what this node wrote, or another node has its id");
            return Ok(Look::Doubted);
        }
        let needs_seals = believed.needs_seals;
        let answered = self.note_peers(&believed);
        if let Some(unread) = self.adopt(believed, bodies).await {
            self.raise(unread);
            return Ok(Look::Unread);
        }
        let as_of = self.as_of(started, &answered);
        match as_of {
            Ok(at) => {
                if self.view.alarm().is_some() {
                    tracing::warn!("the shared state is believed again");
                }
                self.view.seen(at);
                self.metrics.state_round("fresh");
            }
            Err(why) => self.unanswered(why),
        }
        Ok(Look::Believed { needs_seals, is_fresh: as_of.is_ok() })
    }

    fn head_id(&self) -> Option<HeadId> {
        self.head.as_ref().map(|(_, id)| *id)
    }

    pub(super) fn seals(&self) -> Seals {
        Seals::of(&self.roots.keyring(), unix_now())
    }

    fn unanswered(&self, why: &str) {
        self.metrics.state_round("unanswered");
        self.view.unanswered(why.to_owned());
    }

    pub(super) fn raise(&self, alarm: Alarm) {
        self.metrics.state_round("alarm");
        if self.view.alarm().as_ref() != Some(&alarm) {
            tracing::error!(%alarm, remedy = alarm.remedy(), "the shared state is not believed");
        }
        self.view.raise(alarm);
    }

    /// Writes a new challenge. `None` if a later report of this node is there.
    async fn beat(
        &mut self,
        client: &Client,
        seals: &Seals,
        now: Instant,
    ) -> Result<Option<Challenge>, DatabaseError> {
        let no_randomness = || DatabaseError::Settings("the system has no randomness".to_owned());
        let challenge = Challenge::new().ok_or_else(no_randomness)?;
        self.challenges.remember(challenge, now, self.settings.max_view_age);
        self.counter += 1;
        let answers = self.peers.iter().map(|(node, peer)| Answer { node: *node, challenge: peer.challenge });
        let head = self.memory.known(seals.fleet).map(|known| known.head);
        let beat = Beat {
            name: self.name(),
            challenge,
            run: self.run,
            time_ms: Some(unix_now_ms()),
            head,
            answers: answers.collect(),
        };
        let (body, node) = (beat.encode(), self.memory.node());
        let sealed = Sealed::Report { node, kind: beat::KIND, counter: self.counter, body: &body };
        let Some(seal) = seals.seal(sealed) else {
            self.unanswered("there are no keys of the current root epoch");
            return Ok(None);
        };
        let counter = i64::try_from(self.counter).unwrap_or(i64::MAX);
        let written = table::report(client, seals.fleet, node, (beat::KIND, counter), (&body, &seal));
        let later = within(EXCHANGE, written).await?;
        let Some(later) = later else {
            self.has_written = true;
            return Ok(Some(challenge));
        };
        if !self.is_own_report(client, seals, later).await? {
            // Somebody made the number up. Believed, it would be remembered and never be passed again.
            within(EXCHANGE, table::forget(client, seals.fleet, node, beat::KIND)).await?;
            self.unanswered("a report of this node in the database was not written by a node of this fleet");
            return Ok(None);
        }
        if self.has_written {
            self.watch.id_is_taken(now);
        }
        self.unanswered("a later report of this node is there: another node may have its id");
        match self.memory.continue_after(u64::try_from(later).unwrap_or(0)).await {
            Ok(counter) => self.counter = counter,
            Err(error) => tracing::warn!(%error, "fleet.json of the key directory cannot be written"),
        }
        Ok(None)
    }

    /// Whether the beat of this node that is there, with this counter, is authentic.
    async fn is_own_report(
        &self,
        client: &Client,
        seals: &Seals,
        counter: i64,
    ) -> Result<bool, DatabaseError> {
        let node = self.memory.node();
        let reports = table::reports(client, seals.fleet, node, beat::KIND, beat::MAX_BEAT);
        let rows = within(EXCHANGE, reports).await?;
        let counter = u64::try_from(counter).ok();
        Ok(authentic(seals, beat::KIND, &rows).any(|(by, it, _)| by == node && Some(it) >= counter))
    }

    pub(super) fn node(&self) -> NodeId {
        self.memory.node()
    }

    pub(super) fn name(&self) -> String {
        match self.settings.node_name.as_str() {
            "" => self.memory.node().to_string().chars().take(8).collect(),
            name => name.to_owned(),
        }
    }

    pub(super) fn writer(&self, operator: &str) -> Writer {
        Writer { node: self.memory.node(), name: self.name(), operator: operator.to_owned() }
    }

    /// Notes the challenges of others, and gives the times of the own challenges that they have answered, the newest first.
    fn note_peers(&mut self, believed: &Believed) -> Vec<Instant> {
        let own = self.memory.node();
        let (now, ours) = (Instant::now(), unix_now_ms());
        self.watch.beats(&believed.beats, now);
        for (node, (_, beat)) in believed.beats.iter().filter(|(node, _)| **node != own) {
            let answer = beat.answers.iter().find(|answer| answer.node == own);
            let answered = answer.and_then(|answer| self.challenges.made(answer.challenge));
            let unknown = Peer { challenge: beat.challenge, answered: None, skew: None };
            let peer = self.peers.entry(*node).or_insert(unknown);
            peer.challenge = beat.challenge;
            if let (Some(theirs), Some(answered)) = (beat.time_ms, answered) {
                let newer = Skew::of(theirs, ours, now.saturating_duration_since(answered), now);
                peer.skew = Some(peer.skew.map_or(newer, |known| known.or(newer)));
            }
            peer.answered = peer.answered.max(answered);
        }
        self.peers.retain(|node, _| believed.beats.contains_key(node));
        let nodes = believed.beats.iter().map(|(node, (_, beat))| NodeSeen {
            id: *node,
            name: beat.name.clone(),
            is_self: *node == own,
            answered: self.peers.get(node).and_then(|peer| peer.answered),
            state: beat.head.map(|head| head.seq),
            skew: self.peers.get(node).and_then(|peer| peer.skew).map(Skew::bounds),
            written_ms: beat.time_ms,
            status: self.statuses.get(node).and_then(|status| status.said.clone()),
            status_at: self.statuses.get(node).map(|status| status.at),
        });
        self.view.show(nodes.collect(), believed.id.seq);
        let mut answered: Vec<_> = self.peers.values().filter_map(|peer| peer.answered).collect();
        answered.sort_unstable_by(|one, other| other.cmp(one));
        answered
    }

    /// The moment as of which the view is true, otherwise why it is stale.
    fn as_of(&self, started: Instant, answered: &[Instant]) -> Result<Instant, &'static str> {
        let recent = answered.iter().filter(|at| at.elapsed() <= self.settings.max_view_age).count();
        self.metrics.set_state_peers(recent);
        if !self.peers.is_empty() && is_strange(self.connected, started, answered) {
            return Err("no other node has answered since this node connected");
        }
        // Also while the view is stale because too few nodes answer: those that do not are silent.
        self.view.looked(started);
        match self.settings.min_peers {
            0 => Ok(started),
            // Where other nodes must answer: the challenge that enough of them have answered.
            peers => {
                let nth = answered.get(peers - 1).map(|at| started.min(*at));
                nth.ok_or("fewer other nodes answer than core.postgres.min_peers")
            }
        }
    }

    fn measure(&mut self) {
        let (view, poll) = (&self.view, self.reporter.poll_interval());
        let nodes = view.nodes();
        let splits = self.watch.look(&nodes, |node| view.answers(node), poll, Instant::now(), unix_now());
        self.view.show_splits(splits);
        self.metrics.set_state_view_age(self.view.age().map_or(f64::NAN, |age| age.as_secs_f64()));
        self.metrics.set_state_alarm(self.view.alarm().is_some());
    }
}

/// Whether a database, in which others have written at some time, may be an old copy of the right one, and this node one that does not
/// know what is newer: none of them has answered a challenge of this connection (`answered`: when those were made, the newest first).
fn is_strange(connected: Instant, started: Instant, answered: &[Instant]) -> bool {
    let is_new = started.saturating_duration_since(connected) < STRANGE;
    is_new && answered.first().is_none_or(|at| *at < connected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_counts_when_another_node_answers_there_or_after_some_time() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert!(is_strange(at(10_000), at(10_000), &[]));
        assert!(is_strange(at(10_000), at(13_999), &[at(9_999)]), "an answer on the connection before");
        assert!(!is_strange(at(10_000), at(11_000), &[at(10_000), at(9_000)]), "one on this connection");
        assert!(!is_strange(at(10_000), at(14_000), &[]));
    }
}
