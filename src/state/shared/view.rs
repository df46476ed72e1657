//! How old what this node knows of the shared state is, and whether it is believed at all.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use kms_wire::fleet::NodeStatus;
use tokio::sync::watch;

use super::alarm::Alarm;
use super::error::DatabaseError;
use super::history::LACKS;
use super::lists::Lists;
use super::schema::Past;
use super::seal::NodeId;
use super::split::Split;
use crate::config::{Postgres, WhenStale};

/// No view yet, or none that is believed.
const NEVER: u64 = 0;
/// A node without news for this long is known to be silent, if its view is not allowed to be older.
const SETTLED: Duration = Duration::from_secs(20);
/// How often a newer view is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What this node knows of the shared state. Reading it waits for nothing.
#[derive(Debug)]
pub struct View {
    settings: Arc<Postgres>,
    base: Instant,
    /// Milliseconds from `base`, plus one.
    as_of: AtomicU64,
    watching: Mutex<Watching>,
    /// Whether heads are not kept for nodes that were away, for lack of rights.
    keeps_none: AtomicBool,
    alarm: watch::Sender<Option<Alarm>>,
    /// What the database did not do the last time.
    trouble: watch::Sender<Option<Trouble>>,
    nodes: ArcSwap<Vec<NodeSeen>>,
    /// The number of the newest state that is known.
    known: AtomicU64,
    splits: watch::Sender<Vec<Split>>,
    lists: Lists,
}

/// What the database did not do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    why: String,
    remedy: Option<&'static str>,
}

/// The looks that were believed.
#[derive(Debug, Clone, Copy, Default)]
struct Watching {
    /// Since when they have followed each other without a gap.
    since: Option<Instant>,
    /// When the last of them began.
    looked: Option<Instant>,
}

/// A node of the fleet, as the database showed it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its id.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Whether it is this node.
    pub is_self: bool,
    /// When the last challenge of this node that it has answered was made; `None` without one that is remembered.
    pub answered: Option<Instant>,
    /// The number of the state that it has.
    pub state: Option<u64>,
    /// Bounds in milliseconds of how far its clock is ahead of ours; `None` for this node, and before it is known.
    pub skew: Option<(i64, i64)>,
    /// When it wrote its last beat, Unix milliseconds by its own clock.
    pub written_ms: Option<u64>,
    /// What it said of itself, see [`super::Reporter`]; `None` if it did not, or not so that it can be read.
    pub status: Option<Arc<NodeStatus>>,
    /// When a report with a higher counter was first read; one that is shown again is not new.
    pub status_at: Option<Instant>,
}

#[cfg(test)]
impl NodeSeen {
    /// A node of which only id and name are known; 0 is this one.
    pub(crate) fn numbered(number: u8) -> Self {
        Self {
            id: NodeId([number; 16]),
            name: format!("node-{number}"),
            is_self: number == 0,
            answered: None,
            state: None,
            skew: None,
            written_ms: None,
            status: None,
            status_at: None,
        }
    }
}

/// Whether a view is fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is as old as this.
    Fresh(Duration),
    /// It is older than allowed, or not believed.
    Stale(Stale),
}

/// Why what was changed on other nodes may be unknown here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    text: String,
    remedy: Option<&'static str>,
}

