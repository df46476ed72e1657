//! Tests of the freezes of a fleet.

use std::net::Ipv4Addr;

use kms_attest::identity::DeviceId;

use super::super::{Earlier, MAX_REASON, Room};
use super::*;
use crate::control::Domains;
use crate::metrics::Metrics;
use crate::state::shared::MAX_DOCUMENT;
use crate::state::{FreezeRecord, KeptIn};

/// With the longest texts.
fn freeze(number: usize) -> Freeze {
    let mut device = [0xff; 32];
    device[..8].copy_from_slice(&number.to_be_bytes());
    Freeze {
        scope: Scope::Device(DeviceId(device)),
        reason: "\"".repeat(MAX_REASON),
        since: u64::MAX,
        expires_at: Some(u64::MAX),
        author: Author { by: "x".repeat(150), remote: Ipv4Addr::BROADCAST.into() },
    }
}

fn opened(directory: &tempfile::TempDir) -> Freezes {
    let path = directory.path().join("freezes.json");
    Freezes::open(path, Arc::new(Metrics::new([])), Domains::default_only()).unwrap()
}

#[test]
fn an_end_takes_only_what_this_node_alone_had_when_it_began() {
    let directory = tempfile::tempdir().unwrap();
    let freezes = opened(&directory);
    let now = freezes.time.now();
    let [one, other] = [freeze(1), Freeze { reason: "again".to_owned(), ..freeze(1) }];
    let put = |freeze: &Freeze, sharing| {
        let held = Arc::new(Held::new(freeze.clone(), now).with(sharing));
        freezes.current.store(Arc::new(Entries::from([(freeze.scope, held)])));
    };
    let there = || freezes.of(one.scope).map(|freeze| freeze.reason.clone());
    let nothing = encode([].into_iter()).unwrap();

    put(&one, Sharing::Unshared);
    let lifting = Lifting::begin(&freezes, one.scope);
    assert_eq!(freezes.merge(Some(&nothing)), Ok(None), "it is not written again");
    assert_eq!((lifting.take(), there()), (Ok(true), None));

    // Another operator has frozen it on another node, after the end was in the shared state.
    put(&other, Sharing::Settled);
    assert_eq!((lifting.take(), there()), (Ok(false), Some("again".to_owned())));
    drop(lifting);

    // Another operator freezes it here, while it is being ended twice.
    put(&one, Sharing::Settled);
    let liftings = [Lifting::begin(&freezes, one.scope), Lifting::begin(&freezes, one.scope)];
    let held = Arc::new(Held::new(other.clone(), now).with(Sharing::Unshared));
    freezes.insert(&held, Earlier::MayBeExtended, Room::OfOwners).unwrap();
    freezes.take(&BTreeMap::new(), Arrival::Own, Duration::ZERO);
    for lifting in &liftings {
        let again = lifting.take().expect_err("it is frozen again");
        assert_eq!((&again.reason, there()), (&other.reason, Some("again".to_owned())));
    }
    assert!(freezes.merge(Some(&nothing)).unwrap().is_some(), "it is written");
}

#[test]
fn what_only_this_node_has_stays_until_its_end_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let freezes = opened(&directory);
    let now = freezes.time.now();
    let long = freeze(1);
    let [short, shorter] = [5, 4].map(|end| Freeze { expires_at: Some(u64::MAX - end), ..freeze(1) });
    let scope = long.scope;
    let put = || {
        let held = Arc::new(Held::new(long.clone(), now).with(Sharing::Unshared));
        freezes.current.store(Arc::new(Entries::from([(scope, held)])));
    };
    let in_force = || freezes.of(scope).map(|freeze| Freeze::clone(&freeze));
    let adopt = |there: &[&Freeze], arrival| {
        let there = there.iter().map(|&freeze| (freeze.scope, freeze.clone())).collect();
        freezes.take(&there, arrival, Duration::ZERO)
    };

    // The change of another node, or of another scope on this one, comes before the end of an unfreeze.
    put();
    let lifting = Lifting::begin(&freezes, scope);
    for arrival in [Arrival::Other, Arrival::Own, Arrival::Joined] {
        assert!(adopt(&[], arrival).ended.is_empty(), "{arrival:?}");
        assert_eq!(in_force(), Some(long.clone()), "{arrival:?}");
    }
    assert_eq!((lifting.take(), in_force()), (Ok(true), None));
    drop(lifting);

    // Only the freeze that replaces it ends it.
    put();
    let lifting = Lifting::begin_replacing(&freezes, scope, Some(short.clone()));
    for there in [&[][..], &[&shorter]] {
        adopt(there, Arrival::Other);
        assert_eq!(in_force(), Some(long.clone()));
    }
    adopt(&[&short], Arrival::Own);
    assert_eq!(in_force(), Some(short));
    drop(lifting);
}

