use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;

use kms_attest::identity::AppId;

use super::*;
use crate::admission::Peer;
use crate::config::DomainSettings;
use crate::net::party::Party;
use crate::net::slots::Activity;

fn lanes(at_once: usize, limit: usize) -> Lanes {
    Lanes::new(at_once, limit, Arc::new(Metrics::new([])))
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn lane(name: &str) -> Lane {
    Lane::Domain(name.parse().unwrap())
}

fn domains() -> Arc<Domains> {
    let domain = |name: &str, app| {
        let settings = DomainSettings { apps: [AppId([app; 20])].into(), ..DomainSettings::default() };
        (name.parse().unwrap(), settings)
    };
    let configured: BTreeMap<_, _> = [domain("big", 1), domain("small", 2)].into();
    Arc::new(Domains::open(&configured, PathBuf::from("no-domains.json")).unwrap())
}

fn place(name: &str, last: u8, standing: Standing) -> Place {
    Place { lane: lane(name), standing, party: Party::Address(address(last)) }
}

fn claim(name: &str, last: u8) -> Claim {
    let caller = Caller::new(address(last), Arc::new(Peer::default()));
    Claim { lane: lane(name), address: address(last), caller, domains: domains() }
}

fn claimed(lanes: &Lanes, name: &str, last: u8) -> Share {
    lanes.share(place(name, last, Standing::Claimed), Some(claim(name, last)))
}

fn proved(lanes: &Lanes, name: &str, last: u8) -> Share {
    lanes.share(place(name, last, Standing::Proved), None)
}

/// Whether `future` is still waiting after it was polled once.
async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await.is_pending()
}

fn is_idle(lanes: &Lanes) -> bool {
    let state = lanes.lock();
    state.free == lanes.0.at_once && state.order.waiting() == 0 && state.order.busy() == 0
}

#[tokio::test]
async fn work_of_another_domain_waits_for_one_turn_of_many() {
    let lanes = lanes(1, 100);
    let first = proved(&lanes, "big", 1).turn_at_once().unwrap();
    let many: Vec<_> = (2..40).map(|last| proved(&lanes, "big", last)).collect();
    let mut many: Vec<_> = many.iter().map(|share| share.turn(Progress::New)).collect();
    for turn in &mut many {
        assert!(waits(turn).await);
    }
    let few = proved(&lanes, "small", 50);
    let mut few = few.turn(Progress::New);
    assert!(waits(&mut few).await);
    drop(first);
    let turn = few.await.expect("the next turn");
    assert_eq!(lanes.lock().order.waiting(), many.len());
    drop(turn);
    assert!(!waits(&mut many[0]).await, "then the first of the others");
    drop(many);
    assert!(is_idle(&lanes));
}

#[tokio::test]
async fn who_leaves_while_it_waits_or_was_just_given_a_turn_blocks_nobody() {
    let lanes = lanes(1, 100);
    let (a, b, c) = (proved(&lanes, "big", 1), proved(&lanes, "big", 2), proved(&lanes, "big", 3));
    let held = a.turn_at_once().unwrap();
    assert!(a.turn_at_once().is_none());
    let (mut second, mut third) = (b.turn(Progress::New), c.turn(Progress::New));
    assert!(waits(&mut second).await && waits(&mut third).await);
    // It is told of its turn here, and leaves before it looks.
    drop(held);
    drop(second);
    drop(third.await.expect("the turn of the one that left"));
    assert!(is_idle(&lanes));
}

