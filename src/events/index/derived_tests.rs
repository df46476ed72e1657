//! Tests of the inventory, and a measurement at its largest size (ignored: it takes a minute).

use std::path::Path;
use std::time::Instant;

use super::super::Index;
use super::super::reading::{Active, Counts, Coverage, CvmAsk, CvmPage, Recent};
use super::*;

const MINUTE_MS: u64 = 60_000;
const START: u64 = 30_000_000 * MINUTE_MS;

/// A line of the log, of this type, at a time in milliseconds.
fn record(seq: u64, time: u64, kind: &str, fields: &str) -> (u64, Vec<u8>) {
    let time = ::time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time) * 1_000_000).unwrap();
    let time = time.format(&::time::format_description::well_known::Rfc3339).unwrap();
    let line = format!(r#"{{"seq":{seq},"time":"{time}","event":"{kind}"{fields},"hash":"00"}}"#);
    (seq, line.into_bytes())
}

/// The identity of instance `number` of an app.
fn subject(app: u64, number: u64, image: &str, tcb: &str) -> String {
    format!(
        r#","app_id":"{app:040x}","instance_id":"{number:040x}","compose_hash":"cc","device_id":"{number:064x}","os_image_hash":"{image}","mr_aggregated":"aa","tee_variant":"tdx","tcb_status":"{tcb}","advisory_ids":[],"remote":"10.0.0.1""#
    )
}

fn release(seq: u64, time: u64, app: u64, number: u64) -> (u64, Vec<u8>) {
    record(seq, time, "app_key_released", &subject(app, number, "bb", "UpToDate"))
}

fn denied(seq: u64, time: u64, app: u64, number: u64, id: &str) -> (u64, Vec<u8>) {
    let why = format!(r#","code":"c","reason":"r","step":"policy","denial_id":"{id}""#);
    record(seq, time, "denied", &(subject(app, number, "bb", "UpToDate") + &why))
}

fn withheld(seq: u64, released: u64, subject: &str) -> (u64, Vec<u8>) {
    record(seq, START + seq * 1000, "withheld", &format!(r#"{subject},"released":{released}"#))
}

fn index(path: &Path, lines: &[(u64, Vec<u8>)]) -> Index {
    let index = Index::open(path).unwrap();
    for batch in lines.chunks(700) {
        index.add(batch, u64::MAX / 2, Growth::Bounded).unwrap();
    }
    index
}

fn ask() -> CvmAsk {
    CvmAsk { limit: 100, ..CvmAsk::default() }
}

/// The instance numbers of a page.
fn numbers(page: &CvmPage) -> Vec<u64> {
    let number = |(_, cvm): &(CvmId, Cvm)| u64::from_str_radix(&cvm.subject.instance_id, 16).unwrap();
    page.cvms.iter().map(number).collect()
}

#[test]
fn an_inventory_that_does_not_begin_with_the_first_record_says_so() {
    let home = tempfile::tempdir().unwrap();
    for (first, is_whole) in [(1, true), (500, false)] {
        let index = Index::open(&home.path().join(format!("{first}.index"))).unwrap();
        assert!(index.inventory().unwrap().coverage().unwrap().is_whole(), "nothing was left out yet");
        for seq in [first, first + 1] {
            index.add(&[release(seq, START + seq, 1, 1)], u64::MAX / 2, Growth::Bounded).unwrap();
        }
        let coverage = index.inventory().unwrap().coverage().unwrap();
        assert_eq!((coverage.first, coverage.is_whole()), (first, is_whole));
    }
}

#[test]
fn an_inventory_that_has_dropped_cvms_is_not_whole_from_then_on() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("events");
    let open = index(&path, &[release(1, START, 1, 1), release(2, START, 2, 2)]);
    let is_whole = |index: &Index| index.inventory().unwrap().coverage().unwrap().is_whole();
    assert!(is_whole(&open));
    // Without space the list keeps its length, and the oldest one is dropped.
    open.add(&[release(3, START, 1, 1)], u64::MAX / 2, Growth::Stopped).unwrap();
    assert!(is_whole(&open), "a known one needs no space");
    open.add(&[release(4, START, 3, 3)], u64::MAX / 2, Growth::Stopped).unwrap();
    assert_eq!(open.inventory().unwrap().count(None).unwrap(), 2);
    assert!(!is_whole(&open));
    open.add(&[release(5, START, 4, 4)], u64::MAX / 2, Growth::Bounded).unwrap();
    assert!(!is_whole(&open), "it does not come back");
    drop(open);
    assert!(!is_whole(&Index::open(&path).unwrap()), "nor by a restart");
}

#[test]
fn a_cvm_is_counted_by_app_and_instance_and_the_last_release_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let lines = [
        release(1, START, 1, 7),
        record(2, START + 1000, "certificate_issued", &subject(1, 7, "dd", "OutOfDate")),
        release(3, START + 2000, 2, 7),
        denied(4, START + 3000, 1, 7, "00000000000a"),
        withheld(5, 3, &subject(2, 7, "bb", "UpToDate")),
        record(6, START + 5000, "kms_key_released", &subject(9, 9, "bb", "UpToDate")),
        record(7, START + 6000, "kms_key_released", &subject(8, 8, "bb", "UpToDate")),
        withheld(8, 7, &subject(8, 8, "bb", "UpToDate")),
    ];
    let opened = index(&directory.path().join("events"), &lines);
    let inventory = opened.inventory().unwrap();
    let page = inventory.cvms(&ask()).unwrap();
    assert_eq!((page.cvms.len(), page.next), (2, None), "a replica is not a CVM of an app");
    let (id, first) = &page.cvms[1];
    assert_eq!(first.subject.app_id, format!("{:040x}", 1));
    let times = Span { first: START, last: START + 1000, seq: 2, count: 2 };
    assert_eq!((first.releases, first.app_keys, first.certificates), (times, 1, 1));
    assert_eq!((&*first.subject.os_image_hash, &*first.subject.tcb_status), ("dd", "OutOfDate"));
    assert_eq!((first.denials, first.denied_at), (1, Some(START + 3000)));
    assert_eq!(page.cvms[0].1.releases.count, 0, "what was withheld did not happen");
    assert_eq!(inventory.cvm(*id).unwrap().as_ref(), Some(first));
    assert_eq!(CvmId::parse(&id.to_string()), Some(*id));
    for text in ["", "x", &"0".repeat(31), &"g".repeat(32), "+0000000000000000000000000000000"] {
        assert_eq!(CvmId::parse(text), None, "{text}");
    }
    let handovers = inventory.handovers().unwrap();
    let mut counts: Vec<_> = handovers.iter().map(|handover| handover.times.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 1], "the second was withheld");
    assert_eq!(inventory.refusals().unwrap().len(), 1);
}

