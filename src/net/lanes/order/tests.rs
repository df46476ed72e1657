use super::*;

const EXPECTED: Duration = Duration::from_millis(1);

fn lane(name: &str) -> Lane {
    Lane::Domain(name.parse().unwrap())
}

fn address(number: u32) -> Party {
    Party::Address((0x0a00_0000 + number).to_be_bytes().into())
}

fn place(name: &str, party: u32) -> Place {
    Place { lane: lane(name), standing: Standing::Proved, party: address(party) }
}

fn claimed(name: &str, party: u32) -> Place {
    Place { standing: Standing::Claimed, ..place(name, party) }
}

/// Takes the next `count` turns one after the other; each takes as long as `took` says of its work.
fn serve<W: Clone>(order: &mut Order<W>, count: usize, took: impl Fn(&W) -> Duration) -> Vec<W> {
    (0..count)
        .map_while(|_| {
            let Next { told, lane } = order.next(EXPECTED)?;
            order.ended(&lane, EXPECTED, took(&told));
            Some(told)
        })
        .collect()
}

#[test]
fn three_of_one_domain_wait_for_three_of_another_and_not_for_ten_thousand() {
    let mut order = Order::default();
    for number in 0..10_000 {
        order.enter(&place("big", number), Progress::New, ("big", number));
    }
    serve(&mut order, 500, |_| EXPECTED);
    for number in 0..3 {
        order.enter(&place("small", number), Progress::New, ("small", number));
    }
    let served = serve(&mut order, 7, |_| EXPECTED);
    assert_eq!(served.iter().filter(|(name, _)| *name == "small").count(), 3, "{served:?}");
    let rest = serve(&mut order, usize::MAX, |_| EXPECTED);
    assert_eq!(rest.len(), 10_003 - 507, "and an idle lane leaves its share");
    assert_eq!(order.waiting(), 0);
}

#[test]
fn lanes_are_equal_by_the_time_that_their_work_takes() {
    let mut order = Order::default();
    for number in 0..1000 {
        order.enter(&place("costly", number), Progress::New, "costly");
        order.enter(&place("cheap", number), Progress::New, "cheap");
    }
    let took = |name: &&str| if *name == "costly" { 4 * EXPECTED } else { EXPECTED };
    let served = serve(&mut order, 500, took);
    let costly = served.iter().filter(|name| **name == "costly").count();
    assert!((99..=101).contains(&costly), "{costly} of 500");
}

#[test]
fn a_lane_that_was_idle_has_no_claim_to_what_it_did_not_use() {
    let mut order = Order::default();
    order.enter(&place("a", 1), Progress::New, "a");
    serve(&mut order, 1, |_| EXPECTED);
    for number in 0..100 {
        order.enter(&place("b", number), Progress::New, "b");
    }
    serve(&mut order, 50, |_| EXPECTED);
    for number in 0..100 {
        order.enter(&place("a", number), Progress::New, "a");
    }
    let served = serve(&mut order, 20, |_| EXPECTED);
    let of_a = served.iter().filter(|name| **name == "a").count();
    assert!((9..=11).contains(&of_a), "{served:?}");
}

#[test]
fn a_lane_does_not_gain_by_having_only_one_at_a_time() {
    let mut order = Order::default();
    for name in ["b", "c", "d"] {
        for number in 0..100 {
            order.enter(&place(name, number), Progress::New, name);
        }
    }
    let mut of_a = 0;
    order.enter(&place("a", 1), Progress::New, "a");
    for _ in 0..100 {
        let served = serve(&mut order, 1, |_| EXPECTED);
        if served == ["a"] {
            of_a += 1;
            order.enter(&place("a", 1), Progress::New, "a");
        }
    }
    assert!((24..=26).contains(&of_a), "{of_a} of 100");
}

#[test]
fn within_a_lane_parties_take_turns_and_each_in_its_order() {
    let mut order = Order::default();
    for number in 0..4 {
        order.enter(&place("a", 1), Progress::New, (1, number));
    }
    order.enter(&place("a", 2), Progress::New, (2, 0));
    order.enter(&place("a", 2), Progress::New, (2, 1));
    let served = serve(&mut order, 10, |_| EXPECTED);
    assert_eq!(served, [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (1, 3)]);
}

#[test]
fn those_who_proved_something_alternate_with_those_who_claim_it() {
    let mut order = Order::default();
    for number in 0..1000 {
        order.enter(&claimed("victim", number), Progress::New, "liar");
    }
    for number in 0..5 {
        order.enter(&place("victim", 10_000 + number), Progress::New, "guest");
    }
    let served = serve(&mut order, 10, |_| EXPECTED);
    assert_eq!(served.iter().filter(|who| **who == "guest").count(), 5, "{served:?}");
}

#[test]
fn who_leaves_is_not_served_and_who_moves_is_served_elsewhere() {
    let mut order = Order::default();
    let tickets: Vec<_> =
        (0..3).map(|number| order.enter(&claimed("a", 1), Progress::New, ("a", number))).collect();
    let other = order.enter(&claimed("a", 2), Progress::New, ("a", 9));
    assert_eq!(order.leave(&claimed("a", 1), tickets[1]), Some(("a", 1)));
    assert_eq!(order.leave(&claimed("a", 1), tickets[1]), None);
    order.move_party(&claimed("a", 1), &Lane::Unproved);
    assert_eq!((order.waiting_in(&lane("a")), order.waiting_in(&Lane::Unproved)), (1, 2));
    assert_eq!(order.leave(&claimed("a", 1), tickets[0]), None);
    let moved = Place { lane: Lane::Unproved, ..claimed("a", 1) };
    assert_eq!(order.leave(&moved, tickets[0]), Some(("a", 0)));
    assert_eq!(order.leave(&claimed("a", 2), other), Some(("a", 9)));
    assert_eq!(order.next(EXPECTED), Some(Next { told: ("a", 2), lane: Lane::Unproved }));
    assert_eq!((order.next(EXPECTED), order.waiting()), (None, 0));
}

#[test]
fn room_is_made_by_those_with_the_most_and_never_by_work_that_has_begun() {
    let mut order = Order::default();
    order.enter(&place("a", 1), Progress::New, "1, old");
    order.enter(&place("a", 1), Progress::New, "1, new");
    order.enter(&place("a", 2), Progress::New, "2");
    order.enter(&place("a", 1), Progress::Begun, "1, begun");
    assert_eq!(order.displace(&place("a", 1)), None, "the newcomer has the most itself");
    assert_eq!(order.displace(&place("a", 3)), Some("1, new"));
    assert_eq!(order.displace(&place("a", 3)), Some("1, old"));
    assert_eq!(order.displace(&place("a", 3)), None, "none has more than the newcomer");
    order.enter(&claimed("a", 4), Progress::New, "4");
    assert_eq!(order.displace(&claimed("a", 5)), None, "claims displace no claims of equals");
    assert_eq!(order.displace(&place("a", 3)), Some("4"), "but give way to proof");
    assert_eq!(order.waiting(), 2);
    assert_eq!(order.displace(&place("b", 1)), None);
}

#[test]
fn lanes_that_are_idle_are_forgotten() {
    let mut order = Order::default();
    for number in 0..10 * MAX_IDLE {
        order.enter(&place(&format!("d{number}"), 1), Progress::New, ());
        serve(&mut order, 1, |()| EXPECTED);
    }
    assert!(order.lanes.len() <= MAX_IDLE);
    assert_eq!((order.busy(), order.lanes().count()), (0, 0));
}
