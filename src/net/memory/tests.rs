//! What callers of each kind get of the memory, and who gives some back.

use std::net::IpAddr;
use std::sync::Weak;

use kms_attest::identity::AppId;

use super::*;

const MIB: usize = 1 << 20;

fn on(last: u8) -> Arc<Activity> {
    Arc::new(Activity::new(IpAddr::from([192, 0, 2, last]), Weak::new(), false))
}

fn app(last: u8) -> Holder {
    Holder::Admitted(AppId([last; 20]))
}

/// Takes as much as a new request can have, in steps of 64 KiB.
fn fill(memory: &Arc<RequestMemory>, last: u8, holder: Holder) -> (Arc<Reservation>, usize) {
    let request = memory.open(&on(last), holder, 64 * 1024 - REQUEST).expect("room");
    while request.grow(64 * 1024, 0, Instant::now()).is_ok() {}
    let bytes = memory.lock().requests[request.number].bytes;
    (request, bytes)
}

fn is_evicted(activity: &Activity) -> bool {
    futures_util::FutureExt::now_or_never(activity.evicted()).is_some()
}

#[test]
fn an_address_gets_a_quarter_at_most_and_half_of_what_is_there_so_that_something_is_left_for_the_next() {
    let memory = RequestMemory::new(64 * MIB);
    let mut held = Vec::new();
    for (last, share) in [(1, 16 * MIB), (2, 14 * MIB), (3, 7 * MIB), (4, 7 * MIB / 2), (5, 7 * MIB / 4)] {
        let (request, bytes) = fill(&memory, last, Holder::Stranger);
        assert_eq!(bytes, share, "address {last}");
        held.push(request);
    }
    for last in 6..=12 {
        held.push(memory.open(&on(last), Holder::Stranger, 1024).expect("a new guest always fits"));
    }
    held.clear();
    let left = memory.lock();
    assert!(left.requests.is_empty() && left.shares.is_empty() && left.by_owner.is_empty());
    assert!(left.by_class.iter().all(|bytes| *bytes == 0));
}

#[test]
fn each_kind_has_a_part_that_no_other_can_take_and_an_app_its_share_of_it() {
    let memory = RequestMemory::new(64 * MIB);
    let full = |last| with(&memory, &on(last), 512 * 1024, Instant::now());
    let mut held: Vec<_> = (1..=88).map(full).collect();
    assert!(memory.open(&on(89), Holder::Stranger, 1024).is_err(), "strangers have all that they can have");
    let (first, bytes) = fill(&memory, 201, app(1));
    assert_eq!(bytes, 6 * MIB, "half of the part of admitted callers");
    assert!(memory.open(&on(202), app(1), MIB).is_err(), "the same app at another address");
    let (second, bytes) = fill(&memory, 203, app(2));
    assert_eq!(bytes, 3 * MIB);
    held.extend([first, second]);
    held.push(memory.open(&on(204), Holder::Known, 1024).expect("an address that is known"));
    let (operator, bytes) = fill(&memory, 205, Holder::Operator);
    assert_eq!(bytes, 4 * MIB, "an operator has no share, but a part of his own");
    let (probe, bytes) = fill(&memory, 206, Holder::Probe);
    assert_eq!(bytes, 2 * MIB);
    held.extend([operator, probe]);
    held.push(memory.open(&on(207), Holder::Probe, 1024).expect("another probe"));
}

/// A stranger's request that has received so many bytes of a body and expects more.
fn with(
    memory: &Arc<RequestMemory>,
    activity: &Arc<Activity>,
    bytes: usize,
    now: Instant,
) -> Arc<Reservation> {
    let request = memory.open_at(activity, Holder::Operator, 0, now).expect("room");
    let mut held = memory.lock();
    held.becomes(request.number, Class::Stranger);
    held.settle(request.number, bytes);
    held.wait(request.number, Some(now));
    drop(held);
    request
}

#[test]
fn answers_beyond_the_budget_take_nothing_from_other_kinds() {
    let memory = RequestMemory::new(16 * MIB);
    let request = memory.open(&on(1), Holder::Stranger, 0).expect("room");
    request.answered(Some(500 * MIB as u64), Instant::now());
    assert!(memory.open(&on(2), Holder::Stranger, 0).is_err(), "they count, and are not refused");
    for holder in [Holder::Known, app(1), Holder::Operator, Holder::Probe] {
        memory.open(&on(3), holder, 1024).expect("its own part");
    }
}

