//! The audit file as a whole: durability, repair, and what verification finds.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::chain::Link;
use super::*;

fn denied(reason: &str) -> Event {
    let identity = kms_attest::identity::Identity::example();
    Event::Denied {
        subject: Subject::new(&identity, [192, 0, 2, 1].into()).refused(&identity, Some("allowlist")),
        code: "os_image_not_allowed".to_owned(),
        reason: reason.to_owned(),
        why: Why {
            step: "policy",
            expected: Some("44".repeat(32)),
            actual: None,
            remedy: None,
            denial_id: "00112233aabb".to_owned(),
            request_id: None,
            evidence_sha256: None,
            stage_rule: None,
        },
    }
}

fn started() -> Event {
    let posture = vec!["dev_auth".to_owned()];
    Event::Started {
        version: "1".to_owned(),
        phase: "ready",
        posture,
        boot_id: "00".repeat(16),
        policy: "dev",
        domains_sha256: None,
    }
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
    assert_eq!(
        keys,
        ["seq", "time", "prev", "salt", "event", "version", "phase", "posture", "boot_id", "policy", "hash"]
    );
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
    assert_eq!(lines[1]["mr_system"], "66".repeat(32));
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
    for (records, rest) in [(2, &b"{\"seq\":3,\"ti"[..]), (0, b"{\"seq\":1"), (2, &[0; 100])] {
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
    let link = Link::GENESIS.append(
        "2026-01-01T00:00:00Z",
        chain::Salt([7; 16]),
        r#"{"event":"stopped"}"#,
        &mut text,
    );
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
    assert_eq!(inspect(&path).unwrap().used, Use::InUse);
    drop(first);
    assert_eq!(inspect(&path).unwrap().used, Use::Free);
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

/// What goes wrong on a disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    None,
    Write(i32),
    Sync(i32),
    /// There is room only in the place of the reserve.
    OnlyReserveLeft,
    /// A sync does not return.
    Hang,
    /// A sync takes so many milliseconds.
    Slow(u64),
    /// What was done in a directory is not confirmed, so many times.
    DirectorySync(u32),
    /// No file can be made.
    Create(i32),
    /// A look at the space does not return.
    HangInLook,
    /// A sync of the tree does not return.
    HangInTree,
    /// The tree's files are not confirmed.
    TreeSync(i32),
}

pub(super) const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// How long a test waits for what must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// For tests that wait until it is over; a healthy disk of a busy machine takes less.
const MAX_WRITE_TIME: Duration = Duration::from_secs(2);

/// The real disk, with faults.
#[derive(Clone)]
pub(super) struct FaultyDisk {
    fault: Arc<Mutex<Fault>>,
    /// How many new files were made.
    created: Arc<Mutex<u32>>,
    /// How many files of the tree were to be synced.
    pub(super) tree_syncs: Arc<Mutex<u32>>,
    reserve: PathBuf,
}

impl FaultyDisk {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            fault: Arc::new(Mutex::new(Fault::None)),
            created: Arc::default(),
            tree_syncs: Arc::default(),
            reserve: segments::reserve_name(path),
        }
    }

    pub(super) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn audit(&self, path: &Path, reserve: u64) -> Audit {
        self.audit_with(path, Storage { reserve, ..Storage::default() })
    }

    /// Waits for a slow disk for [`MAX_WRITE_TIME`] only.
    fn impatient_audit(&self, path: &Path) -> Audit {
        self.audit_with(path, Storage { max_write_time: MAX_WRITE_TIME, ..Storage::default() })
    }

    pub(super) fn audit_with(&self, path: &Path, storage: Storage) -> Audit {
        Audit::open_on(Box::new(self.clone()), path, storage, Floor::default()).unwrap()
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<fs::File> {
        match self.fault() {
            Fault::Create(errno) if !path.exists() => Err(io::Error::from_raw_os_error(errno)),
            _ => OsDisk.open(path),
        }
    }

    fn create(&self, path: &Path) -> io::Result<fs::File> {
        *self.created.lock().unwrap() += 1;
        match self.fault() {
            Fault::Create(errno) => Err(io::Error::from_raw_os_error(errno)),
            _ => OsDisk.create(path),
        }
    }

    fn write(&self, mut file: &fs::File, bytes: &[u8]) -> io::Result<()> {
        let is_full = match self.fault() {
            Fault::Write(errno) => Some(errno),
            Fault::OnlyReserveLeft if self.reserve.exists() => Some(ENOSPC),
            _ => None,
        };
        match is_full {
            Some(errno) => {
                // A part of it gets there.
                file.write_all(&bytes[..bytes.len() / 2])?;
                Err(io::Error::from_raw_os_error(errno))
            }
            None => OsDisk.write(file, bytes),
        }
    }

    fn sync(&self, file: &fs::File) -> io::Result<()> {
        match self.fault() {
            Fault::Sync(errno) => Err(io::Error::from_raw_os_error(errno)),
            Fault::DirectorySync(times) if file.metadata()?.is_dir() => {
                self.set(if times > 1 { Fault::DirectorySync(times - 1) } else { Fault::None });
                Err(io::Error::from_raw_os_error(EIO))
            }
            Fault::Slow(milliseconds) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
                OsDisk.sync(file)
            }
            Fault::Hang => {
                while self.fault() == Fault::Hang {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            }
            _ => OsDisk.sync(file),
        }
    }

    fn syncer(&self) -> disk::Syncer {
        let disk = self.clone();
        Box::new(move |file| {
            *disk.tree_syncs.lock().unwrap() += 1;
            while disk.fault() == Fault::HangInTree {
                std::thread::sleep(Duration::from_millis(10));
            }
            match disk.fault() {
                Fault::TreeSync(errno) => Err(io::Error::from_raw_os_error(errno)),
                _ => file.sync_data(),
            }
        })
    }

    fn cut(&self, file: &fs::File, length: u64) -> io::Result<()> {
        OsDisk.cut(file, length)
    }

    fn allocate(&self, path: &Path, length: u64) -> io::Result<()> {
        OsDisk.allocate(path, length)
    }

    fn room(&self, path: &Path) -> io::Result<disk::Room> {
        while self.fault() == Fault::HangInLook {
            std::thread::sleep(Duration::from_millis(10));
        }
        OsDisk.room(path)
    }
}

