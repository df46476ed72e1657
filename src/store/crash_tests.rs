//! The process is stopped at every step of a commit: afterwards the directory holds nothing or everything.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::tests::{Set, has_same_keys, open, stored};
use super::*;
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{Epoch, EpochChange, EpochParts, Keyring};

const WORK: &str = "KMS_STORE_TEST_WORK";
const DIRECTORY: &str = "KMS_STORE_TEST_DIRECTORY";
const STEP: &str = "KMS_STORE_TEST_STEP";
/// More steps than any work here has.
const NEVER: usize = usize::MAX;

/// What happens when the steps are used up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The process dies, in the middle of a write.
    Abort,
    /// Every further step fails, as on a full or vanished disk.
    Fail,
    /// As `Fail`, but the first of them is done all the same if it is a rename.
    FailLate,
}

/// The real disk for so many steps. It keeps a list of them.
struct Limited {
    steps: AtomicUsize,
    end: End,
    done: Mutex<Vec<String>>,
    failed: Mutex<bool>,
}

impl Limited {
    fn new(steps: usize, end: End) -> Self {
        Limited { steps: steps.into(), end, done: Mutex::default(), failed: Mutex::default() }
    }

    fn step(&self, what: &str, path: &Path, half: impl FnOnce()) -> Result<(), StoreError> {
        let mut done = self.done.lock().unwrap();
        if done.len() < self.steps.load(Ordering::SeqCst) {
            done.push(format!("{what} {}", path.file_name().unwrap().to_str().unwrap()));
            return Ok(());
        }
        half();
        *self.failed.lock().unwrap() = true;
        match self.end {
            End::Abort => std::process::abort(),
            End::Fail | End::FailLate => {
                Err(disk::failed("use", path)(std::io::Error::other("the disk is gone")))
            }
        }
    }
}

impl Disk for &'static Limited {
    fn create(&self, path: &Path, mode: u32) -> Result<File, StoreError> {
        self.step("create", path, || ())?;
        OsDisk.create(path, mode)
    }

    fn write(&self, file: &File, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        self.step("write", path, || OsDisk.write(file, path, &content[..content.len() / 2]).unwrap())?;
        OsDisk.write(file, path, content)
    }

    fn sync(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        self.step("sync", path, || ())?;
        OsDisk.sync(file, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let is_first = !*self.failed.lock().unwrap();
        self.step("rename", from, || {
            if is_first && self.end == End::FailLate {
                OsDisk.rename(from, to).unwrap();
            }
        })?;
        OsDisk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.step("link", from, || ())?;
        OsDisk.link(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<(), StoreError> {
        self.step("remove", path, || ())?;
        OsDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.step("remove", path, || ())?;
        OsDisk.remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.step("create", path, || ())?;
        OsDisk.create_dir(path)
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), StoreError> {
        self.step("create", path, || ())?;
        OsDisk.create_dir_all(path)
    }
}

fn limited(steps: usize, end: End) -> &'static Limited {
    Box::leak(Box::new(Limited::new(steps, end)))
}

/// Each change of a keyring, in the order of an epoch's life.
const CHANGES: [&str; 5] = ["prepare", "adopt", "activate", "retire", "destroy"];

/// The keyring before a change.
fn before(change: &str) -> Keyring {
    match CHANGES.iter().position(|known| *known == change).unwrap() {
        0 => Set::number(1).keys().keyring.clone(),
        1 => after("prepare"),
        other => after(CHANGES[other - 1]),
    }
}

/// The keyring after a change, the same in each process: at the end epoch 0 is destroyed.
fn after(change: &str) -> Keyring {
    let several = Set::several(1);
    let all = several.keys().keyring;
    let parts = |count: usize| {
        let parts = |epoch: &Epoch| EpochParts {
            epoch: epoch.number(),
            times: epoch.times(),
            keys: epoch.keys().unwrap().into(),
            root_ca_pem: None,
        };
        all.epochs()[..count].iter().map(parts).collect::<Vec<_>>()
    };
    match change {
        "prepare" => Keyring::from_parts(Set::several(1).temp_ca(), parts(2)).unwrap(),
        "adopt" => all.clone(),
        "activate" => {
            before(change).after(EpochChange::Activate { epoch: RootEpoch(2), at: 20 }, 20).unwrap()
        }
        "retire" => before(change).after(EpochChange::Retire(RootEpoch::FIRST), 30).unwrap(),
        "destroy" => before(change).after(EpochChange::Destroy(RootEpoch::FIRST), 40).unwrap(),
        other => panic!("unknown change {other}"),
    }
}

/// Opens on a limited disk and works; `Err` if the steps did not suffice.
fn work(work: &str, path: &Path, disk: &'static Limited) -> Result<(), StoreError> {
    let directory = KeyDirectory::open_on(Box::new(disk), path, Permissions::OwnerOnly, None)?;
    match work {
        "open" => Ok(()),
        "commit" => directory.commit(&Set::number(1).keys()),
        "commit several epochs" => directory.commit(&Set::several(1).keys()),
        "probe" => directory.probe(),
        change if CHANGES.contains(&change) => {
            directory.write_keyring(&after(change)).and_then(|swept| match swept {
                Swept::Now => Ok(()),
                Swept::AtNextStart => Err(disk::failed("use", path)(std::io::Error::other("not swept"))),
            })
        }
        "renew" => directory.write_derived(Derived::RpcCertificate, b"new"),
        other => panic!("unknown work {other}"),
    }
}

/// What a process does that is to be stopped.
#[test]
#[ignore = "run by the tests below in a process of its own"]
fn stopped_process() {
    let variable = |name| env::var(name).unwrap();
    let disk = limited(variable(STEP).parse().unwrap(), End::Abort);
    work(&variable(WORK), &PathBuf::from(variable(DIRECTORY)), disk).unwrap();
}

/// Runs the work in a process that dies after so many steps. Whether it came to its end.
fn survives(work: &str, path: &Path, steps: usize) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "store::crash_tests::stopped_process", "--ignored"])
        .env(WORK, work)
        .env(DIRECTORY, path)
        .env(STEP, steps.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success() || status.signal() == Some(6), "{status}");
    status.success()
}

