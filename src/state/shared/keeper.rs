//! Keeps this node and the database the same: connects, looks each second, adopts what others changed, and writes what this node
//! has to say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_postgres::{Client, IsolationLevel};

use super::alarm::Alarm;
use super::beat::{self, Answer, Beat, Challenge, Challenges};
use super::client::{self, DatabaseError, Session};
use super::document::{AdoptError, Arrival, Document, Provenance};
use super::head::{Head, HeadId, Listed, Writer};
use super::judge::{Before, Believed, Seen, authentic, judge};
use super::memory::{Known, Memory};
use super::schema::Fate;
use super::seal::{NodeId, Sealed, Seals};
use super::table::{self, Hold};
use super::view::{NodeSeen, View};
use super::{Request, Unshared};
use crate::clock::unix_now;
use crate::config::Postgres;
use crate::keys::keyring::Keyring;
use crate::metrics::Metrics;

/// The kind of the reports of [`Reporter`].
const STATUS: &str = "status";
/// The most bytes of one.
pub const MAX_STATUS: usize = 64 << 10;
/// How often they are written and read.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// How often a node looks.
const ROUND: Duration = Duration::from_secs(1);
/// Notifications within this time cause one look.
const GATHER: Duration = Duration::from_millis(15);
/// The end of one exchange with the database.
const EXCHANGE: Duration = Duration::from_secs(5);
/// The time for a connection with all its migrations.
const CONNECT: Duration = Duration::from_secs(15);
/// The first and the longest pause before it connects again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Gives the root keys that there are now.
pub trait Roots: fmt::Debug + Send + Sync {
    /// All root epochs.
    fn keyring(&self) -> Arc<Keyring>;
}

/// Gives what a node says of itself, for people and programs that look at the whole fleet.
pub trait Reporter: fmt::Debug + Send + Sync {
    /// The report, at most [`MAX_STATUS`] bytes. Only nodes with the same root keys can write one.
    fn status(&self) -> Vec<u8>;
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
}

pub(super) struct Keeper {
    pub(super) settings: Arc<Postgres>,
    pub(super) view: Arc<View>,
    pub(super) memory: Memory,
    pub(super) metrics: Arc<Metrics>,
    pub(super) woken: Arc<Notify>,
    pub(super) roots: Arc<dyn Roots>,
    pub(super) documents: Vec<Arc<dyn Document>>,
    /// What was adopted since the start.
    pub(super) adopted: BTreeMap<String, Listed>,
    pub(super) head: Option<(Head, HeadId)>,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    challenges: Challenges,
    counter: u64,
    reporter: Arc<dyn Reporter>,
    statuses: BTreeMap<NodeId, Arc<[u8]>>,
    status_at: Option<Instant>,
}

