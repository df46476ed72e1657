//! What must not be in a fleet: other root keys, other rules, a log that is not the one it was, two nodes with one id, other
//! clocks. Each node finds it by what the others report, and by what it remembers of their reports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::note::Note;
use kms_wire::fleet::{NodeStatus, Skew};

use super::beat::{Beat, Challenge};
use super::seal::{FleetId, NodeId, Opened, Sealed, Seals, Unsealed};
use super::table::ReportRow;
use super::view::NodeSeen;

/// Clocks that certainly differ by more milliseconds are an alarm.
const MAX_SKEW: u64 = 5_000;
/// A report that was not renewed for so long says nothing of what is now.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Rules that differ for so long longer than a poll are an alarm.
const GRACE: Duration = Duration::from_secs(60);
/// A start that comes back so soon after another one is of a second node.
const MAX_AWAY: Duration = Duration::from_secs(60);
/// How long an alarm about two nodes with one id stays after the last sign of them.
const CLONED_FOR: Duration = Duration::from_secs(600);
/// How long an alarm about a log stays after the last sign: the log goes on, so nothing ends the alarm.
const FORKED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long an alarm about reports that are not authentic, or of another fleet, stays after the last such report.
const STRANGE_FOR: Duration = Duration::from_secs(60);
/// How many new reports that are not authentic raise an alarm.
const MAX_STRANGE: u32 = 3;
/// The most starts of a node that are remembered.
const MAX_RUNS: usize = 4;
/// The most nodes that a text names.
const MAX_NAMED: usize = 4;

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SplitKind {
    /// Nodes have different root keys.
    Roots,
    /// Nodes decide by different rules.
    Policies,
    /// Nodes have different domains.
    Domains,
    /// The log of a node is shorter than it was, or another one.
    Ledger,
    /// Two nodes have one id.
    Cloned,
    /// Clocks differ.
    Clock,
}

impl SplitKind {
    /// The stable code.
    pub fn name(self) -> &'static str {
        match self {
            Self::Roots => "fleet_roots",
            Self::Policies => "fleet_policies",
            Self::Domains => "fleet_domains",
            Self::Ledger => "fleet_ledger",
            Self::Cloned => "fleet_cloned",
            Self::Clock => "fleet_clock",
        }
    }

    /// What an operator does about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Roots => {
                "Find out which nodes have the right root keys, and stop the others: their apps get other keys. If all have the \
                 same, find out who else writes to the database; if that is another fleet on purpose, set core.postgres.other_fleets"
            }
            Self::Policies => "Give all nodes the same policy",
            Self::Domains => "Give all nodes the same [domains] in the configuration",
            Self::Ledger => {
                "Stop the node, and compare its log with a copy or a witness: its disk was restored or its log was changed"
            }
            Self::Cloned => {
                "Stop one of the two: its disk is a copy of the other's. Remove fleet.json from its key directory before it starts, and \
                 then end again what it brings back: freezes and drains that were ended since the copy was made"
            }
            Self::Clock => "Set the clock that is wrong",
        }
    }
}

/// One of them, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// What it is.
    pub kind: SplitKind,
    /// The nodes that it is about.
    pub nodes: Vec<NodeId>,
    /// What is wrong, with the names of nodes.
    pub text: String,
    /// Since when this node knows it, Unix seconds.
    pub since: u64,
}

/// Reads what a node says of itself, at most [`super::MAX_STATUS`] bytes.
pub(super) fn status(body: &[u8]) -> Option<NodeStatus> {
    kms_attest::json::from_utf8(body).ok()
}

/// The tree that a signed checkpoint states; its signature is not checked.
pub fn signed_tree(note: &str) -> Option<Checkpoint> {
    Note::parse(note.as_bytes()).ok()?.text().parse().ok()
}

/// Remembers what nodes have said.
#[derive(Debug, Default)]
pub(super) struct Watch {
    nodes: BTreeMap<NodeId, Known>,
    strangers: BTreeMap<NodeId, Stranger>,
    others: BTreeMap<(FleetId, NodeId), Other>,
    /// When another node last wrote under the id of this one.
    taken: Option<Instant>,
    since: BTreeMap<SplitKind, u64>,
}

#[derive(Debug, Default)]
struct Known {
    status: Arc<NodeStatus>,
    counter: u64,
    runs: VecDeque<(Challenge, Instant)>,
    cloned: Option<Instant>,
    tree: Option<Checkpoint>,
    forked: Option<(Instant, String)>,
    policies_differ: Option<Instant>,
    domains_differ: Option<Instant>,
}

/// The writer of reports that are not authentic.
#[derive(Debug)]
struct Stranger {
    counter: i64,
    new: u32,
    at: Instant,
}

