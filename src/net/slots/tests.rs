//! Who gets a slot, and whose connection is closed for it.

use super::known::{KNOWN_FOR, MAX_KNOWN};
use super::*;

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn take(slots: &Slots, last: u8) -> Slot {
    slots.take(address(last)).expect("a slot")
}

/// Takes a slot after every idle connection has been idle for long enough.
fn take_later(slots: &Slots, last: u8) -> Option<Slot> {
    slots.take_at(address(last), Instant::now() + MIN_IDLE)
}

async fn is_evicted(slot: &Slot) -> bool {
    tokio::time::timeout(Duration::from_millis(1), slot.evicted()).await.is_ok()
}

#[test]
fn an_address_gets_its_share_and_gives_it_back() {
    let slots = Slots::new(4);
    let held: Vec<_> = (0..3).map(|_| take(&slots, 1)).collect();
    assert!(slots.take(address(1)).is_none(), "none of its own is idle for long enough");
    drop(take(&slots, 2));
    drop(held);
    drop(take(&slots, 1));
    let connections = slots.0.lock();
    assert!(connections.open.is_empty() && connections.by_group.is_empty());
}

#[tokio::test]
async fn an_address_beyond_its_share_loses_its_own_idle_connection() {
    let slots = Slots::new(4);
    let other = take(&slots, 2);
    let held: Vec<_> = (0..3).map(|_| take(&slots, 1)).collect();
    assert!(take_later(&slots, 1).expect("a slot").has_replaced);
    assert!(!is_evicted(&other).await);
    let mut evicted = 0;
    for slot in &held {
        evicted += usize::from(is_evicted(slot).await);
    }
    assert_eq!(evicted, 1);
}

#[tokio::test]
async fn the_longest_idle_connection_of_the_address_with_most_goes_first_and_probes_do_not_count() {
    let slots = Slots::new(6);
    let few = take(&slots, 2);
    let probes = take(&slots, 1);
    let receives = take(&slots, 1);
    let asks = take(&slots, 1);
    let works = take(&slots, 1);
    let guest = take(&slots, 3);
    guest.activity().admit(PeerTrust::Admitted(app(1)));
    let work = works.activity().begin(Use::Method);
    work.received();
    let receiving = receives.activity().begin(Use::Method);
    asks.activity().begin(Use::Method).received();
    probes.activity().begin(Use::Probe).received();
    let taken: Vec<_> = (4..=5).map(|last| take_later(&slots, last).expect("a slot")).collect();
    assert!(taken.iter().all(|slot| slot.has_replaced));
    assert!(is_evicted(&probes).await, "it has asked for health only");
    assert!(is_evicted(&receives).await, "its body does not come");
    for (name, slot) in [("few", &few), ("asks", &asks), ("works", &works), ("guest", &guest)] {
        assert!(!is_evicted(slot).await, "{name}");
    }
    drop((work, receiving));
}

#[test]
fn a_crowd_that_is_never_idle_makes_room_for_others_and_not_for_itself() {
    let slots = Slots::new(32);
    let crowd: Vec<_> = (0..28).map(|number| take(&slots, 1 + number % 2)).collect();
    assert!(slots.take(address(1)).is_none(), "one of the crowd");
    let other = take(&slots, 3);
    assert!(other.has_replaced, "another, although nothing is idle for long");
    assert!(slots.take(address(2)).is_none(), "again one of the crowd");
    drop(crowd);
}

/// Starts a request on each of them.
fn busy(slots: &[Slot]) -> Vec<Running> {
    let running: Vec<_> = slots.iter().map(|slot| slot.activity().begin(Use::Method)).collect();
    running.iter().for_each(|request| request.received());
    running
}

#[test]
fn the_last_slots_are_for_known_addresses_and_an_app_leaves_half_of_what_it_finds() {
    let slots = Slots::new(32);
    for (last, owner) in [(7, 1), (8, 1), (9, 2)] {
        take(&slots, last).activity().admit(PeerTrust::Admitted(app(owner)));
    }
    let held: Vec<_> = (0..28).map(|number| take(&slots, 1 + number / 14)).collect();
    let running = busy(&held);
    assert!(take_later(&slots, 3).is_none(), "a stranger, while all others are at work");
    let mut known = vec![take(&slots, 7), take(&slots, 8)];
    assert!(slots.take(address(7)).is_none(), "half of the reserved slots are its app's");
    assert!(slots.take(address(8)).is_none(), "from another of its addresses too");
    known.push(take(&slots, 9));
    assert!(slots.take(address(9)).is_none(), "half of what is left");
    let busy = busy(&known);
    assert!(slots.take_at(address(9), Instant::now() + KNOWN_FOR).is_none(), "no longer known");
    drop((running, busy));
}

