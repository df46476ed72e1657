//! What a node knows of the others from their authenticated reports, and for how long it has been so. Time is measured here by this
//! machine's own clock, which no other one can move.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_wire::fleet::NodeStatus;

use crate::state::shared::{NodeId, NodeSeen, Standing, View};

/// A report that was not renewed for so long says nothing any more: nodes write one every five seconds.
const MAX_AGE: Duration = Duration::from_secs(20);
/// If nobody looked for longer than this, nothing is known of the time between.
const MAX_BLIND: Duration = Duration::from_secs(15);

/// What is known of all nodes at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Why the view of the shared state is not fresh; then nothing is known.
    pub stale: Option<String>,
    /// Whether this node has watched for long enough to know who is silent.
    pub is_settled: bool,
    /// What people call this node.
    pub own_name: String,
    /// The canary fingerprint of this node, as its own report has it.
    pub canary: Option<String>,
    /// The digest of the policy that decides about KMSs at this node; `None` if it has none.
    pub policy: Option<String>,
    /// The nodes that ever were in the fleet.
    pub nodes: Vec<NodeFact>,
}

/// What is known of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFact {
    /// Its id, hex.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Whether it has answered a challenge of this node recently, and renewed its report.
    pub answers: bool,
    /// Different after each start of its process.
    pub boot_id: Option<String>,
    /// The OS image that its own evidence names.
    pub image: Option<[u8; 32]>,
    /// What it measures.
    pub mr_aggregated: Option<[u8; 32]>,
    /// Its canary fingerprint, hex: equal only where the root keys are equal.
    pub canary: Option<String>,
    /// The digest of the policy by which it decides about KMSs, hex.
    pub policy: Option<String>,
    /// Whether it has the root keys of this node in each epoch that both have, whichever is current.
    pub has_same_roots: bool,
    /// Whether it releases keys, and load balancers send requests there.
    pub ready: bool,
    /// Why it is not, as codes.
    pub reasons: Vec<String>,
    /// How long all of this has been so without a gap, and it was ready: the shorter of what this node saw and what that one says.
    pub healthy_for: Duration,
    /// The operator who drains it, as the fleet knows it; a rollout's drain is none of these.
    pub drained_by: Option<String>,
    /// How long this node has seen it drain.
    pub draining_for: Option<Duration>,
}

impl NodeFact {
    /// Whether it is known to serve. One that an operator has just drained may not have said so yet.
    pub fn serves(&self) -> bool {
        self.answers && self.ready && self.drained_by.is_none()
    }

    /// A text that an operator drains the node, and who may end that; `None` if nobody does.
    pub fn drained(&self) -> Option<String> {
        let by = self.drained_by.as_ref()?;
        Some(format!("{} is drained by {by}: an operator ends that (undrain)", self.name))
    }
}

/// Remembers since when nodes are as they are.
#[derive(Debug, Default)]
pub(super) struct Observer(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    looked: Option<Instant>,
    watches_since: Option<Instant>,
    nodes: BTreeMap<NodeId, Known>,
}

