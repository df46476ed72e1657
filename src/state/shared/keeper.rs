//! Keeps this node and the database the same: connects, looks each second, adopts what others changed, and writes what this node
//! has to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_wire::fleet::NodeStatus;
use tokio::sync::{Notify, mpsc};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::alarm::Alarm;
use super::beat::{self, Answer, Beat, Challenge, Challenges};
use super::client::{self, EXCHANGE, Session, within};
use super::document::{AdoptError, Arrival, Document, Provenance};
use super::error::DatabaseError;
use super::head::{Head, HeadId, Listed, Writer};
use super::history::{self, DeadEnd};
use super::judge::{Before, Believed, Seen, authentic, judge};
use super::limited::Received;
use super::lists::Exchanged;
use super::memory::{Known, Memory};
use super::schema::{self, Fate, Past};
use super::seal::{NodeId, Sealed, Seals};
use super::skew::Skew;
use super::split::{self, Watch};
use super::table::{self, Hold};
use super::view::{NodeSeen, View};
use super::{Asked, Request, Unshared};
use crate::clock::{unix_now, unix_now_ms};
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
/// Notifications within this time cause one look; within the longer one while they bring nothing new.
const GATHER: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(250));
/// For how long a database to which this node has just connected shows nothing new, unless another node answers there. A node that knows
/// more needs a pause between two connections and a look, before it can say that the database went back.
const STRANGE: Duration = Duration::from_secs(4);
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