#[tokio::test]
async fn two_addresses_of_an_app_hold_no_more_than_one_and_its_idle_connections_go_after_those_of_strangers()
{
    let slots = Slots::new(32);
    let first: Vec<_> = (0..12).map(|_| take(&slots, 1)).collect();
    let second: Vec<_> = (0..11).map(|_| take(&slots, 2)).collect();
    for slot in first.iter().chain(&second) {
        slot.activity().admit(PeerTrust::Admitted(app(1)));
    }
    let last = take(&slots, 2);
    assert!(slots.take(address(1)).is_none() && slots.take(address(2)).is_none(), "24 of 32 are its share");
    let strangers: Vec<_> = (0..4).map(|_| take(&slots, 3)).collect();
    let operator = take_later(&slots, 4).expect("a stranger's");
    operator.activity().admit(PeerTrust::Operator);
    let mut taken = Vec::new();
    for number in 0..8 {
        let slot = take_later(&slots, 5 + number).expect("an idle one's");
        let running = busy(std::slice::from_ref(&slot));
        taken.push((slot, running));
    }
    for stranger in &strangers {
        assert!(is_evicted(stranger).await, "strangers go first");
    }
    let mut evicted = 0;
    for slot in first.iter().chain(&second).chain([&last]) {
        evicted += usize::from(is_evicted(slot).await);
    }
    assert_eq!(evicted, 5, "then the app's, although its callers were admitted");
    assert!(!is_evicted(&operator).await);
}

#[tokio::test]
async fn a_stranger_does_not_get_the_reserved_slot_of_an_idle_known_caller() {
    let slots = Slots::new(16);
    take(&slots, 9).activity().admit(PeerTrust::Admitted(app(1)));
    let held: Vec<_> = (0..14).map(|number| take(&slots, 1 + number / 7)).collect();
    let running = busy(&held);
    let known = take(&slots, 9);
    known.activity().admit(PeerTrust::Admitted(app(1)));
    assert!(take_later(&slots, 3).is_none());
    assert!(!is_evicted(&known).await);
    drop(running);
}

#[test]
fn an_app_with_many_addresses_pushes_out_its_own_and_keeps_nobody_from_being_known() {
    let mut known = Known::default();
    let now = Instant::now();
    let numbered = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    known.add(address(1), PeerTrust::Admitted(app(1)), now);
    known.add(address(2), PeerTrust::Operator, now);
    for number in 0..MAX_KNOWN as u32 + 100 {
        known.add(numbered(number), PeerTrust::Admitted(app(2)), now + Duration::from_millis(1));
    }
    assert_eq!(known.addresses.len(), MAX_KNOWN);
    known.add(address(3), PeerTrust::Admitted(app(3)), now);
    known.add(address(4), PeerTrust::Operator, now);
    assert_eq!(known.addresses.len(), MAX_KNOWN);
    for last in 1..=4 {
        assert!(known.contains(address(last), now), "{last}");
    }
    assert_eq!(known.by_owner.values().sum::<usize>(), MAX_KNOWN);
}

#[test]
fn an_address_that_apps_share_stands_for_itself() {
    let slots = Slots::new(32);
    let held: Vec<_> = (0..4).map(|_| take(&slots, 1)).collect();
    held[0].activity().admit(PeerTrust::Admitted(app(1)));
    assert_eq!(slots.0.lock().by_group, HashMap::from([(Party::App(app(1)), 4)]));
    held[1].activity().admit(PeerTrust::Admitted(app(2)));
    let own = HashMap::from([(Party::Address(address(1)), 4)]);
    assert_eq!(slots.0.lock().by_group, own);
    held[2].activity().admit(PeerTrust::Admitted(app(1)));
    held[3].activity().admit(PeerTrust::Operator);
    assert_eq!(slots.0.lock().by_group, own);
    drop(held);
    assert!(slots.0.lock().by_group.is_empty());
}

fn app(last: u8) -> AppId {
    AppId([last; 20])
}
