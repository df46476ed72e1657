//! Tests of the thread that follows the log.

use std::path::Path;

use super::super::index::Ask;
use super::super::live::Next;
use super::super::{Events, Filter, Order};
use crate::audit::{Audit, Event, Record};
use crate::operator::DomainScope;

use super::*;

fn settings(directory: &Path) -> Settings {
    let (log, index) = (directory.join("audit.jsonl"), Some(directory.join("events.redb")));
    Settings { log, index, keep: 1_000_000 }
}

async fn record(audit: &Audit, count: u64) {
    for events in 0..count {
        let _ = audit.record(Event::Suppressed { events, source: None }).await.unwrap();
    }
}

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of events in the index, once it is `expected` or nothing more is waited for.
fn counted(events: &Events, expected: u64) -> u64 {
    let begin = Instant::now();
    loop {
        let count = events.index().map_or(0, |index| index.count().unwrap());
        if count == expected || begin.elapsed() > PATIENCE {
            return count;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until records up to `seq` are acknowledged, which is a moment after their receipts.
fn acknowledged(audit: &Audit, seq: u64) {
    let begin = Instant::now();
    while audit.progress().acknowledged() < seq {
        assert!(begin.elapsed() < PATIENCE, "record {seq} is not acknowledged");
        thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_is_built_again_and_one_that_is_behind_catches_up() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let path = settings.index.clone().unwrap();
    let audit = Audit::open(&settings.log).unwrap();
    record(&audit, 3).await;
    let events = Events::follow(settings.clone(), &audit).unwrap();
    assert_eq!(counted(&events, 3), 3);
    record(&audit, 2).await;
    assert_eq!(counted(&events, 5), 5);
    drop(events);
    record(&audit, 2).await;
    let events = Events::follow(settings.clone(), &audit).unwrap();
    assert_eq!(counted(&events, 7), 7, "behind");
    drop(events);
    fs::remove_file(&path).unwrap();
    let events = Events::follow(settings.clone(), &audit).unwrap();
    assert_eq!(counted(&events, 7), 7, "lost");
    drop(events);
    for damage in [&b"garbage"[..], &[0; 8192]] {
        fs::write(&path, damage).unwrap();
        let events = Events::follow(settings.clone(), &audit).unwrap();
        assert_eq!(counted(&events, 7), 7, "damaged");
    }
    let aside = fs::read(path.with_added_extension("unusable")).unwrap();
    assert_eq!(aside, [0; 8192], "what was there is set aside, in case it was somebody else's");
    let whole = fs::read(&path).unwrap();
    let mut torn = whole.clone();
    let middle = torn.len() / 2;
    torn[4096..middle].fill(0xa5);
    fs::write(&path, torn).unwrap();
    let events = Events::follow(settings.clone(), &audit).unwrap();
    assert_eq!(counted(&events, 7), 7, "torn");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_another_log_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    for (before, now) in [(5, 2), (2, 5), (3, 3)] {
        let _ = fs::remove_file(&settings.log);
        let audit = Audit::open(&settings.log).unwrap();
        record(&audit, before).await;
        let events = Events::follow(settings.clone(), &audit).unwrap();
        assert_eq!(counted(&events, before), before);
        drop((events, audit));
        fs::remove_file(&settings.log).unwrap();
        let audit = Audit::open(&settings.log).unwrap();
        record(&audit, now).await;
        let events = Events::follow(settings.clone(), &audit).unwrap();
        assert_eq!(counted(&events, now), now);
        let filter = Filter::of(DomainScope::WHOLE_KMS);
        let ask =
            Ask { filter: &filter, since: 0, until: u64::MAX, beyond: None, order: Order::Oldest, limit: 9 };
        let page = events.index().unwrap().page(&ask).unwrap();
        let log = fs::read_to_string(&settings.log).unwrap();
        for (record, line) in page.records.iter().zip(log.lines()) {
            assert_eq!(Some(record), Record::read(line.as_bytes()).as_ref());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_on_without_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { index: Some(directory.path().join("no/index")), ..settings(directory.path()) };
    let audit = Audit::open(&settings.log).unwrap();
    record(&audit, 3).await;
    let events = Events::follow(settings, &audit).unwrap();
    let mut stream = events.live().subscribe(Filter::of(DomainScope::WHOLE_KMS), None);
    record(&audit, 2).await;
    let mut seen = 0;
    while seen < 2 {
        let changed = tokio::time::timeout(PATIENCE, stream.changed());
        assert!(changed.await.unwrap());
        let Next::Frames(frames) = stream.next(10) else { panic!("behind") };
        seen += frames.len();
    }
    assert!(events.index().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_do_not_wait_for_an_index_that_is_built() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let audit = Audit::open(&settings.log).unwrap();
    let recorded = async |count: usize| {
        let event = |events| audit.record(Event::Suppressed { events, source: None });
        let receipts = futures_util::future::join_all((0..count as u64).map(event)).await;
        assert!(receipts.iter().all(Result::is_ok));
    };
    recorded(3 * MAX_BATCH).await;
    acknowledged(&audit, 3 * MAX_BATCH as u64);
    let (index, live) = (Arc::default(), Arc::<Live>::default());
    let flags = [(), ()].map(|()| Arc::default());
    let mut follower =
        Follower::new(settings.clone(), audit.progress(), Arc::clone(&index), Arc::clone(&live), flags);
    let begin = live.newest();
    let mut stream = live.subscribe(Filter::of(DomainScope::WHOLE_KMS), None);
    recorded(2).await;
    acknowledged(&audit, begin + 2);
    follower.step().unwrap();
    let Next::Frames(frames) = stream.next(10) else { panic!("behind") };
    assert_eq!(frames.len(), 2);
    let count = || index.load().as_ref().map(|index| index.count().unwrap());
    assert_eq!(count(), Some(MAX_BATCH as u64), "it has only begun");
    let all = Filter::of(DomainScope::WHOLE_KMS);
    let stretch = index.load_full().unwrap().after(&all, 5, 10).unwrap();
    assert_eq!((stretch.place, stretch.missing, stretch.records[0].seq), (15, None, 6));
    // Beyond what is there.
    let stretch = index.load_full().unwrap().after(&all, begin, 10).unwrap();
    assert_eq!((stretch.place, stretch.records), (begin, vec![]));
    while let Step::Worked = follower.step().unwrap() {}
    assert_eq!(count(), Some(begin + 2));
    // Again from the log, and no event twice.
    recorded(1).await;
    acknowledged(&audit, begin + 3);
    follower.step().unwrap();
    assert_eq!((count(), live.newest()), (Some(begin + 3), begin + 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_index_does_not_hold_any_more_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let index = Index::open(&directory.path().join("events.redb")).unwrap();
    let line = |seq: u64| {
        let line = format!(r#"{{"seq":{seq},"time":"2026-01-01T00:00:00Z","event":"stopped"}}"#);
        (seq, line.into_bytes())
    };
    let lines: Vec<_> = (1..=5000).map(line).collect();
    index.add(&lines, 1000, Growth::Bounded).unwrap();
    let first = 5000 - index.count().unwrap() + 1;
    assert!(first > 1);
    let kind = |kind: &str| Filter { kind: Some(kind.to_owned()), ..Filter::of(DomainScope::WHOLE_KMS) };
    for (filter, after, records, place, missing) in [
        (kind("stopped"), 7, 10, first + 9, Some(first - 1)),
        (kind("stopped"), first - 1, 10, first + 9, None),
        (kind("stopped"), 4998, 2, 5000, None),
        (kind("stopped"), 5000, 0, 5000, None),
        (kind("stopped"), 9000, 0, 9000, None),
        (kind("denied"), 7, 0, 5000, Some(first - 1)),
    ] {
        let stretch = index.after(&filter, after, 10).unwrap();
        assert_eq!(
            (stretch.records.len(), stretch.place, stretch.missing),
            (records, place, missing),
            "{after}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_get_a_batch_at_which_the_index_panics() {
    let directory = tempfile::tempdir().unwrap();
    // Its sum with the size of a block overflows.
    let settings = Settings { keep: u64::MAX, ..settings(directory.path()) };
    let audit = Audit::open(&settings.log).unwrap();
    let (index, live) = (Arc::<ArcSwapOption<Index>>::default(), Arc::<Live>::default());
    let flags = [(), ()].map(|()| Arc::<AtomicBool>::default());
    let mut follower = Follower::new(settings, audit.progress(), index, Arc::clone(&live), flags);
    let mut stream = live.subscribe(Filter::of(DomainScope::WHOLE_KMS), None);
    record(&audit, 2).await;
    acknowledged(&audit, 2);
    assert!(matches!(follower.step(), Err(IndexError::Damaged)));
    let Next::Frames(frames) = stream.next(10) else { panic!("behind") };
    assert_eq!((frames.len(), live.newest()), (2, 2));
}