/// What a node said of itself last.
#[derive(Debug, Clone)]
struct Status {
    counter: u64,
    /// `None` if it cannot be read.
    said: Option<Arc<NodeStatus>>,
    /// When it was first read.
    at: Instant,
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

/// Why a connection is over that has not failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Nobody can ask for anything any more.
    Unneeded,
    /// It has read so much that another one takes its place.
    Replaced,
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
    async fn run(mut self, requests: &mut mpsc::Receiver<Request>) {
        let mut pause = PAUSES.0;
        let mut is_replaced = false;
        let mut told = None;
        loop {
            let error = match self.connect().await {
                Ok(session) => {
                    pause = PAUSES.0;
                    if !std::mem::take(&mut is_replaced) {
                        self.connected = Instant::now();
                        self.view.reached();
                    }
                    match self.attend(session, requests).await {
                        Ok(Over::Replaced) => {
                            is_replaced = true;
                            continue;
                        }
                        Ok(Over::Unneeded) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            is_replaced = false;
            self.metrics.state_round("unreachable");
            if self.view.trouble().is_none() || told.as_ref() != Some(&error) {
                tracing::warn!(%error, "the shared state cannot be read or written now");
            }
            told = Some(error.clone());
            self.view.unusable(&error);
            let again = tokio::time::sleep(jittered(pause));
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    request = requests.recv() => match request {
                        Some(request) => drop(request.asked.reply.send(Err(Unshared::Database(error.clone())))),
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
        client::connect(&database, Fate::Committed, &self.woken).await
    }

    /// Works with one connection until it fails or is over.
    async fn attend(
        &mut self,
        mut session: Session,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Over, DatabaseError> {
        let received = session.received();
        self.past = session.past;
        self.view.show_past(self.past);
        if self.past == Past::Unkept {
            tracing::warn!("{}", history::LACKS);
        }
        let over = self.use_session(&mut session.client, &received, requests).await;
        over.map_err(|error| session.end().unwrap_or(error))
    }

    async fn use_session(
        &mut self,
        client: &mut Client,
        received: &Received,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Over, DatabaseError> {
        let mut gather = GATHER.0;
        let mut is_woken = false;
        loop {
            let (began, before) = (Instant::now(), self.head_id());
            let round = self.round(client).await;
            self.unless_locked(round)?;
            self.measure();
            if received.is_enough() {
                return Ok(Over::Replaced);
            }
            // Whoever wakes this node all the time for nothing must not keep it busy.
            gather = match is_woken && self.head_id() == before {
                true => (gather * 2).min(GATHER.1),
                false => GATHER.0,
            };
            is_woken = false;
            let next = tokio::time::sleep_until((began + jittered(ROUND)).into());
            let told = async {
                self.woken.notified().await;
                tokio::time::sleep(gather).await;
            };
            tokio::select! {
                () = next => {}
                () = told => is_woken = true,
                request = requests.recv() => match request {
                    Some(request) => {
                        let served = self.serve(client, request).await;
                        self.unless_locked(served)?;
                    }
                    None => return Ok(Over::Unneeded),
                },
            }
            if client.is_closed() {
                return Err(DatabaseError::Unreachable("the connection was closed".to_owned()));
            }
        }
    }

    /// What another session holds for too long ends nothing: the statement was taken back, and the next round tries again.
    fn unless_locked(&self, done: Result<(), DatabaseError>) -> Result<(), DatabaseError> {
        match done {
            Err(error @ DatabaseError::Locked) => {
                let why = error.to_string();
                if self.view.trouble().as_deref() != Some(&*why) {
                    tracing::warn!(%error, "the shared state cannot be read or written now");
                }
                self.metrics.state_round("unanswered");
                self.view.unusable(&error);
                Ok(())
            }
            done => done,
        }
    }

    /// Looks once, and does what follows from it.
    async fn round(&mut self, client: &mut Client) -> Result<(), DatabaseError> {
        match self.look(client).await? {
            Look::Empty => self.begin(client).await,
            Look::Believed { needs_seals, is_fresh } => {
                if needs_seals {
                    self.renew_seals(client).await?;
                }
                let untold = self.tell_news(client, self.documents.clone()).await?;
                self.exchange_statuses(client).await?;
                match untold {
                    Some(why) => self.view.unanswered(why),
                    None if is_fresh => self.view.settled(),
                    None => {}
                }
                self.forget_gone(client).await?;
                self.exchange_lists(client).await
            }
            Look::Unread => {
                if let Some(why) = self.tell_news(client, self.stopping()).await? {
                    self.view.unanswered(why);
                }
                self.exchange_statuses(client).await
            }
            Look::Doubted => Ok(()),
        }
    }

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

    /// Reads everything at one moment, judges it, and reads the documents that are new here.
    async fn read(
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
    pub(super) async fn judged(
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

    /// Says what this node is, and reads what the others say, every few seconds.
    async fn exchange_statuses(&mut self, client: &Client) -> Result<(), DatabaseError> {
        if self.status_at.is_some_and(|at| at.elapsed() < STATUS_EVERY) {
            return Ok(());
        }
        if self.status_at.is_none() {
            // What it said before it started, so that it notices if its own log went back.
            self.read_statuses(client).await?;
        }
        self.status_at = Some(Instant::now());
        let body = self.reporter.status();
        if body.len() > MAX_STATUS {
            return Ok(());
        }
        self.tell(client, STATUS, &body).await?;
        if !self.settings.other_fleets {
            let read = table::other_fleets(client, self.seals().fleet);
            self.watch.others(within(EXCHANGE, read).await?, Instant::now());
        }
        self.read_statuses(client).await
    }

    /// Replaces a report of this node other than its beat. Whether it is there now: nothing can be written without a key of the current
    /// root epoch, or over a number that is not lower.
    pub(super) async fn tell(
        &self,
        client: &Client,
        kind: &'static str,
        body: &[u8],
    ) -> Result<bool, DatabaseError> {
        let (seals, node) = (self.seals(), self.node());
        let sealed = Sealed::Report { node, kind, counter: self.counter, body };
        let Some(seal) = seals.seal(sealed) else { return Ok(false) };
        let counter = i64::try_from(self.counter).unwrap_or(i64::MAX);
        let written = table::report(client, seals.fleet, node, (kind, counter), (body, &seal));
        if within(EXCHANGE, written).await?.is_none() {
            return Ok(true);
        }
        // Only this node writes it, with the numbers of its beats: a higher one is made up.
        within(EXCHANGE, table::forget(client, seals.fleet, node, kind)).await?;
        Ok(false)
    }

    async fn read_statuses(&mut self, client: &Client) -> Result<(), DatabaseError> {
        let seals = self.seals();
        let read = table::reports(client, seals.fleet, self.memory.node(), STATUS, MAX_STATUS);
        let rows = within(EXCHANGE, read).await?;
        let (now, mut before) = (Instant::now(), std::mem::take(&mut self.statuses));
        for (node, counter, body) in authentic(&seals, STATUS, &rows) {
            let status = match before.remove(&node) {
                // The database shows the same one again, or an older one.
                Some(known) if known.counter >= counter => known,
                Some(_) | None => {
                    let said = split::status(body).map(Arc::new);
                    if let Some(said) = &said {
                        self.watch.said(node, said, now);
                    }
                    Status { counter, said, at: now }
                }
            };
            self.statuses.insert(node, status);
        }
        Ok(())
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

    /// Puts what is believed in force, as far as it can be read here, and gives the first problem: what another document says does not
    /// keep a freeze from its effect.
    async fn adopt(&mut self, believed: Believed, bodies: Vec<(String, Vec<u8>)>) -> Option<Alarm> {
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
    pub(super) fn has_read(&self, head: &Head, name: &str) -> bool {
        head.documents.get(name).is_none_or(|listed| self.adopted.get(name) == Some(listed))
    }

    /// Remembers a state over restarts. Each start adopts all documents again, so it does not matter which of them are on the disk.
    pub(super) async fn remember(&mut self, head: &Head, id: HeadId) {
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

    fn measure(&mut self) {
        let (view, poll) = (&self.view, self.reporter.poll_interval());
        let nodes = view.nodes();
        let splits = self.watch.look(&nodes, |node| view.answers(node), poll, Instant::now(), unix_now());
        self.view.show_splits(splits);
        self.metrics.set_state_view_age(self.view.age().map_or(f64::NAN, |age| age.as_secs_f64()));
        self.metrics.set_state_alarm(self.view.alarm().is_some());
    }
}

pub(super) fn provenance(head: &Head, arrival: Arrival) -> Provenance {
    Provenance { state: head.seq, node: head.by.name.clone(), operator: head.by.operator.clone(), arrival }
}

/// Whether a database, in which others have written at some time, may be an old copy of the right one, and this node one that does not
/// know what is newer: none of them has answered a challenge of this connection (`answered`: when those were made, the newest first).
fn is_strange(connected: Instant, started: Instant, answered: &[Instant]) -> bool {
    let is_new = started.saturating_duration_since(connected) < STRANGE;
    is_new && answered.first().is_none_or(|at| *at < connected)
}

/// Between nine tenths and eleven tenths, so that nodes do not move in step.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0];
    let _ = aws_lc_rs::rand::fill(&mut random);
    pause.mul_f64(0.9 + f64::from(random[0]) / 1280.0)
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