#[test]
fn an_answer_takes_the_place_of_its_request() {
    let memory = RequestMemory::new(16 * MIB);
    let request = memory.open(&on(1), Holder::Stranger, 100).expect("room");
    request.receive(MIB).expect("body");
    request.decode(MIB).expect_err("with what is decoded it would be more than its share");
    assert!(request.was_refused());
    request.answered(Some(500), Instant::now());
    assert_eq!(memory.lock().requests[request.number].bytes, REQUEST + 500);
}

/// Three addresses hold everything with bodies that do not arrive; a fourth needs some.
#[test]
fn a_body_that_makes_no_progress_gives_its_memory_to_another() {
    let memory = RequestMemory::new(16 * MIB);
    let (attackers, guest) = ([1, 2, 3].map(on), on(4));
    let now = Instant::now();
    let held: Vec<_> = (0..44).map(|number| with(&memory, &attackers[number % 3], 256 * 1024, now)).collect();
    assert!(memory.open_at(&guest, Holder::Stranger, 0, now).is_err(), "they have not waited yet");
    let request = memory.open_at(&guest, Holder::Stranger, 100_000, now + MIN_WAIT).expect("room is made");
    let given_up: Vec<_> = held.iter().filter(|held| held.was_refused()).collect();
    assert_eq!(given_up.len(), 1, "as many as are needed");
    assert!(given_up.iter().all(|held| held.receive(1).is_err()), "nothing more is received");
    assert!(attackers.iter().all(|activity| !is_evicted(activity)), "their connections stay");
    drop(request);
}

#[test]
fn a_body_that_comes_is_not_given_up_nor_one_that_is_here() {
    let memory = RequestMemory::new(16 * MIB);
    let (comes, is_here, waits) = (on(1), on(1), on(1));
    let open = |activity| memory.open(activity, Holder::Stranger, MIB).expect("room");
    let [comes, is_here, waits] = [&comes, &is_here, &waits].map(open);
    is_here.received();
    let later = Instant::now() + MIN_WAIT;
    comes.grow(1024, PROGRESS, later).expect("room");
    let next = memory.open_at(&on(1), Holder::Stranger, MIB, later).expect("in place of the one that waits");
    assert_eq!([&comes, &is_here, &waits].map(|request| request.was_refused()), [false, false, true]);
    assert!(memory.open_at(&on(1), Holder::Stranger, MIB, later).is_err(), "the others stay");
    drop(next);
}

#[test]
fn an_answer_that_nobody_reads_ends_its_connection() {
    let memory = RequestMemory::new(16 * MIB);
    let (reads, does_not) = (on(1), on(2));
    let open = |activity| memory.open(activity, Holder::Stranger, 0).expect("room");
    let (read, unread) = (open(&reads), open(&does_not));
    for request in [&read, &unread] {
        request.received();
        request.answered(None, Instant::now());
    }
    read.rests();
    let mut now = Instant::now();
    let next = memory.open_at(&on(3), Holder::Stranger, 0, now + MAX_UNREAD / 2).expect("room");
    assert!(!is_evicted(&does_not), "not yet");
    now += MAX_UNREAD + SWEEP;
    drop(memory.open_at(&on(3), Holder::Stranger, 0, now).expect("room"));
    assert!(is_evicted(&does_not));
    assert!(!is_evicted(&reads), "we are the ones who have nothing to say");
    now += MIN_WAIT;
    let grow = |last: u8, bytes| memory.open_at(&on(last), Holder::Stranger, bytes, now);
    let held: Vec<_> = (10..13).map_while(|last| grow(last, 3 * MIB).ok()).collect();
    with(&memory, &reads, 0, now);
    memory.lock().settle(read.number, 4 * MIB);
    drop(grow(20, 2 * MIB).expect("in place of a stream that rests"));
    assert!(is_evicted(&reads));
    drop(held);
    drop(next);
}

#[test]
fn a_request_becomes_an_operators_with_all_that_it_holds() {
    let memory = RequestMemory::new(64 * MIB);
    let request = memory.open(&on(1), Holder::Stranger, 0).expect("room");
    assert!(request.receive(9 * MIB).is_err(), "more than a quarter");
    request.belongs_to_operator();
    request.receive(8 * MIB).expect("a candidate of 8 MiB");
    request.decode(8 * MIB).expect("and what is decoded");
    let held = memory.lock();
    assert_eq!(held.by_class[Class::Stranger.index()], 0);
    assert_eq!(held.by_class[Class::Operator.index()], REQUEST + 32 * MIB);
}
