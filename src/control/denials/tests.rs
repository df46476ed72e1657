//! Counting, limits, and which entries are displaced.

use kms_attest::identity::{AppId, DeviceId, OsImageHash};

use super::*;

fn refused<'a>(identity: Option<&'a Identity>, remote: [u8; 4], evidence: usize) -> RefusedRequest<'a> {
    RefusedRequest {
        method: "GetAppKey",
        remote: remote.into(),
        role: Some(Role::App),
        concerns: Concerns::Caller,
        step: "policy",
        code: "app_not_registered",
        expected: Some("one of 3 apps"),
        actual: None,
        identity,
        reason: "Boot denied: app not registered",
        remedy: None,
        shown: Shown::Certificate(vec![7; evidence]),
        vm_config: "",
        epochs: (None, None),
        fresh: FreshEvidence::Absent,
        fresh_evidence: None,
        domain: None,
        place: None,
    }
}

#[test]
fn the_same_refusal_keeps_its_id_and_is_counted() {
    let denials = Denials::default();
    let identity = Identity::example();
    let (id, first) = denials.record(refused(Some(&identity), [192, 0, 2, 1], 10));
    let (again, second) = denials.record(refused(Some(&identity), [192, 0, 2, 2], 99));
    assert_eq!((id, first, second), (again, Novelty::New, Novelty::Repeated));
    let record = denials.find(id).expect("kept");
    assert_eq!((record.count, record.sequence), (2, 2));
    let other = Identity { app_id: AppId([9; 20]), ..Identity::example() };
    assert_eq!(denials.record(refused(Some(&other), [192, 0, 2, 1], 10)).1, Novelty::New);
}

#[test]
fn what_stops_everybody_is_one_refusal_for_all_callers() {
    let denials = Denials::default();
    let everybody = |last: u8| RefusedRequest {
        role: None,
        concerns: Concerns::Everyone,
        ..refused(None, [192, 0, 2, last], 0)
    };
    let (id, first) = denials.record(everybody(1));
    assert_eq!(first, Novelty::New);
    for last in 2..=200 {
        assert_eq!(denials.record(everybody(last)), (id, Novelty::Repeated));
    }
    assert_eq!(denials.find(id).expect("kept").count, 200);
}

#[test]
fn strangers_do_not_push_out_those_who_are_verified() {
    let denials = Denials::default();
    let identity = Identity::example();
    let (id, _) = denials.record(refused(Some(&identity), [192, 0, 2, 1], 10));
    for number in 0..2 * MAX_ENTRIES as u32 {
        denials.record(refused(None, number.to_be_bytes(), 10));
    }
    assert!(denials.find(id).is_some());
    assert_eq!(denials.page(None, usize::MAX, |_| true).0.len(), MAX_ENTRIES + 1);
}

#[test]
fn what_a_caller_varies_of_its_configuration_is_one_refusal() {
    let denials = Denials::default();
    let identity = Identity::example();
    let (id, _) = denials.record(refused(Some(&identity), [192, 0, 2, 1], 10));
    for number in 0..MAX_ENTRIES {
        let vm_config = format!("{{\"cpu_count\":{number}}}");
        let varied = RefusedRequest { vm_config: &vm_config, ..refused(Some(&identity), [192, 0, 2, 1], 10) };
        assert_eq!(denials.record(varied), (id, Novelty::Repeated));
    }
    assert_eq!(denials.page(None, usize::MAX, |_| true).0.len(), 1);
}

#[test]
fn an_app_on_one_machine_pushes_out_its_own_refusals_only() {
    let denials = Denials::default();
    let other = Identity { app_id: AppId([9; 20]), ..Identity::example() };
    let elsewhere = Identity { device_id: DeviceId([9; 32]), ..Identity::example() };
    let bystanders = [&other, &elsewhere].map(|it| denials.record(refused(Some(it), [192, 0, 2, 1], 10)).0);
    let ids: Vec<_> = (0..2 * MAX_ENTRIES as u32)
        .map(|number| {
            let mut hash = [0; 32];
            hash[28..].copy_from_slice(&number.to_be_bytes());
            let varied = Identity { os_image_hash: Some(OsImageHash(hash)), ..Identity::example() };
            denials.record(refused(Some(&varied), [192, 0, 2, 2], 10)).0
        })
        .collect();
    assert!(bystanders.iter().all(|id| denials.find(*id).is_some()));
    let kept: Vec<_> = ids.iter().filter(|id| denials.find(**id).is_some()).collect();
    assert_eq!(kept, ids[ids.len() - MAX_OF_ONE..].iter().collect::<Vec<_>>(), "the newest");
    let lists = denials.0.lock().unwrap();
    let sizes: usize = lists.verified.entries.iter().map(|entry| entry.record.size()).sum();
    assert_eq!(sizes, lists.verified.bytes);
}

