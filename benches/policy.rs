//! The cost of a decision, also while the rules change and while requests hang: `cargo bench --bench policy`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cvm_kms::config::{AuthApi, EmptyDevices, Endpoint, Webhook};
use futures_util::future::join_all;
use kms_attest::identity::BootInfo;
use kms_policy::{Decision, Policy, Subject};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/support/faults.rs"]
mod faults;

use faults::{Asked, Fault, FaultServer, Reply};

/// Apps in the allowlist.
const APPS: u32 = 10_000;
/// Guests that boot at the same time.
const CALLERS: u64 = 1_000;
/// Guests whose request gets no response.
const HANGING: usize = 64;
/// Interval of changes to the file under load.
const CHANGE_EVERY: Duration = Duration::from_millis(200);

fn app(number: u32) -> [u8; 20] {
    let mut id = [0x11; 20];
    id[..4].copy_from_slice(&number.to_be_bytes());
    id
}

fn identity(number: u32) -> BootInfo {
    BootInfo { app_id: app(number).to_vec(), ..BootInfo::example() }
}

/// Rules for all apps, different in each `round`.
fn rules(round: usize) -> String {
    let entry = json!({
        "composeHashes": ["22".repeat(32), "23".repeat(32)],
        "devices": ["33".repeat(32)],
        "allowAnyDevice": false,
    });
    let apps: Map<String, Value> =
        (0..APPS).map(|number| (hex::encode(app(number)), entry.clone())).collect();
    json!({"osImages": ["44".repeat(32)], "apps": apps, "chainId": round}).to_string()
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).expect("a file");
}

struct Allowlist {
    _directory: tempfile::TempDir,
    path: PathBuf,
    policy: Policy,
}

impl Allowlist {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("auth-config.json");
        replace(&path, &rules(0));
        // A recently written file is read again each time.
        thread::sleep(Duration::from_millis(300));
        let empty_devices = EmptyDevices::NoDevice;
        let policy = Policy::from_config(&AuthApi::Allowlist { path: path.clone(), empty_devices });
        Self { _directory: directory, path, policy: policy.expect("a policy") }
    }
}

fn is_allowed(decision: &Result<Decision, kms_policy::PolicyError>) -> bool {
    matches!(decision, Ok(Decision::Allowed { .. }))
}

fn allowlist(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let list = Allowlist::new();
    let (known, unknown) = (identity(APPS / 2), identity(APPS));
    let mut group = criterion.benchmark_group("allowlist, 10,000 apps");
    group.bench_function("allowed", |b| {
        b.to_async(&runtime).iter(async || {
            assert!(is_allowed(&list.policy.decide(Subject::App(&known)).await));
        });
    });
    group.bench_function("denied", |b| {
        b.to_async(&runtime).iter(async || {
            assert!(!is_allowed(&list.policy.decide(Subject::App(&unknown)).await));
        });
    });
    group.finish();
}

/// Decisions while the file is being replaced: the average duration and the longest.
fn reload(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let list = Allowlist::new();
    let known = identity(APPS / 2);
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, path) = (Arc::clone(&stop), list.path.clone());
    let writer = thread::spawn(move || {
        let texts: Vec<String> = (1..=8).map(rules).collect();
        let mut written = 0_usize;
        while !stopped.load(Ordering::Relaxed) {
            replace(&path, &texts[written % texts.len()]);
            written += 1;
            thread::sleep(CHANGE_EVERY);
        }
        written
    });
    let mut longest = Duration::ZERO;
    let mut decided = 0_u64;
    criterion.bench_function("allowlist, 10,000 apps/allowed, the file replaced every 200 ms", |b| {
        b.iter_custom(|times| {
            runtime.block_on(async {
                let began = Instant::now();
                for _ in 0..times {
                    let one = Instant::now();
                    assert!(is_allowed(&list.policy.decide(Subject::App(&known)).await));
                    longest = longest.max(one.elapsed());
                }
                decided += times;
                began.elapsed()
            })
        });
    });
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().expect("no panic");
    println!("{decided} decisions while the file was replaced {written} times; the longest took {longest:?}");
}

fn good(asked: &Asked) -> Reply {
    Reply::json(&match asked.verb.as_str() {
        "POST" => json!({"isAllowed": true, "gatewayAppId": "any", "reason": ""}),
        _ => json!({}),
    })
}

/// A thousand concurrent decisions by a policy that has no connection yet.
fn webhook(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let server = runtime.block_on(FaultServer::answering(good));
    let url = Endpoint::parse(&server.url()).expect("a URL");
    let cold =
        || Policy::from_config(&AuthApi::Webhook(Box::new(Webhook::at(url.clone())))).expect("a policy");
    let identities: Vec<BootInfo> = (0..CALLERS as u32).map(identity).collect();
    let mut group = criterion.benchmark_group("webhook on loopback");
    group.sample_size(20).throughput(Throughput::Elements(CALLERS));
    let before = server.connections();
    let mut rounds = 0;
    group.bench_function("1,000 cold callers at once", |b| {
        b.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let policy = cold();
                let began = Instant::now();
                let all = identities.iter().map(|identity| policy.decide(Subject::App(identity)));
                assert!(runtime.block_on(join_all(all)).iter().all(is_allowed));
                took += began.elapsed();
                rounds += 1;
            }
            took
        });
    });
    println!("{} connections for each 1,000 questions", (server.connections() - before) / rounds);

    let hanging = hex::encode(app(u32::MAX));
    runtime
        .block_on(server.suffer_when(Fault::Hanging, move |asked| asked.json()["appId"] == hanging.as_str()));
    let stuck = identity(u32::MAX);
    let mut longest = Duration::ZERO;
    group.bench_function("the same while 64 others hang", |b| {
        b.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let policy = Arc::new(cold());
                let waiting: Vec<_> = (0..HANGING)
                    .map(|_| {
                        let (policy, stuck) = (Arc::clone(&policy), stuck.clone());
                        runtime.spawn(async move { policy.decide(Subject::App(&stuck)).await })
                    })
                    .collect();
                let began = Instant::now();
                let all = identities.iter().map(|identity| async {
                    let decision = policy.decide(Subject::App(identity)).await;
                    (is_allowed(&decision), began.elapsed())
                });
                for (is_allowed, after) in runtime.block_on(join_all(all)) {
                    assert!(is_allowed);
                    longest = longest.max(after);
                }
                took += began.elapsed();
                waiting.iter().for_each(tokio::task::JoinHandle::abort);
            }
            took
        });
    });
    println!("the last of the thousand had its answer after {longest:?}; those that hang have 10 s");
    group.finish();
}

criterion_group!(benches, allowlist, reload, webhook);
criterion_main!(benches);
