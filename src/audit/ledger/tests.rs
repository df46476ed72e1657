//! The audit log as a ledger: receipts, restarts, roll-backs, files of older versions, and what readers are given.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kms_ledger::files::{Directories, Names};
use kms_ledger::log::Log;
use kms_ledger::proof::ConsistencyProof;
use kms_ledger::signature::SigningKey;
use kms_ledger::store::TileFiles;
use kms_ledger::verify::{Known, Verified as Verdict, VerifyError, verify};
use kms_ledger::vouched::VouchedKey;
use kms_ledger::{Hash, Size, bundle};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::chain::{Link, content};
use super::super::tests::{EIO, Fault, FaultyDisk, PATIENCE};
use super::super::*;
use super::*;
use crate::keys::{K256Key, RootKeys, statement};

struct TestKeys;

impl LogKeys for TestKeys {
    fn log_key(&self, node: &NodeId) -> Option<LogKey> {
        let name = format!("kms.example/cvm-kms/{node}").parse().ok()?;
        Some(LogKey {
            signing: SigningKey::from_seed(name, &[7; 32]).ok()?,
            legacy: LegacySalts::new(&[9; 32]),
            vouching: [3; 65],
            endorsements: Vec::new(),
        })
    }
}

/// The keys of a log under root keys with this scalar; the other one is that of an older epoch.
struct RootedKeys {
    root: u8,
    older: Option<u8>,
}

impl LogKeys for RootedKeys {
    fn log_key(&self, node: &NodeId) -> Option<LogKey> {
        let root = |byte| {
            let p256 = || kms_attest::p256::P256Key::from_scalar(&[5; 32]).unwrap();
            RootKeys::from_parts(p256(), p256(), K256Key::from_scalar(&[byte; 32]).unwrap())
        };
        let name = format!("kms.example/cvm-kms/{node}").parse().ok()?;
        let signing = SigningKey::from_seed(name, &[self.root; 32]).ok()?;
        let key = signing.verifying_key().to_string();
        Some(LogKey {
            vouching: statement::sign_log_key(&root(self.root), &key),
            endorsements: self
                .older
                .iter()
                .map(|older| statement::sign_log_key(&root(*older), &key))
                .collect(),
            legacy: LegacySalts::new(&[9; 32]),
            signing,
        })
    }
}

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        Self { _directory: directory, path }
    }

    async fn signing(&self) -> Audit {
        self.signing_with(Storage::default()).await
    }

    async fn signing_with(&self, storage: Storage) -> Audit {
        let audit = Audit::open_with(&self.path, storage, Floor::default()).unwrap();
        audit.sign_with(Arc::new(TestKeys)).await;
        audit
    }

    async fn filled(&self, records: u64) {
        let audit = self.signing().await;
        for seq in 1..=records {
            assert_eq!(audit.record(event(seq)).await.unwrap().seq(), seq);
        }
    }

    /// The log, opened while a closed file before it is read, after the import has failed.
    async fn opened_while_importing(&self) -> Audit {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let slow = self.path.with_file_name("audit.2.jsonl");
        mknodat(CWD, &slow, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let audit = Audit::open(&self.path).unwrap();
        let written = fs::OpenOptions::new().write(true).open(&slow).unwrap();
        fs::remove_file(&slow).unwrap();
        drop(written);
        let began = Instant::now();
        while reason(&audit) == FailureReason::Importing {
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(reason(&audit), FailureReason::NotImported);
        audit
    }

    fn tree(&self) -> PathBuf {
        self.path.with_extension("tree")
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.path).unwrap().lines().map(str::to_owned).collect()
    }

    /// Takes the salts out of the records, as versions without a ledger wrote them.
    fn make_legacy(&self) {
        let mut text = Vec::new();
        let mut hash = "0".repeat(64);
        for line in self.lines() {
            let mut record: serde_json::Map<String, Value> = serde_json::from_str(&line).unwrap();
            record.remove("salt");
            record.remove("hash");
            record.insert("prev".to_owned(), json!(hash));
            let record = serde_json::to_string(&record).unwrap();
            hash = hex::encode(Sha256::digest(&record));
            text.push(format!("{},\"hash\":\"{hash}\"}}\n", record.strip_suffix('}').unwrap()));
        }
        fs::write(&self.path, text.concat()).unwrap();
        fs::remove_dir_all(self.tree()).unwrap();
        fs::remove_file(self.path.with_extension("node")).unwrap();
        fs::remove_file(self.path.with_extension("checkpoint")).unwrap();
    }

    /// Exchanges the log by one with these lines, as a backup is brought back.
    fn restore(&self, lines: &[u8]) {
        let restored = self.path.with_extension("restored");
        fs::write(&restored, lines).unwrap();
        fs::rename(restored, &self.path).unwrap();
    }
}