/// A node with other root keys in the same database.
#[derive(Debug)]
struct Other {
    counter: i64,
    /// When it last wrote, as far as this node saw it.
    wrote: Option<Instant>,
}

impl Watch {
    /// Notes that another node writes under the id of this one.
    pub(super) fn id_is_taken(&mut self, now: Instant) {
        self.taken = Some(now);
    }

    /// Notes reports, of which some may not be authentic.
    pub(super) fn rows(&mut self, seals: &Seals, kind: &str, rows: &[ReportRow], now: Instant) {
        for row in rows {
            let Ok(node) = <[u8; 16]>::try_from(&row.node[..]).map(NodeId) else { continue };
            let counter = u64::try_from(row.counter).unwrap_or(0);
            let sealed = Sealed::Report { node, kind, counter, body: &row.body };
            match seals.open(&row.seal, sealed) {
                Err(Unsealed::Wrong) => {
                    let new = Stranger { counter: row.counter, new: 0, at: now };
                    let stranger = self.strangers.entry(node).or_insert(new);
                    if row.counter > stranger.counter {
                        let new = stranger.new.saturating_add(1);
                        *stranger = Stranger { counter: row.counter, new, at: now };
                    }
                }
                Ok(Opened::Current | Opened::Older | Opened::Newer) => {
                    self.strangers.remove(&node);
                }
                Ok(Opened::Retired) | Err(Unsealed::Epoch(_)) => {}
            }
        }
        let is_there = |node: &NodeId| rows.iter().any(|row| row.node == node.0);
        self.strangers.retain(|node, _| is_there(node));
        self.nodes.retain(|node, _| is_there(node));
    }

    /// Notes the numbers of the beats of nodes of other fleets in the database.
    pub(super) fn others(&mut self, beats: BTreeMap<(FleetId, NodeId), i64>, now: Instant) {
        let mut before = std::mem::take(&mut self.others);
        let note = |(node, counter)| {
            let wrote = before.remove(&node).and_then(|known| match known.counter < counter {
                true => Some(now),
                false => known.wrote,
            });
            (node, Other { counter, wrote })
        };
        self.others = beats.into_iter().map(note).collect();
    }

    /// Notes which start of each node has written last.
    pub(super) fn beats(&mut self, beats: &BTreeMap<NodeId, (u64, Beat)>, now: Instant) {
        for (node, (counter, beat)) in beats {
            let Some(run) = beat.run else { continue };
            let known = self.nodes.entry(*node).or_default();
            // A beat that the database shows again is not new.
            if *counter > known.counter {
                known.counter = *counter;
                known.ran(run, now);
            }
        }
    }

    /// Notes what a node says, which was not known before.
    pub(super) fn said(&mut self, node: NodeId, status: &Arc<NodeStatus>, now: Instant) {
        let known = self.nodes.entry(node).or_default();
        if let Some(tree) = status.checkpoint.as_deref().and_then(signed_tree) {
            known.signed(tree, now);
        }
        known.status = Arc::clone(status);
    }