#[test]
fn a_cvm_without_an_instance_is_known_by_its_machine() {
    let directory = tempfile::tempdir().unwrap();
    let line = |seq, device: &str| {
        let fields = format!(r#","app_id":"aa","instance_id":"","device_id":"{device}""#);
        record(seq, START, "app_key_released", &fields)
    };
    let index = index(&directory.path().join("events"), &[line(1, "01"), line(2, "02"), line(3, "01")]);
    let page = index.inventory().unwrap().cvms(&ask()).unwrap();
    let counts: Vec<_> = page.cvms.iter().map(|(_, cvm)| cvm.releases.count).collect();
    assert_eq!(counts, [2, 1]);
}

#[test]
fn a_page_has_what_was_asked_for_and_any_cursor_is_some_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    for number in 0..100 {
        let (image, tcb) =
            (["bb", "dd"][(number % 2) as usize], ["UpToDate", "OutOfDate"][(number / 50) as usize]);
        let fields = subject(number % 3, number, image, tcb);
        lines.push(record(number + 1, START + number * MINUTE_MS, "app_key_released", &fields));
    }
    let opened = index(&directory.path().join("events"), &lines);
    let inventory = opened.inventory().unwrap();
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let page = inventory.cvms(&CvmAsk { limit: 7, before: next, ..ask() }).unwrap();
        assert!(page.cvms.len() <= 7);
        found.extend(numbers(&page));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(found, (0..100).rev().collect::<Vec<_>>());
    let all: [fn(u64) -> bool; 6] = [
        |n| n % 3 == 1,
        |n| n % 2 == 1,
        |n| n >= 50,
        |n| n % 3 == 1 && n % 2 == 1,
        |n| n % 2 == 1 && n >= 50,
        |n| n >= 90,
    ];
    let app = Some(format!("{:040x}", 1));
    let (image, tcb) = (Some("dd".to_owned()), Some("OutOfDate".to_owned()));
    let asks = [
        CvmAsk { app_id: app.clone(), ..ask() },
        CvmAsk { os_image_hash: image.clone(), ..ask() },
        CvmAsk { tcb_status: tcb.clone(), ..ask() },
        CvmAsk { app_id: app, os_image_hash: image.clone(), ..ask() },
        CvmAsk { os_image_hash: image, tcb_status: tcb, ..ask() },
        CvmAsk { since: START + 90 * MINUTE_MS, ..ask() },
    ];
    for (ask, matches) in asks.iter().zip(all) {
        let expected: Vec<_> = (0..100).rev().filter(|number| matches(*number)).collect();
        assert_eq!(numbers(&inventory.cvms(ask).unwrap()), expected, "{ask:?}");
    }
    let instance = CvmAsk { instance_id: Some(format!("{:040x}", 5)), ..ask() };
    let device = CvmAsk { device_id: Some(format!("{:064x}", 6)), ..ask() };
    assert_eq!([&instance, &device].map(|ask| numbers(&inventory.cvms(ask).unwrap())), [[5], [6]]);
    let recent = inventory.recent(&CvmAsk { since: START + 90 * MINUTE_MS, ..ask() }).unwrap();
    assert_eq!(recent, Recent { cvms: 10, releases: 10 });
    let by_status = inventory.by_tcb_status().unwrap();
    let by_status: Vec<_> = by_status.iter().map(|(cvm, count)| (&*cvm.subject.tcb_status, *count)).collect();
    assert_eq!(by_status.len(), 2);
    assert!(by_status.iter().all(|(_, count)| *count == 50), "{by_status:?}");
    for (cursor, count) in [(0, 0), (1, 0), (50, 49), (101, 100), (u64::MAX, 100)] {
        assert_eq!(inventory.cvms(&CvmAsk { before: Some(cursor), ..ask() }).unwrap().cvms.len(), count);
    }
}