/// After any interruption the directory is clean, and empty and usable, or complete and final. Whether it is complete.
fn all_or_nothing(path: &Path) -> bool {
    let directory = open(path);
    let hidden = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_str().unwrap().starts_with('.'));
    assert_eq!(hidden.count(), 0);
    let other = Set::number(2);
    match directory.state().unwrap() {
        State::Complete(stored) => {
            assert!(Set::number(1).is(&stored));
            assert!(matches!(directory.commit(&other.keys()), Err(StoreError::HoldsRootKey(_))));
            assert!(Set::number(1).is(&self::stored(&directory)));
            true
        }
        State::Empty => {
            directory.commit(&other.keys()).unwrap();
            assert!(other.is(&stored(&directory)));
            false
        }
        broken => panic!("{broken:?}"),
    }
}

/// An empty directory with what an unfinished attempt of the peer may have left.
fn leftovers() -> TempDir {
    let directory = scratch();
    fs::write(directory.path().join("bootstrap-info.json"), b"{}").unwrap();
    directory
}

#[test]
fn a_process_that_dies_at_any_step_of_a_commit_leaves_nothing_or_everything() {
    let mut outcomes = Vec::new();
    for steps in 0.. {
        let directory = leftovers();
        let survived = survives("commit", directory.path(), steps);
        outcomes.push(all_or_nothing(directory.path()));
        if survived {
            break;
        }
    }
    let first_complete = outcomes.iter().position(|complete| *complete).unwrap();
    assert!(first_complete > 30 && outcomes.len() - first_complete > 15, "{outcomes:?}");
    assert!(outcomes[first_complete..].iter().all(|complete| *complete), "{outcomes:?}");
}

#[test]
fn a_disk_that_fails_at_any_step_leaves_nothing_or_everything_even_if_opening_fails_again() {
    let mut interruptions = 0;
    for steps in 0.. {
        let first = leftovers();
        let finished = work("commit", first.path(), limited(steps, End::Fail)).is_ok();
        let mut complete = None;
        for again in 0.. {
            let copy = copy_of(first.path());
            let opened = work("open", copy.path(), limited(again, End::Fail)).is_ok();
            let outcome = all_or_nothing(copy.path());
            assert_eq!(*complete.get_or_insert(outcome), outcome, "step {steps}, then {again}");
            interruptions += 1;
            if opened {
                break;
            }
        }
        if finished {
            break;
        }
    }
    assert!(interruptions > 200, "{interruptions}");
}

