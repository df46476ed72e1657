//! A file that changes, disappears and comes back.

use kms_attest::identity::BootInfo;
use serde_json::json;

use super::*;

fn content(compose_hash: u8) -> String {
    json!({
        "gatewayAppId": "any",
        "osImages": ["44".repeat(32)],
        "apps": {"11".repeat(20): {"composeHashes": [hex::encode([compose_hash; 32])], "allowAnyDevice": true}},
    })
    .to_string()
}

async fn is_current(file: &WatchedFile) -> bool {
    file.is_current(file.lookout.look().await.unwrap())
}

struct Setup {
    directory: tempfile::TempDir,
    allowlist: Allowlist,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let allowlist = Allowlist::open(directory.path().join("auth-config.json"), EmptyDevices::AnyDevice);
        Self { directory, allowlist }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("auth-config.json")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn replace(&self, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    async fn decide(&self) -> Result<(), (&'static str, String)> {
        result(self.allowlist.decide(Subject::App(&BootInfo::example())).await.unwrap().decision)
    }

    fn snapshot_decide(&self) -> Result<(), (&'static str, String)> {
        result(self.allowlist.snapshot_decide(Subject::App(&BootInfo::example())))
    }
}

fn result(decision: Decision) -> Result<(), (&'static str, String)> {
    match decision {
        Decision::Allowed { .. } => Ok(()),
        Decision::IfImage(condition) => panic!("{condition:?}"),
        Decision::Denied(denial) => Err((denial.code.name(), denial.reason)),
    }
}

#[tokio::test]
async fn a_missing_file_denies_everything_and_says_so() {
    let setup = Setup::new();
    let denied = Err(("allowlist_unusable", "OS image is not allowed".to_owned()));
    assert_eq!(setup.decide().await, denied);
    let error = setup.allowlist.last_error().unwrap();
    let text = "the file of core.auth_api.allowlist.path cannot be read: No such file";
    assert!(error.starts_with(text), "{error}");
    assert!(!error.contains("auth-config.json"), "no path is in a log: {error}");
    assert_eq!(setup.allowlist.info(), Rules::deny_all().info());
    setup.write(&content(0x22));
    assert_eq!(setup.decide().await, Ok(()));
    assert_eq!(setup.allowlist.last_error(), None);
}

#[tokio::test]
async fn each_change_is_seen_by_the_next_decision() {
    let setup = Setup::new();
    // Fast, in place and with the same length: time stamps alone would not show the change.
    for round in 0..50 {
        setup.write(&content(0x22));
        assert_eq!(setup.decide().await, Ok(()), "{round}");
        setup.write(&content(0x23));
        let denied = Err(("compose_hash_not_allowed", "compose hash not allowed".to_owned()));
        assert_eq!(setup.decide().await, denied, "{round}");
        setup.replace(&content(0x22));
        assert_eq!(setup.decide().await, Ok(()), "{round}");
    }
}

#[tokio::test]
async fn an_invalid_file_denies_what_was_allowed_before() {
    let setup = Setup::new();
    setup.write(&content(0x22));
    assert_eq!(setup.decide().await, Ok(()));
    for (text, error) in [("{", "EOF"), (r#"{"osImages": 5}"#, "invalid type"), ("", "EOF")] {
        setup.write(text);
        assert_eq!(setup.decide().await.unwrap_err().0, "allowlist_unusable");
        assert!(setup.allowlist.last_error().unwrap().contains(error), "{text}");
    }
    fs::remove_file(setup.path()).unwrap();
    assert_eq!(setup.decide().await.unwrap_err().0, "allowlist_unusable");
    fs::create_dir(setup.path()).unwrap();
    assert_eq!(setup.decide().await.unwrap_err().0, "allowlist_unusable");
    assert!(setup.allowlist.last_error().unwrap().contains("not a file"));
}

#[tokio::test]
async fn the_snapshot_is_as_old_as_the_last_refresh() {
    let setup = Setup::new();
    setup.write(&content(0x22));
    assert!(setup.snapshot_decide().is_err());
    setup.allowlist.refresh().await;
    assert_eq!(setup.snapshot_decide(), Ok(()));
}

#[tokio::test]
async fn a_settled_file_is_read_once() {
    let setup = Setup::new();
    setup.write(&content(0x22));
    tokio::time::sleep(UNSETTLED * 2).await;
    assert_eq!(setup.decide().await, Ok(()));
    let before = setup.allowlist.file.snapshot.load_full();
    assert_eq!(setup.decide().await, Ok(()));
    assert!(Arc::ptr_eq(&before, &setup.allowlist.file.snapshot.load_full()));
}

#[tokio::test]
async fn strict_devices_silence_the_relaxation() {
    let setup = Setup::new();
    setup.write(&json!({"apps": {"11": {}}}).to_string());
    let lenient = Allowlist::open(setup.path(), EmptyDevices::AnyDevice);
    assert!(lenient.relaxation().is_some());
    let strict = Allowlist::open(setup.path(), EmptyDevices::NoDevice);
    assert_eq!(strict.relaxation(), None);
}

/// A file with so many apps that reading it takes long.
fn many(compose_hash: u8) -> String {
    let mut file: serde_json::Value = serde_json::from_str(&content(compose_hash)).unwrap();
    for number in 0..10_000_u32 {
        let id = format!("{number:040x}");
        file["apps"][id] = json!({"composeHashes": [hex::encode([0x99; 32])], "allowAnyDevice": true});
    }
    file.to_string()
}

#[tokio::test]
async fn requests_during_a_read_wait_for_the_same_read() {
    let setup = Setup::new();
    setup.write(&content(0x23));
    assert!(setup.decide().await.is_err());
    setup.replace(&content(0x22));
    let before = setup.allowlist.file.snapshot.load_full();
    let asked = Instant::now();
    let decisions = futures_util::future::join_all((0..200).map(|_| setup.decide())).await;
    assert!(decisions.iter().all(Result::is_ok), "each sees the change");
    let after = setup.allowlist.file.snapshot.load_full();
    assert!(!Arc::ptr_eq(&before, &after) && after.begun >= asked);
}

#[tokio::test]
async fn a_large_file_delays_no_decision_and_applies_after_it_is_read() {
    let setup = Setup::new();
    setup.write(&many(0x22));
    assert!(fs::metadata(setup.path()).unwrap().len() > LARGE);
    setup.allowlist.refresh().await;
    let allowed = async || setup.decide().await.is_ok();
    let until = async |wanted: bool| {
        let began = Instant::now();
        while allowed().await != wanted {
            assert!(began.elapsed() < MAX_STALENESS, "it is never read");
        }
    };
    until(true).await;
    let file = Arc::clone(&setup.allowlist.file);
    let reading = file.reading.lock().await;
    setup.replace(&many(0x23));
    let began = Instant::now();
    assert!(allowed().await, "by the rules of before");
    assert!(began.elapsed() < MAX_STALENESS, "{:?}", began.elapsed());
    drop(reading);
    until(false).await;
}

#[tokio::test]
async fn a_file_that_is_read_again_and_has_not_changed_is_not_parsed_again() {
    let setup = Setup::new();
    setup.write(&content(0x22));
    assert_eq!(setup.decide().await, Ok(()));
    let before = setup.allowlist.file.snapshot.load_full();
    setup.replace(&content(0x22));
    assert_eq!(setup.decide().await, Ok(()));
    let after = setup.allowlist.file.snapshot.load_full();
    assert!(!Arc::ptr_eq(&before, &after) && Arc::ptr_eq(&before.rules, &after.rules));
}

#[tokio::test]
async fn during_a_long_read_the_previous_rules_decide_for_a_limited_time() {
    let setup = Setup::new();
    setup.write(&content(0x22));
    assert_eq!(setup.decide().await, Ok(()));
    let file = Arc::clone(&setup.allowlist.file);
    let reading = file.reading.lock().await;
    setup.replace(&(content(0x23) + &" ".repeat(usize::try_from(LARGE).unwrap())));
    let began = Instant::now();
    assert_eq!(setup.decide().await, Ok(()), "by the rules of before");
    assert!(began.elapsed() >= MAX_WAIT_IF_LARGE && began.elapsed() < MAX_STALENESS);
    file.changed.store(Some(Arc::new(Instant::now().checked_sub(MAX_STALENESS * 2).unwrap())));
    let error = setup.allowlist.decide(Subject::App(&BootInfo::example())).await.unwrap_err();
    assert!(error.detail().contains("has changed and cannot be read"), "{error:?}");
    drop(reading);
    let denied = Err(("compose_hash_not_allowed", "compose hash not allowed".to_owned()));
    assert_eq!(setup.decide().await, denied, "the new rules, once they are read");
}

#[tokio::test]
async fn a_change_that_another_request_has_read_is_not_pending() {
    let setup = Setup::new();
    setup.write(&content(0x22));
    tokio::time::sleep(UNSETTLED * 2).await;
    let file = &setup.allowlist.file;
    // One request sees that the file has changed, and is delayed before it records that;
    let asked = Instant::now();
    assert!(!is_current(file).await);
    // another one sees the same, and reads the file.
    assert_eq!(setup.decide().await, Ok(()));
    assert!(is_current(file).await && file.changed.load().is_none());
    let seen = file.lookout.look().await.unwrap();
    setup.allowlist.read_changed(asked, seen).await.unwrap();
    assert!(is_current(file).await && file.changed.load().is_none(), "no request would read it again");
    assert_eq!(setup.decide().await, Ok(()));
}

#[tokio::test]
async fn a_file_that_is_current_is_never_overdue() {
    let setup = Setup::new();
    setup.write(&content(0x22));
    tokio::time::sleep(UNSETTLED * 2).await;
    assert_eq!(setup.decide().await, Ok(()));
    // A request recorded the change, but the file has not been read for a long time.
    let file = &setup.allowlist.file;
    file.changed.store(Some(Arc::new(Instant::now().checked_sub(MAX_STALENESS * 2).unwrap())));
    assert_eq!(setup.decide().await, Ok(()));
}

#[tokio::test]
async fn a_small_file_that_cannot_be_read_to_its_end_allows_no_removed_app() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth-config.json");
    fs::write(&path, content(0x22)).unwrap();
    let allowlist = Allowlist::open(path.clone(), EmptyDevices::AnyDevice);
    let decide = async || allowlist.decide(Subject::App(&BootInfo::example())).await;
    assert!(decide().await.is_ok());
    // Reading does not end now.
    let reading = allowlist.file.reading.lock().await;
    fs::write(&path, "{}").unwrap();
    assert!(decide().await.unwrap_err().detail().contains("does not answer"));
    drop(reading);
    assert!(decide().await.is_ok(), "it is read after all");
}

#[tokio::test]
async fn a_file_system_that_hangs_causes_refusals_and_blocks_no_worker() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth-config.json");
    fs::write(&path, content(0x22)).unwrap();
    let hangs = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_hanging = Arc::clone(&hangs);
    let look = move |path: &Path| {
        while is_hanging.load(std::sync::atomic::Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::metadata(path).ok().map(|file| Stamp::of(&file))
    };
    let file = Arc::new(WatchedFile::seen_by(path.into(), look));
    let allowlist = Allowlist { empty_devices: EmptyDevices::AnyDevice, file };
    let decide = async || allowlist.decide(Subject::App(&BootInfo::example())).await;
    assert!(decide().await.is_ok());
    assert_eq!(allowlist.last_error(), None);

    hangs.store(true, std::sync::atomic::Ordering::SeqCst);
    // The only worker of this test is not blocked: a health request would get a response.
    let health = async {
        let mut answers = 0;
        while answers < 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            answers += 1;
        }
        answers
    };
    let many = futures_util::future::join_all((0..2 * 4096).map(|_| decide()));
    let (refused, answers) = tokio::join!(many, health);
    assert_eq!(answers, 20);
    for outcome in refused {
        assert!(outcome.unwrap_err().detail().contains("does not answer"));
    }
    assert!(allowlist.last_error().unwrap().contains("does not answer"), "readiness says so");
    let began = Instant::now();
    assert!(decide().await.is_err());
    allowlist.refresh().await;
    assert!(began.elapsed() < MAX_WAIT * 2, "what hangs is not waited for again");

    hangs.store(false, std::sync::atomic::Ordering::SeqCst);
    let began = Instant::now();
    while decide().await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(allowlist.last_error(), None);
}

#[tokio::test]
async fn a_ruling_names_the_bytes_that_decided() {
    let setup = Setup::new();
    let identity = BootInfo::example();
    let digest = async || setup.allowlist.decide(Subject::App(&identity)).await.unwrap().digest;
    assert_eq!(digest().await, None, "there is no file");
    for text in [content(0x22), content(0x23), "{".to_owned()] {
        setup.write(&text);
        let expected: [u8; 32] = Sha256::digest(&text).into();
        assert_eq!(digest().await, Some(expected), "{text}");
        assert_eq!(setup.allowlist.examine(Subject::App(&identity)).await.digest, Some(expected), "{text}");
    }
}
