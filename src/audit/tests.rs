//! The audit file as a whole: durability, repair, and what verification finds.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::*;

fn denied(reason: &str) -> Event {
    let identity = crate::policy::testing::boot_info();
    Event::Denied {
        subject: Subject::new(&identity, [192, 0, 2, 1].into()),
        code: "os_image_not_allowed".to_owned(),
        reason: reason.to_owned(),
        why: Why {
            step: "policy",
            expected: Some("44".repeat(32)),
            actual: None,
            remedy: None,
            denial_id: "00112233aabb".to_owned(),
            evidence_sha256: None,
        },
    }
}

fn started() -> Event {
    Event::Started { version: "1".to_owned(), phase: "ready", posture: vec!["dev_auth".to_owned()] }
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new").join("audit.jsonl");
    (directory, path)
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn filled(path: &Path, records: u64) {
    let audit = Audit::open(path).unwrap();
    for seq in 1..=records {
        assert_eq!(audit.record(denied("OS image is not allowed")).await.unwrap().seq(), seq);
    }
}

#[tokio::test]
async fn records_are_chained_lines_that_only_the_owner_reads() {
    let (_directory, path) = temporary();
    let audit = Audit::open(&path).unwrap();
    let _ = audit.record(started()).await.unwrap();
    let _ = audit.record(denied("a\nb\"c\u{2028}")).await.unwrap();
    drop(audit);
    let lines = lines(&path);
    let keys: Vec<_> = lines[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["seq", "time", "prev", "event", "version", "phase", "posture", "hash"]);
    assert_eq!(lines[0]["seq"], 1);
    assert_eq!(lines[0]["prev"], "0".repeat(64));
    assert_eq!(lines[0]["event"], "started");
    let time = lines[0]["time"].as_str().unwrap();
    let now = time::OffsetDateTime::now_utc();
    let format = &time::format_description::well_known::Rfc3339;
    let age = now - time::OffsetDateTime::parse(time, format).unwrap();
    assert!(time.ends_with('Z') && age.whole_seconds() < 60, "{time}");
    assert_eq!(lines[1]["prev"], lines[0]["hash"]);
    assert_eq!(lines[1]["reason"], "a\nb\"c\u{2028}");
    assert_eq!(lines[1]["app_id"], "11".repeat(20));
    assert_eq!(lines[1]["remote"], "192.0.2.1");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let head = hex::encode(verify_file(&path).unwrap().head);
    assert_eq!(lines[1]["hash"], head);
}

#[tokio::test]
async fn a_hash_is_the_sha256_of_the_line_without_it() {
    use sha2::{Digest, Sha256};
    let (_directory, path) = temporary();
    filled(&path, 1).await;
    let line = fs::read_to_string(&path).unwrap();
    let (content, hash) = line.trim_end().split_once(",\"hash\":\"").unwrap();
    let expected = hex::encode(Sha256::digest(format!("{content}}}")));
    assert_eq!(hash, format!("{expected}\"}}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_events_share_writes_and_get_their_own_numbers() {
    let (_directory, path) = temporary();
    let audit = Arc::new(Audit::open(&path).unwrap());
    let tasks: Vec<_> = (0..2000)
        .map(|_| {
            let audit = audit.clone();
            tokio::spawn(async move { audit.record(denied("x")).await.unwrap().seq() })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=2000).collect::<Vec<_>>());
    drop(audit);
    assert_eq!(verify_file(&path).unwrap().records, 2000);
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart() {
    let (_directory, path) = temporary();
    filled(&path, 2).await;
    let audit = Audit::open(&path).unwrap();
    assert_eq!(audit.record(started()).await.unwrap().seq(), 3);
    audit.note(started());
    drop(audit);
    assert_eq!(verify_file(&path).unwrap().records, 4);
}

#[tokio::test]
async fn a_long_file_is_opened_by_its_end() {
    let (_directory, path) = temporary();
    let audit = Audit::open(&path).unwrap();
    let long = "x".repeat(60_000);
    for _ in 0..20 {
        let _ = audit.record(denied(&long)).await.unwrap();
    }
    drop(audit);
    assert!(fs::metadata(&path).unwrap().len() > 1 << 20);
    let audit = Audit::open(&path).unwrap();
    assert_eq!(audit.record(started()).await.unwrap().seq(), 21);
    drop(audit);
    assert_eq!(verify_file(&path).unwrap().records, 21);
}

#[tokio::test]
async fn an_end_cut_short_by_a_crash_is_cut_off_and_recorded() {
    let torn = [b"{\"seq\":3,\0\0\"ti".as_slice(), &[0; 5000]].concat();
    for (records, rest) in [(2, &b"{\"seq\":3,\"ti"[..]), (0, b"{\"seq\":1"), (2, &[0; 100]), (1, &torn)] {
        let (_directory, path) = temporary();
        filled(&path, records).await;
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(rest).unwrap();
        assert!(verify_file(&path).is_err());
        drop(Audit::open(&path).unwrap());
        assert_eq!(verify_file(&path).unwrap().records, records + 1);
        let last = lines(&path).pop().unwrap();
        assert_eq!(last["event"], "recovered");
        assert_eq!(last["dropped_bytes"], rest.len());
    }
}

#[tokio::test]
async fn a_zero_inside_what_was_acknowledged_is_no_debris() {
    for at in [Some(10), Some(300), None] {
        let (_directory, path) = temporary();
        filled(&path, 3).await;
        let mut bytes = fs::read(&path).unwrap();
        match at {
            Some(at) => bytes[at] = 0,
            // Zeros with a line after them: no write that was cut short ends so.
            None => bytes.extend_from_slice(b"\0\0\n\0{\"seq\"}\n"),
        }
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(Audit::open(&path), Err(AuditError::Broken { .. })), "{at:?}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was cut off");
    }
}

#[tokio::test]
async fn a_file_without_records_is_known_as_one() {
    let (_directory, path) = temporary();
    assert_eq!(Audit::open(&path).unwrap().beginning(), Beginning::Empty);
    filled(&path, 1).await;
    assert_eq!(Audit::open(&path).unwrap().beginning(), Beginning::Continued);
    fs::write(&path, "").unwrap();
    assert_eq!(Audit::open(&path).unwrap().beginning(), Beginning::Empty);
}

#[tokio::test]
async fn a_changed_file_is_found_out_at_its_first_broken_link() {
    let swap = |text: &str| {
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines.swap(1, 2);
        lines.concat()
    };
    let without_second = |text: &str| {
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines.remove(1);
        lines.concat()
    };
    type Change<'a> = &'a dyn Fn(&str) -> String;
    let changes: [(Change<'_>, u64, LinkProblem); 6] = [
        (&|text| text.replacen("OS image", "OS imagE", 1), 1, LinkProblem::Hash),
        (&swap, 2, LinkProblem::Predecessor),
        (&without_second, 2, LinkProblem::Predecessor),
        (&|text| text.replacen('\n', "\n{}\n", 1), 2, LinkProblem::Malformed),
        (&|text| text.trim_end().to_owned(), 4, LinkProblem::Unfinished),
        (&|text| format!("{text}\n"), 5, LinkProblem::Malformed),
    ];
    for (change, expected_seq, expected) in changes {
        let (_directory, path) = temporary();
        filled(&path, 4).await;
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, change(&text)).unwrap();
        let Err(AuditError::Broken { seq, problem }) = verify_file(&path) else {
            panic!("{expected}: not found")
        };
        assert_eq!((seq, problem), (expected_seq, expected));
        if expected != LinkProblem::Unfinished {
            assert!(matches!(Audit::open(&path), Err(AuditError::Broken { .. })), "{expected}: opened");
        }
    }
}

#[tokio::test]
async fn a_record_out_of_order_is_found_out() {
    let (_directory, path) = temporary();
    let mut text = Vec::new();
    let link = Link::GENESIS.append("2026-01-01T00:00:00Z", r#"{"event":"stopped"}"#, &mut text);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let forged = format!(r#"{{"seq":7,"time":"","prev":"{}","event":"x"}}"#, hex::encode(link.hash()));
    let hash =
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), &forged));
    let sealed = format!("{},\"hash\":\"{}\"}}\n", forged.trim_end_matches('}'), hex::encode(hash));
    text.extend_from_slice(sealed.as_bytes());
    fs::write(&path, text).unwrap();
    let problem = verify_file(&path).unwrap_err();
    assert!(matches!(problem, AuditError::Broken { seq: 2, problem: LinkProblem::Order }), "{problem}");
}

#[tokio::test]
async fn a_disk_that_refuses_gives_no_receipt() {
    let audit = Audit::open(Path::new("/dev/full")).unwrap();
    assert!(audit.health().is_writing());
    assert!(matches!(audit.record(started()).await, Err(AuditError::Write(_))));
    assert!(matches!(audit.health(), Health::Failing { .. }));
    assert!(matches!(audit.record(started()).await, Err(AuditError::Write(_) | AuditError::Stopped)));
    audit.note(started());
}

#[tokio::test]
async fn an_event_too_large_for_a_line_gives_no_receipt() {
    let (_directory, path) = temporary();
    let audit = Audit::open(&path).unwrap();
    assert!(matches!(audit.record(denied(&"x".repeat(70_000))).await, Err(AuditError::TooLarge)));
    assert_eq!(audit.record(started()).await.unwrap().seq(), 1);
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_fill_the_disk() {
    let (_directory, path) = temporary();
    let audit = Audit::open(&path).unwrap();
    for _ in 0..5000 {
        audit.note(denied("x"));
    }
    assert!(
        audit.record(started()).await.unwrap().seq() < 1100,
        "what waits for a receipt is recorded all the same"
    );
    std::thread::sleep(std::time::Duration::from_millis(120));
    audit.note(started());
    drop(audit);
    let lines = lines(&path);
    let suppressed: u64 = lines.iter().filter_map(|line| line["events"].as_u64()).sum();
    let recorded = lines.iter().filter(|line| line["event"] == "denied").count() as u64;
    assert!(suppressed > 3900);
    assert_eq!(suppressed + recorded, 5000);
}

#[tokio::test]
async fn a_file_has_one_writer() {
    let (_directory, path) = temporary();
    let first = Audit::open(&path).unwrap();
    assert!(matches!(Audit::open(&path), Err(AuditError::Locked { .. })));
    assert!(matches!(inspect(&path), Err(AuditError::Locked { .. })));
    drop(first);
    assert!(Audit::open(&path).is_ok());
}

#[tokio::test]
async fn an_empty_file_verifies_and_an_absent_one_does_not() {
    let (_directory, path) = temporary();
    assert!(matches!(verify_file(&path), Err(AuditError::Open { .. })));
    drop(Audit::open(&path).unwrap());
    assert_eq!(verify_file(&path).unwrap(), Verified { records: 0, head: [0; 32] });
}

#[tokio::test]
async fn a_caller_that_gives_up_is_recorded_all_the_same() {
    let (_directory, path) = temporary();
    let audit = Audit::open(&path).unwrap();
    {
        let recording = audit.record(started());
        tokio::pin!(recording);
        let _ = futures_poll_once(recording.as_mut()).await;
    }
    drop(audit);
    assert_eq!(verify_file(&path).unwrap().records, 1);
}

/// Polls a future once and gives it up.
async fn futures_poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut future = Some(future);
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.take().map(|future| future.poll(context)) {
            Some(std::task::Poll::Ready(output)) => Some(output),
            _ => None,
        })
    })
    .await
}
