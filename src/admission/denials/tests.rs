//! What is counted, what is bounded, and who pushes out whom.

use super::*;
use crate::policy::testing::boot_info;

fn refused<'a>(identity: Option<&'a BootInfo>, remote: [u8; 4], evidence: usize) -> Refused<'a> {
    Refused {
        method: "GetAppKey",
        remote: remote.into(),
        role: Role::App,
        finding: Finding {
            step: Step::Policy,
            code: "app_not_registered",
            expected: Some("one of 3 apps"),
            actual: None,
            identity,
        },
        reason: "Boot denied: app not registered",
        remedy: None,
        shown: Shown::Certificate(vec![7; evidence]),
        vm_config: "",
    }
}

#[test]
fn the_same_refusal_keeps_its_id_and_is_counted() {
    let denials = Denials::default();
    let identity = boot_info();
    let (id, first) = denials.record(refused(Some(&identity), [192, 0, 2, 1], 10));
    let (again, second) = denials.record(refused(Some(&identity), [192, 0, 2, 2], 99));
    assert_eq!((id, first, second), (again, Novelty::New, Novelty::Repeated));
    let denial = denials.find(id).expect("kept");
    assert_eq!((denial.count, denial.sequence), (2, 2));
    let other = BootInfo { app_id: vec![9; 20], ..boot_info() };
    assert_eq!(denials.record(refused(Some(&other), [192, 0, 2, 1], 10)).1, Novelty::New);
}

#[test]
fn strangers_do_not_push_out_those_who_are_verified() {
    let denials = Denials::default();
    let identity = boot_info();
    let (id, _) = denials.record(refused(Some(&identity), [192, 0, 2, 1], 10));
    for number in 0..2 * MOST as u32 {
        denials.record(refused(None, number.to_be_bytes(), 10));
    }
    assert!(denials.find(id).is_some());
    assert_eq!(denials.page(None, usize::MAX, |_| true).0.len(), MOST + 1);
}

#[test]
fn evidence_is_bounded_in_each_and_in_all() {
    let denials = Denials::default();
    for number in 0..400_u32 {
        denials.record(refused(None, number.to_be_bytes(), 200 << 10));
    }
    let lists = denials.0.lock().unwrap();
    assert!(lists.others.bytes <= MOST_BYTES);
    let sizes: usize = lists.others.entries.iter().map(|entry| entry.denial.size()).sum();
    assert_eq!(sizes, lists.others.bytes);
    drop(lists);
    let (id, _) = denials.record(refused(None, [9, 9, 9, 9], LARGEST + 1));
    let denial = denials.find(id).expect("kept");
    assert_eq!(denial.shown, None);
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
        seen.extend(page.iter().map(|denial| denial.sequence));
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