#[test]
fn callers_that_are_refused_add_no_cvm_and_a_bounded_number_of_refusals() {
    let directory = tempfile::tempdir().unwrap();
    let mut lines = vec![release(1, START, 1, 1)];
    let flood = MAX_DENIED + 500;
    for number in 0..flood {
        lines.push(denied(2 + number, START + number, 1000 + number, number, &format!("{number:012x}")));
    }
    for number in 0..MAX_REFUSED + 50 {
        let why = format!(r#","remote":"10.0.0.2","code":"c","reason":"r","denial_id":"f{number:011x}""#);
        lines.push(record(2 + flood + number, START, "refused", &why));
    }
    lines.push(record(9_999_999, START, "suppressed", r#","events":1000000"#));
    lines.push(record(10_000_000, START, "suppressed", r#","events":5,"source":"pipe""#));
    let opened = index(&directory.path().join("events"), &lines);
    let inventory = opened.inventory().unwrap();
    assert_eq!(numbers(&inventory.cvms(&ask()).unwrap()), [1]);
    assert_eq!(inventory.active(0, None).unwrap(), Active { cvms: 1, apps: 1 });
    assert_eq!(inventory.recent(&ask()).unwrap(), Recent { cvms: 1, releases: 1 });
    let refusals = inventory.refusals().unwrap();
    assert_eq!(refusals.len() as u64, MAX_DENIED + MAX_REFUSED);
    let oldest = refusals.iter().filter(|it| it.subject.is_some()).map(|it| it.times.seq).min();
    assert_eq!(oldest, Some(2 + 500), "the oldest have given way");
    let counts = inventory.history(START, 3600, 1).unwrap();
    assert_eq!(counts, [Counts { releases: 1, refusals: flood + MAX_REFUSED + 50 + 1_000_000 }]);
}

#[test]
fn time_is_counted_in_bounded_steps_also_by_a_clock_that_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let hour = 60 * MINUTE_MS;
    let start = START / hour * hour;
    let lines = [
        release(1, start, 1, 1),
        release(2, start + 59 * MINUTE_MS, 1, 1),
        denied(3, start + hour, 1, 2, "00000000000a"),
        release(4, start - hour, 1, 1),
        // Far ahead, and without a readable time.
        release(5, start + 1_000_000 * hour, 1, 3),
        (6, br#"{"seq":6,"time":"soon","event":"app_key_released","app_id":"aa"}"#.to_vec()),
    ];
    let opened = index(&directory.path().join("events"), &lines);
    let inventory = opened.inventory().unwrap();
    let counts = |from, step, steps| -> Vec<(u64, u64)> {
        let history = inventory.history(from, step, steps).unwrap();
        history.iter().map(|counts| (counts.releases, counts.refusals)).collect()
    };
    assert_eq!(counts(start - hour, 3600, 3), [(1, 0), (2, 0), (0, 1)]);
    assert_eq!(counts(start, 1800, 3), [(1, 0), (1, 0), (0, 1)]);
    assert_eq!(counts(start + MINUTE_MS, 60, 2), [(0, 0), (0, 0)]);
    let page = inventory.cvms(&CvmAsk { since: start, ..ask() }).unwrap();
    assert_eq!(numbers(&page), [3], "each at the time of its last record");
    let page = inventory.cvms(&CvmAsk { since: start - hour, ..ask() }).unwrap();
    let times = page.cvms[1].1.releases;
    assert_eq!((times.first, times.last, times.count), (start - hour, start - hour, 3));

    let path = directory.path().join("long");
    let lines: Vec<_> = (0..MAX_HOURS + 10).map(|n| release(n + 1, start + n * hour, 1, 1)).collect();
    let opened = index(&path, &lines);
    let inventory = opened.inventory().unwrap();
    let (minutes, hours) =
        [MINUTES, HOURS].map(|table| inventory.transaction.open_table(table).unwrap().len().unwrap()).into();
    assert_eq!((minutes, hours), (MAX_HOURS + 10, MAX_HOURS));
    let steps = usize::try_from(MAX_HOURS).unwrap() + 10;
    let history = inventory.history(start, 3600, steps).unwrap();
    assert_eq!(history.iter().map(|counts| counts.releases).sum::<u64>(), MAX_HOURS);
    assert_eq!(history[..10], [Counts::default(); 10]);
}

#[test]
fn the_inventory_outlives_its_records_and_an_index_without_one_catches_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events");
    let lines: Vec<_> = (1..=5000).map(|seq| release(seq, START + seq, 1, seq % 10)).collect();
    let open = Index::open(&path).unwrap();
    for batch in lines.chunks(1000) {
        open.add(batch, 1, Growth::Bounded).unwrap();
    }
    assert!(open.count().unwrap() < 3000, "records have been dropped");
    let expected = open.inventory().unwrap().cvms(&ask()).unwrap();
    assert_eq!(expected.cvms.iter().map(|(_, cvm)| cvm.releases.count).sum::<u64>(), 5000);
    open.sync().unwrap();
    drop(open);
    let open = Index::open(&path).unwrap();
    assert!(!open.catch_up(Growth::Bounded).unwrap(), "all is counted");
    assert_eq!(open.inventory().unwrap().cvms(&ask()).unwrap(), expected);
    drop(open);

    // As a version without an inventory has left it.
    let path = directory.path().join("older");
    let older = index(&path, &lines);
    older
        .write(redb::Durability::Immediate, |transaction| {
            for List { rows, order, .. } in [CVMS, DENIED, REFUSED, HANDOVERS] {
                transaction.delete_table(rows).map_err(unusable)?;
                transaction.delete_table(order).map_err(unusable)?;
            }
            transaction.delete_table(MINUTES).map_err(unusable)?;
            transaction.delete_table(HOURS).map_err(unusable)?;
            transaction.delete_table(STATE).map_err(unusable)?;
            Ok(())
        })
        .unwrap();
    drop(older);
    let open = Index::open(&path).unwrap();
    assert_eq!(open.inventory().unwrap().coverage().unwrap(), Coverage::default());
    // A new record meanwhile is counted in its turn.
    open.add(&[release(5001, START + 5001, 1, 1)], u64::MAX / 2, Growth::Bounded).unwrap();
    assert_eq!(open.inventory().unwrap().count(None).unwrap(), 0);
    assert!(open.catch_up(Growth::Bounded).unwrap());
    assert_eq!(open.inventory().unwrap().coverage().unwrap().through, 1000);
    while open.catch_up(Growth::Bounded).unwrap() {}
    let found = open.inventory().unwrap();
    let expected = Coverage { through: 5001, since: Some(START + 1), first: 1, has_dropped_cvms: false };
    assert_eq!(found.coverage().unwrap(), expected);
    let counts = found.cvms(&ask()).unwrap().cvms.iter().map(|(_, cvm)| cvm.releases.count).sum::<u64>();
    assert_eq!(counts, 5001);
    open.add(&[release(5002, START + 5002, 1, 1)], u64::MAX / 2, Growth::Bounded).unwrap();
    assert_eq!(open.inventory().unwrap().coverage().unwrap().through, 5002);
}

#[test]
fn releases_of_a_cvm_are_counted_for_a_day_however_many_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let hour = 60 * MINUTE_MS;
    let start = START / hour * hour;
    // Two an hour for 100 hours, then one by a clock that has gone back.
    let mut lines: Vec<_> = (0..200).map(|n| release(n + 1, start + n * hour / 2, 1, 1)).collect();
    lines.push(release(201, start + 98 * hour, 1, 1));
    let opened = index(&directory.path().join("events"), &lines);
    let inventory = opened.inventory().unwrap();
    let cvm = &inventory.cvms(&ask()).unwrap().cvms[0].1;
    assert_eq!((cvm.releases.count, cvm.hours.len()), (201, 25));
    let since =
        |hours: u64| inventory.recent(&CvmAsk { since: start + hours * hour, ..ask() }).unwrap().releases;
    assert_eq!((since(98), since(76), since(0)), (5, 49, 51), "no more than 25 hours are known");
}

#[test]
fn a_list_drops_the_entries_whose_last_record_is_the_oldest() {
    let directory = tempfile::tempdir().unwrap();
    let handover = |seq, replica: u64| {
        let fields = format!(r#","app_id":"aa","mr_aggregated":"{replica}","device_id":"01""#);
        record(seq, START + seq, "kms_key_released", &fields)
    };
    let mut lines: Vec<_> = (1..=MAX_HANDOVERS).map(|seq| handover(seq, seq)).collect();
    lines.push(handover(MAX_HANDOVERS + 1, 1));
    lines.push(handover(MAX_HANDOVERS + 2, 0));
    let opened = index(&directory.path().join("events"), &lines);
    let inventory = opened.inventory().unwrap();
    let handovers = inventory.handovers().unwrap();
    assert_eq!(handovers.len() as u64, MAX_HANDOVERS);
    let has = |replica: &str| handovers.iter().any(|it| it.subject.mr_aggregated == replica);
    assert!(has("1") && has("0") && !has("2"), "replica 1 has come again");
    let order = inventory.transaction.open_table(HANDOVERS.order).unwrap();
    assert_eq!(order.len().unwrap(), MAX_HANDOVERS, "nothing of the dropped one is left");

    // Without space a list keeps its length.
    let opened = index(&directory.path().join("little"), &[handover(1, 1), handover(2, 2)]);
    opened.add(&[handover(3, 3), handover(4, 4)], u64::MAX / 2, Growth::Stopped).unwrap();
    let kept = opened.inventory().unwrap().handovers().unwrap();
    let mut kept: Vec<_> = kept.iter().map(|it| &*it.subject.mr_aggregated).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["3", "4"]);
}

/// Figures: `cargo test --release -- --ignored --nocapture the_largest_inventory`.
#[test]
#[ignore = "takes a minute"]
fn the_largest_inventory_is_read_and_written_in_bounded_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events");
    let index = Index::open(&path).unwrap();
    let began = Instant::now();
    let mut seq = 0;
    for batch in 0..(MAX_CVMS + 20_000) / 1000 {
        let lines: Vec<_> = (0..1000)
            .map(|number| {
                seq += 1;
                let cvm = batch * 1000 + number;
                let fields = subject(cvm % 500, cvm, ["bb", "dd"][(cvm % 2) as usize], "UpToDate");
                record(seq, START + seq * 100, "app_key_released", &fields)
            })
            .collect();
        index.add(&lines, 100_000, Growth::Bounded).unwrap();
    }
    println!("{:?} for a new CVM", began.elapsed() / u32::try_from(seq).unwrap());
    let began = Instant::now();
    for batch in 0..20 {
        let lines: Vec<_> = (0..1000)
            .map(|number| {
                seq += 1;
                release(seq, START + seq * 100, 7, (batch * 7919 + number * 104_729) % MAX_CVMS + 20_000)
            })
            .collect();
        index.add(&lines, 100_000, Growth::Bounded).unwrap();
    }
    println!("{:?} for a known CVM", began.elapsed() / 20_000);
    index.sync().unwrap();
    println!("{} MiB", std::fs::metadata(&path).unwrap().len() >> 20);
    let inventory = index.inventory().unwrap();
    assert_eq!(inventory.count(None).unwrap(), MAX_CVMS);
    let timed = |what: &str, ask: &CvmAsk| {
        let began = Instant::now();
        let page = inventory.cvms(ask).unwrap();
        println!("{what}: {:?}, {} CVMs, next {:?}", began.elapsed(), page.cvms.len(), page.next);
    };
    timed("the first page", &ask());
    timed("of an app", &CvmAsk { app_id: Some(format!("{:040x}", 8)), ..ask() });
    timed("of an image", &CvmAsk { os_image_hash: Some("dd".to_owned()), ..ask() });
    timed("of no TCB status", &CvmAsk { tcb_status: Some("OutOfDate".to_owned()), ..ask() });
    let nothing =
        CvmAsk { os_image_hash: Some("dd".to_owned()), tcb_status: Some("OutOfDate".to_owned()), ..ask() };
    timed("of an image and no TCB status", &nothing);
    timed("since the future", &CvmAsk { since: u64::MAX, ..ask() });
    let began = Instant::now();
    let active = inventory.active(0, None).unwrap();
    println!("active: {:?}, {active:?}", began.elapsed());
    let began = Instant::now();
    let steps = 24 * 60;
    inventory.history(START, 60, steps).unwrap();
    println!("history: {:?}", began.elapsed());
}

#[test]
fn each_domain_has_counts_of_its_own_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let of = |seq: u64, kind: &str, app: u64, domain: &str| {
        let domain = if domain.is_empty() { String::new() } else { format!(r#","domain":"{domain}""#) };
        let why = format!(r#","code":"c","reason":"r","step":"policy","denial_id":"{seq:012x}""#);
        record(seq, START + seq * 1000, kind, &(subject(app, app, "bb", "UpToDate") + &why + &domain))
    };
    let lines = [
        of(1, "app_key_released", 1, ""),
        of(2, "certificate_issued", 1, ""),
        of(3, "app_key_released", 2, "sandbox"),
        of(4, "denied", 3, "sandbox"),
        of(5, "denied", 4, ""),
        of(6, "app_key_released", 5, "prod"),
        record(
            7,
            START + 7000,
            "refused",
            r#","remote":"10.0.0.2","code":"c","reason":"r","denial_id":"f00000000007""#,
        ),
        record(8, START + 8000, "suppressed", r#","events":9"#),
        of(9, "app_moved", 2, "prod"),
    ];
    let opened = index(&directory.path().join("events"), &lines);
    let inventory = opened.inventory().unwrap();
    let counts = |releases, refusals| Counts { releases, refusals };
    let mut sum = counts(0, 0);
    for (name, expected, active) in [
        ("default", counts(2, 1), Active { cvms: 1, apps: 1 }),
        ("sandbox", counts(1, 1), Active { cvms: 1, apps: 1 }),
        ("prod", counts(1, 0), Active { cvms: 1, apps: 1 }),
        ("nobody", counts(0, 0), Active { cvms: 0, apps: 0 }),
    ] {
        let name: DomainName = name.parse().unwrap();
        for step in [60, 3600] {
            let from = START / (step * 1000) * step * 1000;
            let found = inventory.history_of(&name, from, step, 2).unwrap();
            assert_eq!(found[0], expected, "{name} {step}");
            assert_eq!(found[1], counts(0, 0), "{name} {step}");
        }
        assert_eq!(inventory.active(0, Some(&name)).unwrap(), active, "{name}");
        assert_eq!(inventory.active(START + 60_000, Some(&name)).unwrap(), Active { cvms: 0, apps: 0 });
        sum = counts(sum.releases + expected.releases, sum.refusals + expected.refusals);
    }
    assert_eq!(sum, counts(4, 2));
    // What belongs to no domain is in the sum of the KMS only.
    let whole = inventory.history(START / 60_000 * 60_000, 60, 1).unwrap();
    assert_eq!(whole, [counts(4, 2 + 1 + 9)]);
}
