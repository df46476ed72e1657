//! Tests of the index, and a benchmark over ten million events (ignored: it takes minutes and gigabytes).

use std::time::Instant;

use super::*;
use crate::operator::DomainScope;

const APP: [&str; 3] = ["aa", "bb", "cc"];

/// A log record: every tenth is a denial, every hundredth a report, the others releases to one of three apps.
fn entry(seq: u64, time: u64) -> (u64, Vec<u8>) {
    let time = ::time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time) * 1_000_000).unwrap();
    let time = time.format(&::time::format_description::well_known::Rfc3339).unwrap();
    let app = APP[(seq % 3) as usize].repeat(20);
    let filler = format!("{seq:064x}");
    let event = match seq % 100 {
        0 => r#""event":"reported","source":"pipe","message":"hello""#.to_owned(),
        n if n % 10 == 1 => format!(r#""event":"denied","app_id":"{app}","code":"compose_hash_not_allowed""#),
        _ => format!(
            r#""event":"app_key_released","app_id":"{app}","instance_id":"{app}","compose_hash":"{filler}","device_id":"{filler}","os_image_hash":"{filler}","mr_aggregated":"{filler}","tcb_status":"UpToDate","advisory_ids":[],"remote":"10.0.0.1","evidence_sha256":"{filler}","stage":"boot""#
        ),
    };
    let line = format!(r#"{{"seq":{seq},"time":"{time}","prev":"{filler}",{event},"hash":"{filler}"}}"#)
        .into_bytes();
    (seq, line)
}

fn filled(path: &Path, seqs: std::ops::Range<u64>, time: impl Fn(u64) -> u64) -> Index {
    let index = Index::open(path).unwrap();
    let entries: Vec<_> = seqs.map(|seq| entry(seq, time(seq))).collect();
    for batch in entries.chunks(700) {
        index.add(batch, u64::MAX / 2, Growth::Bounded).unwrap();
    }
    index
}

#[test]
fn what_a_record_is_found_by_is_what_it_says() {
    let escaped =
        br#"{"seq":7,"time":"2026-01-01T00:00:00Z","event":"reported","source":"a\u0070i","message":"a\"b"}"#;
    for line in (0..100).map(|seq| entry(seq, 0).1).chain([escaped.to_vec()]) {
        let (record, key) = (Record::read(&line).unwrap(), RecordKey::read(&line).unwrap());
        assert_eq!((record.seq, &*record.time, &*record.kind), (key.seq, &*key.time, &*key.kind));
        assert_eq!((record.app_id(), record.source()), (&*key.app_id, key.source()));
    }
    for line in [&b"garbage"[..], b"{}", br#"{"seq":1,"time":"x"}"#, b"{\"seq\":1"] {
        assert!(Record::read(line).is_none() && RecordKey::read(line).is_none());
    }
}

fn filter(kind: &str, app_id: &str, source: &str) -> Filter {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Filter {
        kind: some(kind),
        app_id: some(app_id),
        source: some(source),
        ..Filter::of(DomainScope::WHOLE_KMS)
    }
}

fn ask(filter: &Filter) -> Ask<'_> {
    Ask { filter, since: 0, until: u64::MAX, beyond: None, order: Order::Newest, limit: 50 }
}

/// The numbers on all pages, in order.
fn all(index: &Index, mut ask: Ask<'_>) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        let page = index.page(&ask).unwrap();
        let mut seqs: Vec<_> = page.records.iter().map(|record| record.seq).collect();
        if ask.order == Order::Newest {
            seqs.reverse();
        }
        found.extend(seqs);
        match page.next {
            Some(next) => ask.beyond = Some(next),
            None => return found,
        }
    }
}

#[test]
fn pages_hold_what_a_look_at_every_record_finds() {
    let directory = tempfile::tempdir().unwrap();
    // The clock goes back by an hour in the middle, and once far ahead.
    let time = |seq: u64| match seq {
        2500 => 4_000_000_000_000,
        seq if seq >= 2000 => 1_700_000_000_000 + seq * 1000 - 3_600_000,
        seq => 1_700_000_000_000 + seq * 1000,
    };
    let index = filled(&directory.path().join("index"), 1..5000, time);
    let app = "bb".repeat(20);
    let records: Vec<_> = (1..5000).map(|seq| entry(seq, 0).1).collect();
    let records: Vec<_> = records.iter().map(|line| Record::read(line).unwrap()).collect();
    for filter in [
        filter("", "", ""),
        filter("denied", "", ""),
        filter("", &app, ""),
        filter("denied", &app, "kms"),
        filter("", "", "pipe"),
        filter("reported", "", "kms"),
        filter("reported", &app, ""),
        filter("stopped", "", ""),
    ] {
        let admitted: Vec<_> =
            records.iter().filter(|record| filter.admits(record)).map(|record| record.seq).collect();
        for (since, until) in [(0, u64::MAX), (time(1500), time(1600)), (time(4900), u64::MAX), (5, 4)] {
            for order in [Order::Newest, Order::Oldest] {
                for limit in [1, 7, 1000] {
                    let found = all(&index, Ask { since, until, order, limit, ..ask(&filter) });
                    let is_in = |seq: &u64| (since..=until).contains(&time(*seq));
                    let mut expected: Vec<_> = admitted.iter().copied().filter(is_in).collect();
                    if order == Order::Newest {
                        expected.reverse();
                    }
                    assert_eq!(found, expected, "{filter:?} {since} {until} {order:?} {limit}");
                }
            }
        }
    }
    let nothing = filter("", "", "");
    for (beyond, order) in [(0, Order::Newest), (u64::MAX, Order::Oldest)] {
        let page = index.page(&Ask { beyond: Some(beyond), order, ..ask(&nothing) }).unwrap();
        assert_eq!(page, Page::default(), "{order:?}");
    }
    assert_eq!(index.page(&Ask { limit: 0, ..ask(&nothing) }).unwrap().records.len(), 0);
}

