//! What holds whenever the process stops, and with a damaged file.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex as StdMutex;
use std::time::{Duration, Instant};

use kms_attest::identity::{AppId, DeviceId, Identity, InstanceId, OsImageHash};
use kms_attest::state_file::StateFile;

use super::held::Moment;
use super::*;
use crate::clock::unix_now;
use crate::state::shared::Arrival;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new([]))
}

const DAY: u64 = 86_400;

/// Clocks that a test sets.
#[derive(Debug)]
struct SetTime(StdMutex<Moment>);

impl SetTime {
    fn new() -> Arc<Self> {
        Arc::new(Self(StdMutex::new(Moment { wall: unix_now(), steady: Instant::now() })))
    }

    /// Sets the wall clock forward, or back if negative.
    fn jump(&self, seconds: i64) {
        let mut now = self.0.lock().unwrap();
        now.wall = now.wall.checked_add_signed(seconds).unwrap();
    }

    /// Advances both clocks.
    fn pass(&self, seconds: u64) {
        let mut now = self.0.lock().unwrap();
        now.wall += seconds;
        now.steady += Duration::from_secs(seconds);
    }
}

impl TellTime for SetTime {
    fn now(&self) -> Moment {
        *self.0.lock().unwrap()
    }
}

fn author() -> Author {
    Author { by: "user alice".to_owned(), remote: Ipv4Addr::LOCALHOST.into() }
}

fn freeze_of(scope: Scope) -> Freeze {
    Freeze { scope, reason: "leaked key".to_owned(), since: unix_now(), expires_at: None, author: author() }
}

struct Disk {
    directory: tempfile::TempDir,
    audit: Audit,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::open(&directory.path().join("audit.jsonl")).unwrap();
        Self { directory, audit }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("frozen.json")
    }

    fn open(&self) -> Freezes {
        Freezes::open(self.path(), metrics(), Domains::default_only()).unwrap()
    }

    fn open_at(&self, time: &Arc<SetTime>) -> Freezes {
        Freezes::open_at(self.path(), metrics(), Domains::default_only(), Arc::clone(time) as _).unwrap()
    }

    fn events(&self, name: &str) -> usize {
        let log = fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap();
        log.matches(&format!("\"event\":\"{name}\"")).count()
    }

    /// Puts a directory in the way, which no file can replace, even for root.
    fn refuse_writes(&self) {
        let in_the_way = self.directory.path().join("frozen.json.new");
        fs::create_dir(&in_the_way).unwrap();
        fs::write(in_the_way.join("x"), "").unwrap();
    }
}

/// Every scope that applies to [`Identity::example`].
fn scopes() -> [Scope; 5] {
    [
        Scope::Kms,
        Scope::App(AppId([0x11; 20])),
        Scope::Instance(InstanceId([0x77; 20])),
        Scope::Device(DeviceId([0x33; 32])),
        Scope::OsImage(OsImageHash([0x44; 32])),
    ]
}

