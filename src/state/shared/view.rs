//! How old what this node knows of the shared state is, and whether it is believed at all.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::alarm::Alarm;
use super::seal::NodeId;
use crate::config::{Postgres, WhenStale};

/// No view yet, or none that counts.
const NEVER: u64 = 0;

/// What this node knows of the shared state. Reading it waits for nothing.
#[derive(Debug)]
pub struct View {
    settings: Arc<Postgres>,
    base: Instant,
    /// Milliseconds from `base`, plus one.
    as_of: AtomicU64,
    alarm: watch::Sender<Option<Alarm>>,
    /// Why the database did not answer the last time.
    trouble: watch::Sender<Option<String>>,
    nodes: ArcSwap<Vec<NodeSeen>>,
    /// The number of the newest state that is known.
    known: AtomicU64,
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
    /// What it said of itself, see [`super::Reporter`].
    pub status: Option<Arc<[u8]>>,
}

/// Whether a view counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is as old as this.
    Fresh(Duration),
    /// It does not count.
    Stale(Stale),
}

/// Why what was changed on other nodes may be unknown here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale(String);

impl Stale {
    /// The reason, for operators.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl View {
    pub(super) fn new(settings: Arc<Postgres>) -> Self {
        Self {
            settings,
            base: Instant::now(),
            as_of: AtomicU64::new(NEVER),
            alarm: watch::Sender::new(None),
            trouble: watch::Sender::new(None),
            nodes: ArcSwap::default(),
            known: AtomicU64::new(0),
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

    /// The number of the newest state that is known here; 0 without one.
    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    pub(super) fn show(&self, nodes: Vec<NodeSeen>, known: u64) {
        self.nodes.store(Arc::new(nodes));
        self.known.store(known, Ordering::Relaxed);
    }

    /// What happens while it does not count.
    pub fn when_stale(&self) -> WhenStale {
        self.settings.when_stale
    }

    /// Its age; `None` without one that counts.
    pub fn age(&self) -> Option<Duration> {
        match self.as_of.load(Ordering::Acquire) {
            NEVER => None,
            as_of => {
                let as_of = self.base + Duration::from_millis(as_of - 1);
                Some(Instant::now().saturating_duration_since(as_of))
            }
        }
    }

    /// Whether it counts now.
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
    /// It does not count, and the configuration says that nothing is released then.
    pub fn check(&self) -> Result<(), Stale> {
        match (self.standing(), self.settings.when_stale) {
            (Standing::Stale(stale), WhenStale::Refuse) => Err(stale),
            (Standing::Stale(_), WhenStale::Warn) | (Standing::Fresh(_), _) => Ok(()),
        }
    }

    fn stale(&self, age: Option<Duration>) -> Stale {
        let max = self.settings.max_view_age.as_secs();
        if let Some(alarm) = &*self.alarm.borrow() {
            return Stale(alarm.to_string());
        }
        let trouble =
            self.trouble.borrow().as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
        Stale(match age {
            Some(age) => format!(
                "the last view of the shared state is {} s old, at most {max} s are allowed{trouble}",
                age.as_secs()
            ),
            None => format!("there is no view of the shared state yet{trouble}"),
        })
    }

    /// Why the shared state is not believed.
    pub fn alarm(&self) -> Option<Alarm> {
        self.alarm.borrow().clone()
    }

    /// Notifies when that changes.
    pub fn alarms(&self) -> watch::Receiver<Option<Alarm>> {
        self.alarm.subscribe()
    }

    /// Notes a view that is as of `at`.
    pub(super) fn seen(&self, at: Instant) {
        let millis =
            u64::try_from(at.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX - 1);
        self.as_of.store(millis.saturating_add(1), Ordering::Release);
        self.alarm.send_if_modified(|alarm| alarm.take().is_some());
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
    }

    /// Notes that what the database shows is not believed: nothing counts until it is again.
    pub(super) fn raise(&self, alarm: Alarm) {
        self.as_of.store(NEVER, Ordering::Release);
        self.alarm.send_if_modified(|known| {
            let is_news = known.as_ref() != Some(&alarm);
            *known = Some(alarm);
            is_news
        });
    }

    /// Notes that the database did not answer, or that too few nodes did.
    pub(super) fn unanswered(&self, why: String) {
        self.trouble.send_if_modified(|known| {
            let is_news = known.as_deref() != Some(&*why);
            *known = Some(why);
            is_news
        });
    }

    /// Why the database did not answer the last time.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }
}