#[test]
fn old_records_make_room_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let index = filled(&directory.path().join("index"), 1..5000, |seq| seq);
    index.add(&[entry(5000, 5000)], 1000, Growth::Bounded).unwrap();
    let count = index.count().unwrap();
    assert!((1000..=1000 + 2 * BLOCK).contains(&count), "{count}");
    let filter = filter("", "", "");
    let found = all(&index, ask(&filter));
    assert_eq!((found.len() as u64, found[0]), (count, 5000));
    let transaction = index.database.begin_read().unwrap();
    let sets = transaction.open_table(SETS).unwrap();
    let oldest = (5001 - count) / BLOCK;
    assert!(sets.iter().unwrap().all(|entry| entry.unwrap().0.value().1 >= oldest));
    assert!(transaction.open_table(TIMES).unwrap().iter().unwrap().all(|e| e.unwrap().0.value() >= oldest));
}

#[test]
fn what_is_synced_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let index = filled(&path, 1..10, |seq| seq);
    index.sync().unwrap();
    assert!(Index::open(&path).unwrap_err().is_in_use());
    drop(index);
    let index = Index::open(&path).unwrap();
    assert_eq!(index.last().unwrap(), Some((9, entry(9, 9).1)));
    index.remove().unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "not an index, not an index").unwrap();
    assert!(!Index::open(&path).unwrap_err().is_in_use());
}

/// `cargo test --release -p cvm-kms --lib ten_million -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes and some gigabytes"]
fn ten_million_events_answer_within_50_ms() {
    let count = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    let directory =
        tempfile::tempdir_in(std::env::var("EVENTS_DIR").unwrap_or_else(|_| ".".to_owned())).unwrap();
    let path = directory.path().join("index");
    let index = Index::open(&path).unwrap();
    let started = Instant::now();
    let mut batch = Vec::new();
    for seq in 1..=count {
        batch.push(entry(seq, 1_700_000_000_000 + seq * 10));
        if batch.len() == 1000 || seq == count {
            index.add(&batch, u64::MAX / 2, Growth::Bounded).unwrap();
            batch.clear();
        }
        if seq % 100_000 == 0 {
            index.sync().unwrap();
        }
    }
    let (took, size) = (started.elapsed(), std::fs::metadata(&path).unwrap().len());
    println!("{count} events in {took:?}, {} bytes each", size / count);
    let app = "bb".repeat(20);
    let middle = 1_700_000_000_000 + count * 5;
    for (name, filter, since, until, beyond, limit) in [
        ("the newest", filter("", "", ""), 0, u64::MAX, None, 100),
        ("the largest page", filter("", "", ""), 0, u64::MAX, None, 1000),
        ("a type and an app", filter("denied", &app, ""), 0, u64::MAX, None, 1000),
        ("a source, in the middle", filter("", "", "pipe"), middle, middle + 10_000_000, None, 1000),
        ("a type and an app that never meet", filter("reported", &app, ""), 0, u64::MAX, None, 100),
        ("a type that nobody has", filter("stopped", "", ""), 0, u64::MAX, None, 100),
        ("the oldest hour", filter("", &app, ""), 0, 1_700_003_600_000, None, 1000),
        ("a deep cursor", filter("", &app, "kms"), 0, u64::MAX, Some(count / 3), 1000),
        ("no time at all", filter("", "", ""), 5, 6, None, 100),
    ] {
        let ask = Ask { since, until, beyond, limit, ..ask(&filter) };
        let mut slowest = std::time::Duration::ZERO;
        let mut found = 0;
        for _ in 0..5 {
            let started = Instant::now();
            found = index.page(&ask).unwrap().records.len();
            slowest = slowest.max(started.elapsed());
        }
        println!("{name}: {found} events, slowest of 5 {slowest:?}");
        assert!(slowest.as_millis() < 50, "{name}");
    }
}