#[derive(Debug)]
struct Known {
    /// What must stay the same for a node to be healthy without a gap.
    same: Same,
    healthy_since: Option<Instant>,
    draining_since: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
struct Same {
    boot_id: String,
    image: Option<String>,
    mr_aggregated: Option<String>,
    canary: Option<String>,
}

impl Observer {
    /// Looks at what is known now.
    pub(super) fn look(&self, view: &View) -> Facts {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = match view.standing() {
            Standing::Fresh(_) => None,
            Standing::Stale(stale) => Some(stale.text().to_owned()),
        };
        let nodes = view.nodes();
        let seen = nodes.iter().map(|node| (node, view.answers(node)));
        memory.look(seen, stale, view.settles_after(), Instant::now())
    }
}

impl Memory {
    fn look<'a>(
        &mut self,
        seen: impl Iterator<Item = (&'a NodeSeen, bool)>,
        stale: Option<String>,
        settles_after: Duration,
        now: Instant,
    ) -> Facts {
        let is_blind = self.looked.is_none_or(|at| now.saturating_duration_since(at) > MAX_BLIND);
        self.looked = Some(now);
        if is_blind || stale.is_some() {
            self.nodes.clear();
            self.watches_since = None;
        }
        let watched = now.saturating_duration_since(*self.watches_since.get_or_insert(now));
        let mut facts = Facts { stale, is_settled: watched >= settles_after, ..Facts::default() };
        let mut before = std::mem::take(&mut self.nodes);
        let seen: Vec<_> = seen.collect();
        let own = seen.iter().find(|(node, _)| node.is_self).and_then(|(node, _)| node.status.as_deref());
        for (node, answers) in seen {
            let is_renewed = node.status_at.is_some_and(|at| now.saturating_duration_since(at) <= MAX_AGE);
            let said = node.status.as_deref();
            // Beats answer challenges and reports do not: one that is much older than the beat by the node's own clock was held back.
            let is_late =
                said.and_then(|said| said.time_ms).zip(node.written_ms).is_some_and(|(said, written)| {
                    u128::from(written.saturating_sub(said)) > MAX_AGE.as_millis()
                });
            if node.is_self {
                facts.own_name.clone_from(&node.name);
            }
            let mut fact = NodeFact {
                id: node.id.to_string(),
                name: node.name.clone(),
                answers: answers && is_renewed && !is_late && facts.stale.is_none(),
                ..NodeFact::default()
            };
            let Some(said) = said.filter(|said| !said.boot_id.is_empty()) else {
                facts.nodes.push(fact);
                continue;
            };
            let before = before.remove(&node.id);
            let known = Known::after(before, said, fact.answers, now);
            let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
            let said_for = said.ready_for.map_or(Duration::MAX, Duration::from_secs);
            fact.healthy_for = since(known.healthy_since).unwrap_or_default().min(said_for);
            fact.draining_for = since(known.draining_since);
            fact.has_same_roots = own.and_then(|own| own.has_roots_of(said)) == Some(true);
            fact.boot_id = Some(said.boot_id.clone());
            fact.image = said.os_image_hash.as_deref().and_then(digest);
            fact.mr_aggregated = said.mr_aggregated.as_deref().and_then(digest);
            fact.canary.clone_from(&said.canary);
            fact.policy = said.policies.get("default").cloned();
            fact.ready = said.ready && fact.answers;
            fact.reasons.clone_from(&said.reasons);
            if node.is_self {
                facts.canary.clone_from(&fact.canary);
                facts.policy.clone_from(&fact.policy);
            }
            self.nodes.insert(node.id, known);
            facts.nodes.push(fact);
        }
        facts
    }
}

impl Known {
    fn after(before: Option<Self>, said: &NodeStatus, answers: bool, now: Instant) -> Self {
        let same = Same {
            boot_id: said.boot_id.clone(),
            image: said.os_image_hash.clone(),
            mr_aggregated: said.mr_aggregated.clone(),
            canary: said.canary.clone(),
        };
        let before = before.filter(|before| before.same == same);
        let (healthy, draining) =
            before.map_or((None, None), |before| (before.healthy_since, before.draining_since));
        let drains = answers && said.reasons.iter().any(|reason| reason == "draining");
        Self {
            same,
            healthy_since: (answers && said.ready).then(|| healthy.unwrap_or(now)),
            draining_since: drains.then(|| draining.unwrap_or(now)),
        }
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const SETTLED: Duration = Duration::from_secs(20);

    fn node(number: u8, status: &str, status_at: Option<Instant>) -> NodeSeen {
        let status = kms_attest::json::from_utf8(status.as_bytes()).ok().map(Arc::new);
        NodeSeen { status, status_at, ..NodeSeen::numbered(number) }
    }

    #[test]
    fn health_has_no_gap_only_if_everything_stays_the_same_and_somebody_looks() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut memory = Memory::default();
        let mut healthy = |seconds: u64, status: &str, answers: bool, stale: bool, renewed: u64| {
            let node = node(1, status, Some(at(renewed)));
            let stale = stale.then(|| "a reason".to_owned());
            let facts = memory.look([(&node, answers)].into_iter(), stale, SETTLED, at(seconds));
            facts.nodes[0].healthy_for.as_secs()
        };
        let good = r#"{"boot_id":"a","ready":true,"reasons":[],"os_image_hash":"00","canary":"c"}"#;
        assert_eq!(healthy(0, good, true, false, 0), 0);
        assert_eq!(healthy(5, good, true, false, 5), 5);
        let bad = r#"{"boot_id":"a","ready":false,"reasons":["frozen"]}"#;
        assert_eq!(healthy(6, bad, true, false, 5), 0, "not ready");
        assert_eq!(healthy(7, good, true, false, 7), 0, "it begins again");
        assert_eq!(healthy(17, good, true, false, 17), 10);
        assert_eq!(healthy(18, good, false, false, 17), 0, "it does not answer");
        healthy(19, good, true, false, 19);
        assert_eq!(healthy(29, good, true, false, 29), 10);
        assert_eq!(healthy(30, &good.replace("\"a\"", "\"b\""), true, false, 30), 0, "another start");
        assert_eq!(healthy(31, &good.replace("\"c\"", "\"d\""), true, false, 31), 0, "another key");
        healthy(32, good, true, false, 32);
        assert_eq!(healthy(40, good, true, true, 40), 0, "the view does not count");
        healthy(41, good, true, false, 41);
        assert_eq!(healthy(51, good, true, false, 41), 10);
        assert_eq!(healthy(62, good, true, false, 41), 0, "an old report is shown again and again");
        healthy(63, good, true, false, 63);
        assert_eq!(healthy(100, good, true, false, 99), 0, "nobody looked");
        let said = good.replace("\"reasons\"", "\"ready_for\":3,\"reasons\"");
        healthy(101, good, true, false, 101);
        assert_eq!(healthy(111, &said, true, false, 111), 3, "it says that it was not ready before");
    }