#[tokio::test]
async fn what_is_too_much_for_a_lane_is_turned_away_and_other_lanes_are_open() {
    let lanes = lanes(1, 6);
    let held = proved(&lanes, "big", 1).turn_at_once().unwrap();
    let shares: Vec<_> = (1..=3).map(|_| proved(&lanes, "big", 1)).collect();
    let mut waiting: Vec<_> = shares.iter().map(|share| share.turn(Progress::New)).collect();
    for turn in &mut waiting {
        assert!(waits(turn).await);
    }
    let mut more = proved(&lanes, "big", 1);
    assert_eq!(more.turn(Progress::New).await.unwrap_err(), Shed);
    let began = proved(&lanes, "big", 1);
    let mut begun = began.turn(Progress::Begun);
    assert!(waits(&mut begun).await, "work that has begun is not turned away");
    let other = proved(&lanes, "big", 2);
    let mut other = other.turn(Progress::New);
    assert!(waits(&mut other).await, "it has less waiting than another");
    assert_eq!((&mut waiting[2]).await.unwrap_err(), Shed, "whose newest work makes room");
    let small = proved(&lanes, "small", 3);
    let mut small = small.turn(Progress::New);
    assert!(waits(&mut small).await);
    assert_eq!(in_lane(&mut more, async { 7 }).await, Err(Shed));
    let text = lanes.0.metrics.render();
    assert!(text.contains(r#"cvm_kms_lane_shed_total{domain="big"} 3"#), "{text}");
    drop(held);
    drop((waiting, begun, other, small));
    assert!(is_idle(&lanes));
}

#[tokio::test]
async fn one_who_waits_for_something_else_has_no_turn() {
    let lanes = lanes(1, 100);
    let mut waits_for_ever = proved(&lanes, "big", 1);
    let mut waiting = Box::pin(in_lane(&mut waits_for_ever, pending::<()>()));
    assert!(waits(&mut waiting).await);
    assert_eq!(in_lane(&mut proved(&lanes, "big", 1), async { 7 }).await, Ok(7));
    drop(waiting);
    assert!(is_idle(&lanes));
}

#[tokio::test]
async fn a_claim_that_was_not_proved_counts_against_its_address() {
    for (status, is_false) in [
        (StatusCode::BAD_REQUEST, true),
        (StatusCode::UNAUTHORIZED, true),
        // Ours, so that nothing is known of the claim.
        (StatusCode::SERVICE_UNAVAILABLE, false),
        (StatusCode::INTERNAL_SERVER_ERROR, false),
    ] {
        let lanes = lanes(1, 100);
        let mut share = claimed(&lanes, "small", 1);
        in_lane(&mut share, async {}).await.unwrap();
        share.answered(status);
        assert_eq!(lanes.disregards(address(1), &lane("small")), is_false, "{status}");
        assert!(!lanes.disregards(address(1), &lane("big")) && !lanes.disregards(address(2), &lane("small")));
    }
}

#[tokio::test]
async fn a_caller_that_leaves_during_verification_has_proved_nothing() {
    let lanes = lanes(1, 100);
    let mut share = claimed(&lanes, "small", 1);
    let mut begun = Box::pin(in_lane(&mut share, pending::<()>()));
    assert!(waits(&mut begun).await);
    drop(begun);
    assert!(lanes.disregards(address(1), &lane("small")));

    let held = proved(&lanes, "big", 9).turn_at_once().unwrap();
    let mut share = claimed(&lanes, "small", 2);
    let mut waiting = Box::pin(in_lane(&mut share, async {}));
    assert!(waits(&mut waiting).await);
    drop(waiting);
    assert!(!lanes.disregards(address(2), &lane("small")), "its time ran out before anything was examined");
    drop(held);
    assert!(is_idle(&lanes));
}

/// Liars at one address have all their claims waiting in the victim's lane when the first of them is found out.
#[tokio::test]
async fn claiming_the_domain_of_another_does_not_starve_it() {
    let lanes = lanes(1, 10_000);
    let held = proved(&lanes, "big", 9).turn_at_once().unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..200 {
        let (lanes, order) = (lanes.clone(), Arc::clone(&order));
        let (liar, guest) = (number < 150, number >= 150);
        tasks.push(tokio::spawn(async move {
            let last = if liar { 1 } else { number as u8 };
            let mut share = claimed(&lanes, "small", last);
            in_lane(&mut share, async { order.lock().unwrap().push(guest) }).await.unwrap();
            share.answered(if liar { StatusCode::BAD_REQUEST } else { StatusCode::OK });
        }));
        tokio::task::yield_now().await;
    }
    let waiting = |lanes: &Lanes| {
        let state = lanes.lock();
        (state.order.waiting_in(&lane("small")), state.order.waiting_in(&Lane::Unproved))
    };
    assert_eq!(waiting(&lanes), (200, 0));
    drop(held);
    let false_claims = || lanes.0.metrics.render().contains("\ncvm_kms_false_domain_claims_total 1\n");
    while !false_claims() {
        tokio::task::yield_now().await;
    }
    // From the first lie on, only guests are in the lane of the victim.
    let (of_victim, of_unproved) = waiting(&lanes);
    assert!(of_victim <= 50 && of_unproved > 0, "{of_victim} {of_unproved}");
    for task in tasks {
        task.await.unwrap();
    }
    assert!(false_claims(), "the others were no claims any more");
    assert_eq!(order.lock().unwrap().iter().filter(|guest| **guest).count(), 50);
    assert_eq!(order.lock().unwrap().len(), 200, "and nobody is lost");
    assert!(is_idle(&lanes));
}

#[test]
fn the_lane_is_that_of_the_domain_that_was_proved() {
    let (lanes, domains) = (lanes(1, 100), domains());
    let activity = Activity::new(address(1), std::sync::Weak::new(), false);
    let of = |domains: Option<&Arc<Domains>>, asks| {
        let caller = Caller::new(address(1), Arc::new(Peer::default()));
        lanes.of(domains, &caller, &activity, asks)
    };
    for asks in [Asks::ItsApp, Asks::ItsKms, Asks::Anything] {
        let share = of(None, asks);
        assert_eq!((&share.place, share.limit), (&place("default", 1, Standing::Proved), 100));
        let alone = of(Some(&Domains::default_only()), asks);
        assert_eq!((alone.place, alone.limit), (share.place, share.limit), "as without domains");
        let share = of(Some(&domains), asks);
        assert_eq!((share.place.lane, share.limit), (Lane::Unproved, 50), "nobody knows it");
    }
    activity.admit(crate::net::slots::PeerTrust::Admitted(AppId([2; 20])));
    let share = of(Some(&domains), Asks::Anything);
    assert_eq!(share.place, place("small", 1, Standing::Proved));
}

#[test]
fn a_proof_excuses_an_address_whose_claims_are_disregarded() {
    let (lanes, domains) = (lanes(1, 100), domains());
    let activity = Activity::new(address(1), std::sync::Weak::new(), false);
    let (app, other) = (AppId([2; 20]), AppId([1; 20]));
    let of = |peer: &Arc<Peer>| {
        lanes.of(Some(&domains), &Caller::new(address(1), Arc::clone(peer)), &activity, Asks::ItsApp)
    };
    let new = || Arc::new(Peer::claiming(app));
    of(&new()).answered(StatusCode::BAD_REQUEST);
    let unproved =
        Place { lane: Lane::Unproved, standing: Standing::Claimed, party: Party::Address(address(1)) };
    for (permitted, status) in [
        (None, StatusCode::BAD_REQUEST),
        (None, StatusCode::SERVICE_UNAVAILABLE),
        (Some(other), StatusCode::OK),
    ] {
        let peer = new();
        let mut share = of(&peer);
        assert_eq!(share.place, unproved);
        if let Some(app) = permitted {
            peer.permitted(app);
        }
        share.answered(status);
        assert!(lanes.disregards(address(1), &lane("small")), "{permitted:?} {status}");
    }
    let peer = new();
    let mut share = of(&peer);
    peer.permitted(app);
    share.answered(StatusCode::OK);
    assert_eq!(of(&new()).place, place("small", 1, Standing::Claimed), "as before the false claim");
}
