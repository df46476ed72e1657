//! Whatever happens in whatever order: never two nodes in work, never below the number that must serve, and done only what is right.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::facts::{Facts, NodeFact};
use super::machine::{Begin, Moved, Order, OrderError};
use super::{HookReport, HookSays, reported};
use crate::state::rollout::{
    NewRollout, Rollout, RolloutHook, RolloutLease, RolloutNode, RolloutState, RolloutStep, content, parse,
};

const IMAGE: [u8; 32] = [2; 32];
const OLD: [u8; 32] = [1; 32];
const NODES: usize = 4;
const HEALTHY: u64 = 60;
const TIMEOUT: u64 = 600;

/// What may happen.
#[derive(Debug, Clone)]
enum Event {
    /// The driver asks, with or without the right to begin.
    Step(bool),
    /// A node changes.
    Node(usize, Change),
    Order(Order),
    Hook(usize, u32, HookSays),
    Stale(bool),
    Time(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Replaced {
        image: [u8; 32],
        canary: bool,
    },
    Ready(bool),
    Silent(bool),
    /// Another node with its name comes.
    Twin,
    TwinGone,
}

fn name(at: usize) -> String {
    format!("node-{at}")
}

fn order() -> impl Strategy<Value = Order> {
    let node = || (0..NODES + 1).prop_map(name);
    prop_oneof![
        Just(Order::Pause),
        Just(Order::Resume),
        node().prop_map(Order::Retry),
        node().prop_map(Order::Skip),
        Just(Order::Cancel),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let change = prop_oneof![
        4 => any::<bool>().prop_map(|canary| Change::Replaced { image: IMAGE, canary }),
        4 => Just(Change::Replaced { image: IMAGE, canary: true }),
        1 => Just(Change::Replaced { image: OLD, canary: true }),
        2 => any::<bool>().prop_map(Change::Ready),
        1 => any::<bool>().prop_map(Change::Silent),
        1 => Just(Change::Twin),
        1 => Just(Change::TwinGone),
    ];
    let says = prop_oneof![
        (1u64..100).prop_map(HookSays::Starts),
        Just(HookSays::Succeeded),
        Just(HookSays::Failed("exit code 3".to_owned())),
    ];
    prop_oneof![
        12 => prop::bool::weighted(0.9).prop_map(Event::Step),
        6 => (0..NODES, change).prop_map(|(at, change)| Event::Node(at, change)),
        1 => order().prop_map(Event::Order),
        3 => (0..NODES, 1u32..3, says).prop_map(|(at, attempt, says)| Event::Hook(at, attempt, says)),
        1 => any::<bool>().prop_map(Event::Stale),
        6 => (1u64..90).prop_map(Event::Time),
    ]
}

/// The nodes as they are.
struct Fleet {
    facts: Facts,
    boots: u32,
    now: u64,
}

impl Fleet {
    fn new() -> Self {
        let nodes = (0..NODES).map(|at| NodeFact {
            id: format!("id-{at}"),
            name: name(at),
            answers: true,
            boot_id: Some(format!("boot-{at}")),
            image: Some(OLD),
            canary: Some("canary".to_owned()),
            ready: true,
            ..NodeFact::default()
        });
        let facts = Facts {
            is_settled: true,
            canary: Some("canary".to_owned()),
            nodes: nodes.collect(),
            ..Facts::default()
        };
        Self { facts, boots: 0, now: 1_000 }
    }

    fn change(&mut self, at: usize, change: Change) {
        let twin = NODES + at;
        match change {
            Change::Replaced { image, canary } => {
                self.boots += 1;
                let node = &mut self.facts.nodes[at];
                node.boot_id = Some(format!("new-{}", self.boots));
                node.image = Some(image);
                node.canary = Some(if canary { "canary" } else { "other" }.to_owned());
                (node.answers, node.ready) = (true, true);
                (node.healthy_for, node.draining_for) = (Duration::ZERO, None);
            }
            Change::Ready(ready) => {
                self.facts.nodes[at].ready = ready;
                self.facts.nodes[at].healthy_for = Duration::ZERO;
            }
            Change::Silent(silent) => {
                let node = &mut self.facts.nodes[at];
                node.answers = !silent;
                node.ready = node.ready && !silent;
                node.healthy_for = Duration::ZERO;
            }
            Change::Twin if self.facts.nodes.len() <= twin => {
                self.boots += 1;
                let twin = NodeFact {
                    id: format!("twin-{at}"),
                    boot_id: Some(format!("new-{}", self.boots)),
                    image: Some(IMAGE),
                    ..self.facts.nodes[at].clone()
                };
                self.facts.nodes.push(twin);
            }
            Change::Twin => {}
            Change::TwinGone => self.facts.nodes.truncate(NODES),
        }
    }

    /// Time passes, in which ready nodes stay so, and asked ones drain.
    fn wait(&mut self, seconds: u64, rollout: &Rollout) {
        self.now += seconds;
        for node in &mut self.facts.nodes {
            if node.ready && node.answers {
                node.healthy_for += Duration::from_secs(seconds);
            }
            let drains = node.boot_id.as_deref().is_some_and(|boot_id| rollout.drains(boot_id));
            if drains && node.answers {
                node.ready = false;
                node.healthy_for = Duration::ZERO;
                *node.draining_for.get_or_insert_default() += Duration::from_secs(seconds);
            } else if node.draining_for.take().is_some() && node.answers {
                node.ready = true;
            }
        }
    }
}

fn rollout(min_serving: u32) -> Rollout {
    let nodes = (0..NODES).map(|at| RolloutNode {
        name: name(at),
        id: format!("id-{at}"),
        boot_id: format!("boot-{at}"),
        step: RolloutStep::Waiting,
        since: 0,
        began: 0,
        attempt: 0,
        hook: RolloutHook::None,
        gaps: 0,
    });
    Rollout::from(NewRollout {
        image: IMAGE,
        min_serving,
        drain_for: 10,
        healthy_for: HEALTHY,
        node_timeout: TIMEOUT,
        started_at: 0,
        by: "token".to_owned(),
        nodes: nodes.collect(),
        ..NewRollout::example()
    })
}

/// What must hold of each step.
fn check_step(before: &Rollout, after: &Rollout, moved: &Moved, fleet: &Fleet, begin: Begin) {
    let serving = Rollout::others_that_serve(&moved.node, &fleet.facts);
    if moved.from == "waiting" || moved.to == "replacing" {
        assert_eq!(begin, Begin::Allowed, "{moved:?}");
        assert_eq!(before.state, RolloutState::Running, "{moved:?}");
        assert!(fleet.facts.stale.is_none(), "{moved:?}");
        assert!(serving >= before.min_serving, "{moved:?} with {serving} others");
    }
    if moved.from == "waiting" {
        assert!(before.in_work().is_none(), "{moved:?}");
    }
    if moved.to == "failed" {
        assert!(matches!(after.state, RolloutState::Paused { failed: true, .. }));
    }
    if moved.to == "done" && !moved.node.is_empty() {
        let node = after.nodes.iter().find(|node| node.name == moved.node).expect("a node");
        let bearers = fleet.facts.nodes.iter().filter(|fact| fact.name == moved.node && fact.answers);
        let bearers: Vec<_> = bearers.collect();
        assert_eq!(bearers.len(), 1);
        assert!(bearers[0].boot_id.as_deref() != Some(&node.boot_id));
        assert_eq!((bearers[0].image, bearers[0].ready), (Some(IMAGE), true));
        assert_eq!(bearers[0].canary, fleet.facts.canary);
        assert!(bearers[0].healthy_for.as_secs() >= HEALTHY);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_rollout_keeps_its_word(min_serving in 0u32..4, events in vec(event(), 1..160)) {
        let (mut rollout, mut fleet) = (rollout(min_serving), Fleet::new());
        for event in events {
            let before = rollout.clone();
            match event {
                Event::Node(at, change) => fleet.change(at, change),
                Event::Stale(stale) => fleet.facts.stale = stale.then(|| "a test".to_owned()),
                Event::Time(seconds) => fleet.wait(seconds, &rollout),
                Event::Step(may_begin) => {
                    let begin = if may_begin { Begin::Allowed } else { Begin::Never };
                    let waits = rollout.waits_for(&fleet.facts);
                    if let Some(moved) = rollout.advance(fleet.now, &fleet.facts, begin) {
                        check_step(&before, &rollout, &moved, &fleet, begin);
                    } else {
                        prop_assert_eq!(&rollout, &before, "{:?}", waits);
                    }
                }
                Event::Order(order) => match rollout.order(&order, "zoe", fleet.now) {
                    Ok(Some(moved)) => prop_assert!(["waiting", "skipped", "cancelled"].contains(&moved.to)),
                    Ok(None) => {}
                    Err(_) => prop_assert_eq!(&rollout, &before),
                },
                Event::Hook(at, attempt, says) => {
                    let report = HookReport { node: name(at), attempt, says };
                    let starts = matches!(report.says, HookSays::Starts(_));
                    // The end of a program in a rollout that is over changes nothing, so it is not asked for.
                    if before.state.is_over() && !starts {
                        continue;
                    }
                    match reported(&mut rollout, &report, &fleet.facts) {
                        Ok(_) if starts => {
                            prop_assert_eq!(&before.state, &RolloutState::Running);
                            prop_assert!(Rollout::others_that_serve(&name(at), &fleet.facts) >= min_serving);
                            prop_assert_eq!(&before.nodes[at].step, &RolloutStep::Replacing);
                            prop_assert_eq!(before.nodes[at].hook, RolloutHook::None);
                        }
                        Ok(_) => {}
                        Err(_) => prop_assert_eq!(&rollout, &before),
                    }
                }
            }
            prop_assert!(rollout.nodes.iter().filter(|node| node.step.is_in_work()).count() <= 1);
            let drained = (0..NODES).filter(|at| fleet.facts.nodes[*at].boot_id.as_deref().is_some_and(|id| rollout.drains(id)));
            prop_assert!(drained.count() <= 1);
            if before.state.is_over() {
                prop_assert_eq!(&rollout.state, &before.state);
            }
            let written = content(&rollout).expect("it can be written");
            prop_assert_eq!(parse(&written).expect("it can be read"), rollout.clone());
        }
    }
}

/// Steps until nothing changes.
fn settle(rollout: &mut Rollout, fleet: &Fleet) {
    while rollout.advance(fleet.now, &fleet.facts, Begin::Allowed).is_some() {}
}

#[test]
fn a_whole_rollout_replaces_one_node_after_the_other() {
    let (mut rollout, mut fleet) = (rollout(3), Fleet::new());
    for at in 0..NODES {
        settle(&mut rollout, &fleet);
        assert_eq!(rollout.nodes[at].step, RolloutStep::Draining);
        assert_eq!(rollout.nodes.iter().filter(|node| node.step == RolloutStep::Done).count(), at);
        fleet.wait(10, &rollout);
        settle(&mut rollout, &fleet);
        assert_eq!(rollout.nodes[at].step, RolloutStep::Replacing);
        fleet.change(at, Change::Replaced { image: IMAGE, canary: true });
        settle(&mut rollout, &fleet);
        assert_eq!(rollout.nodes[at].step, RolloutStep::Healthy);
        fleet.wait(HEALTHY, &rollout);
    }
    settle(&mut rollout, &fleet);
    assert!(matches!(rollout.state, RolloutState::Done { .. }), "{rollout:?}");
}

/// A rollout whose first node is replaced, and a fleet where it has not come back.
fn replacing() -> (Rollout, Fleet) {
    let (mut rollout, mut fleet) = (rollout(3), Fleet::new());
    settle(&mut rollout, &fleet);
    fleet.wait(10, &rollout);
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Replacing);
    (rollout, fleet)
}

#[test]
fn an_operators_drain_holds_back_a_node_that_answers_and_not_its_namesake_that_is_gone() {
    for (answers, step) in [(true, RolloutStep::Waiting), (false, RolloutStep::Draining)] {
        let (mut rollout, mut fleet) = (rollout(3), Fleet::new());
        let namesake =
            NodeFact { name: name(0), answers, drained_by: Some("amy".to_owned()), ..NodeFact::default() };
        match answers {
            true => fleet.facts.nodes[0].drained_by = namesake.drained_by,
            false => fleet.facts.nodes.push(namesake),
        }
        settle(&mut rollout, &fleet);
        assert_eq!(rollout.nodes[0].step, step, "{rollout:?}");
    }
}

#[test]
fn what_comes_back_wrong_pauses_and_begins_nothing_until_an_operator_speaks() {
    for (change, reason) in [
        (Change::Replaced { image: OLD, canary: true }, "came back with the OS image 0101"),
        (Change::Replaced { image: IMAGE, canary: false }, "came back with other keys"),
    ] {
        let (mut rollout, mut fleet) = replacing();
        fleet.change(0, change);
        settle(&mut rollout, &fleet);
        assert!(rollout.nodes[0].step.reason().is_some_and(|text| text.contains(reason)), "{rollout:?}");
        fleet.wait(TIMEOUT, &rollout);
        settle(&mut rollout, &fleet);
        assert!(rollout.in_work().is_none() && rollout.nodes[1].step == RolloutStep::Waiting);
        assert!(fleet.facts.nodes[0].ready, "it is not drained any more");
        // Once it is right, it only has to prove itself.
        fleet.change(0, Change::Replaced { image: IMAGE, canary: true });
        rollout.order(&Order::Retry(name(0)), "zoe", fleet.now).expect("an order");
        settle(&mut rollout, &fleet);
        assert_eq!(rollout.nodes[0].step, RolloutStep::Healthy);
    }
}

#[test]
fn a_node_that_flaps_is_never_done_and_ends_in_the_time_out() {
    let (mut rollout, mut fleet) = replacing();
    fleet.change(0, Change::Replaced { image: IMAGE, canary: true });
    for _ in 0..20 {
        settle(&mut rollout, &fleet);
        fleet.wait(HEALTHY - 1, &rollout);
        fleet.change(0, Change::Ready(false));
        settle(&mut rollout, &fleet);
        assert!(rollout.nodes[0].step != RolloutStep::Done);
        fleet.change(0, Change::Ready(true));
    }
    assert!(rollout.nodes[0].step.reason().is_some_and(|text| text.contains("was not done within 600 s")));
    assert!(rollout.nodes[0].gaps > 5);
}

#[test]
fn a_silent_node_of_another_name_stops_the_next_step() {
    let (mut rollout, mut fleet) = (rollout(3), Fleet::new());
    fleet.change(3, Change::Silent(true));
    settle(&mut rollout, &fleet);
    assert!(rollout.in_work().is_none());
    assert_eq!(
        rollout.waits_for(&fleet.facts).as_deref(),
        Some("node-0 is not begun: 2 other nodes serve, 3 are needed")
    );
    fleet.change(3, Change::Silent(false));
    fleet.facts.nodes[3].ready = true;
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Draining);
    // It is checked again before the node is replaced.
    fleet.change(3, Change::Silent(true));
    fleet.wait(60, &rollout);
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Draining);
}