    #[test]
    fn the_time_of_a_drain_is_that_since_it_was_seen() {
        let start = Instant::now();
        let mut memory = Memory::default();
        let drains = r#"{"boot_id":"a","ready":false,"reasons":["draining"]}"#;
        let mut look = |seconds: u64, status: &str| {
            let now = start + Duration::from_secs(seconds);
            let node = node(0, status, Some(now));
            memory.look([(&node, true)].into_iter(), None, SETTLED, now).nodes[0].draining_for
        };
        assert_eq!(look(0, drains), Some(Duration::ZERO));
        assert_eq!(look(4, drains), Some(Duration::from_secs(4)));
        assert_eq!(look(5, r#"{"boot_id":"a","ready":true}"#), None);
        assert_eq!(look(6, drains), Some(Duration::ZERO));
        assert_eq!(look(7, "not JSON"), None);
    }

    #[test]
    fn a_report_that_the_database_held_back_does_not_count() {
        let now = Instant::now();
        let answers = |written_ms| {
            let said = r#"{"boot_id":"a","ready":true,"time_ms":1000000}"#;
            let node = NodeSeen { written_ms, ..node(1, said, Some(now)) };
            let facts = Memory::default().look([(&node, true)].into_iter(), None, SETTLED, now);
            (facts.nodes[0].answers, facts.nodes[0].ready)
        };
        assert_eq!(answers(None), (true, true));
        assert_eq!(answers(Some(1_019_000)), (true, true));
        assert_eq!(answers(Some(1_021_000)), (false, false));
    }
    #[test]
    fn a_node_is_known_to_be_silent_after_the_time_that_the_view_needs() {
        let start = Instant::now();
        for settles_after in [SETTLED, Duration::from_secs(60)] {
            let mut memory = Memory::default();
            let mut settled_at = None;
            for second in (0..100).step_by(5) {
                let now = start + Duration::from_secs(second);
                let facts = memory.look(std::iter::empty(), None, settles_after, now);
                settled_at = settled_at.or(facts.is_settled.then_some(second));
            }
            assert_eq!(settled_at, Some(settles_after.as_secs()));
        }
    }
}
