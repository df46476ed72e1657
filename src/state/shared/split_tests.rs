use kms_attest::p256::P256Key;
use proptest::prelude::*;

use super::super::seal::Seal;
use super::*;
use crate::keys::keyring::Keyring;
use crate::keys::{K256Key, RootKeys};

/// Three nodes, the first of which watches.
struct Fleet {
    watch: Watch,
    began: Instant,
    nodes: Vec<NodeSeen>,
}

fn status() -> NodeStatus {
    NodeStatus {
        boot_id: "first".to_owned(),
        canaries: vec!["aa".to_owned()],
        policies_sha256: Some("bb".to_owned()),
        domains_sha256: Some("cc".to_owned()),
        ..NodeStatus::default()
    }
}

fn checkpoint(origin: &str, size: u64, root: &str) -> Option<String> {
    let root = kms_ledger::Hash::leaf(root.as_bytes()).to_base64();
    Some(format!("{origin}\n{size}\n{root}\n\n\u{2014} {origin} AAAAAAAAAAAA\n"))
}

impl Fleet {
    fn new() -> Self {
        let nodes = (0..3).map(NodeSeen::numbered).collect();
        Self { watch: Watch::default(), began: Instant::now(), nodes }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.began + Duration::from_secs(seconds)
    }

    fn says(&mut self, seconds: u64, number: usize, status: &NodeStatus) {
        let (now, body) = (self.at(seconds), serde_json::to_vec(status).unwrap());
        self.watch.said(self.nodes[number].id, &Arc::new(super::status(&body).unwrap()), now);
        self.nodes[number].status_at = Some(now);
    }

    fn runs(&mut self, seconds: u64, counter: u64, run: u8) {
        let beat = Beat {
            name: "node-1".to_owned(),
            challenge: Challenge([0; 16]),
            run: Some(Challenge([run; 16])),
            time_ms: None,
            head: None,
            answers: Vec::new(),
        };
        let now = self.at(seconds);
        self.watch.beats(&[(NodeId([1; 16]), (counter, beat))].into(), now);
    }

    fn all_say(&mut self, seconds: u64, status: &NodeStatus) {
        (0..3).for_each(|number| self.says(seconds, number, status));
    }

    fn splits(&mut self, seconds: u64, answers: bool) -> Vec<Split> {
        let (now, poll) = (self.at(seconds), Duration::from_secs(300));
        self.watch.look(&self.nodes, |_| answers, poll, now, 1_000 + seconds)
    }

    fn kinds(&mut self, seconds: u64) -> Vec<SplitKind> {
        self.splits(seconds, true).into_iter().map(|split| split.kind).collect()
    }
}

#[test]
fn nodes_that_are_alike_are_no_alarm() {
    let mut fleet = Fleet::new();
    for seconds in (0..3_600).step_by(5) {
        let checkpoint = checkpoint("kms.example/cvm-kms/a", 5 + seconds / 60, &(seconds / 60).to_string());
        fleet.all_say(seconds, &NodeStatus { checkpoint, ..status() });
        assert_eq!(fleet.splits(seconds, true), []);
    }
}

#[test]
fn other_root_keys_are_an_alarm_at_once_and_name_the_node() {
    let mut fleet = Fleet::new();
    fleet.all_say(0, &status());
    fleet.says(1, 2, &NodeStatus { canaries: vec!["ff".to_owned()], ..status() });
    let splits = fleet.splits(1, true);
    assert_eq!(
        (splits.len(), splits[0].kind, &splits[0].nodes),
        (1, SplitKind::Roots, &vec![NodeId([2; 16])])
    );
    assert_eq!(splits[0].text, "node-2 has other root keys than this node");
    assert_eq!((splits[0].since, fleet.splits(9, true)[0].since), (1_001, 1_001), "since the first time");
    assert_eq!(fleet.splits(9, false), [], "it may be gone");
    assert_eq!(fleet.kinds(40), [], "an old report says nothing of now");
    fleet.says(41, 2, &status());
    assert_eq!(fleet.kinds(41), []);
}