#[test]
fn two_nodes_with_one_name_are_not_judged() {
    let (mut rollout, mut fleet) = replacing();
    fleet.change(0, Change::Twin);
    fleet.wait(HEALTHY * 2, &rollout);
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Replacing);
    assert_eq!(
        rollout.waits_for(&fleet.facts).as_deref(),
        Some("two nodes answer with the name node-0: end the old one")
    );
    fleet.change(0, Change::Silent(true));
    fleet.facts.nodes[NODES].ready = true;
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Healthy, "a new node with another id and the same name");
}

#[test]
fn while_a_program_runs_nothing_else_is_begun() {
    let (mut rollout, mut fleet) = replacing();
    rollout.lease = Some(RolloutLease { driver: "a".repeat(32), by: "zoe".to_owned(), serial: 1, ttl: 30 });
    let says = |says| HookReport { node: name(0), attempt: 1, says };
    reported(&mut rollout, &says(HookSays::Starts(5_000)), &fleet.facts).expect("it may start");
    fleet.wait(TIMEOUT + 1, &rollout);
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Replacing, "its program has an end of its own");
    let skipped = rollout.order(&Order::Skip(name(0)), "zoe", fleet.now);
    assert_eq!(skipped, Err(OrderError::Runs));
    let mut cancelled = rollout.clone();
    cancelled.order(&Order::Cancel, "zoe", fleet.now).expect("an order");
    assert!(cancelled.lease.is_some(), "no other rollout starts meanwhile");
    // Nothing is in work any more, so nothing is shown as if it were.
    let shown = |rollout: &Rollout| {
        let steps = rollout.nodes.iter().map(|node| rollout.step_now(node).into_owned());
        steps.map(|step| (step.name(), step.reason().unwrap_or_default().to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(shown(&rollout)[0].0, "replacing");
    assert_eq!(shown(&cancelled)[0].0, "skipped");
    let said = "the rollout was cancelled while it was replacing; its drain is over; the program that replaces it may still run";
    assert_eq!(shown(&cancelled)[0].1, said);
    assert_eq!(shown(&cancelled)[1].0, "waiting", "it was not begun");
    cancelled.nodes[0].hook = RolloutHook::None;
    cancelled.nodes[0].step = RolloutStep::Healthy;
    assert_eq!(shown(&cancelled)[0].1, "the rollout was cancelled while it was healthy");
    cancelled.nodes[0].step = RolloutStep::Done;
    assert_eq!(shown(&cancelled)[0].0, "done");
    reported(&mut rollout, &says(HookSays::Succeeded), &fleet.facts).expect("it has ended");
    rollout.order(&Order::Skip(name(0)), "zoe", fleet.now).expect("now it may be skipped");
}

#[test]
fn another_current_epoch_is_waited_for_and_a_restart_is_asked_again() {
    let (mut rollout, mut fleet) = replacing();
    fleet.change(0, Change::Replaced { image: IMAGE, canary: false });
    fleet.facts.nodes[0].has_same_roots = true;
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Checking);
    fleet.facts.nodes[0].canary.clone_from(&fleet.facts.canary);
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Healthy);

    let (mut rollout, mut fleet) = (self::rollout(3), Fleet::new());
    settle(&mut rollout, &fleet);
    fleet.change(0, Change::Replaced { image: OLD, canary: true });
    fleet.facts.nodes[0].image = None;
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Draining, "it does not know yet what it runs");
    fleet.facts.nodes[0].image = Some(OLD);
    settle(&mut rollout, &fleet);
    assert_eq!(rollout.nodes[0].step, RolloutStep::Draining);
    assert_eq!(rollout.nodes[0].boot_id, "new-1");
}

#[test]
fn a_document_beyond_a_bound_is_not_read() {
    let good = String::from_utf8(content(&rollout(1)).expect("bytes")).expect("text");
    assert!(parse(good.replacen("node-1", "node-0", 1).as_bytes()).unwrap_err().contains("named twice"));
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("0123456789abcdef", "0123456789ABCDEF"),
        ("node-0", "a\\u001bb"),
        ("node-0", ""),
        ("\"node_timeout\":600", "\"node_timeout\":99999999999"),
        ("\"token\"", &format!("\"{}\"", "x".repeat(300))),
    ] {
        assert!(good.contains(from), "{from}: {good}");
        assert!(parse(good.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
    }
    // What a later version adds is not read, and stops nothing.
    assert!(parse(good.replacen("{", "{\"later\":1,", 1).as_bytes()).is_ok());
    assert!(parse(good.replacen("\"is\":\"waiting\"", "\"is\":\"later\"", 1).as_bytes()).is_err());
}