#[test]
fn evidence_is_bounded_in_each_and_in_all() {
    let denials = Denials::default();
    for number in 0..400_u32 {
        denials.record(refused(None, number.to_be_bytes(), 200 << 10));
    }
    let lists = denials.0.lock().unwrap();
    assert!(lists.others.bytes <= MAX_BYTES);
    let sizes: usize = lists.others.entries.iter().map(|entry| entry.record.size()).sum();
    assert_eq!(sizes, lists.others.bytes);
    drop(lists);
    let (id, _) = denials.record(refused(None, [9, 9, 9, 9], MAX_EVIDENCE + 1));
    let record = denials.find(id).expect("kept");
    assert_eq!(record.shown, None);
}

#[test]
fn a_repeated_refusal_keeps_what_its_last_request_has_shown() {
    let denials = Denials::default();
    let identity = Identity::example();
    let with_fresh = |evidence: usize, fresh: usize| RefusedRequest {
        fresh: FreshEvidence::Verified,
        fresh_evidence: Some(vec![8; fresh]),
        ..refused(Some(&identity), [192, 0, 2, 1], evidence)
    };
    let (id, _) = denials.record(refused(Some(&identity), [192, 0, 2, 1], 10));
    let kept = || {
        let record = denials.find(id).expect("kept");
        let lists = denials.0.lock().unwrap();
        let sizes: usize = lists.verified.entries.iter().map(|entry| entry.record.size()).sum();
        assert_eq!(sizes, lists.verified.bytes);
        let shown = record.shown.as_ref().map(Shown::size);
        (shown, record.fresh, record.fresh_evidence.as_ref().map(Vec::len), record.count)
    };
    assert_eq!(kept(), (Some(10), FreshEvidence::Absent, None, 1));
    denials.record(with_fresh(20, 30));
    assert_eq!(kept(), (Some(20), FreshEvidence::Verified, Some(30), 2));
    // What is too large together is not kept in parts.
    denials.record(with_fresh(40, MAX_EVIDENCE - 39));
    assert_eq!(kept(), (Some(20), FreshEvidence::Verified, Some(30), 3));
    denials.record(refused(Some(&identity), [192, 0, 2, 1], 50));
    assert_eq!(kept(), (Some(50), FreshEvidence::Absent, None, 4));
}

#[test]
fn fresh_evidence_counts_against_the_limits() {
    let denials = Denials::default();
    let large = |number: u32| RefusedRequest {
        fresh: FreshEvidence::NotJudged,
        fresh_evidence: Some(vec![8; 200 << 10]),
        ..refused(None, number.to_be_bytes(), 10)
    };
    let ids: Vec<_> = (0..100).map(|number| denials.record(large(number)).0).collect();
    assert!(denials.0.lock().unwrap().others.bytes <= MAX_BYTES);
    assert!(denials.find(ids[0]).is_none() && denials.find(ids[99]).is_some());
    let small = |number: u32| refused(None, (1000 + number).to_be_bytes(), 10);
    let ids: Vec<_> = (0..90).map(|number| denials.record(small(number)).0).collect();
    // Repeated refusals that grow push out the oldest.
    for number in 0..90 {
        let grown = RefusedRequest { fresh_evidence: Some(vec![8; 200 << 10]), ..small(number) };
        denials.record(grown);
    }
    let lists = denials.0.lock().unwrap();
    assert!(lists.others.bytes <= MAX_BYTES);
    let sizes: usize = lists.others.entries.iter().map(|entry| entry.record.size()).sum();
    assert_eq!(sizes, lists.others.bytes);
    drop(lists);
    assert!(denials.find(ids[89]).is_some());
}

#[test]
fn pages_follow_each_other_without_gap_or_repeat() {
    let denials = Denials::default();
    for number in 0..25_u32 {
        denials.record(refused(None, number.to_be_bytes(), 1));
    }
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let (page, next) = denials.page(before, 10, |_| true);
        seen.extend(page.iter().map(|record| record.sequence));
        match next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, (1..=25).rev().collect::<Vec<_>>());
}

#[test]
fn ids_are_read_as_they_are_written() {
    let id = DenialId::random();
    assert_eq!(DenialId::parse(&format!(" {id}\n")), Some(id));
    for text in ["", "00", "zzzzzzzzzzzz", "00112233445566"] {
        assert_eq!(DenialId::parse(text), None, "{text}");
    }
}