/// Waits until the log takes records again.
async fn healed(audit: &Audit) {
    let began = Instant::now();
    while !audit.health().is_writing() {
        assert!(began.elapsed() < PATIENCE, "{:?}", audit.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_disk_that_fails_refuses_releases_at_once_and_takes_them_again_by_itself() {
    for (fault, reason, event) in [
        (Fault::Sync(EIO), FailureReason::Sync, "segment_began"),
        (Fault::Sync(ENOSPC), FailureReason::DiskFull, "segment_began"),
        (Fault::Write(EIO), FailureReason::Write, "resumed"),
        (Fault::Write(ENOSPC), FailureReason::DiskFull, "resumed"),
        (Fault::Write(EROFS), FailureReason::Write, "resumed"),
        (Fault::Sync(EROFS), FailureReason::Sync, "segment_began"),
    ] {
        let (_directory, path) = temporary();
        let disk = FaultyDisk::new(&path);
        let audit = disk.audit(&path, 0);
        assert_eq!(audit.record(started()).await.unwrap().seq(), 1);
        disk.set(fault);
        let began = Instant::now();
        for _ in 0..3 {
            assert!(matches!(audit.record(started()).await, Err(AuditError::Write(_))), "{fault:?}");
        }
        assert!(began.elapsed() < PATIENCE, "{fault:?}: {:?}", began.elapsed());
        assert!(
            matches!(audit.health(), Health::Failing { reason: found, .. } if found == reason),
            "{fault:?}"
        );
        audit.note(denied("not forgotten"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!audit.health().is_writing(), "{fault:?}");
        disk.set(Fault::None);
        healed(&audit).await;
        let receipt = audit.record(started()).await.unwrap();
        drop(audit);
        let lines = lines(&path);
        assert_eq!(lines.last().unwrap()["seq"], receipt.seq(), "{fault:?}");
        let names: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        match event {
            "segment_began" => {
                assert_eq!(names, ["segment_began", "denied", "started"], "{fault:?}");
                assert_eq!((&lines[0]["after"], &lines[0]["reason"]), (&1.into(), &"sync_failed".into()));
                assert!(path.with_file_name("audit.1.jsonl").exists(), "{fault:?}");
            }
            _ => assert_eq!(names, ["started", "resumed", "denied", "started"], "{fault:?}"),
        }
        assert_eq!(verify_file(&path).unwrap().records, 4, "{fault:?}");
        drop(Audit::open(&path).unwrap());
    }
}

#[test]
fn a_release_waits_two_seconds_for_the_disk() {
    assert_eq!(Storage::default().max_write_time, Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_delays_releases_and_a_slower_one_refuses_them_in_time() {
    let (_directory, path) = temporary();
    let disk = FaultyDisk::new(&path);
    let audit = disk.impatient_audit(&path);
    disk.set(Fault::Slow(50));
    assert_eq!(audit.record(started()).await.unwrap().seq(), 1);
    disk.set(Fault::Slow(6_000));
    let began = Instant::now();
    let (one, two) = tokio::join!(audit.record(started()), audit.record(started()));
    assert!(matches!((one, two), (Err(AuditError::TimedOut), Err(AuditError::TimedOut))));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    disk.set(Fault::None);
    let mut recorded = audit.record(started()).await;
    while recorded.is_err() {
        assert!(began.elapsed() < PATIENCE, "it does not resume");
        tokio::time::sleep(Duration::from_millis(20)).await;
        recorded = audit.record(started()).await;
    }
    drop(audit);
    assert!(verify_file(&path).unwrap().records >= 3);
}

#[tokio::test]
async fn a_sync_that_fails_once_does_not_end_releases() {
    let (_directory, path) = temporary();
    let disk = FaultyDisk::new(&path);
    let audit = disk.audit(&path, 0);
    for round in 1..=3 {
        disk.set(Fault::Sync(EIO));
        assert!(audit.record(started()).await.is_err());
        disk.set(Fault::None);
        healed(&audit).await;
        let _ = audit.record(denied(&round.to_string())).await.unwrap();
    }
    drop(audit);
    // The first file held nothing that was acknowledged.
    assert_eq!(segments(&path).unwrap().len(), 3);
    assert_eq!(verify_file(&path).unwrap().records, 6);
}

#[tokio::test]
async fn lines_that_were_never_acknowledged_and_cannot_be_cut_off_are_told_apart() {
    let (_directory, path) = temporary();
    filled(&path, 3).await;
    let closed = path.with_file_name("audit.2.jsonl");
    fs::copy(&path, &closed).unwrap();
    let two: Vec<_> =
        fs::read_to_string(&closed).unwrap().split_inclusive('\n').take(2).map(str::to_owned).collect();
    let mut link = Link::GENESIS;
    for line in &two {
        link = link.next(line.trim_end().as_bytes()).unwrap();
    }
    let mut text = Vec::new();
    let began =
        Event::SegmentBegan { reason: "sync_failed", after: 2, damaged_bytes: None }.fields().unwrap();
    let end = link.append("2026-01-01T00:00:00Z", chain::Salt([8; 16]), &began, &mut text);
    fs::write(&path, text).unwrap();
    let chain = verify_files(&[closed.clone(), path.clone()]).unwrap();
    assert_eq!((chain.records(), chain.unacknowledged, chain.head), (3, 1, *end.hash()));
    // In the other order nothing fits.
    assert!(verify_files(&[path, closed]).is_err());
}

#[tokio::test]
async fn a_file_that_is_no_longer_ours_is_left_and_the_chain_goes_on() {
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change, bool); 5] = [
        // `rm`
        ("file_gone", |path, _| fs::remove_file(path).unwrap(), false),
        // logrotate, as it is set up by default
        ("file_gone", |path, kept| fs::rename(path, kept).unwrap(), true),
        // logrotate with `create`
        (
            "file_replaced",
            |path, kept| {
                fs::rename(path, kept).unwrap();
                fs::write(path, "").unwrap();
            },
            true,
        ),
        // logrotate with `copytruncate`
        (
            "file_truncated",
            |path, kept| {
                fs::copy(path, kept).unwrap();
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
            },
            true,
        ),
        (
            "file_written_by_others",
            |path, kept| {
                fs::copy(path, kept).unwrap();
                fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"hello\n").unwrap();
            },
            true,
        ),
    ];
    for (reason, change, is_kept) in changes {
        let (_directory, path) = temporary();
        let kept = path.with_file_name("old.log");
        let audit = Audit::open(&path).unwrap();
        for _ in 0..3 {
            let _ = audit.record(started()).await.unwrap();
        }
        let head = verify_file(&path).unwrap().head;
        change(&path, &kept);
        healed(&audit).await;
        assert_eq!(audit.record(started()).await.unwrap().seq(), 5, "{reason}");
        assert!(audit.health().is_writing());
        let chain = verify_files(std::slice::from_ref(&path)).unwrap();
        assert_eq!((chain.first, chain.after, chain.records()), (4, head, 2), "{reason}");
        assert_eq!(lines(&path)[0]["reason"], reason);
        if is_kept {
            assert_eq!(verify_files(&[kept, path.clone()]).unwrap().records(), 5, "{reason}");
        }
        if reason == "file_written_by_others" {
            let closed = path.with_file_name("audit.3.jsonl");
            assert!(fs::read(&closed).unwrap().ends_with(b"hello\n"), "evidence is kept");
            fs::remove_file(closed).unwrap();
        }
        let missing = verify_file(&path).unwrap_err();
        assert!(
            matches!(missing, AuditError::Broken { seq: 4, problem: LinkProblem::NoBeginning }),
            "{reason}: {missing}"
        );
        drop(audit);
        let audit = Audit::open(&path).unwrap();
        assert_eq!(audit.record(started()).await.unwrap().seq(), 6, "{reason}: after a restart");
    }
}

#[tokio::test]
async fn a_file_of_others_in_its_place_is_kept() {
    let (_directory, path) = temporary();
    let audit = Audit::open(&path).unwrap();
    let _ = audit.record(started()).await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "notes\n").unwrap();
    assert_eq!(audit.record(started()).await.unwrap().seq(), 3);
    assert_eq!(fs::read(path.with_file_name("audit.1.found.jsonl")).unwrap(), b"notes\n");
}

#[tokio::test]
async fn a_file_that_is_gone_is_noticed_before_the_next_release() {
    let (_directory, path) = temporary();
    let audit = Audit::open(&path).unwrap();
    let _ = audit.record(started()).await.unwrap();
    fs::remove_file(&path).unwrap();
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_start_after_copytruncate_needs_no_help() {
    let (_directory, path) = temporary();
    filled(&path, 3).await;
    // A record that came between the truncation and the next look.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.split_inclusive('\n').skip(2).collect::<String>()).unwrap();
    let audit = Audit::open(&path).unwrap();
    assert_eq!(audit.record(started()).await.unwrap().seq(), 4);
}

#[tokio::test]
async fn what_a_crash_leaves_of_a_new_file_does_not_matter() {
    let (_directory, path) = temporary();
    filled(&path, 2).await;
    fs::write(segments::new_name(&path), "half").unwrap();
    fs::hard_link(&path, path.with_file_name("audit.2.jsonl")).unwrap();
    filled_on(&path, 3).await;
    assert_eq!(segments(&path).unwrap(), std::slice::from_ref(&path));
    assert!(!segments::new_name(&path).exists());
    assert_eq!(verify_file(&path).unwrap().records, 3);
}

async fn filled_on(path: &Path, seq: u64) {
    let audit = Audit::open(path).unwrap();
    assert_eq!(audit.record(started()).await.unwrap().seq(), seq);
}

#[tokio::test]
async fn the_log_goes_on_after_an_end_that_is_no_record_and_keeps_it() {
    let torn = [b"{\"seq\":21,\0\0\"ti".as_slice(), &[0; 5000]].concat();
    let long = vec![b'x'; chain::MAX_LINE + 1];
    let zeros = vec![0; 3 << 20];
    for (zeroed, appended) in [(1, &b""[..]), (10, b""), (20, b""), (0, &torn), (0, &long), (0, &zeros)] {
        let (_directory, path) = temporary();
        filled(&path, 20).await;
        let mut bytes = fs::read(&path).unwrap();
        let lines_of = bytes.split_inclusive(|byte| *byte == b'\n');
        let keep: usize = lines_of.take(20 - zeroed).map(<[u8]>::len).sum();
        bytes[keep..].fill(0);
        bytes.extend_from_slice(appended);
        fs::write(&path, &bytes).unwrap();
        let (last, damaged) = (20 - zeroed as u64, (bytes.len() - keep) as u64);
        assert_eq!(inspect(&path).unwrap().damaged, damaged);
        let audit = Audit::open(&path).unwrap();
        assert!(audit.health().is_writing(), "{zeroed}: it starts");
        assert_eq!(audit.damaged_bytes(), damaged);
        assert_eq!(audit.record(started()).await.unwrap().seq(), last + 2, "{zeroed}");
        drop(audit);
        let closed = path.with_file_name(format!("audit.{last}.jsonl"));
        assert_eq!(fs::read(&closed).unwrap(), bytes, "nothing was cut off");
        let first = lines(&path)[0].clone();
        let told = (&first["event"], &first["reason"], &first["after"], &first["damaged_bytes"]);
        let expected = (&"segment_began".into(), &"damaged_end".into(), &last.into(), &damaged.into());
        assert_eq!(told, expected, "{zeroed}");
        let chain = verify_files(&segments(&path).unwrap()).unwrap();
        let damage = Damage { file: closed, after: last, bytes: damaged };
        assert_eq!((chain.records(), chain.damages), (last + 2, vec![damage]), "{zeroed}");
        // It is told once.
        let audit = Audit::open(&path).unwrap();
        assert_eq!((audit.damaged_bytes(), segments(&path).unwrap().len()), (0, 2));
    }
}

#[tokio::test]
async fn damage_inside_closed_files_is_no_end() {
    let (_directory, path) = temporary();
    filled(&path, 3).await;
    let closed = path.with_file_name("audit.3.jsonl");
    fs::rename(&path, &closed).unwrap();
    filled_on(&path, 5).await;
    assert_eq!(verify_file(&path).unwrap().records, 5);
    let bytes = fs::read(&closed).unwrap();
    let mut zeroed = bytes.clone();
    let newline = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    zeroed[newline + 1..].fill(0);
    fs::write(&closed, &zeroed).unwrap();
    // The next file does not go on there.
    assert!(matches!(verify_file(&path), Err(AuditError::Broken { seq: 2, .. })));
}

#[tokio::test]
async fn damage_on_a_full_disk_is_kept_until_there_is_space() {
    let (_directory, path) = temporary();
    filled(&path, 2).await;
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(&[0; 700]);
    fs::write(&path, &bytes).unwrap();
    let disk = FaultyDisk::new(&path);
    disk.set(Fault::Write(ENOSPC));
    let audit = disk.audit(&path, 0);
    assert!(matches!(audit.health(), Health::Failing { reason: FailureReason::DiskFull, .. }));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    disk.set(Fault::None);
    healed(&audit).await;
    assert_eq!(fs::read(path.with_file_name("audit.2.jsonl")).unwrap(), bytes);
    assert_eq!(lines(&path)[0]["damaged_bytes"], 700);
}

#[tokio::test]
async fn a_file_that_cannot_be_made_on_a_full_disk_is_made_when_there_is_space() {
    for errno in [ENOSPC, EIO, EROFS] {
        let (_directory, path) = temporary();
        let disk = FaultyDisk::new(&path);
        disk.set(Fault::Create(errno));
        let audit = disk.audit(&path, 0);
        assert_eq!(audit.beginning(), Beginning::Empty);
        assert!(matches!(audit.health(), Health::Failing { .. }));
        assert!(matches!(audit.record(started()).await, Err(AuditError::Write(_))));
        audit.note(Event::LogBegan { reason: "keys_exist" });
        disk.set(Fault::None);
        healed(&audit).await;
        let _ = audit.record(started()).await.unwrap();
        drop(audit);
        let lines = lines(&path);
        let names: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(names, ["resumed", "log_began", "started"]);
        assert_eq!(verify_file(&path).unwrap().records, 3);
    }
    // What no waiting mends is a reason not to start.
    let (_directory, path) = temporary();
    let disk = FaultyDisk::new(&path);
    disk.set(Fault::Create(13));
    let refused = Audit::open_on(Box::new(disk), &path, Storage::default(), Floor::default());
    assert!(matches!(refused, Err(AuditError::Open { .. })));
}

#[tokio::test]
async fn a_look_that_hangs_is_told_and_holds_up_nobody() {
    let (_directory, path) = temporary();
    let disk = FaultyDisk::new(&path);
    let audit = disk.impatient_audit(&path);
    let _ = audit.record(started()).await.unwrap();
    disk.set(Fault::HangInLook);
    let began = Instant::now();
    while audit.health().is_writing() {
        assert!(began.elapsed() < PATIENCE, "the hang is never told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(matches!(audit.health(), Health::Failing { reason: FailureReason::Stalled, .. }));
    assert!(audit.record(started()).await.is_err(), "at once");
    disk.set(Fault::None);
    healed(&audit).await;
    let _ = audit.record(started()).await.unwrap();
}

#[tokio::test]
async fn after_a_failed_sync_of_the_directory_everything_is_done_again() {
    // The first sync is for the name of the closed file, the second for that of the new one.
    for times in 1..=4 {
        let (_directory, path) = temporary();
        let disk = FaultyDisk::new(&path);
        let audit = disk.audit(&path, 0);
        let _ = audit.record(started()).await.unwrap();
        disk.set(Fault::Sync(EIO));
        assert!(audit.record(started()).await.is_err());
        let before = *disk.created.lock().unwrap();
        disk.set(Fault::DirectorySync(times));
        healed(&audit).await;
        assert_eq!(*disk.created.lock().unwrap() - before, times + 1, "a new file for each attempt");
        assert_eq!(audit.record(started()).await.unwrap().seq(), 3);
        drop(audit);
        assert_eq!(segments(&path).unwrap().len(), 2, "{times}");
        assert_eq!(verify_file(&path).unwrap().records, 3);
        assert!(!segments::new_name(&path).exists());
    }
}

/// A disk on which the second sync of the directory after a failed one succeeds, with the rename lost.
#[tokio::test]
async fn a_new_file_that_did_not_get_its_name_is_taken_up_if_it_goes_on_with_the_log() {
    // A log whose file was left after record 2, and went on under the temporary name.
    let continued = async |path: &Path, adjust: &dyn Fn(&Path, &Path)| {
        let disk = FaultyDisk::new(path);
        let audit = disk.audit(path, 0);
        for _ in 0..2 {
            let _ = audit.record(started()).await.unwrap();
        }
        disk.set(Fault::Sync(EIO));
        assert!(audit.record(started()).await.is_err());
        disk.set(Fault::None);
        healed(&audit).await;
        assert_eq!(audit.record(denied("released")).await.unwrap().seq(), 4);
        drop(audit);
        let new = segments::new_name(path);
        fs::rename(path, &new).unwrap();
        adjust(path, &new);
    };
    let closed = |path: &Path| path.with_file_name("audit.2.jsonl");
    type Adjust<'a> = &'a dyn Fn(&Path, &Path);
    let adopted: [(&str, Adjust<'_>); 5] = [
        ("both names of the old file are there", &|path, _| fs::copy(closed(path), path).map(drop).unwrap()),
        ("only its first name is", &|path, _| fs::rename(closed(path), path).unwrap()),
        ("only its second name is", &|_, _| {}),
        ("an empty one was made since", &|path, _| fs::write(path, "").unwrap()),
        ("the last line is cut short", &|path, new| {
            fs::rename(closed(path), path).unwrap();
            fs::OpenOptions::new().append(true).open(new).unwrap().write_all(b"{\"seq\":5").unwrap();
        }),
    ];
    for (case, adjust) in adopted {
        let (_directory, path) = temporary();
        continued(&path, adjust).await;
        let audit = Audit::open(&path).unwrap();
        assert!(audit.health().is_writing(), "{case}");
        let next = audit.record(started()).await.unwrap().seq();
        drop(audit);
        assert!(fs::read_to_string(&path).unwrap().contains("released"), "{case}");
        assert!(!segments::new_name(&path).exists(), "{case}");
        let copies = path.with_file_name("audit.2.1.jsonl");
        let _ = fs::remove_file(copies);
        assert_eq!(verify_file(&path).unwrap().records, next, "{case}");
        assert!(next >= 5, "{case}");
    }
    let kept: [(&str, Adjust<'_>); 3] = [
        ("of another log", &|path, new| {
            fs::rename(closed(path), path).unwrap();
            let text = fs::read_to_string(new).unwrap();
            fs::write(new, text.split_inclusive('\n').skip(1).collect::<String>()).unwrap();
        }),
        ("no log at all", &|path, new| {
            fs::rename(closed(path), path).unwrap();
            fs::write(new, "half").unwrap();
        }),
        ("a broken one", &|path, new| {
            fs::rename(closed(path), path).unwrap();
            let text = fs::read_to_string(new).unwrap();
            fs::write(new, text.replace("released", "withheld")).unwrap();
        }),
    ];
    for (case, adjust) in kept {
        let (_directory, path) = temporary();
        continued(&path, adjust).await;
        let bytes = fs::read(segments::new_name(&path)).unwrap();
        assert_eq!(Audit::open(&path).unwrap().record(started()).await.unwrap().seq(), 3, "{case}");
        assert_eq!(fs::read(path.with_file_name("audit.2.found.jsonl")).unwrap(), bytes, "{case}");
        assert!(!segments::new_name(&path).exists(), "{case}");
    }
}

#[tokio::test]
async fn what_a_failed_sync_has_left_is_not_believed_by_the_next_process() {
    let (_directory, path) = temporary();
    let disk = FaultyDisk::new(&path);
    let audit = disk.audit(&path, 0);
    let _ = audit.record(started()).await.unwrap();
    disk.set(Fault::Sync(EIO));
    assert!(audit.record(denied("never acknowledged")).await.is_err());
    // The process ends here (`core.audit.on_failure = "exit"`), with the disk as it is.
    drop(audit);
    assert!(!fs::read_to_string(&path).unwrap().contains("never acknowledged"));
    filled_on(&path, 2).await;
}

#[tokio::test]
async fn a_full_disk_is_written_on_in_the_reserve() {
    let (_directory, path) = temporary();
    let disk = FaultyDisk::new(&path);
    let audit = disk.audit(&path, 1 << 20);
    assert_eq!(audit.space().reserve, Reserve::Held);
    assert_eq!(fs::metadata(&disk.reserve).unwrap().len(), 1 << 20);
    disk.set(Fault::OnlyReserveLeft);
    for seq in 1..=3 {
        assert_eq!(audit.record(started()).await.unwrap().seq(), seq);
    }
    assert_eq!(audit.space().reserve, Reserve::Spent);
    assert!(audit.space().is_low);
    drop(audit);
    assert_eq!(verify_file(&path).unwrap().records, 3);
}

#[tokio::test]
async fn a_full_disk_at_the_start_does_not_keep_from_starting() {
    let (_directory, path) = temporary();
    filled(&path, 2).await;
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"seq\":3").unwrap();
    let disk = FaultyDisk::new(&path);
    disk.set(Fault::Write(ENOSPC));
    let audit = disk.audit(&path, 0);
    assert!(matches!(audit.health(), Health::Failing { reason: FailureReason::DiskFull, .. }));
    disk.set(Fault::None);
    healed(&audit).await;
    let _ = audit.record(started()).await.unwrap();
    drop(audit);
    let names: Vec<_> = lines(&path).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["denied", "denied", "resumed", "recovered", "started"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_answer_holds_up_neither_callers_nor_the_end() {
    let (_directory, path) = temporary();
    let disk = FaultyDisk::new(&path);
    let audit = Arc::new(disk.impatient_audit(&path));
    disk.set(Fault::Hang);
    let first = tokio::spawn({
        let audit = Arc::clone(&audit);
        async move {
            let began = Instant::now();
            (audit.record(started()).await, began.elapsed())
        }
    });
    let began = Instant::now();
    while !matches!(audit.health(), Health::Failing { reason: FailureReason::Stalled, .. }) {
        assert!(began.elapsed() < PATIENCE, "{:?}", audit.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    assert!(audit.record(started()).await.is_err());
    assert!(began.elapsed() < MAX_WRITE_TIME, "at once: {:?}", began.elapsed());
    let (refused, waited) = first.await.unwrap();
    assert!(matches!(refused, Err(AuditError::TimedOut)));
    assert!(waited < PATIENCE, "{waited:?}");
    let began = Instant::now();
    drop(Arc::into_inner(audit).unwrap());
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    disk.set(Fault::None);
}

#[tokio::test]
async fn nothing_is_recorded_while_the_clock_is_behind_what_is_past() {
    let (_directory, path) = temporary();
    let floor = Floor::default();
    let audit = Audit::open_with(&path, Storage::default(), floor.clone()).unwrap();
    let _ = audit.record(started()).await.unwrap();
    floor.raise(crate::clock::unix_now() + crate::clock::MAX_BEHIND + 60);
    assert!(matches!(audit.record(started()).await, Err(AuditError::Write(_))));
    assert!(matches!(audit.health(), Health::Failing { reason: FailureReason::ClockBehind, .. }));
    drop(audit);
    // The last record is such a date too.
    let mut text = Vec::new();
    let link = Link::GENESIS.append(
        "2999-01-01T00:00:00Z",
        chain::Salt([7; 16]),
        r#"{"event":"stopped"}"#,
        &mut text,
    );
    assert_eq!(link.seq(), 1);
    fs::write(&path, text).unwrap();
    let audit = Audit::open(&path).unwrap();
    assert!(audit.record(started()).await.is_err());
}

#[tokio::test]
async fn only_an_operator_makes_the_records_of_a_clock_that_was_ahead_count_no_more() {
    let (_directory, path) = temporary();
    let now = unix_now();
    let ahead = |path: &Path| {
        let mut text = Vec::new();
        let _ = Link::GENESIS.append(
            "2999-01-01T00:00:00Z",
            chain::Salt([7; 16]),
            r#"{"event":"stopped"}"#,
            &mut text,
        );
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    ahead(&path);
    let floor = Floor::default();
    let audit = Audit::open_with(&path, Storage::default(), floor.clone()).unwrap();
    assert!(audit.record(started()).await.is_err());
    assert!(inspect(&path).unwrap().used == Use::InUse);
    let lower = async |audit: &Audit| {
        audit
            .lower_clock_floor("ntp was wrong".to_owned(), "user alice".to_owned(), [192, 0, 2, 1].into())
            .await
    };
    // What others have signed is not taken back.
    let signed = Floor::default();
    signed.raise(now + 86_400);
    let other = path.with_file_name("other.jsonl");
    ahead(&other);
    let late = Audit::open_with(&other, Storage::default(), signed).unwrap();
    assert!(matches!(lower(&late).await, Err(LowerFloorError::Signed(_))));
    assert!(late.record(started()).await.is_err());

    let (one, two) = tokio::join!(lower(&audit), lower(&audit));
    let lowered = [one.unwrap(), two.unwrap()];
    assert_eq!(lowered.iter().flatten().count(), 1, "the second finds nothing to do");
    let _ = audit.record(started()).await.unwrap();
    drop(audit);
    let lines = lines(&path);
    let record = lines.iter().find(|line| line["event"] == "clock_floor_lowered").unwrap();
    assert_eq!((&record["by"], &record["reason"]), (&"user alice".into(), &"ntp was wrong".into()));
    assert_eq!(record["from"], 32_472_144_000_u64);
    // It holds over a restart, and from there on the newest record counts again.
    let floor = Floor::default();
    let audit = Audit::open_with(&path, Storage::default(), floor.clone()).unwrap();
    let _ = audit.record(started()).await.unwrap();
    assert!(floor.newest() >= now && floor.newest() < now + 3600);
    drop(audit);
    assert!(inspect(&path).unwrap().newest < now + 3600);
    assert_eq!(verify_file(&path).unwrap().records, lines.len() as u64 + 1);
}

#[tokio::test]
async fn a_floor_is_not_lowered_without_a_record() {
    let (_directory, path) = temporary();
    let disk = FaultyDisk::new(&path);
    let floor = Floor::default();
    let audit = Audit::open_on(Box::new(disk.clone()), &path, Storage::default(), floor.clone()).unwrap();
    let _ = audit.record(started()).await.unwrap();
    floor.raise_by_record(unix_now() + 86_400);
    disk.set(Fault::Write(ENOSPC));
    let lowered = audit.lower_clock_floor("r".to_owned(), "token".to_owned(), [192, 0, 2, 1].into()).await;
    assert!(matches!(lowered, Err(LowerFloorError::NotRecorded(_))), "{lowered:?}");
    assert!(floor.check(unix_now()).is_err(), "the clock still counts as wrong");
    disk.set(Fault::None);
    let began = Instant::now();
    while audit.lower_clock_floor("r".to_owned(), "token".to_owned(), [192, 0, 2, 1].into()).await.is_err() {
        assert!(began.elapsed() < PATIENCE);
    }
    let _ = audit.record(started()).await.unwrap();
}