#[test]
fn other_rules_are_an_alarm_when_they_last_longer_than_a_poll() {
    let mut fleet = Fleet::new();
    let other = NodeStatus { policies_sha256: Some("00".to_owned()), ..status() };
    for (seconds, alarm) in [(0, false), (355, false), (365, true)] {
        fleet.all_say(seconds, &status());
        fleet.says(seconds, 1, &other);
        assert_eq!(fleet.kinds(seconds), vec![SplitKind::Policies; usize::from(alarm)], "{seconds}");
    }
    // All have the new rules, and then the first ones are tried again: the time starts again.
    fleet.all_say(366, &other);
    assert_eq!(fleet.kinds(366), []);
    fleet.says(367, 1, &status());
    assert_eq!(fleet.kinds(367), []);

    let mut fleet = Fleet::new();
    let other = NodeStatus { domains_sha256: Some("00".to_owned()), ..status() };
    for (seconds, alarm) in [(0, false), (55, false), (65, true)] {
        fleet.all_say(seconds, &status());
        fleet.says(seconds, 1, &other);
        assert_eq!(fleet.kinds(seconds), vec![SplitKind::Domains; usize::from(alarm)], "{seconds}");
    }
    // A node of an older version does not say it.
    fleet.says(66, 1, &NodeStatus { domains_sha256: None, ..status() });
    assert_eq!(fleet.kinds(66), []);
}

#[test]
fn a_log_that_is_shorter_or_another_one_is_an_alarm_for_a_day() {
    let origin = "kms.example/cvm-kms/a";
    let says = |size, root| NodeStatus { checkpoint: checkpoint(origin, size, root), ..status() };
    for (after, text) in [
        (says(8, "x"), Some("the log of node-1 had 9 records, and has 8 now")),
        (says(9, "y"), Some("the log of node-1 has 9 records as before, but others")),
        (says(9, "x"), None),
        (says(10, "y"), None),
        (NodeStatus { checkpoint: checkpoint("kms.example/cvm-kms/b", 1, "y"), ..status() }, None),
        (NodeStatus { checkpoint: Some("no checkpoint".to_owned()), ..status() }, None),
    ] {
        let mut fleet = Fleet::new();
        fleet.says(0, 1, &says(9, "x"));
        fleet.says(5, 1, &after);
        let splits = fleet.splits(5, true);
        assert_eq!(splits.first().map(|split| &*split.text), text, "{after:?}");
        let kinds = vec![SplitKind::Ledger; usize::from(text.is_some())];
        fleet.says(6, 1, &says(50, "z"));
        assert_eq!(fleet.kinds(80_000), kinds, "it goes on, and was another one nevertheless");
        assert_eq!(fleet.kinds(90_000), []);
    }
}

#[test]
fn a_start_that_comes_back_is_a_second_node() {
    let runs = |fleet: &mut Fleet, runs: &[(u64, u8)]| {
        for (seconds, run) in runs {
            fleet.runs(*seconds, *seconds + 1, *run);
        }
        fleet.kinds(runs.last().unwrap().0)
    };
    let cloned = vec![SplitKind::Cloned];
    assert_eq!(runs(&mut Fleet::new(), &[(0, 1), (5, 1), (10, 2), (15, 3), (20, 3)]), []);
    assert_eq!(runs(&mut Fleet::new(), &[(0, 1), (5, 2), (10, 1)]), cloned);
    assert_eq!(runs(&mut Fleet::new(), &[(0, 1), (5, 2), (70, 1)]), [], "too long ago to be known");
    let mut fleet = Fleet::new();
    assert_eq!(runs(&mut fleet, &[(0, 1), (5, 2), (10, 1), (15, 1), (600, 1)]), cloned);
    assert_eq!(runs(&mut fleet, &[(700, 1)]), [], "one of them has ended");
    let mut fleet = Fleet::new();
    runs(&mut fleet, &[(0, 1), (5, 2)]);
    fleet.runs(6, 1, 1);
    assert_eq!(fleet.kinds(6), [], "the database shows an old beat again");
    let mut fleet = Fleet::new();
    let at = fleet.at(3);
    fleet.watch.id_is_taken(at);
    assert_eq!(fleet.splits(4, false)[0].text, "another node writes under the id of this one");
    assert_eq!(fleet.splits(4, false)[0].nodes, [NodeId([0; 16])]);
}

#[test]
fn clocks_are_an_alarm_where_they_certainly_differ() {
    let mut fleet = Fleet::new();
    fleet.nodes[1].skew = Some((-4_000, 60_000));
    assert_eq!(fleet.kinds(0), []);
    fleet.nodes[1].skew = Some((-9_000, -7_500));
    let splits = fleet.splits(0, true);
    assert_eq!(splits[0].text, "the clock of node-1 differs from this node's by at least 7 s");
    assert_eq!(fleet.splits(0, false), []);
}