#[test]
fn a_process_that_dies_while_a_derived_file_is_replaced_leaves_the_old_or_the_new() {
    let mut seen = Vec::new();
    for steps in 0.. {
        let directory = scratch();
        let set = Set::number(1);
        open(directory.path()).commit(&set.keys()).unwrap();
        let old = stored(&open(directory.path())).rpc_pem.unwrap();
        let survived = survives("renew", directory.path(), steps);
        let stored = stored(&open(directory.path()));
        assert!(set.is(&stored));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 10);
        let now = stored.rpc_pem.unwrap();
        assert!(now == old || now == "new");
        seen.push(now == "new");
        if survived {
            break;
        }
    }
    assert!(seen.is_sorted() && !seen[0] && seen[seen.len() - 1], "{seen:?}");
}

/// A directory with this keyring.
fn holding(keyring: &Keyring) -> TempDir {
    let directory = scratch();
    let opened = open(directory.path());
    opened.commit(&Set::number(1).keys()).unwrap();
    if !keyring.is_first_only() {
        assert_eq!(opened.write_keyring(keyring).unwrap(), Swept::Now);
    }
    directory
}

/// After any interruption the directory has the old keyring or the new one, and nothing beside it. Whether it is the new.
fn old_or_new(path: &Path, change: &str) -> bool {
    let (old, new) = (before(change), after(change));
    let opened = open(path);
    let found = stored(&opened).keyring;
    let is_new = has_same_keys(&found, &new);
    assert!(is_new || has_same_keys(&found, &old), "{change}");
    let names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with('.')), "{change}: {names:?}");
    let is_destroyed = found.epochs()[0].keys().is_none();
    for file in ["root-ca.key", "root-k256.key"] {
        assert_eq!(names.iter().any(|name| name == file), !is_destroyed, "{change}: {file}");
    }
    // The fingerprints never say more than there is.
    opened.write_fingerprints(&found).unwrap();
    assert!(stored(&open(path)).is_fingerprinted);
    is_new
}

#[test]
fn a_process_that_dies_at_any_step_of_a_change_leaves_the_old_keyring_or_the_new() {
    for change in CHANGES {
        let mut seen = Vec::new();
        for steps in 0.. {
            let directory = holding(&before(change));
            let survived = survives(change, directory.path(), steps);
            seen.push(old_or_new(directory.path(), change));
            if survived {
                break;
            }
        }
        assert!(seen.is_sorted() && !seen[0] && seen[seen.len() - 1], "{change}: {seen:?}");
        assert!(seen.len() > 6, "{change}: {seen:?}");
    }
}

#[test]
fn a_disk_that_fails_at_any_step_of_a_change_leaves_the_old_keyring_or_the_new_even_if_opening_fails_again() {
    let mut interruptions = 0;
    for change in CHANGES {
        for steps in 0.. {
            let first = holding(&before(change));
            let finished = work(change, first.path(), limited(steps, End::Fail)).is_ok();
            let mut is_new = None;
            for again in 0.. {
                let copy = copy_of(first.path());
                let opened = work("open", copy.path(), limited(again, End::Fail)).is_ok();
                let outcome = old_or_new(copy.path(), change);
                assert_eq!(*is_new.get_or_insert(outcome), outcome, "{change}: step {steps}, then {again}");
                interruptions += 1;
                if opened {
                    break;
                }
            }
            if finished {
                break;
            }
        }
    }
    assert!(interruptions > 80, "{interruptions}");
}

/// What the process has in memory is what the directory has, wherever the disk failed, and it goes on with it.
#[test]
fn a_process_goes_on_after_a_disk_that_failed_at_any_step_of_a_change() {
    let mut late = 0;
    for (change, end) in CHANGES.into_iter().flat_map(|change| [(change, End::Fail), (change, End::FailLate)])
    {
        for steps in 0.. {
            let directory = holding(&before(change));
            let disk = limited(NEVER, end);
            let opened =
                KeyDirectory::open_on(Box::new(disk), directory.path(), Permissions::OwnerOnly, None)
                    .unwrap();
            let done = disk.done.lock().unwrap().len();
            disk.steps.store(done + steps, Ordering::SeqCst);
            let written = opened.write_keyring(&after(change));
            let memory = if written.is_ok() { after(change) } else { before(change) };
            let place = format!("{change}: step {steps}: {written:?}");
            assert!(has_same_keys(&stored(&opened).keyring, &memory), "{place}");
            // As long as the disk fails nothing else is changed.
            if !matches!(written, Ok(Swept::Now)) {
                opened.write_keyring(&memory).unwrap_err();
                assert!(has_same_keys(&stored(&opened).keyring, &memory), "{place}");
            }
            late += usize::from(matches!(written, Ok(Swept::AtNextStart)));
            disk.steps.store(NEVER, Ordering::SeqCst);
            let next = memory.after(EpochChange::Prepare(&memory.new_epoch(50).unwrap()), 50).unwrap();
            assert_eq!(opened.write_keyring(&next).unwrap(), Swept::Now, "{place}");
            drop(opened);
            let opened = open(directory.path());
            let found = stored(&opened);
            assert!(has_same_keys(&found.keyring, &next) && found.is_fingerprinted, "{place}");
            let is_destroyed = next.epochs()[0].keys().is_none();
            assert_eq!(directory.path().join("root-ca.key").exists(), !is_destroyed, "{place}");
            if matches!(written, Ok(Swept::Now)) {
                break;
            }
        }
    }
    assert!(late > 30, "{late}");
}