    /// The contradictions between nodes now. `answers` says which nodes have answered recently; `poll` is the time after which each node
    /// has the same rules; `unix` is the time in seconds.
    pub(super) fn look(
        &mut self,
        nodes: &[NodeSeen],
        answers: impl Fn(&NodeSeen) -> bool,
        poll: Duration,
        now: Instant,
        unix: u64,
    ) -> Vec<Split> {
        let mut found = Found::default();
        let age = |at: Instant| now.saturating_duration_since(at);
        let own = nodes.iter().find(|node| node.is_self);
        if let Some(own) = own.filter(|_| self.taken.is_some_and(|at| age(at) <= CLONED_FOR)) {
            found.add(SplitKind::Cloned, own.id, "another node writes under the id of this one".to_owned());
        }
        let status = own.and_then(|own| self.nodes.get(&own.id)).map(|known| Arc::clone(&known.status));
        for node in nodes {
            let name = &node.name;
            let skew = node.skew.map_or(0, |(min_ms, max_ms)| Skew { min_ms, max_ms }.at_least());
            if skew > MAX_SKEW && answers(node) {
                let text =
                    format!("the clock of {name} differs from this node's by at least {} s", skew / 1000);
                found.add(SplitKind::Clock, node.id, text);
            }
            let Some(known) = self.nodes.get_mut(&node.id) else { continue };
            if known.cloned.is_some_and(|at| age(at) <= CLONED_FOR) {
                let text = format!("two nodes write under the id of {name}");
                found.add(SplitKind::Cloned, node.id, text);
            }
            if let Some((_, text)) = known.forked.as_ref().filter(|(at, _)| age(*at) <= FORKED_FOR) {
                found.add(SplitKind::Ledger, node.id, format!("the log of {name} {text}"));
            }
            let is_recent = answers(node) && node.status_at.is_some_and(|at| age(at) <= MAX_AGE);
            let Some(own) = status.as_ref().filter(|_| is_recent && !node.is_self) else {
                (known.policies_differ, known.domains_differ) = (None, None);
                continue;
            };
            if known.status.has_roots_of(own) == Some(false) {
                let text = format!("{name} has other root keys than this node");
                found.add(SplitKind::Roots, node.id, text);
            }
            let differ = |one: &Option<String>, other: &Option<String>| {
                one.as_ref().zip(other.as_ref()).is_some_and(|(one, other)| one != other)
            };
            let policies = differ(&known.status.policies_sha256, &own.policies_sha256);
            if lasts(&mut known.policies_differ, policies, now) > Some(poll + GRACE) {
                let text = format!("{name} decides by another policy than this node");
                found.add(SplitKind::Policies, node.id, text);
            }
            let domains = differ(&known.status.domains_sha256, &own.domains_sha256);
            if lasts(&mut known.domains_differ, domains, now) > Some(GRACE) {
                let text = format!("{name} has other domains than this node, so it gives apps other keys");
                found.add(SplitKind::Domains, node.id, text);
            }
        }
        for (node, stranger) in &self.strangers {
            if stranger.new >= MAX_STRANGE && age(stranger.at) <= STRANGE_FOR {
                let text =
                    format!("the reports of the node {node} are not made with the root keys of this node");
                found.add(SplitKind::Roots, *node, text);
            }
        }
        let writes = |other: &Other| other.wrote.is_some_and(|at| age(at) <= STRANGE_FOR);
        let writing = self.others.iter().filter(|(_, other)| writes(other));
        let fleets: BTreeSet<_> = writing.map(|((fleet, _), _)| fleet).collect();
        if !fleets.is_empty() {
            let text = match fleets.len() {
                1 => "nodes of another fleet, with other root keys, write to the same database".to_owned(),
                more => {
                    format!("nodes of {more} other fleets, with other root keys, write to the same database")
                }
            };
            found.tell(SplitKind::Roots, text);
        }
        self.since.retain(|kind, _| found.0.contains_key(kind));
        let split = |(kind, (nodes, texts))| {
            let since = *self.since.entry(kind).or_insert(unix);
            Split { kind, nodes, text: joined(texts), since }
        };
        found.0.into_iter().map(split).collect()
    }
}

/// The contradictions that were found, by kind.
#[derive(Default)]
struct Found(BTreeMap<SplitKind, (Vec<NodeId>, Vec<String>)>);

impl Found {
    fn add(&mut self, kind: SplitKind, node: NodeId, text: String) {
        let (nodes, texts) = self.0.entry(kind).or_default();
        if !nodes.contains(&node) {
            nodes.push(node);
            texts.push(text);
        }
    }

    /// Adds a contradiction that belongs to no known node.
    fn tell(&mut self, kind: SplitKind, text: String) {
        self.0.entry(kind).or_default().1.push(text);
    }
}

fn joined(mut texts: Vec<String>) -> String {
    let more = texts.len().saturating_sub(MAX_NAMED);
    texts.truncate(MAX_NAMED);
    let more = (more > 0).then(|| format!("and so for {more} more nodes"));
    texts.into_iter().chain(more).collect::<Vec<_>>().join("; ")
}

/// For how long it has been so; `None` if it is not.
fn lasts(since: &mut Option<Instant>, is_so: bool, now: Instant) -> Option<Duration> {
    *since = is_so.then(|| since.unwrap_or(now));
    since.map(|since| now.saturating_duration_since(since))
}

impl Known {
    /// A start that comes back after another one means that two nodes write.
    fn ran(&mut self, run: Challenge, now: Instant) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) <= MAX_AWAY;
        let is_last = self.runs.back().is_some_and(|(last, _)| *last == run);
        if !is_last && self.runs.iter().any(|(known, at)| *known == run && is_recent(*at)) {
            self.cloned = Some(now);
        }
        self.runs.retain(|(known, _)| *known != run);
        self.runs.push_back((run, now));
        while self.runs.len() > MAX_RUNS {
            self.runs.pop_front();
        }
    }

    /// A log only grows, and what it has stays.
    fn signed(&mut self, tree: Checkpoint, now: Instant) {
        let known = self.tree.as_ref().filter(|known| known.origin == tree.origin);
        let problem = known.and_then(|known| {
            let (before, after) = (known.size.get(), tree.size.get());
            match after.cmp(&before) {
                std::cmp::Ordering::Less => Some(format!("had {before} records, and has {after} now")),
                std::cmp::Ordering::Equal if known.root != tree.root => {
                    Some(format!("has {after} records as before, but others"))
                }
                std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => None,
            }
        });
        if let Some(problem) = problem {
            self.forked = Some((now, problem));
        }
        self.tree = Some(tree);
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