#[tokio::test]
async fn each_scope_stops_who_is_in_it_and_nobody_else() {
    let other = Identity {
        app_id: AppId([1; 20]),
        instance_id: None,
        device_id: DeviceId([2; 32]),
        os_image_hash: Some(OsImageHash([3; 32])),
        ..Identity::example()
    };
    for scope in scopes() {
        let disk = Disk::new();
        let freezes = disk.open();
        assert!(freezes.check(&Identity::example()).is_ok());
        freezes.freeze(freeze_of(scope), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
        let Err(Stopped::Frozen(freeze)) = freezes.check(&Identity::example()) else { panic!("not frozen") };
        assert_eq!(freeze.scope, scope);
        assert_eq!(freezes.check(&other).is_err(), scope == Scope::Kms, "{scope}");
        assert_eq!(freezes.of_kms().is_some(), scope == Scope::Kms);
    }
}

#[tokio::test]
async fn what_was_answered_holds_after_a_restart() {
    let disk = Disk::new();
    let freezes = disk.open();
    for scope in scopes() {
        let before = freezes.list().len();
        freezes.freeze(freeze_of(scope), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
        assert_eq!(disk.open().list(), freezes.list());
        assert_eq!(freezes.list().len(), before + 1);
    }
    for scope in scopes() {
        let thaw = freezes.lift(scope, None, author(), String::new(), &disk.audit).await.unwrap();
        assert_eq!(thaw, Unfrozen::Done);
        assert_eq!(disk.open().list(), freezes.list());
    }
    let thaw = freezes.lift(Scope::Kms, None, author(), String::new(), &disk.audit).await.unwrap();
    assert_eq!(thaw, Unfrozen::WasNotFrozen);
    assert!(disk.open().check(&Identity::example()).is_ok());
    let mode = fs::metadata(disk.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A freeze of the instance for an hour, by `time`.
fn for_an_hour(time: &SetTime) -> Freeze {
    let since = time.now().wall;
    Freeze { since, expires_at: Some(since + 3600), ..freeze_of(Scope::Instance(InstanceId([0x77; 20]))) }
}

/// A change of an unrelated scope.
async fn change_something(freezes: &Freezes, disk: &Disk) {
    let elsewhere = Scope::Device(DeviceId([9; 32]));
    freezes.freeze(freeze_of(elsewhere), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
    freezes.lift(elsewhere, None, author(), String::new(), &disk.audit).await.unwrap();
}

#[tokio::test]
async fn a_freeze_ends_by_itself_when_both_clocks_say_so() {
    let (disk, time) = (Disk::new(), SetTime::new());
    let freezes = disk.open_at(&time);
    freezes.freeze(for_an_hour(&time), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
    time.jump(30 * DAY as i64);
    assert!(freezes.check(&Identity::example()).is_err(), "a clock that jumps ends nothing while we run");
    assert_eq!(freezes.list().len(), 1);
    time.jump(-30 * DAY as i64);
    time.pass(3599);
    assert!(freezes.check(&Identity::example()).is_err());
    time.pass(1);
    assert!(freezes.check(&Identity::example()).is_ok() && freezes.list().is_empty());
}

#[tokio::test]
async fn a_clock_that_was_ahead_for_a_while_loses_no_freeze() {
    let (disk, time) = (Disk::new(), SetTime::new());
    disk.open_at(&time)
        .freeze(for_an_hour(&time), Earlier::IsReplaced, Room::OfOwners, &disk.audit)
        .await
        .unwrap();
    time.jump(3650 * DAY as i64);
    let freezes = disk.open_at(&time);
    assert!(
        freezes.check(&Identity::example()).is_ok(),
        "started with this clock, nothing tells that it is wrong"
    );
    change_something(&freezes, &disk).await;
    time.jump(-3650 * DAY as i64);
    assert!(freezes.check(&Identity::example()).is_err(), "in memory");
    assert!(disk.open_at(&time).check(&Identity::example()).is_err(), "on the disk");
}

#[test]
fn a_freeze_of_another_node_lasts_where_the_clock_is_ahead() {
    let (disk, time) = (Disk::new(), SetTime::new());
    let freeze = for_an_hour(&time);
    let there = || [(freeze.scope, freeze.clone())].into();
    let lasts = |freezes: &Freezes| freezes.check(&Identity::example()).is_err();
    time.jump(DAY as i64);
    for (behind, left) in [(0, 0), (DAY, 3600), (DAY - 600, 3000), (30 * DAY, 3600)] {
        let freezes = disk.open_at(&time);
        freezes.take(&there(), Arrival::Other, Duration::from_secs(behind));
        assert_eq!(lasts(&freezes), left > 0, "{behind}");
        time.pass(left.max(1) - 1);
        assert_eq!(lasts(&freezes), left > 0, "{behind}");
        time.pass(1);
        assert!(!lasts(&freezes), "{behind}");
        time.jump(-(left.max(1) as i64));
    }
    // With the right clock it ends with its end, however slow another one is.
    time.jump(-(DAY as i64));
    let freezes = disk.open_at(&time);
    freezes.take(&there(), Arrival::Other, Duration::from_secs(600));
    time.pass(3600);
    assert!(!lasts(&freezes));
}

#[tokio::test]
async fn what_has_ended_is_kept_for_a_month_and_no_longer() {
    let (disk, time) = (Disk::new(), SetTime::new());
    let freezes = disk.open_at(&time);
    freezes.freeze(for_an_hour(&time), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
    let is_kept = || fs::read_to_string(disk.path()).unwrap().contains("\"instance\"");
    time.pass(3600 + 30 * DAY - 1);
    change_something(&freezes, &disk).await;
    assert!(freezes.list().is_empty() && is_kept());
    time.pass(1);
    change_something(&freezes, &disk).await;
    assert!(!is_kept());
}

#[tokio::test]
async fn what_has_ended_can_be_taken_back_before_a_clock_brings_it_back() {
    let (disk, time) = (Disk::new(), SetTime::new());
    let freezes = disk.open_at(&time);
    let freeze = for_an_hour(&time);
    let scope = freeze.scope;
    freezes.freeze(freeze, Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
    time.pass(3600);
    let thaw = freezes.lift(scope, None, author(), String::new(), &disk.audit).await.unwrap();
    assert_eq!((thaw, disk.events("unfrozen")), (Unfrozen::WasNotFrozen, 1));
    time.jump(-3600);
    assert!(freezes.check(&Identity::example()).is_ok() && disk.open_at(&time).list().is_empty());
}

#[tokio::test]
async fn what_ended_first_gives_way_when_the_list_is_full() {
    let (disk, time) = (Disk::new(), SetTime::new());
    let now = time.now().wall;
    let line = |number: u32| {
        let value = hex::encode([&[0; 16][..], &number.to_be_bytes()].concat());
        // The first two have expired, the second of them earlier.
        let expires_at = match number {
            0 => Some(now - 10),
            1 => Some(now - 20),
            _ => None,
        };
        serde_json::json!({ "scope": "app", "value": value, "reason": "r", "since": 1, "expires_at": expires_at,
            "by": "token", "remote": "127.0.0.1" })
    };
    let lines: Vec<_> = (0..MAX_FREEZES as u32).map(line).collect();
    fs::write(disk.path(), serde_json::json!({ "version": 1, "frozen": lines }).to_string()).unwrap();
    let freezes = disk.open_at(&time);
    assert_eq!(freezes.list().len(), MAX_FREEZES - 2);
    let app =
        |number| Scope::App(AppId([[0; 16].as_slice(), &[0, 0, 0, number]].concat().try_into().unwrap()));
    let held = |scope| freezes.current.load().contains_key(&scope);
    freezes.freeze(freeze_of(Scope::Kms), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
    assert_eq!([app(0), app(1)].map(held), [true, false]);
    freezes
        .freeze(freeze_of(Scope::Device(DeviceId([1; 32]))), Earlier::IsReplaced, Room::OfOwners, &disk.audit)
        .await
        .unwrap();
    assert_eq!([app(0), app(1)].map(held), [false, false]);
    let error = freezes
        .freeze(freeze_of(Scope::Device(DeviceId([2; 32]))), Earlier::IsReplaced, Room::OfOwners, &disk.audit)
        .await
        .unwrap_err();
    assert!(matches!(error, FreezeError::Full), "{error}");
    freezes
        .freeze(freeze_of(Scope::Device(DeviceId([1; 32]))), Earlier::IsReplaced, Room::OfOwners, &disk.audit)
        .await
        .expect("in place of itself");
    assert_eq!(disk.open_at(&time).list().len(), MAX_FREEZES);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_freezes_and_does_not_thaw() {
    let disk = Disk::new();
    disk.refuse_writes();
    let freezes = disk.open();
    let error = freezes
        .freeze(freeze_of(Scope::Kms), Earlier::IsReplaced, Room::OfOwners, &disk.audit)
        .await
        .unwrap_err();
    assert!(matches!(error, FreezeError::NotKept(_)), "{error}");
    assert_eq!(disk.events("frozen"), 1, "on the record all the same");
    assert!(freezes.check(&Identity::example()).is_err(), "frozen until the process ends");
    let error = freezes.lift(Scope::Kms, None, author(), String::new(), &disk.audit).await.unwrap_err();
    assert!(matches!(error, FreezeError::UnfreezeNotKept(_)), "{error}");
    assert!(freezes.check(&Identity::example()).is_err());
    assert_eq!(disk.events("unfrozen"), 1);
    let noted = async {
        while disk.events("unfreeze_failed") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noted).await.expect("the log ends with what is so");
}

#[tokio::test]
async fn a_freeze_that_is_neither_kept_nor_recorded_counts_and_says_both() {
    let disk = Disk::new();
    let freezes = disk.open();
    let too_long = Freeze { reason: "x".repeat(70 << 10), ..freeze_of(Scope::Kms) };
    let error =
        freezes.freeze(too_long.clone(), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap_err();
    assert!(matches!(error, FreezeError::NotRecorded(_)), "{error}");
    disk.refuse_writes();
    let error = freezes.freeze(too_long, Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap_err();
    assert!(matches!(error, FreezeError::NeitherKeptNorRecorded { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("cannot be written") && text.contains("audit log"), "{text}");
    assert!(freezes.check(&Identity::example()).is_err());
}

#[tokio::test]
async fn an_unfreeze_whose_directory_is_not_synced_is_what_the_next_start_reads() {
    let disk = Disk::new();
    let freezes = disk.open();
    freezes.freeze(freeze_of(Scope::Kms), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
    let unsynced = StateFile::from(disk.path()).synced_by(|_| Err(std::io::Error::other("no sync")));
    *freezes.file.lock().await = FreezeFile::new(unsynced);
    let outcome = freezes.lift(Scope::Kms, None, author(), String::new(), &disk.audit).await;
    assert!(matches!(outcome, Err(FreezeError::UnfreezeUnsynced(_))), "{outcome:?}");
    assert!(disk.open().list().is_empty() && freezes.list().is_empty());
    // A freeze of which that is not known is told as one that may be lost.
    let outcome =
        freezes.freeze(freeze_of(Scope::Kms), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await;
    assert!(matches!(outcome, Err(FreezeError::NotKept(_))), "{outcome:?}");
    assert_eq!((disk.open().list().len(), freezes.list().len()), (1, 1));
}

#[tokio::test]
async fn an_unfreeze_that_is_not_recorded_does_not_happen() {
    let disk = Disk::new();
    let freezes = disk.open();
    freezes.freeze(freeze_of(Scope::Kms), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await.unwrap();
    let too_long = "x".repeat(70 << 10);
    let error = freezes.lift(Scope::Kms, None, author(), too_long, &disk.audit).await.unwrap_err();
    assert!(matches!(error, FreezeError::UnfreezeNotRecorded(_)), "{error}");
    assert!(freezes.check(&Identity::example()).is_err() && disk.open().check(&Identity::example()).is_err());
}

#[tokio::test]
async fn the_audit_log_has_changes_in_the_order_in_which_they_happened() {
    let disk = Disk::new();
    let freezes = Arc::new(disk.open());
    let audit = Arc::new(disk.audit);
    let mut changes = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (freezes, audit) = (Arc::clone(&freezes), Arc::clone(&audit));
        changes.spawn(async move {
            freezes.freeze(freeze_of(Scope::Kms), Earlier::IsReplaced, Room::OfOwners, &audit).await.unwrap();
            freezes.lift(Scope::Kms, None, author(), String::new(), &audit).await.unwrap();
        });
    }
    while let Some(change) = changes.join_next().await {
        change.unwrap();
    }
    let log = fs::read_to_string(disk.directory.path().join("audit.jsonl")).unwrap();
    let is_last_a_freeze = log.lines().last().unwrap().contains("\"event\":\"frozen\"");
    assert_eq!(freezes.of_kms().is_some(), is_last_a_freeze);
    assert_eq!(
        Freezes::open(disk.directory.path().join("frozen.json"), metrics(), Domains::default_only())
            .unwrap()
            .list(),
        freezes.list()
    );
    // An unfreeze of what was not frozen is not recorded, so two never follow each other.
    let events: Vec<_> = log.lines().map(|line| line.contains("\"event\":\"unfrozen\"")).collect();
    assert!(events.windows(2).all(|pair| pair != [true, true]), "{log}");
}

/// Opens a file with the first `count` apps frozen.
fn with_apps(disk: &Disk, count: usize) -> Freezes {
    let lines: Vec<_> = (0..count as u32)
        .map(|number| {
            let value = hex::encode([&[0; 16][..], &number.to_be_bytes()].concat());
            serde_json::json!({ "scope": "app", "value": value, "reason": "r", "since": 1, "expires_at": null,
                "by": "token", "remote": "127.0.0.1" })
        })
        .collect();
    fs::write(disk.path(), serde_json::json!({ "version": 1, "frozen": lines }).to_string()).unwrap();
    disk.open()
}

#[tokio::test]
async fn the_list_is_bounded_and_the_whole_kms_can_be_frozen_all_the_same() {
    let disk = Disk::new();
    let freezes = with_apps(&disk, MAX_FREEZES);
    assert_eq!(freezes.list().len(), MAX_FREEZES);
    let device = || freeze_of(Scope::Device(DeviceId([1; 32])));
    for _ in 0..2 {
        let refused = freezes.freeze(device(), Earlier::IsReplaced, Room::OfOwners, &disk.audit).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, FreezeError::Full), "{error}");
        // Again, it replaces itself.
        for room in [Room::OfOperators, Room::OfOwners] {
            freezes.freeze(freeze_of(Scope::Kms), Earlier::IsReplaced, room, &disk.audit).await.unwrap();
        }
        assert_eq!((freezes.of_kms().is_some(), freezes.list().len()), (true, MAX_FREEZES + 1));
    }
    let again = disk.open();
    assert_eq!((again.of_kms().is_some(), again.list().len()), (true, MAX_FREEZES + 1), "after a restart");
}

#[tokio::test]
async fn operators_leave_room_for_owners() {
    let disk = Disk::new();
    let freezes = with_apps(&disk, SHARE_OF_OPERATORS - 1);
    let device = |number: u8| freeze_of(Scope::Device(DeviceId([number; 32])));
    let freeze = async |freeze: Freeze, room: Room| {
        freezes.freeze(freeze, Earlier::MayBeExtended, room, &disk.audit).await
    };
    freeze(device(1), Room::OfOperators).await.unwrap();
    let error = freeze(device(2), Room::OfOperators).await.unwrap_err();
    assert!(matches!(error, FreezeError::ShareFull), "{error}");
    assert_eq!(freezes.list().len(), SHARE_OF_OPERATORS, "nothing was changed");
    freeze(device(1), Room::OfOperators).await.expect("in place of itself");
    freeze(device(2), Room::OfOwners).await.unwrap();
    freeze(freeze_of(Scope::Kms), Room::OfOperators).await.unwrap();
    assert!(freezes.of_kms().is_some());
}

#[test]
fn a_file_with_too_many_freezes_is_refused() {
    let disk = Disk::new();
    drop(with_apps(&disk, MAX_FREEZES));
    let text = fs::read_to_string(disk.path()).unwrap();
    let mut content: serde_json::Value = serde_json::from_str(&text).unwrap();
    let frozen = content["frozen"].as_array_mut().unwrap();
    let one_more = serde_json::json!({ "scope": "device", "value": "01".repeat(32), "reason": "r", "since": 1,
        "expires_at": null, "by": "token", "remote": "127.0.0.1" });
    frozen.push(one_more);
    fs::write(disk.path(), content.to_string()).unwrap();
    assert!(matches!(
        Freezes::open(disk.path(), metrics(), Domains::default_only()),
        Err(FreezeFileError::Damaged(_))
    ));
}

#[test]
fn a_file_that_is_not_whole_is_refused_and_a_missing_one_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frozen.json");
    let open = |path: &Path| Freezes::open(path.to_owned(), metrics(), Domains::default_only());
    assert!(open(&path).unwrap().list().is_empty());
    let line = |scope: &str, value: &str| {
        format!(
            r#"{{"version":1,"frozen":[{{"scope":"{scope}","value":"{value}","reason":"r","since":1,"expires_at":null,"by":"token","remote":"127.0.0.1"}}]}}"#
        )
    };
    for text in [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        r#"{"version":2,"frozen":[]}"#.to_owned(),
        r#"{"version":1,"frozen":[],"more":1}"#.to_owned(),
        line("app", "00"),
        line("galaxy", ""),
        line("kms", "00"),
        line("app", "zz"),
    ] {
        fs::write(&path, &text).unwrap();
        assert!(matches!(open(&path), Err(FreezeFileError::Damaged(_))), "{text}");
    }
    fs::write(&path, line("kms", "")).unwrap();
    assert!(open(&path).unwrap().of_kms().is_some());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(open(&path), Err(FreezeFileError::Unreadable(_))));
}

#[test]
fn scopes_are_read_as_they_are_written() {
    for scope in scopes() {
        assert_eq!(Scope::parse(scope.name(), scope.value()), Ok(scope));
    }
    assert_eq!(Scope::parse("kms", &[0]), Err(ScopeError::Length { expected: 0, found: 1 }));
    assert_eq!(Scope::parse("app", &[0; 19]), Err(ScopeError::Length { expected: 20, found: 19 }));
    assert_eq!(Scope::parse("Kms", &[]), Err(ScopeError::Unknown));
}

#[tokio::test]
async fn two_operators_at_once_do_not_shorten_each_others_freeze() {
    let disk = Disk::new();
    let freezes = Arc::new(disk.open());
    let ending = |seconds: u64| Freeze { expires_at: Some(unix_now() + seconds), ..freeze_of(Scope::Kms) };
    // Another change holds the file: both have checked, and neither has written.
    let turn = Arc::clone(&freezes.file).lock_owned().await;
    let audit = Arc::new(Audit::open(&disk.directory.path().join("both.jsonl")).unwrap());
    let ask = |seconds: u64, earlier: Earlier| {
        let (freezes, audit, freeze) = (Arc::clone(&freezes), Arc::clone(&audit), ending(seconds));
        tokio::spawn(async move { freezes.freeze(freeze, earlier, Room::OfOwners, &audit).await })
    };
    let in_force = async |at_least: u64| {
        let wanted = unix_now() + at_least;
        while freezes.of_kms().and_then(|freeze| freeze.expires_at).is_none_or(|end| end + 60 < wanted) {
            tokio::task::yield_now().await;
        }
    };
    let short = ask(3600, Earlier::MayBeExtended);
    in_force(3600).await;
    let long = ask(8 * 3600, Earlier::MayBeExtended);
    in_force(8 * 3600).await;
    drop(turn);
    let error = short.await.unwrap().unwrap_err();
    assert!(matches!(error, FreezeError::Shortens { .. }), "{error}");
    assert!(error.to_string().contains("by user alice (leaked key); nothing was changed"), "{error}");
    long.await.unwrap().unwrap();
    for freezes in [&*freezes, &disk.open()] {
        assert!(freezes.of_kms().unwrap().expires_at.unwrap() > unix_now() + 7 * 3600);
    }
    // A replacement may shorten it, and an expired one never stands in the way.
    ask(3600, Earlier::IsReplaced).await.unwrap().unwrap();
    assert!(freezes.of_kms().unwrap().expires_at.unwrap() < unix_now() + 7 * 3600);
}