#[test]
fn many_nodes_of_a_kind_are_one_alarm_whose_text_has_a_bound() {
    let mut fleet = Fleet::new();
    fleet.nodes = (0..100_u8)
        .map(|number| NodeSeen { id: NodeId([number; 16]), is_self: number == 0, ..fleet.nodes[1].clone() })
        .collect();
    fleet.nodes.iter_mut().for_each(|node| node.skew = Some((60_000, 60_000)));
    let splits = fleet.splits(0, true);
    assert_eq!((splits.len(), splits[0].nodes.len()), (1, 100));
    assert!(splits[0].text.ends_with("; and so for 96 more nodes"), "{}", splits[0].text);
}

fn keys() -> Keyring {
    Keyring::first(RootKeys::from_parts(P256Key::generate(), P256Key::generate(), K256Key::generate()))
}

#[test]
fn reports_that_other_keys_have_sealed_are_an_alarm_if_they_go_on() {
    let ours = keys();
    let (now, seals) = (Instant::now(), Seals::of(&ours, 1_800_000_000));
    let row = |number: u8, counter: i64, mac: Option<Vec<u8>>| {
        let (node, body) = (NodeId([number; 16]), b"{}".to_vec());
        let sealed = Sealed::Report { node, kind: "beat", counter: counter.unsigned_abs(), body: &body };
        let seal = seals.seal(sealed).unwrap();
        let seal = Seal { mac: mac.unwrap_or(seal.mac), ..seal };
        ReportRow { node: node.0.to_vec(), counter, body, seal }
    };
    let look = |watch: &mut Watch, now| watch.look(&[], |_| true, Duration::ZERO, now, 5);
    let mut watch = Watch::default();
    for counter in 1..=3 {
        watch.rows(&seals, "beat", &[row(1, counter, Some(vec![0; 32])), row(2, counter, None)], now);
        assert_eq!(look(&mut watch, now), [], "it may be an old row");
    }
    watch.rows(&seals, "beat", &[row(1, 4, Some(vec![0; 32]))], now);
    let splits = look(&mut watch, now);
    assert_eq!((splits[0].kind, &*splits[0].nodes), (SplitKind::Roots, &[NodeId([1; 16])][..]));
    let later = now + STRANGE_FOR * 2;
    watch.rows(&seals, "beat", &[row(1, 4, Some(vec![0; 32]))], later);
    assert_eq!(look(&mut watch, later), [], "nobody writes any more");
    watch.rows(&seals, "beat", &[row(1, 5, Some(vec![0; 32]))], later);
    assert_eq!(look(&mut watch, later).len(), 1);
    watch.rows(&seals, "beat", &[row(1, 6, None)], later);
    assert_eq!(look(&mut watch, later), [], "it has the keys");
}

#[test]
fn another_fleet_in_the_same_database_is_an_alarm_while_it_writes() {
    let mut fleet = Fleet::new();
    // Another node of that fleet, which has started more often, is gone.
    let beat = |counter| {
        [((FleetId([9; 16]), NodeId([1; 16])), 1 << 40), ((FleetId([9; 16]), NodeId([2; 16])), counter)]
            .into()
    };
    fleet.watch.others(beat(7), fleet.at(0));
    assert_eq!(fleet.kinds(0), [], "it may have been left there");
    fleet.watch.others(beat(7), fleet.at(5));
    assert_eq!(fleet.kinds(5), [], "nobody writes");
    fleet.watch.others(beat(8), fleet.at(10));
    let splits = fleet.splits(10, true);
    assert_eq!((splits[0].kind, splits[0].nodes.len()), (SplitKind::Roots, 0));
    assert_eq!(splits[0].text, "nodes of another fleet, with other root keys, write to the same database");
    fleet.watch.others(beat(8), fleet.at(15));
    assert_eq!(fleet.kinds(70), [SplitKind::Roots]);
    assert_eq!(fleet.kinds(71), [], "nobody writes any more");
    fleet.watch.others([].into(), fleet.at(75));
    assert_eq!(fleet.kinds(75), []);
}

proptest! {
    /// Whatever a node says, nothing panics, and what is remembered of it has a bound.
    #[test]
    fn what_a_node_says_has_a_bound(said in proptest::collection::vec((any::<u8>(), 0..20_u64, ".{0,80}"), 0..60)) {
        let mut fleet = Fleet::new();
        for (step, (run, size, text)) in said.into_iter().enumerate() {
            let checkpoint = checkpoint("o", size, &text).filter(|_| size != 7).or(Some(text));
            let said = NodeStatus { checkpoint, ..status() };
            fleet.runs(step as u64, step as u64, run);
            fleet.says(step as u64, 1, &said);
            let splits = fleet.splits(step as u64, true);
            prop_assert!(splits.iter().all(|split| split.nodes == [NodeId([1; 16])]));
            prop_assert!(fleet.watch.nodes.values().all(|known| known.runs.len() <= MAX_RUNS));
        }
    }
}