/// What one look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// What is there is believed, and adopted.
    Believed { needs_seals: bool },
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
            adopted: BTreeMap::new(),
            head: None,
            peers: BTreeMap::new(),
            challenges: Challenges::default(),
            reporter,
            statuses: BTreeMap::new(),
            status_at: None,
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
    async fn run(mut self, requests: &mut mpsc::Receiver<Request>) {
        let mut pause = PAUSES.0;
        loop {
            let error = match self.connect().await {
                Ok(session) => {
                    pause = PAUSES.0;
                    match self.attend(session, requests).await {
                        Some(error) => error,
                        None => return,
                    }
                }
                Err(error) => error,
            };
            self.metrics.state_round("unreachable");
            if self.view.trouble().as_deref() != Some(&*error.to_string()) {
                tracing::warn!(%error, "the shared state cannot be read or written now");
            }
            self.view.unanswered(error.to_string());
            let again = tokio::time::sleep(jittered(pause));
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    request = requests.recv() => match request {
                        Some(request) => drop(request.reply.send(Err(Unshared::Database(error.clone())))),
                        None => return,
                    },
                }
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn connect(&self) -> Result<Session, DatabaseError> {
        let settings = Arc::clone(&self.settings);
        // It may read files.
        let database = tokio::task::spawn_blocking(move || settings.database()).await;
        let database =
            database.map_err(|_| DatabaseError::Settings("the URL cannot be read".to_owned()))??;
        let connected = client::connect(&database, Fate::Committed, &self.woken);
        timeout(CONNECT, connected).await.unwrap_or(Err(DatabaseError::Slow))
    }

    /// Works with one connection until it fails. `None` if nobody can ask for anything any more.
    async fn attend(
        &mut self,
        mut session: Session,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Option<DatabaseError> {
        let client = &mut session.client;
        loop {
            let began = Instant::now();
            if let Err(error) = self.round(client).await {
                return Some(error);
            }
            self.measure();
            let next = tokio::time::sleep_until((began + jittered(ROUND)).into());
            tokio::pin!(next);
            tokio::select! {
                () = &mut next => {}
                () = self.woken.notified() => tokio::time::sleep(GATHER).await,
                request = requests.recv() => if let Err(error) = self.serve(client, request?).await {
                    return Some(error);
                },
            }
            if client.is_closed() {
                return Some(DatabaseError::Unreachable("the connection was closed".to_owned()));
            }
        }
    }

    /// One look, and what follows from it.
    async fn round(&mut self, client: &mut Client) -> Result<(), DatabaseError> {
        match self.look(client).await? {
            Look::Empty => self.begin(client).await,
            Look::Believed { needs_seals } => {
                if needs_seals {
                    self.renew_seals(client).await?;
                }
                self.tell_news(client).await?;
                self.exchange_statuses(client).await
            }
            Look::Doubted => Ok(()),
        }
    }

    /// Writes the beat of this node, reads what is there, and adopts it if it is believed.
    pub(super) async fn look(&mut self, client: &mut Client) -> Result<Look, DatabaseError> {
        let seals = self.seals();
        let started = Instant::now();
        let Some(challenge) = self.beat(client, &seals, started).await? else { return Ok(Look::Doubted) };
        let read = timeout(EXCHANGE, self.read(client, &seals)).await.unwrap_or(Err(DatabaseError::Slow))?;
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
        if !self.adopt(&seals, believed, bodies).await {
            return Ok(Look::Doubted);
        }
        match self.as_of(started, answered) {
            Some(at) => {
                if self.view.alarm().is_some() {
                    tracing::warn!("the shared state is believed again");
                }
                self.view.seen(at);
                self.metrics.state_round("fresh");
            }
            None => self.unanswered("fewer other nodes answer than core.postgres.min_peers"),
        }
        Ok(Look::Believed { needs_seals })
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
        let beat = Beat { name: self.name(), challenge, head, answers: answers.collect() };
        let (body, node) = (beat.encode(), self.memory.node());
        let sealed = Sealed::Report { node, kind: beat::KIND, counter: self.counter, body: &body };
        let Some(seal) = seals.seal(sealed) else {
            self.unanswered("there are no keys of the current root epoch");
            return Ok(None);
        };
        let counter = i64::try_from(self.counter).unwrap_or(i64::MAX);
        let written = table::report(client, seals.fleet, node, (beat::KIND, counter), (&body, &seal));
        let later = timeout(EXCHANGE, written).await.map_err(|_| DatabaseError::Slow)??;
        let Some(later) = later else { return Ok(Some(challenge)) };
        self.unanswered("a later report of this node is there: another node may have its id");
        match self.memory.continue_after(u64::try_from(later).unwrap_or(0)).await {
            Ok(counter) => self.counter = counter,
            Err(error) => tracing::warn!(%error, "fleet.json of the key directory cannot be written"),
        }
        Ok(None)
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

    /// Reads everything at one moment, judges it, and reads the documents that are new here.
    async fn read(
        &self,
        client: &mut Client,
        seals: &Seals,
    ) -> Result<Result<Option<(Believed, Vec<(String, Vec<u8>)>)>, Alarm>, DatabaseError> {
        let snapshot =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let snapshot = snapshot.start().await?;
        let seen = Seen {
            head: table::head(&snapshot, seals.fleet, Hold::Nothing).await?,
            documents: table::documents(&snapshot, seals.fleet).await?,
            beats: table::reports(&snapshot, seals.fleet, beat::KIND, beat::MAX_BEAT).await?,
        };
        let known = self.memory.known(seals.fleet);
        let before = known.map(|known| Before { head: known.head, documents: &known.documents });
        let believed = match judge(seals, before, &seen) {
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

    /// Notes the challenges of others, and gives the times of the own challenges that they have answered, the newest first.
    fn note_peers(&mut self, believed: &Believed) -> Vec<Instant> {
        let own = self.memory.node();
        for (node, (_, beat)) in believed.beats.iter().filter(|(node, _)| **node != own) {
            let answer = beat.answers.iter().find(|answer| answer.node == own);
            let answered = answer.and_then(|answer| self.challenges.made(answer.challenge));
            let peer = self.peers.entry(*node).or_insert(Peer { challenge: beat.challenge, answered: None });
            peer.challenge = beat.challenge;
            peer.answered = peer.answered.max(answered);
        }
        self.peers.retain(|node, _| believed.beats.contains_key(node));
        let nodes = believed.beats.iter().map(|(node, (_, beat))| NodeSeen {
            id: *node,
            name: beat.name.clone(),
            is_self: *node == own,
            answered: self.peers.get(node).and_then(|peer| peer.answered),
            state: beat.head.map(|head| head.seq),
            status: self.statuses.get(node).cloned(),
        });
        self.view.show(nodes.collect(), believed.id.seq);
        let mut answered: Vec<_> = self.peers.values().filter_map(|peer| peer.answered).collect();
        answered.sort_unstable_by(|one, other| other.cmp(one));
        answered
    }

    /// Says what this node is, and reads what the others say, every few seconds.
    async fn exchange_statuses(&mut self, client: &Client) -> Result<(), DatabaseError> {
        if self.status_at.is_some_and(|at| at.elapsed() < STATUS_EVERY) {
            return Ok(());
        }
        self.status_at = Some(Instant::now());
        let (seals, node, body) = (self.seals(), self.memory.node(), self.reporter.status());
        let sealed = Sealed::Report { node, kind: STATUS, counter: self.counter, body: &body };
        let Some(seal) = seals.seal(sealed).filter(|_| body.len() <= MAX_STATUS) else { return Ok(()) };
        let counter = i64::try_from(self.counter).unwrap_or(i64::MAX);
        let exchange = async {
            table::report(client, seals.fleet, node, (STATUS, counter), (&body, &seal)).await?;
            table::reports(client, seals.fleet, STATUS, MAX_STATUS).await
        };
        let rows = timeout(EXCHANGE, exchange).await.unwrap_or(Err(DatabaseError::Slow))?;
        self.statuses = authentic(&seals, STATUS, &rows).map(|(node, _, body)| (node, body.into())).collect();
        Ok(())
    }

    /// The moment as of which the view counts: the start of the look, or where other nodes must answer, of the challenge that enough of
    /// them have answered.
    fn as_of(&self, started: Instant, answered: Vec<Instant>) -> Option<Instant> {
        let recent = answered.iter().filter(|at| at.elapsed() <= self.settings.max_view_age).count();
        self.metrics.set_state_peers(recent);
        match self.settings.min_peers {
            0 => Some(started),
            peers => answered.get(peers - 1).map(|at| started.min(*at)),
        }
    }

    /// Puts what is believed in force. Whether that was possible.
    async fn adopt(&mut self, seals: &Seals, believed: Believed, bodies: Vec<(String, Vec<u8>)>) -> bool {
        let Believed { head, id, .. } = believed;
        let before = self.memory.known(seals.fleet).cloned();
        for (name, body) in bodies {
            let Some(document) = self.documents.iter().find(|document| document.name() == name).cloned()
            else {
                continue;
            };
            let arrival = match &before {
                Some(before) if head.repaired > before.head.seq => Arrival::Repaired,
                Some(before) if before.documents.contains_key(&name) => Arrival::Other,
                Some(_) | None => Arrival::Joined,
            };
            match document.adopt(&body, &provenance(&head, arrival)).await {
                Ok(()) => {}
                Err(AdoptError::Unreadable(problem)) => {
                    self.raise(Alarm::Unreadable { row: name, problem });
                    return false;
                }
                Err(error @ AdoptError::NotKept(_)) => {
                    tracing::error!(document = name, %error, "what another node changed is in force, but only until this process ends");
                }
            }
            if let Some(listed) = head.documents.get(&name) {
                self.adopted.insert(name, *listed);
            }
        }
        if before.is_none_or(|before| before.head != id) {
            self.remember(seals, &head, id).await;
        }
        self.head = Some((head, id));
        true
    }

    /// Remembers a state over restarts. Each start adopts all documents again, so it does not matter which of them are on the disk.
    pub(super) async fn remember(&mut self, seals: &Seals, head: &Head, id: HeadId) {
        let known = Known { fleet: seals.fleet, head: id, documents: head.documents.clone() };
        if let Err(error) = self.memory.remember(known).await {
            tracing::error!(%error, "fleet.json of the key directory cannot be written: after a restart this node may not notice that the database went back");
        }
    }

    fn measure(&self) {
        self.metrics.set_state_view_age(self.view.age().map_or(f64::NAN, |age| age.as_secs_f64()));
        self.metrics.set_state_alarm(self.view.alarm().is_some());
    }
}

pub(super) fn provenance(head: &Head, arrival: Arrival) -> Provenance {
    Provenance { state: head.seq, node: head.by.name.clone(), operator: head.by.operator.clone(), arrival }
}

/// Between nine tenths and eleven tenths, so that nodes do not move in step.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0];
    let _ = aws_lc_rs::rand::fill(&mut random);
    pause.mul_f64(0.9 + f64::from(random[0]) / 1280.0)
}