#[test]
fn a_freeze_that_is_refused_overtakes_no_unfreeze() {
    let directory = tempfile::tempdir().unwrap();
    let freezes = opened(&directory);
    let now = freezes.time.now();
    let short = Freeze { expires_at: Some(u64::MAX - 5), ..freeze(1) };
    let [long, short] = [freeze(1), short].map(|freeze| Arc::new(Held::new(freeze, now)));
    freezes.insert(&long, Earlier::MayBeExtended, Room::OfOwners).unwrap();
    let lifting = Lifting::begin(&freezes, long.freeze.scope);
    let refused = freezes.insert(&short, Earlier::MayBeExtended, Room::OfOwners);
    assert!(matches!(refused, Err(FreezeError::Shortens { .. })), "{refused:?}");
    assert!(!lifting.lift.is_overtaken());
    freezes.insert(&short, Earlier::IsReplaced, Room::OfOwners).unwrap();
    assert!(lifting.lift.is_overtaken());
}

#[test]
fn what_has_ended_here_leaves_room_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let freezes = opened(&directory);
    let now = freezes.time.now();
    let ended = |number: usize| Freeze { since: 1, expires_at: Some(10 + number as u64), ..freeze(number) };
    for number in 0..MAX_FREEZES + 2 {
        let held = Arc::new(Held::new(ended(number), now).with(Sharing::Unshared));
        freezes.insert(&held, Earlier::MayBeExtended, Room::OfOwners).unwrap();
    }
    let entries = freezes.current.load_full();
    assert_eq!(entries.len(), MAX_FREEZES);
    assert!([0, 1].iter().all(|&number| !entries.contains_key(&freeze(number).scope)), "the first ones go");

    let fleet: BTreeMap<_, _> =
        (5000..5000 + MAX_SHARED).map(ended).map(|freeze| (freeze.scope, freeze)).collect();
    for arrival in [Arrival::Joined, Arrival::Repaired] {
        freezes.take(&fleet, arrival, Duration::ZERO);
        assert_eq!(freezes.current.load().len(), MAX_SHARED + MAX_FREEZES, "{arrival:?}");
    }
    let fleet = BTreeMap::new();
    freezes.take(&fleet, Arrival::Repaired, Duration::ZERO);
    assert_eq!(freezes.current.load().len(), MAX_FREEZES);
}

#[test]
fn the_slowest_clock_of_the_fleet_is_that_of_the_node_that_may_be_furthest_behind() {
    let with = |number, skew| NodeSeen { skew, ..NodeSeen::numbered(number) };
    let ahead = with(1, Some((40, 900)));
    for (nodes, seconds) in [
        (vec![], 0),
        (vec![with(0, None), ahead.clone()], 0),
        (vec![with(0, None), with(2, Some((-90_001, -89_000))), ahead.clone()], 91),
        (vec![with(2, Some((i64::MIN, 0))), ahead], i64::MIN.unsigned_abs().div_ceil(1000)),
    ] {
        assert_eq!(slowest(&nodes), Duration::from_secs(seconds), "{nodes:?}");
    }
}

