//! What holds whenever the process stops, and what a damaged file does.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use kms_attest::identity::AppId;

use super::*;
use crate::policy::testing::boot_info;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new([]))
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
        Freezes::open(self.path(), metrics()).unwrap()
    }
}

/// Everything that [`boot_info`] is in.
fn scopes() -> [Scope; 5] {
    [
        Scope::Kms,
        Scope::App(AppId([0x11; 20])),
        Scope::Instance([0x77; 20]),
        Scope::Device([0x33; 32]),
        Scope::OsImage([0x44; 32]),
    ]
}

#[tokio::test]
async fn each_scope_stops_who_is_in_it_and_nobody_else() {
    let other = BootInfo {
        app_id: vec![1; 20],
        instance_id: Vec::new(),
        device_id: vec![2; 32],
        os_image_hash: vec![3; 32],
        ..boot_info()
    };
    for scope in scopes() {
        let disk = Disk::new();
        let freezes = disk.open();
        assert!(freezes.check(&boot_info()).is_ok());
        freezes.freeze(freeze_of(scope), &disk.audit).await.unwrap();
        assert_eq!(freezes.check(&boot_info()).unwrap_err().scope, scope);
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
        freezes.freeze(freeze_of(scope), &disk.audit).await.unwrap();
        assert_eq!(disk.open().list(), freezes.list());
        assert_eq!(freezes.list().len(), before + 1);
    }
    for scope in scopes() {
        let thaw = freezes.unfreeze(scope, author(), String::new(), &disk.audit).await.unwrap();
        assert_eq!(thaw, Thaw::Done);
        assert_eq!(disk.open().list(), freezes.list());
    }
    let thaw = freezes.unfreeze(Scope::Kms, author(), String::new(), &disk.audit).await.unwrap();
    assert_eq!(thaw, Thaw::WasNotFrozen);
    assert!(disk.open().check(&boot_info()).is_ok());
    let mode = fs::metadata(disk.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_freeze_ends_by_itself_and_is_forgotten_with_the_next_change() {
    let disk = Disk::new();
    let freezes = disk.open();
    let ended = Freeze { expires_at: Some(unix_now()), ..freeze_of(Scope::Kms) };
    freezes.freeze(ended, &disk.audit).await.unwrap();
    assert!(freezes.check(&boot_info()).is_ok() && freezes.list().is_empty());
    let later = Freeze { expires_at: Some(unix_now() + 3600), ..freeze_of(Scope::Device([0x33; 32])) };
    freezes.freeze(later, &disk.audit).await.unwrap();
    assert!(freezes.check(&boot_info()).is_err());
    assert!(!fs::read_to_string(disk.path()).unwrap().contains("\"kms\""));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_freezes_and_does_not_thaw() {
    let disk = Disk::new();
    // A directory in the way: its entries cannot be replaced by a file, whoever runs this.
    fs::create_dir(disk.directory.path().join("frozen.json.new")).unwrap();
    fs::write(disk.directory.path().join("frozen.json.new").join("x"), "").unwrap();
    let freezes = disk.open();
    let error = freezes.freeze(freeze_of(Scope::Kms), &disk.audit).await.unwrap_err();
    assert!(matches!(error, FreezeError::NotKept(_)), "{error}");
    assert!(freezes.check(&boot_info()).is_err(), "frozen until the process ends");
    let error = freezes.unfreeze(Scope::Kms, author(), String::new(), &disk.audit).await.unwrap_err();
    assert!(matches!(error, FreezeError::ThawNotKept(_)), "{error}");
    assert!(freezes.check(&boot_info()).is_err());
}

#[tokio::test]
async fn an_unfreeze_that_is_not_recorded_does_not_happen() {
    let disk = Disk::new();
    let freezes = disk.open();
    freezes.freeze(freeze_of(Scope::Kms), &disk.audit).await.unwrap();
    let too_long = "x".repeat(70 << 10);
    let error = freezes.unfreeze(Scope::Kms, author(), too_long, &disk.audit).await.unwrap_err();
    assert!(matches!(error, FreezeError::ThawNotRecorded(_)), "{error}");
    assert!(freezes.check(&boot_info()).is_err() && disk.open().check(&boot_info()).is_err());
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
            freezes.freeze(freeze_of(Scope::Kms), &audit).await.unwrap();
            freezes.unfreeze(Scope::Kms, author(), String::new(), &audit).await.unwrap();
        });
    }
    while let Some(change) = changes.join_next().await {
        change.unwrap();
    }
    let log = fs::read_to_string(disk.directory.path().join("audit.jsonl")).unwrap();
    let is_last_a_freeze = log.lines().last().unwrap().contains("\"event\":\"frozen\"");
    assert_eq!(freezes.of_kms().is_some(), is_last_a_freeze);
    assert_eq!(
        Freezes::open(disk.directory.path().join("frozen.json"), metrics()).unwrap().list(),
        freezes.list()
    );
    // A thaw of what was not frozen is not recorded, so two never follow each other.
    let events: Vec<_> = log.lines().map(|line| line.contains("\"event\":\"unfrozen\"")).collect();
    assert!(events.windows(2).all(|pair| pair != [true, true]), "{log}");
}

#[tokio::test]
async fn the_list_is_bounded() {
    let disk = Disk::new();
    let lines: Vec<_> = (0..MOST_FREEZES as u32)
        .map(|number| {
            let value = hex::encode([&[0; 16][..], &number.to_be_bytes()].concat());
            serde_json::json!({ "scope": "app", "value": value, "reason": "r", "since": 1, "expires_at": null,
                "by": "token", "remote": "127.0.0.1" })
        })
        .collect();
    fs::write(disk.path(), serde_json::json!({ "version": 1, "frozen": lines }).to_string()).unwrap();
    let freezes = disk.open();
    assert_eq!(freezes.list().len(), MOST_FREEZES);
    let error = freezes.freeze(freeze_of(Scope::Kms), &disk.audit).await.unwrap_err();
    assert!(matches!(error, FreezeError::Full), "{error}");
    assert!(freezes.of_kms().is_none());
}

#[test]
fn a_file_that_is_not_whole_is_refused_and_a_missing_one_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frozen.json");
    let open = |path: &Path| Freezes::open(path.to_owned(), metrics());
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