impl Stale {
    /// The reason, for operators.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The reason, and what an operator can do.
    pub fn with_remedy(&self) -> String {
        match self.remedy {
            Some(remedy) => format!("{}. {remedy}", self.text),
            None => self.text.clone(),
        }
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl View {
    pub(super) fn new(settings: Arc<Postgres>) -> Self {
        Self {
            settings,
            base: Instant::now(),
            as_of: AtomicU64::new(NEVER),
            watching: Mutex::default(),
            keeps_none: AtomicBool::new(false),
            alarm: watch::Sender::new(None),
            trouble: watch::Sender::new(None),
            nodes: ArcSwap::default(),
            known: AtomicU64::new(0),
            splits: watch::Sender::default(),
            lists: Lists::default(),
        }
    }

    /// The nodes of the fleet, this one too.
    pub fn nodes(&self) -> Arc<Vec<NodeSeen>> {
        self.nodes.load_full()
    }

    /// Whether a node has answered recently enough.
    pub fn answers(&self, node: &NodeSeen) -> bool {
        let is_recent = |at: Instant| at.elapsed() <= self.settings.max_view_age;
        node.is_self || node.answered.is_some_and(is_recent)
    }

    /// Whether a node is known not to answer: this node has watched for long enough, or has heard it before.
    pub fn is_silent(&self, node: &NodeSeen) -> bool {
        let watching = *self.watching();
        let Some(since) = watching.since.filter(|_| self.looks_now(watching)) else { return false };
        let was_heard = node.answered.is_some_and(|at| at >= since);
        !self.answers(node) && (was_heard || since.elapsed() >= self.settles_after())
    }

    /// Whether the last look that was believed is recent. The view may still be stale, because too few nodes answer.
    fn looks_now(&self, watching: Watching) -> bool {
        watching.looked.is_some_and(|at| at.elapsed() <= self.settings.max_view_age)
    }

    fn watching(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long this node watches until it knows who is silent.
    pub fn settles_after(&self) -> Duration {
        SETTLED.max(self.settings.max_view_age)
    }

    /// The number of the newest state that is known here; 0 without one.
    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    pub(super) fn show(&self, nodes: Vec<NodeSeen>, known: u64) {
        self.nodes.store(Arc::new(nodes));
        self.known.store(known, Ordering::Relaxed);
    }

    /// The lists that nodes show of themselves.
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// The contradictions between nodes that were found.
    pub fn splits(&self) -> Vec<Split> {
        self.splits.borrow().clone()
    }

    /// Notifies when that changes.
    pub fn watch_splits(&self) -> watch::Receiver<Vec<Split>> {
        self.splits.subscribe()
    }

    pub(super) fn show_splits(&self, splits: Vec<Split>) {
        self.splits.send_if_modified(|known| {
            let is_news = *known != splits;
            *known = splits;
            is_news
        });
    }

    /// What happens while it is stale.
    pub fn when_stale(&self) -> WhenStale {
        self.settings.when_stale
    }

    /// Its age; `None` without a view that is believed.
    pub fn age(&self) -> Option<Duration> {
        match self.as_of.load(Ordering::Acquire) {
            NEVER => None,
            as_of => {
                let as_of = self.base + Duration::from_millis(as_of - 1);
                Some(Instant::now().saturating_duration_since(as_of))
            }
        }
    }

    /// Waits until this node knows what was true when this was called, for this long at most. Whether it does then.
    pub async fn reaches_now(&self, patience: Duration) -> bool {
        let asked = Instant::now();
        let is_new = || self.age().is_some_and(|age| age < asked.elapsed());
        let waiting = async {
            while !is_new() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(patience, waiting).await.is_ok()
    }

    /// Whether it is fresh now.
    pub fn standing(&self) -> Standing {
        let max = self.settings.max_view_age;
        match self.age() {
            Some(age) if age <= max => Standing::Fresh(age),
            age => Standing::Stale(self.stale(age)),
        }
    }

    /// Checks that releases may go on.
    ///
    /// # Errors
    /// The view is stale, and the configuration says that nothing is released then.
    pub fn check(&self) -> Result<(), Stale> {
        match (self.standing(), self.settings.when_stale) {
            (Standing::Stale(stale), WhenStale::Refuse) => Err(stale),
            (Standing::Stale(_), WhenStale::Warn) | (Standing::Fresh(_), _) => Ok(()),
        }
    }

    fn stale(&self, age: Option<Duration>) -> Stale {
        let max = self.settings.max_view_age.as_secs();
        if let Some(alarm) = &*self.alarm.borrow() {
            // Its remedy is told with it.
            return Stale { text: alarm.to_string(), remedy: None };
        }
        let trouble = self.trouble.borrow().clone();
        let remedy = trouble.as_ref().and_then(|trouble| trouble.remedy);
        let trouble = trouble.map(|Trouble { why, .. }| format!(": {why}")).unwrap_or_default();
        let text = match age {
            Some(age) => format!(
                "the last view of the shared state is {} s old, at most {max} s are allowed{trouble}",
                age.as_secs()
            ),
            None => format!("there is no view of the shared state yet{trouble}"),
        };
        Stale { text, remedy }
    }

    /// Why the shared state is not believed.
    pub fn alarm(&self) -> Option<Alarm> {
        self.alarm.borrow().clone()
    }

    /// Notifies when that changes.
    pub fn alarms(&self) -> watch::Receiver<Option<Alarm>> {
        self.alarm.subscribe()
    }

    /// Notes a look that began at `at` and was believed.
    pub(super) fn looked(&self, at: Instant) {
        let mut watching = self.watching();
        // The one before counted until this one came.
        if !self.looks_now(*watching) || watching.since.is_none() {
            watching.since = Some(Instant::now());
        }
        watching.looked = watching.looked.max(Some(at));
    }

    /// Whether heads are kept on this connection.
    pub(super) fn show_past(&self, past: Past) {
        self.keeps_none.store(past == Past::Unkept, Ordering::Relaxed);
    }

    /// What this node goes on without; for operators.
    pub fn lacks(&self) -> Option<&'static str> {
        self.keeps_none.load(Ordering::Relaxed).then_some(LACKS)
    }

    /// Notes a view that is as of `at`.
    pub(super) fn seen(&self, at: Instant) {
        let millis =
            u64::try_from(at.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX - 1);
        self.as_of.store(millis.saturating_add(1), Ordering::Release);
        self.alarm.send_if_modified(|alarm| alarm.take().is_some());
    }

    /// Notes that everything that was asked of the database has been done.
    pub(super) fn settled(&self) {
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
    }

    /// Notes that what the database shows is not believed: the view is stale until it is again.
    pub(super) fn raise(&self, alarm: Alarm) {
        self.as_of.store(NEVER, Ordering::Release);
        self.watching().looked = None;
        self.alarm.send_if_modified(|known| {
            let is_news = known.as_ref() != Some(&alarm);
            *known = Some(alarm);
            is_news
        });
    }

    /// Notes that the database did not answer, that too few nodes did, or that it cannot have what this node has to say.
    pub(super) fn unanswered(&self, why: String) {
        self.note(Trouble { why, remedy: None });
    }

    /// Notes that the database cannot be used.
    pub(super) fn unusable(&self, error: &DatabaseError) {
        self.note(Trouble { why: error.to_string(), remedy: error.remedy() });
    }

    /// Notes that the database can be used again: what it did not do before is over.
    pub(super) fn reached(&self) {
        if self.trouble.borrow().is_some() {
            self.unanswered("the database answers again, and is being read".to_owned());
        }
    }

    fn note(&self, trouble: Trouble) {
        self.trouble.send_if_modified(|known| {
            let is_news = known.as_ref() != Some(&trouble);
            *known = Some(trouble);
            is_news
        });
    }

    /// What the database did not do the last time, and why.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().as_ref().map(|trouble| trouble.why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, State};

    fn view() -> View {
        let keys = "core.state = 'postgres'\ncore.postgres = { url = 'postgres://localhost/kms', max_view_age = '30s' }";
        let (config, _) = Config::from_toml(keys).unwrap();
        let State::Postgres(settings) = config.core.state else { panic!("postgres") };
        View::new(settings)
    }

    #[test]
    fn an_error_of_the_database_is_told_with_its_remedy_until_it_is_over() {
        let view = view();
        let told = || match view.standing() {
            Standing::Stale(stale) => stale.with_remedy(),
            Standing::Fresh(_) => panic!("nothing was read"),
        };
        view.reached();
        assert_eq!(told(), "there is no view of the shared state yet");
        view.unusable(&DatabaseError::Credentials);
        assert!(
            told().contains("refuses the user or the password. Correct them in core.postgres.url"),
            "{}",
            told()
        );
        view.reached();
        assert!(told().ends_with(": the database answers again, and is being read"), "{}", told());
        view.settled();
        assert_eq!(told(), "there is no view of the shared state yet");
    }

    #[test]
    fn a_node_is_silent_when_it_was_listened_to() {
        let second = Duration::from_secs(1);
        let view = view();
        assert_eq!(view.settles_after(), 30 * second);
        let (now, node) = (Instant::now(), NodeSeen::numbered(1));
        let heard = |ago: u32| NodeSeen { answered: now.checked_sub(ago * second), ..node.clone() };
        let watches = |ago: u32| view.watching().since = now.checked_sub(ago * second);
        let seen = |at: Instant| {
            view.looked(at);
            view.seen(at);
        };
        assert!(!view.is_silent(&node), "nothing was read");
        seen(now);
        assert!(!view.is_silent(&node) && !view.is_silent(&heard(40)), "just after a start or a gap");
        watches(29);
        seen(now);
        assert!(!view.is_silent(&node), "views that follow each other are one time");
        watches(31);
        assert!(view.is_silent(&node) && view.is_silent(&heard(40)));
        assert!(!view.is_silent(&heard(1)), "it answers");
        watches(35);
        assert!(view.is_silent(&heard(34)), "it was heard, and is no more");
        view.raise(Alarm::Forked { known: 1 });
        assert!(!view.is_silent(&node), "an alarm");
        seen(now);
        assert!(!view.is_silent(&node), "after it");
        // Too few nodes answer, so that nothing has counted for long.
        view.as_of.store(NEVER, Ordering::Release);
        view.looked(now);
        watches(31);
        assert!(
            matches!(view.standing(), Standing::Stale(_))
                && view.is_silent(&node)
                && !view.is_silent(&heard(1))
        );
        view.watching().looked = now.checked_sub(31 * second);
        assert!(!view.is_silent(&node), "the database has not answered for long");
        view.looked(now);
        assert!(!view.is_silent(&node), "after that");
    }
}
