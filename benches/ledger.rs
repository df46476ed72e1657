//! A log of a million records (or as many as are given): its verification, the start with it, and a receipt of it.
//!
//! `cargo bench --bench ledger -- 10000000` starts with the tree of so many: of more than a million, older files count as archived.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cvm_kms::audit::{Audit, Event, LegacySalts, LogKey, LogKeys, NodeId, Storage};
use cvm_kms::clock::Floor;
use cvm_kms::proto::Receipt;
use kms_ledger::Hash;
use kms_ledger::chain::{Link, Salt, content};
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::files::{Directories, Names};
use kms_ledger::signature::SigningKey;
use kms_ledger::store::Tree;
use kms_ledger::verify::{Known, verify};
use kms_ledger::vouched::VouchedKey;
use prost::Message as _;

const NODE: &str = "0123456789abcdef";
const SEGMENT: usize = 64 << 20;
/// Of more records only the newest file is kept, as after `kms audit archive`.
const KEPT_RECORDS: u64 = 1_000_000;
/// More than the part of a file that is read at a start.
const TAIL_RECORDS: u64 = 2_000;

struct Keys;

impl LogKeys for Keys {
    fn log_key(&self, node: &NodeId) -> Option<LogKey> {
        Some(LogKey {
            signing: signing_key(&node.to_string()),
            legacy: LegacySalts::new(&[9; 32]),
            vouching: [3; 65],
            endorsements: Vec::new(),
        })
    }
}

fn signing_key(node: &str) -> SigningKey {
    let name = format!("kms.example.com/cvm-kms/{node}").parse().expect("a name");
    SigningKey::from_seed(name, &[7; 32]).expect("a key")
}

/// About what a release records.
fn release(index: u64) -> String {
    let hex = |length: usize| format!("{index:0length$x}");
    format!(
        r#"{{"event":"app_key_released","app_id":"{}","instance_id":"{}","device_id":"{}","compose_hash":"{}","os_image_hash":"{}","mr_aggregated":"{}","tcb_status":"UpToDate","advisory_ids":[],"remote":"192.0.2.1","policy":"allowlist"}}"#,
        hex(40),
        hex(40),
        hex(64),
        hex(64),
        hex(64),
        hex(64)
    )
}

/// Writes the files of a log with its tree, as a KMS leaves them.
fn fill(path: &Path, records: u64) {
    let names = Names::of(path).expect("a name");
    let (mut tree, mut link) = (Tree::open(&names.tree("")).expect("a tree"), Link::GENESIS);
    let (mut lines, mut leaves, mut written) = (Vec::new(), Vec::new(), 0);
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    for index in 0..records {
        lines.clear();
        link = link.append("2026-01-01T00:00:00Z", Salt::random(), &release(index), &mut lines);
        leaves.push(Hash::leaf(&content(&lines[..lines.len() - 1]).expect("a record")));
        file.write_all(&lines).expect("written");
        written += lines.len();
        if leaves.len() == 4096 || index + 1 == records {
            let staged = tree.stage(&leaves).expect("staged");
            tree.commit(staged);
            leaves.clear();
        }
        if written >= SEGMENT && index + 1 < records {
            file.flush().expect("written");
            match records {
                ..=KEPT_RECORDS => fs::rename(path, names.closed(link.seq())).expect("closed"),
                _ => fs::remove_file(path).expect("removed"),
            }
            file = BufWriter::new(File::create(path).expect("a file"));
            written = 0;
        }
    }
    file.flush().expect("written");
    tree.sync().expect("synced");
    let key = signing_key(NODE);
    let origin = key.verifying_key().name().as_str().parse().expect("an origin");
    let signed = key.sign_checkpoint(&Checkpoint::new(origin, tree.size(), tree.root()));
    let vouched = VouchedKey { key: key.verifying_key().clone(), vouching: [3; 65] };
    fs::write(names.tree("checkpoint"), &signed).expect("written");
    fs::write(names.checkpoint(), &signed).expect("written");
    fs::write(names.tree("key"), vouched.to_string()).expect("written");
    fs::write(names.node(), format!("{{\"node\":\"{NODE}\",\"first\":1}}\n")).expect("written");
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// The most memory since the last call, in MB.
fn peak() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    let kilobytes: f64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    // Not permitted everywhere: the peak is then of all that ran before, too.
    let _ = fs::write("/proc/self/clear_refs", "5");
    kilobytes / 1000.0
}

/// CPU and elapsed milliseconds until the log has taken a record, and the size of its receipt.
fn start(runtime: &tokio::runtime::Runtime, path: &Path) -> (f64, f64, usize) {
    let (began, before) = (Instant::now(), cpu());
    let storage = Storage { segment_age: None, ..Storage::default() };
    let audit = Audit::open_with(path, storage, Floor::default()).expect("opened");
    let receipt = runtime.block_on(async {
        audit.sign_with(Arc::new(Keys)).await;
        let (phase, posture, boot_id) = ("ready", Vec::new(), "00".repeat(16));
        let event = Event::Started {
            version: "1".to_owned(),
            phase,
            posture,
            boot_id,
            policy: "dev",
            domains_sha256: None,
        };
        audit.record(event).await.expect("recorded")
    });
    let (elapsed, used) = (began.elapsed().as_secs_f64() * 1e3, (cpu() - before) * 1e3);
    let leaf = receipt.leaf().expect("signed");
    let receipt = Receipt {
        entry: leaf.entry.clone(),
        index: leaf.index.get(),
        proof: leaf.proof.hashes().iter().flat_map(|hash| *hash.as_bytes()).collect(),
        checkpoint: leaf.checkpoint.to_string(),
    };
    (used, elapsed, receipt.encoded_len())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let records: u64 = count.unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let home = tempfile::tempdir().expect("a directory");
    let log = |name: &str| -> PathBuf {
        let directory = home.path().join(name);
        fs::create_dir_all(&directory).expect("a directory");
        directory.join("audit.jsonl")
    };
    let (full, short) = (log("full"), log("short"));
    let before = cpu();
    fill(&full, records);
    println!("{records} records written: {:.1} s CPU, peak {:.0} MB", cpu() - before, peak());

    let before = cpu();
    let directories = Directories { directories: vec![full.parent().expect("one").to_owned()] };
    let names = Names::of(&full).expect("a name");
    let verified = verify(&directories, &names, Known::default()).expect("it holds");
    assert_eq!(verified.chain.last, records);
    println!("verified: {:.2} s CPU, peak {:.0} MB", cpu() - before, peak());

    // As many records as a file of a running KMS has at its end: the same is read of both at the start.
    fill(&short, TAIL_RECORDS);
    let (mut cpu, mut elapsed) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..21 {
        for (log, path) in [&short, &full].into_iter().enumerate() {
            let (used, waited, size) = start(&runtime, path);
            cpu[log].push(used);
            elapsed[log].push(waited);
            if log == 1 && cpu[1].len() == 1 {
                println!("receipt of a release: about {} bytes", size + release(records).len() - 60);
            }
        }
    }
    let ([short, full], [short_waited, full_waited]) = (cpu.map(median), elapsed.map(median));
    println!("opened, signed and first record: {full:.0} ms CPU, {full_waited:.1} ms");
    println!("  with {TAIL_RECORDS} records: {short:.0} ms CPU, {short_waited:.1} ms");
    println!("  ratio: {:.2} of CPU, {:.2} of time", full / short.max(1.0), full_waited / short_waited);
}