/// The first records, and one more with another salt: a chain that holds.
fn forked(lines: &[String]) -> Vec<u8> {
    let mut text: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
    let link = lines.iter().fold(Link::GENESIS, |link, line| link.next(line.as_bytes()).unwrap());
    link.append("2026-01-01T00:00:00Z", chain::Salt([1; 16]), r#"{"event":"stopped"}"#, &mut text);
    text
}

fn event(seq: u64) -> Event {
    Event::Started {
        version: format!("version {seq}"),
        phase: "ready",
        posture: Vec::new(),
        boot_id: String::new(),
        policy: "dev",
        domains_sha256: None,
    }
}

fn log(head: &Head) -> Log {
    Log::of_key(head.key.parse().unwrap()).unwrap()
}

/// That the leaf is in the tree of its own checkpoint. Gives that tree.
fn verified(head: &Head, leaf: &Leaf) -> (Size, Hash) {
    let signed = log(head).open(leaf.checkpoint.as_bytes(), &[]).unwrap();
    let tree = signed.checkpoint();
    leaf.proof.verify(&leaf.entry, leaf.index, tree.size, &tree.root).unwrap();
    (tree.size, tree.root)
}

fn root(place: &Place, audit: &Audit) -> (Size, Hash) {
    let head = audit.head().unwrap();
    let signed = log(&head).open(head.checkpoint.as_bytes(), &[]).unwrap();
    let tree = signed.checkpoint();
    let stored =
        kms_ledger::proof::root(&TileFiles::new(&place.tree()).hashes(tree.size), tree.size).unwrap();
    assert_eq!(stored, tree.root);
    (tree.size, tree.root)
}

/// Waits until the log takes records again.
async fn healed(audit: &Audit) {
    let began = Instant::now();
    while !audit.health().is_writing() {
        assert!(began.elapsed() < PATIENCE, "it does not heal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn reason(audit: &Audit) -> FailureReason {
    match audit.health() {
        Health::Failing { reason, .. } => reason,
        Health::Writing => panic!("it takes records"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_proven_to_be_in_the_tree_that_was_signed() {
    let place = Place::new();
    let audit = Arc::new(place.signing().await);
    let tasks: Vec<_> = (0..1000)
        .map(|seq| {
            let audit = Arc::clone(&audit);
            tokio::spawn(async move { audit.record(event(seq)).await.unwrap() })
        })
        .collect();
    let lines_hash = |entry: &[u8]| hex::encode(Sha256::digest(entry));
    let mut salts = std::collections::BTreeSet::new();
    for task in tasks {
        let receipt = task.await.unwrap();
        let leaf = receipt.leaf().unwrap();
        verified(&audit.head().unwrap(), leaf);
        assert_eq!(leaf.index.get() + 1, receipt.seq());
        let line: Value =
            serde_json::from_str(&place.lines()[usize::try_from(leaf.index.get()).unwrap()]).unwrap();
        assert_eq!(line["hash"], lines_hash(&leaf.entry));
        let salt = line["salt"].as_str().unwrap().to_owned();
        assert_eq!(URL_SAFE_NO_PAD.decode(&salt).unwrap().len(), 16);
        assert!(salts.insert(salt), "a salt is used once");
    }
    assert_eq!(root(&place, &audit).0.get(), 1000);
}

#[tokio::test]
async fn before_there_are_keys_nothing_is_signed_and_afterwards_everything_is() {
    let place = Place::new();
    let audit = Audit::open(&place.path).unwrap();
    assert!(audit.record(event(1)).await.unwrap().leaf().is_none());
    assert!(audit.head().is_none());
    audit.sign_with(Arc::new(TestKeys)).await;
    assert_eq!(audit.head().unwrap().size.get(), 1);
    let receipt = audit.record(event(2)).await.unwrap();
    assert_eq!(verified(&audit.head().unwrap(), receipt.leaf().unwrap()).0.get(), 2);
}

#[tokio::test]
async fn the_tree_goes_on_after_a_restart_under_the_same_name_and_is_consistent() {
    let place = Place::new();
    place.filled(300).await;
    let audit = place.signing().await;
    let (before, head) = (root(&place, &audit), audit.head().unwrap());
    assert_eq!(before.0.get(), 300);
    let receipt = audit.record(event(301)).await.unwrap();
    let after = verified(&head, receipt.leaf().unwrap());
    assert_eq!(log(&head), log(&audit.head().unwrap()));
    let reader = TileFiles::new(&place.tree()).hashes(after.0);
    let proof = ConsistencyProof::build(&reader, before.0, after.0).unwrap();
    proof.verify((before.0, &before.1), (after.0, &after.1)).unwrap();
}

#[tokio::test]
async fn a_tree_that_is_lost_or_shorter_is_built_again_from_the_records() {
    type Loss = fn(&Path);
    let losses: [Loss; 4] = [
        |tree| fs::remove_dir_all(tree).unwrap(),
        |tree| fs::remove_file(tree.join("0")).unwrap(),
        |tree| fs::write(tree.join("synced"), "").unwrap(),
        |tree| fs::File::options().write(true).open(tree.join("0")).unwrap().set_len(290 * 32).unwrap(),
    ];
    for loss in losses {
        let place = Place::new();
        let storage = Storage { segment_size: 20_000, ..Storage::default() };
        let audit = place.signing_with(storage).await;
        for seq in 0..300 {
            let _ = audit.record(event(seq)).await.unwrap();
        }
        let before = root(&place, &audit);
        assert!(segments(&place.path).unwrap().len() > 2);
        drop(audit);
        loss(&place.tree());
        let audit = place.signing().await;
        assert_eq!(root(&place, &audit), before);
    }
}

#[tokio::test]
async fn a_log_that_was_rolled_back_signs_nothing_until_it_is_brought_back() {
    let place = Place::new();
    place.filled(4).await;
    let all = fs::read(&place.path).unwrap();
    for lines in [3, 1, 0] {
        let older: Vec<String> = place.lines()[..lines].iter().map(|line| format!("{line}\n")).collect();
        fs::write(&place.path, older.concat()).unwrap();
        let audit = Audit::open(&place.path).unwrap();
        // Whatever the start records.
        audit.note(event(9));
        audit.sign_with(Arc::new(TestKeys)).await;
        let error = audit.record(event(5)).await.unwrap_err().to_string();
        assert_eq!(error, "audit record cannot be written");
        assert_eq!(reason(&audit), FailureReason::NotAsSigned);
        assert!(audit.head().is_none());
        drop(audit);
        fs::write(&place.path, &all).unwrap();
    }
    let audit = place.signing().await;
    assert_eq!(audit.record(event(5)).await.unwrap().seq(), 5);
}

#[tokio::test]
async fn a_log_with_another_record_in_it_signs_nothing_until_it_has_another_name() {
    let place = Place::new();
    place.filled(4).await;
    let origin = |audit: &Audit| audit.head().unwrap().key.to_string();
    let name = origin(&place.signing().await);
    fs::write(&place.path, forked(&place.lines()[..3])).unwrap();
    let audit = place.signing().await;
    assert_eq!(reason(&audit), FailureReason::NotAsSigned);
    // Without its tree it does not forget under which name it signed.
    fs::remove_dir_all(place.tree()).unwrap();
    for _ in 0..20 {
        assert!(audit.record(event(5)).await.is_err() && audit.head().is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fs::remove_file(place.path.with_extension("node")).unwrap();
    healed(&audit).await;
    let receipt = audit.record(event(5)).await.unwrap();
    verified(&audit.head().unwrap(), receipt.leaf().unwrap());
    assert_ne!(origin(&audit), name);
}

#[tokio::test]
async fn a_backup_without_the_tree_does_not_make_a_node_forget_what_it_has_signed() {
    let place = Place::new();
    place.filled(4).await;
    let (all, lines) = (fs::read(&place.path).unwrap(), place.lines());
    let origin = |audit: &Audit| log(&audit.head().unwrap());
    let name = origin(&place.signing().await);
    for older in
        [lines[..3].join("\n") + "\n", String::new(), String::from_utf8(forked(&lines[..3])).unwrap()]
    {
        fs::write(&place.path, older).unwrap();
        fs::remove_dir_all(place.tree()).unwrap();
        let audit = place.signing().await;
        assert_eq!(reason(&audit), FailureReason::NotAsSigned);
        assert!(audit.record(event(5)).await.is_err() && audit.head().is_none());
        drop(audit);
        fs::write(&place.path, &all).unwrap();
    }
    let audit = place.signing().await;
    assert_eq!((audit.record(event(5)).await.unwrap().seq(), origin(&audit)), (5, name.clone()));
    drop(audit);

    // Nor does a node sign on that has lost every checkpoint.
    fs::remove_dir_all(place.tree()).unwrap();
    fs::remove_file(place.path.with_extension("checkpoint")).unwrap();
    let audit = place.signing().await;
    assert_eq!(reason(&audit), FailureReason::NotAsSigned);
    fs::remove_file(place.path.with_extension("node")).unwrap();
    healed(&audit).await;
    assert_ne!(origin(&audit), name);
}

#[tokio::test]
async fn a_log_with_a_new_name_says_what_the_old_one_has_signed() {
    let place = Place::new();
    place.filled(4).await;
    let signed = fs::read_to_string(place.tree().join("checkpoint")).unwrap();
    let signed: Vec<&str> = signed.lines().collect();
    fs::write(&place.path, forked(&place.lines()[..2])).unwrap();
    fs::remove_file(place.path.with_extension("node")).unwrap();
    let audit = place.signing().await;
    let began = Instant::now();
    while place.lines().len() < 4 {
        assert!(began.elapsed() < PATIENCE, "it is not recorded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let renamed: Value = serde_json::from_str(place.lines().last().unwrap()).unwrap();
    assert_eq!(renamed["event"], "log_renamed");
    assert_eq!((&renamed["previous"], &renamed["size"]), (&json!(signed[0]), &json!(4)));
    assert_eq!(renamed["root"], signed[2]);
    drop(audit);
    let tree = verified_by_auditor(&place, None).unwrap().tree.unwrap();
    assert_eq!((tree.leaves, tree.stale), (4, 0));
    assert_ne!(tree.checkpoint.origin.as_str(), signed[0]);

    // A crash before that is recorded loses nothing, and it is recorded once.
    let name = place.path.with_extension("node");
    let mut node: Value = serde_json::from_str(&fs::read_to_string(&name).unwrap()).unwrap();
    assert!(node.get("renamed").is_none());
    node["renamed"] = json!({ "previous": signed[0], "size": 4, "root": signed[2] });
    fs::write(&name, node.to_string()).unwrap();
    for _ in 0..2 {
        let audit = place.signing().await;
        let _ = audit.record(event(9)).await.unwrap();
        drop(audit);
        let lines = place.lines();
        assert_eq!(lines.iter().filter(|line| line.contains("log_renamed")).count(), 2, "{lines:?}");
        assert!(!fs::read_to_string(&name).unwrap().contains("renamed"));
    }
}

#[tokio::test]
async fn right_files_that_come_back_while_it_runs_are_not_continued_from_the_wrong_end() {
    let place = Place::new();
    place.filled(4).await;
    let all = fs::read(&place.path).unwrap();
    place.restore(&forked(&place.lines()[..3]));
    let audit = place.signing().await;
    assert_eq!(reason(&audit), FailureReason::NotAsSigned);
    place.restore(&all);
    for _ in 0..60 {
        assert!(audit.record(event(5)).await.is_err() && audit.head().is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(audit);
    assert_eq!(fs::read(&place.path).unwrap(), all, "nothing is chained to another record");
    let audit = place.signing().await;
    assert_eq!(audit.record(event(5)).await.unwrap().seq(), 5);
}

#[tokio::test]
async fn a_file_of_an_older_version_becomes_segment_0_and_its_import_can_be_repeated() {
    let place = Place::new();
    place.filled(300).await;
    place.make_legacy();
    let file = fs::read(&place.path).unwrap();
    let last: Value = serde_json::from_str(place.lines().last().unwrap()).unwrap();

    let audit = place.signing().await;
    let before = root(&place, &audit);
    assert_eq!(before.0.get(), 301);
    let imported: Value = serde_json::from_str(place.lines().last().unwrap()).unwrap();
    assert_eq!(imported["event"], "imported");
    assert_eq!((&imported["first"], &imported["lines"]), (&json!(1), &json!(300)));
    assert_eq!(imported["bytes"], json!(file.len()));
    assert_eq!(imported["sha256"], hex::encode(Sha256::digest(&file)));
    assert_eq!((&imported["head"], &imported["prev"]), (&last["hash"], &last["hash"]));
    assert!(fs::read(&place.path).unwrap().starts_with(&file), "the old records stay as they are");
    let receipt = audit.record(event(1)).await.unwrap();
    verified(&audit.head().unwrap(), receipt.leaf().unwrap());

    // What an auditor reads: the old records by their hashes, with salts that nobody can guess.
    let bundle = audit.tile(&"tile/entries/000".parse().unwrap()).unwrap().unwrap();
    let tile = audit.tile(&"tile/0/000".parse().unwrap()).unwrap().unwrap();
    let hashes = kms_ledger::tile::hashes(&tile, kms_ledger::tile::Width::FULL).unwrap();
    let entries = bundle::verified_entries(&bundle, &hashes).unwrap();
    let entry: Value = serde_json::from_slice(entries[4]).unwrap();
    assert_eq!(entry["line_sha256"], hex::encode(Sha256::digest(place.lines()[4].as_bytes())));
    assert_eq!((&entry["seq"], &entry["type"]), (&json!(5), &json!("legacy")));
    assert_eq!(entries[4], entry.to_string().as_bytes(), "canonical JSON");
    drop(audit);

    // An import that was cut short, whatever was there of the tree.
    fs::remove_dir_all(place.tree()).unwrap();
    let audit = place.signing().await;
    let reader = TileFiles::new(&place.tree()).hashes(before.0);
    assert_eq!(kms_ledger::proof::root(&reader, before.0).unwrap(), before.1);
    assert_eq!(root(&place, &audit).0.get(), 302);
}

#[tokio::test]
async fn a_changed_record_of_an_older_version_is_found_when_it_is_imported() {
    let place = Place::new();
    place.filled(5).await;
    place.make_legacy();
    let text = fs::read_to_string(&place.path).unwrap();
    fs::write(&place.path, text.replacen("version 2", "version X", 1)).unwrap();
    let error = Audit::open(&place.path).unwrap_err();
    assert!(matches!(error, AuditError::Broken { seq: 2, problem: LinkProblem::Hash }), "{error}");
}

#[tokio::test]
async fn an_import_that_takes_long_holds_up_no_start_and_says_how_far_it_is() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let place = Place::new();
    place.filled(6).await;
    place.make_legacy();
    // A file whose reading takes until somebody writes to it.
    let slow = place.path.with_file_name("audit.2.jsonl");
    mknodat(CWD, &slow, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let audit = Audit::open(&place.path).unwrap();
    assert_eq!(reason(&audit), FailureReason::Importing);
    assert!(audit.record(event(7)).await.is_err());
    let written = fs::OpenOptions::new().write(true).open(&slow).unwrap();
    fs::remove_file(&slow).unwrap();
    drop(written);
    healed(&audit).await;
    assert_eq!(audit.record(event(7)).await.unwrap().seq(), 8);
    assert_eq!(audit.imported(), None);
}

#[tokio::test]
async fn an_import_that_fails_after_the_start_releases_nothing() {
    let place = Place::new();
    place.filled(6).await;
    place.make_legacy();
    // Not at the end, which is checked before.
    let lines: Vec<String> = place.lines().iter().map(|line| format!("{line}\n")).collect();
    let closed = lines[..3].concat().replacen("version 2", "version X", 1);
    fs::write(place.path.with_file_name("audit.3.jsonl"), closed).unwrap();
    let text = lines[3..].concat();
    fs::write(&place.path, &text).unwrap();
    let audit = place.opened_while_importing().await;
    audit.sign_with(Arc::new(TestKeys)).await;
    assert!(audit.record(event(7)).await.is_err() && audit.head().is_none());
    drop(audit);
    assert_eq!(fs::read_to_string(&place.path).unwrap(), text);
}

#[tokio::test]
async fn an_import_goes_on_when_the_disk_can_be_read_again() {
    let place = Place::new();
    place.filled(6).await;
    place.make_legacy();
    let lines: Vec<String> = place.lines().iter().map(|line| format!("{line}\n")).collect();
    fs::write(&place.path, lines[3..].concat()).unwrap();
    let closed = place.path.with_file_name("audit.3.jsonl");
    // Its first bytes cannot be read: EIO.
    std::os::unix::fs::symlink("/proc/self/mem", &closed).unwrap();
    let audit = place.opened_while_importing().await;
    fs::remove_file(&closed).unwrap();
    fs::write(&closed, lines[..3].concat()).unwrap();
    audit.sign_with(Arc::new(TestKeys)).await;
    healed(&audit).await;
    assert!(audit.record(event(7)).await.is_ok() && audit.head().is_some());
}

#[tokio::test]
async fn a_gap_in_files_of_an_older_version_is_left_behind_by_moving_what_is_before_it_away() {
    let place = Place::new();
    place.filled(6).await;
    place.make_legacy();
    let lines = place.lines();
    let text = |lines: &[String]| lines.join("\n") + "\n";
    let oldest = place.path.with_file_name("audit.2.jsonl");
    fs::write(&oldest, text(&lines[..2])).unwrap();
    fs::write(&place.path, text(&lines[4..])).unwrap();
    let error = Audit::open(&place.path).unwrap_err();
    assert!(matches!(error, AuditError::Missing { seq: 3 }), "{error}");
    assert!(error.to_string().contains("move the closed files before it elsewhere"));
    fs::remove_file(&oldest).unwrap();
    let audit = place.signing().await;
    let receipt = audit.record(event(7)).await.unwrap();
    verified(&audit.head().unwrap(), receipt.leaf().unwrap());
    drop(audit);
    let imported: Value = serde_json::from_str(&place.lines()[2]).unwrap();
    assert_eq!((&imported["event"], &imported["first"]), (&json!("imported"), &json!(5)));
    let verdict = verified_by_auditor(&place, None).unwrap();
    assert_eq!((verdict.sealed, verdict.chain.first, verdict.chain.last), (2, 5, 8));
}

#[tokio::test]
async fn files_are_closed_by_size_and_bundles_reach_over_them() {
    let place = Place::new();
    let storage = Storage { segment_size: 5_000, ..Storage::default() };
    let audit = place.signing_with(storage).await;
    let mut entries = Vec::new();
    for seq in 0..280 {
        let receipt = audit.record(event(seq)).await.unwrap();
        entries.push((receipt.seq(), receipt.leaf().unwrap().entry.clone()));
    }
    let files = segments(&place.path).unwrap();
    assert!(files.len() > 10);
    for file in &files[..files.len() - 1] {
        assert!((5_000..20_000).contains(&fs::metadata(file).unwrap().len()));
    }
    let content = [
        audit.tile(&"tile/entries/000".parse().unwrap()).unwrap().unwrap(),
        audit.tile(&"tile/entries/001.p/7".parse().unwrap()).unwrap().unwrap(),
    ];
    let mut read = bundle::entries(&content[0], kms_ledger::tile::Width::FULL).unwrap();
    read.extend(bundle::entries(&content[1], kms_ledger::tile::Width::new(7).unwrap()).unwrap());
    for (seq, entry) in entries {
        let index = usize::try_from(seq).unwrap() - 1;
        assert!(index >= read.len() || read[index] == entry, "{seq}");
    }
    let chain = verify_files(&files).unwrap();
    assert_eq!(chain.records(), audit.head().unwrap().size.get());
}

#[tokio::test]
async fn closed_files_are_compressed_and_everything_reads_them() {
    let place = Place::new();
    place.filled(40).await;
    place.make_legacy();
    let storage = Storage { segment_size: 5_000, compress: true, ..Storage::default() };
    let audit = place.signing_with(storage).await;
    let mut last = 0;
    while last < 300 {
        last = audit.record(event(last)).await.unwrap().seq();
    }
    let began = Instant::now();
    while segments::closed(&place.path).unwrap().iter().any(|file| file.exists()) {
        assert!(began.elapsed() < PATIENCE, "they are not compressed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let files = segments(&place.path).unwrap();
    assert!(files.len() > 10);
    let tile = audit.tile(&"tile/0/000".parse().unwrap()).unwrap().unwrap();
    let hashes = kms_ledger::tile::hashes(&tile, kms_ledger::tile::Width::FULL).unwrap();
    let entries = audit.tile(&"tile/entries/000".parse().unwrap()).unwrap().unwrap();
    bundle::verified_entries(&entries, &hashes).unwrap();
    let before = root(&place, &audit);
    drop(audit);
    let verdict = verified_by_auditor(&place, None).unwrap();
    assert_eq!((verdict.sealed, verdict.chain.first, verdict.chain.last), (40, 1, before.0.get()));
    assert_eq!(verify_files(&files).unwrap(), verdict.chain);

    let (mut reader, mut line, mut read) = (super::super::Reader::after(&place.path, 0), Vec::new(), 0);
    while let Some(seq) = reader.next(before.0.get(), &mut line).unwrap() {
        read += 1;
        assert_eq!(seq, read);
    }
    assert_eq!(read, before.0.get());
    // The tree is built again from them, and the log goes on after them where the growing file is lost.
    fs::remove_dir_all(place.tree()).unwrap();
    let audit = place.signing_with(storage).await;
    assert_eq!(root(&place, &audit), before);
    drop(audit);
    let growing = fs::read(&place.path).unwrap();
    fs::remove_file(&place.path).unwrap();
    let closed = segments::numbered(&place.path).unwrap().pop().unwrap().0;
    let audit = Audit::open_with(&place.path, storage, Floor::default()).unwrap();
    // After the record that says so.
    assert_eq!(audit.record(event(1)).await.unwrap().seq(), closed + 2);
    drop(audit);
    fs::write(&place.path, growing).unwrap();
    // A changed byte is found.
    let gz = kms_ledger::compressed::name(&files[3]);
    let mut bytes = fs::read(&gz).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&gz, bytes).unwrap();
    verified_by_auditor(&place, None).unwrap_err();
}

#[tokio::test]
async fn a_file_whose_first_record_is_old_is_closed() {
    let place = Place::new();
    let mut text = Vec::new();
    let _ = Link::GENESIS.append(
        "2026-01-01T00:00:00Z",
        chain::Salt([1; 16]),
        r#"{"event":"stopped"}"#,
        &mut text,
    );
    fs::write(&place.path, text).unwrap();
    let audit = place.signing().await;
    assert_eq!(audit.record(event(1)).await.unwrap().seq(), 3);
    let first: Value = serde_json::from_str(&place.lines()[0]).unwrap();
    assert_eq!((&first["event"], &first["reason"]), (&json!("segment_began"), &json!("age")));
    assert!(place.path.with_file_name("audit.1.jsonl").exists());
}

#[tokio::test]
async fn nothing_is_recorded_while_the_tree_cannot_grow_and_it_resumes_by_itself() {
    let place = Place::new();
    fs::create_dir(place.tree()).unwrap();
    symlink("/dev/full", place.tree().join("0")).unwrap();
    let audit = place.signing().await;
    let began = Instant::now();
    assert!(audit.record(event(1)).await.is_err());
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(reason(&audit), FailureReason::DiskFull);
    assert_eq!(fs::read(&place.path).unwrap(), b"", "no line without its leaf");
    fs::remove_dir_all(place.tree()).unwrap();
    // The files that are open are those of before.
    drop(audit);
    let audit = place.signing().await;
    assert!(audit.health().is_writing());
    let receipt = audit.record(event(1)).await.unwrap();
    verified(&audit.head().unwrap(), receipt.leaf().unwrap());
}

#[tokio::test]
async fn releases_do_not_wait_for_the_tree_to_be_on_the_disk() {
    let place = Place::new();
    let disk = FaultyDisk::new(&place.path);
    // Each record begins a file, after which the tree is synced.
    let audit = disk.audit_with(&place.path, Storage { segment_size: 1, ..Storage::default() });
    audit.sign_with(Arc::new(TestKeys)).await;
    disk.set(Fault::HangInTree);
    let mark = || fs::read_to_string(place.tree().join("synced")).unwrap();
    let before = mark();
    let began = Instant::now();
    let mut seq = 0;
    while *disk.tree_syncs.lock().unwrap() == 0 || seq < 20 {
        assert!(began.elapsed() < PATIENCE, "the tree is not synced");
        seq = audit.record(event(seq)).await.unwrap().seq();
    }
    assert!(audit.health().is_writing());
    assert_eq!(mark(), before, "the mark says no more than what is on the disk");
    disk.set(Fault::None);
    while mark() == before {
        assert!(began.elapsed() < PATIENCE, "the mark is not written");
        let _ = audit.record(event(seq)).await.unwrap();
    }
    // A tree that is not confirmed is opened again.
    disk.set(Fault::TreeSync(EIO));
    while audit.record(event(seq)).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "the failure is not noticed");
    }
    assert_eq!(reason(&audit), FailureReason::Tree);
    disk.set(Fault::None);
    healed(&audit).await;
    let receipt = audit.record(event(seq)).await.unwrap();
    verified(&audit.head().unwrap(), receipt.leaf().unwrap());
    drop(audit);
    verified_by_auditor(&place, None).unwrap();
}

#[tokio::test]
async fn readers_are_given_what_is_signed_and_nothing_else() {
    let place = Place::new();
    place.filled(300).await;
    let audit = place.signing().await;
    for (path, length) in [
        ("tile/0/000", Some(8192)),
        ("tile/0/001.p/44", Some(44 * 32)),
        ("tile/0/001.p/1", Some(32)),
        ("tile/0/001.p/45", None),
        ("tile/0/001", None),
        ("tile/1/000.p/1", Some(32)),
        ("tile/1/000", None),
        ("tile/63/000.p/1", None),
        ("tile/entries/002.p/1", None),
    ] {
        let content = audit.tile(&path.parse().unwrap()).unwrap();
        assert_eq!(content.map(|content| content.len()), length, "{path}");
    }
    let entry = content(place.lines()[0].as_bytes()).unwrap();
    let bundle = audit.tile(&"tile/entries/000.p/1".parse().unwrap()).unwrap().unwrap();
    assert_eq!(bundle::entries(&bundle, kms_ledger::tile::Width::new(1).unwrap()).unwrap(), [entry]);
}

fn verified_by_auditor(place: &Place, pin: Option<&[u8]>) -> Result<Verdict, VerifyError> {
    let directory = place.path.parent().unwrap().to_owned();
    let names = Names::of(&place.path).unwrap();
    let key = VouchedKey::parse(&fs::read(names.tree("key")).unwrap()).unwrap();
    let log = Log::of_key(key.key).unwrap();
    verify(&Directories { directories: vec![directory] }, &names, Known { log: Some(&log), pin })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_verifies_the_files_that_the_writer_leaves() {
    let place = Place::new();
    place.filled(300).await;
    place.make_legacy();
    let storage = Storage { segment_size: 20_000, ..Storage::default() };
    let audit = place.signing_with(storage).await;
    for seq in 0..300 {
        let _ = audit.record(event(seq)).await.unwrap();
    }
    // While the log grows.
    verified_by_auditor(&place, None).unwrap();
    drop(audit);
    let verdict = verified_by_auditor(&place, None).unwrap();
    let tree = verdict.tree.unwrap();
    assert_eq!((verdict.sealed, verdict.chain.first, tree.first), (300, 1, 1));
    assert_eq!((tree.leaves, tree.checkpoint.size.get()), (verdict.chain.last, verdict.chain.last));
    assert_eq!((tree.stale, tree.ahead), (0, 0));
    let pin = fs::read(place.tree().join("checkpoint")).unwrap();

    // Closed files go elsewhere, and the log says so.
    let closed = segments::numbered(&place.path).unwrap();
    assert!(closed.len() > 2, "{closed:?}");
    for (last, file) in &closed[..2] {
        let archived = ArchivedFile { last: *last, bytes: 1, sha256: "00".repeat(32) };
        note_archived(&place.path, &archived).unwrap();
        fs::remove_file(file).unwrap();
    }
    let audit = place.signing_with(storage).await;
    let began = Instant::now();
    while !segments::archived_notes(&place.path).unwrap().is_empty() {
        assert!(began.elapsed() < PATIENCE, "it is not recorded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(audit);
    let verdict = verified_by_auditor(&place, Some(&pin)).unwrap();
    assert_eq!((verdict.archived, verdict.chain.first), (closed[1].0, closed[1].0 + 1));
    assert_eq!(verdict.tree.unwrap().elsewhere, closed[1].0);

    // What was signed is not forgotten.
    let text = fs::read_to_string(&place.path).unwrap();
    let kept: Vec<&str> = text.split_inclusive('\n').collect();
    fs::write(&place.path, kept[..kept.len() - 1].concat()).unwrap();
    let cut = verified_by_auditor(&place, None).unwrap_err();
    assert!(matches!(cut, VerifyError::RolledBack { .. }), "{cut}");
}

impl Place {
    /// The log after so many more records under these keys.
    async fn filled_by(&self, keys: RootedKeys, records: u64) {
        let audit = Audit::open_with(&self.path, Storage::default(), Floor::default()).unwrap();
        audit.sign_with(Arc::new(keys)).await;
        for seq in 1..=records {
            let _receipt = audit.record(event(seq)).await.unwrap();
        }
    }

    fn verdict(&self, pin: Option<&[u8]>) -> Result<Verdict, VerifyError> {
        let directory = self.path.parent().unwrap().to_owned();
        let known = Known { log: None, pin };
        verify(&Directories { directories: vec![directory] }, &Names::of(&self.path).unwrap(), known)
    }
}

#[tokio::test]
async fn a_new_key_goes_on_with_the_same_tree_and_the_log_says_so_once() {
    let place = Place::new();
    place.filled_by(RootedKeys { root: 1, older: None }, 3).await;
    let pin = fs::read(place.tree().join("checkpoint")).unwrap();
    for round in 0..3 {
        place.filled_by(RootedKeys { root: 2, older: Some(1) }, 2).await;
        let verdict = place.verdict(Some(&pin)).unwrap();
        let [change] = &verdict.key_changes[..] else { panic!("{round}: {:?}", verdict.key_changes) };
        assert_eq!(change.key, verdict.tree.unwrap().key.key.to_string());
        let signers = kms_client::statement::key_change_signers(change).unwrap();
        assert!(signers.is_endorsed && signers.before != signers.after);
    }
    assert!(!fs::read_to_string(segments::node_name(&place.path)).unwrap().contains("key_changed"));
    // The old root is destroyed by now, and the next key is signed by its own root only.
    place.filled_by(RootedKeys { root: 4, older: None }, 1).await;
    let verdict = place.verdict(Some(&pin)).unwrap();
    let [_, last] = &verdict.key_changes[..] else { panic!("{:?}", verdict.key_changes) };
    assert!(!kms_client::statement::key_change_signers(last).unwrap().is_endorsed);
    // A checkpoint of a key that the log never had proves nothing.
    let other = Place::new();
    other.filled_by(RootedKeys { root: 6, older: None }, 3).await;
    let foreign = fs::read(other.tree().join("checkpoint")).unwrap();
    assert!(place.verdict(Some(&foreign)).is_err());
}

#[tokio::test]
async fn a_key_beside_the_log_that_no_record_says_is_found() {
    let place = Place::new();
    place.filled_by(RootedKeys { root: 1, older: None }, 2).await;
    place.filled_by(RootedKeys { root: 2, older: Some(1) }, 2).await;
    let names = ["key", "checkpoint"].map(|name| place.tree().join(name));
    let before = names.each_ref().map(|name| fs::read(name).unwrap());
    place.filled_by(RootedKeys { root: 3, older: Some(2) }, 1).await;
    assert_eq!(place.verdict(None).unwrap().key_changes.len(), 2);
    for (name, content) in names.iter().zip(before) {
        fs::write(name, content).unwrap();
    }
    fs::remove_file(segments::checkpoint_name(&place.path)).unwrap();
    assert!(matches!(place.verdict(None), Err(VerifyError::KeyChange { .. })));
}