/// The file that is overwritten before it is removed: its bytes are on the disk under no name afterwards.
#[test]
fn old_keys_are_overwritten_and_synced_before_their_last_name_goes() {
    for change in CHANGES {
        let directory = holding(&before(change));
        let old = directory.path().join("old");
        let path = directory.path().join("keyring.json");
        let had_file = fs::hard_link(&path, &old).is_ok();
        let disk = limited(NEVER, End::Fail);
        work(change, directory.path(), disk).unwrap();
        let done = disk.done.lock().unwrap().clone();
        let position = |step: &str| done.iter().position(|done| done == step);
        let commit_point = position("rename .keyring.json.new").unwrap();
        assert!(position("sync .keyring.json.new").unwrap() < commit_point, "{change}");
        assert_eq!(had_file, change != "prepare");
        let mut swept = vec![".keyring.json.old"];
        swept.truncate(had_file.into());
        if change == "destroy" {
            swept.extend([".root-ca.key.old", ".root-k256.key.old"]);
        }
        for name in swept {
            let steps = ["write", "sync", "remove"].map(|step| position(&format!("{step} {name}")).unwrap());
            assert!(commit_point < steps[0] && steps.is_sorted(), "{change}: {name}: {done:?}");
        }
        if had_file {
            assert!(fs::read(&old).unwrap().iter().all(|byte| *byte == 0), "{change}");
            fs::remove_file(&old).unwrap();
        }
        old_or_new(directory.path(), change);
    }
}

#[test]
fn trying_the_directory_out_leaves_nothing_wherever_it_stops() {
    for steps in 0.. {
        let (killed, failed) = (scratch(), scratch());
        let survived = survives("probe", killed.path(), steps);
        let finished = work("probe", failed.path(), limited(steps, End::Fail)).is_ok();
        for directory in [&killed, &failed] {
            open(directory.path());
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "step {steps}");
        }
        assert_eq!(survived, finished, "step {steps}");
        if survived {
            assert!(steps > 5, "{steps}");
            break;
        }
    }
}

/// What a power cut takes is what was not synced: every file and directory is synced before the step that relies on it.
#[test]
fn nothing_is_renamed_before_it_is_on_the_disk() {
    let directory = scratch();
    let path = directory.path().join("keys");
    let disk = limited(NEVER, End::Fail);
    work("commit several epochs", &path, disk).unwrap();
    let done = disk.done.lock().unwrap();
    let position =
        |step: &str| done.iter().position(|done| done == step).unwrap_or_else(|| panic!("no {step}"));
    let last = |step: &str| done.iter().rposition(|done| done == step).unwrap_or_else(|| panic!("no {step}"));
    let commit_point = position("rename .staging");
    for file in super::file::File::ALL.map(super::file::File::name) {
        let synced = position(&format!("sync {file}"));
        assert!(position(&format!("write {file}")) < synced && synced < position("sync .staging"), "{file}");
        let moved = position(&format!("rename {file}"));
        assert!(commit_point < moved && moved < last("remove .commit"), "{file}");
        let after_moves = done[moved..].iter().position(|done| done == "sync keys").unwrap();
        assert!(moved + after_moves < last("remove .commit"), "{file}");
    }
    assert!(position("sync .staging") < commit_point);
    assert_eq!(done[commit_point + 1], "sync keys");
    assert_eq!(done.last().unwrap(), "sync keys");
}

/// In memory where that is possible: thousands of syncs wear a disk out and prove no more.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn copy_of(path: &Path) -> TempDir {
    let copy = scratch();
    for entry in fs::read_dir(path).unwrap() {
        let from = entry.unwrap().path();
        let to = copy.path().join(from.file_name().unwrap());
        if from.is_dir() {
            fs::create_dir(&to).unwrap();
            for file in fs::read_dir(&from).unwrap() {
                let file = file.unwrap().path();
                fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
            }
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
    copy
}