#[test]
fn what_has_ended_makes_room_for_what_is_frozen_now() {
    let directory = tempfile::tempdir().unwrap();
    let freezes = opened(&directory);
    let now = freezes.time.now();
    let over = |number, end| Freeze { since: 1, expires_at: Some(end), ..freeze(number) };
    let (late, early) = (over(0, 20), over(1, 10));
    let mut there: BTreeMap<_, _> =
        (2..MAX_SHARED).map(freeze).chain([late.clone(), early.clone()]).map(|it| (it.scope, it)).collect();
    freezes.take(&there, Arrival::Other, Duration::ZERO);
    let own = |scope, since| Freeze { scope, since, ..freeze(0) };
    let device = |number: u8| Scope::Device(DeviceId([number; 32]));
    let add = |freeze: Freeze| {
        let held = Arc::new(Held::new(freeze, now).with(Sharing::Unshared));
        freezes.current.rcu(|current| {
            let mut entries = Entries::clone(current);
            entries.insert(held.freeze.scope, Arc::clone(&held));
            entries
        });
    };
    let merged = |there: &BTreeMap<Scope, Freeze>| {
        let merged = freezes.merge(Some(&encode(there.values()).unwrap()))?.expect("news");
        assert!(merged.len() <= MAX_DOCUMENT, "{} bytes", merged.len());
        parse(&merged)
    };
    add(own(device(1), 1));
    let mut expected = there.clone();
    expected.remove(&early.scope);
    expected.insert(device(1), own(device(1), 1));
    assert_eq!(merged(&there), Ok(expected.clone()), "as much as is needed, and what ended first");
    for (scope, since) in [(device(3), 3), (device(2), 2), (Scope::Kms, 4)] {
        add(own(scope, since));
    }
    expected.remove(&late.scope);
    expected.insert(device(2), own(device(2), 2));
    expected.insert(Scope::Kms, own(Scope::Kms, 4));
    there = merged(&there).unwrap();
    assert_eq!(there, expected, "the whole KMS can always be frozen");
    let changes = freezes.take(&there, Arrival::Own, Duration::ZERO);
    assert!(changes.ended.is_empty(), "they had ended: {changes:?}");
    assert_eq!(merged(&there).unwrap_err(), too_many(), "the last one waits");
    assert!(freezes.of(device(3)).is_some());
    // What has ended takes no room from what is in force, and is not missed.
    add(Freeze { expires_at: Some(1), ..own(device(4), 1) });
    assert_eq!(merged(&there).unwrap_err(), too_many());
    there.remove(&device(2));
    let mut after = merged(&there).unwrap();
    assert!(after.contains_key(&device(3)) && !after.contains_key(&device(4)));
    freezes.take(&after, Arrival::Own, Duration::ZERO);
    assert_eq!(freezes.merge(Some(&encode(after.values()).unwrap())), Ok(None));
    after.remove(&device(3));
    assert!(merged(&after).unwrap().contains_key(&device(4)), "there is room");
}

#[test]
fn too_many_freezes_of_all_nodes_together_stay_where_they_were_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("freezes.json");
    let metrics = Arc::new(Metrics::new([]));
    let freezes = Freezes::open(path.clone(), metrics, Domains::default_only()).unwrap();
    let now = freezes.time.now();
    let own = freeze(usize::MAX);
    let held = Held::new(own.clone(), now).with(Sharing::Unshared);
    freezes.current.store(Arc::new(Entries::from([(own.scope, Arc::new(held))])));
    let all: Vec<_> = (0..MAX_SHARED).map(freeze).collect();
    let there = encode(all.iter()).unwrap();
    assert!(there.len() <= MAX_DOCUMENT, "{} bytes", there.len());
    let refused = freezes.merge(Some(&there)).unwrap_err();
    assert_eq!(refused, "the nodes of the fleet would have more than 4000 freezes: end some");
    let merged = freezes.merge(Some(&encode(all[1..].iter()).unwrap())).unwrap().expect("news");
    assert_eq!(parse(&merged).unwrap().len(), MAX_SHARED);
    assert!(freezes.current.load().contains_key(&own.scope), "in force here");

    // A restart reads what the fleet has, and what this node could not share.
    let records: Vec<_> =
        (0..MAX_SHARED + MAX_FREEZES).map(|number| FreezeRecord::from(&freeze(number))).collect();
    std::fs::write(&path, state::freezes_content(records, KeptIn::Fleet).unwrap()).unwrap();
    Freezes::inspect(path).unwrap();
}
