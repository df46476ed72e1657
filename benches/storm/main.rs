//! Boot storms: many CVMs, each with its own key, certificate and address, that want their keys at the same time from 1, 4 and 8 KMSs
//! with the same root keys: `cargo bench --bench storm`.
//!
//! Prints the time to the last key and the p99 of `GetMeta` in the meantime; a CVM without keys in the end is lost, and a key that differs
//! from that of another CVM is wrong: both fail. Then the same CVMs are of one domain and three others of another: the time of the three
//! is compared with what they need alone. `--cvms=10000` sets the number (default 1000), `--nodes=1,4` those of KMSs.
//!
//! All processes share the machine with the CVMs, so more KMSs are no faster here unless there are cores for them.

#[path = "../../tests/support/mod.rs"]
mod support;

mod nodes;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cvm_kms::proto::GetTempCaCertResponse;
use futures_util::future::join_all;
use kms_simulator::Cvm;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use support::{Caller, Identity, World};

use nodes::Nodes;

/// The app of the many, and that of the few.
const MANY: u8 = 0x66;
const FEW: u8 = 0x77;
/// How many are the few.
const FEW_CVMS: u32 = 3;
/// How long one request may take. A CVM that gets no answer comes again.
const REQUEST: Duration = Duration::from_secs(55);
/// A CVM that has no keys after this time is lost.
const PATIENCE: Duration = Duration::from_secs(600);
/// The pause of a CVM whose connection was closed; up to as much again is added.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the many boot before the few do.
const HEAD_START: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let option = |name| std::env::args().find_map(|given| Some(given.strip_prefix(name)?.to_owned()));
    let cvms = option("--cvms=").map_or(1000, |number| number.parse().expect("--cvms=NUMBER"));
    let nodes = option("--nodes=").unwrap_or_else(|| "1,4,8".to_owned());
    let nodes: Vec<usize> = nodes.split(',').map(|number| number.parse().expect("--nodes=1,4,8")).collect();
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!(
        "{:<34} {:>6} {:>10} {:>9} {:>9} {:>12} {:>9} {:>5}",
        "", "KMSs", "last key s", "p50 s", "p99 s", "GetMeta p99", "come back", "lost"
    );
    let lost: usize = nodes.into_iter().map(|count| runtime.block_on(storms(count, cvms))).sum();
    if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The storms with this number of KMSs; how many CVMs were lost.
async fn storms(count: usize, cvms: u32) -> usize {
    let nodes = Nodes::start(count, &[("few", FEW)]).await;
    let alone = boot(&nodes, FEW, FEW_CVMS, 0).await;
    alone.print("three, alone", count, None);
    let many = Storm::with_meta(&nodes, boot(&nodes, MANY, cvms, 1)).await;
    many.0.print(&format!("{cvms} of one domain"), count, Some(many.1));
    // Again, with evidence and addresses that no KMS has seen.
    let both = async {
        let late = async {
            tokio::time::sleep(HEAD_START).await;
            boot(&nodes, FEW, FEW_CVMS, 2).await
        };
        tokio::join!(boot(&nodes, MANY, cvms, 3), late)
    };
    let ((many_again, few), meta) = Storm::with_meta(&nodes, both).await;
    many_again.print(&format!("{cvms} of one domain"), count, Some(meta));
    few.print("  and three of another", count, None);
    println!(
        "  the three wait {:.1} times as long as alone, and {:.3} of what the many do",
        few.last().as_secs_f64() / alone.last().as_secs_f64(),
        few.last().as_secs_f64() / many_again.last().as_secs_f64()
    );
    [alone, many.0, many_again, few].iter().map(Storm::lost).sum()
}

/// What became of some CVMs.
struct Storm {
    /// The times of those that have their keys, in order.
    times: Vec<Duration>,
    lost: Vec<String>,
    came_back: usize,
    keys: BTreeSet<String>,
}

impl Storm {
    /// What `storm` comes to, with the p99 of `GetMeta` at the first KMS meanwhile.
    async fn with_meta<T>(nodes: &Nodes, storm: impl Future<Output = T>) -> (T, Duration) {
        let is_over = AtomicBool::new(false);
        let asking = async {
            let caller = nodes.caller(0).http1().from([127, 0, 0, 200].into());
            let mut times = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = tokio::time::timeout(REQUEST, caller.try_json("GetMeta", json!({}))).await;
                // One that fails counts as the slowest.
                let is_answered = matches!(&answer, Ok(Ok(answer)) if answer.status == 200);
                times.push(if is_answered { began.elapsed() } else { REQUEST });
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            times.sort_unstable();
            times.get(times.len() * 99 / 100).copied().unwrap_or(REQUEST)
        };
        let storm = async {
            let outcome = storm.await;
            is_over.store(true, Ordering::Relaxed);
            outcome
        };
        tokio::join!(storm, asking)
    }

    fn lost(&self) -> usize {
        // All instances of an app have the same key, from every KMS.
        self.lost.len() + self.keys.len().saturating_sub(1)
    }

    fn last(&self) -> Duration {
        self.times.last().copied().unwrap_or(PATIENCE)
    }

    fn print(&self, what: &str, nodes: usize, meta: Option<Duration>) {
        let at = |percent: usize| {
            self.times.get(self.times.len() * percent / 100).map_or(f64::NAN, Duration::as_secs_f64)
        };
        let meta = meta.map_or_else(String::new, |meta| format!("{:.1} ms", 1000.0 * meta.as_secs_f64()));
        println!(
            "{what:<34} {nodes:>6} {:>10.2} {:>9.2} {:>9.2} {meta:>12} {:>9} {:>5}",
            self.last().as_secs_f64(),
            at(50),
            at(99),
            self.came_back,
            self.lost()
        );
        if let Some(reason) = self.lost.first() {
            println!("  the first that is lost: {reason}");
        }
    }
}

/// `count` CVMs of an app boot at the same time; those of another `wave` have other addresses and evidence.
async fn boot(nodes: &Nodes, app: u8, count: u32, wave: u8) -> Storm {
    let callers = cvms(nodes, app, count, wave).await;
    let came_back = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let booting = callers.into_iter().map(|caller| {
        let came_back = Arc::clone(&came_back);
        tokio::spawn(async move {
            let key = keys(&caller, &came_back, began + PATIENCE).await?;
            Ok::<_, String>((began.elapsed(), key))
        })
    });
    let mut storm = Storm { times: Vec::new(), lost: Vec::new(), came_back: 0, keys: BTreeSet::new() };
    for booted in join_all(booting).await {
        match booted.map_err(|panic| panic.to_string()).and_then(|booted| booted) {
            Ok((time, key)) => {
                storm.times.push(time);
                storm.keys.insert(key);
            }
            Err(reason) => storm.lost.push(reason),
        }
    }
    storm.times.sort_unstable();
    storm.came_back = came_back.load(Ordering::Relaxed);
    storm
}

/// What a CVM does until it has its keys: one that is told to come back does so then.
async fn keys(caller: &Caller, came_back: &AtomicUsize, until: Instant) -> Result<String, String> {
    loop {
        let answer = tokio::time::timeout(REQUEST, caller.try_json("GetAppKey", json!({}))).await;
        let (reason, pause) = match answer {
            Ok(Ok(answer)) if answer.status == 200 => return Ok(answer.value()["k256_key"].to_string()),
            Ok(Ok(answer)) if matches!(answer.status, 429 | 503) => {
                let seconds =
                    answer.header("retry-after").parse().map_err(|_| "no Retry-After".to_owned())?;
                (format!("{}: {}", answer.status, answer.text()), Duration::from_secs(seconds))
            }
            Ok(Ok(answer)) => return Err(format!("{}: {}", answer.status, answer.text())),
            // The KMS had no connection left for it.
            Ok(Err(error)) => (error.to_string(), PAUSE),
            Err(_) => ("no answer".to_owned(), PAUSE),
        };
        if Instant::now() + pause > until {
            return Err(reason);
        }
        came_back.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause + pause.mul_f64(random())).await;
    }
}

/// From 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).expect("randomness");
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}

/// The callers of `count` instances, each with an address of its own, one KMS after the other.
async fn cvms(nodes: &Nodes, app: u8, count: u32, wave: u8) -> Vec<Caller> {
    let world: &World = nodes.world();
    let ca: GetTempCaCertResponse = nodes.caller(0).json("GetTempCaCert", json!({})).await.message();
    let cvms: Vec<_> = (0..count)
        .map(|number| {
            let mut instance = [wave; 20];
            instance[..4].copy_from_slice(&number.to_be_bytes());
            let builder = Cvm::builder(&world.platform).app_id([app; 20]).compose_hash([app; 32]);
            (number, builder.instance_id(&instance).build())
        })
        .collect();
    let each = cvms.len().div_ceil(std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let making = cvms.chunks(each).map(|cvms| {
        let (cvms, ca) = (cvms.to_vec(), ca.clone());
        let nodes: Vec<_> = (0..nodes.count()).map(|number| nodes.caller(number)).collect();
        tokio::task::spawn_blocking(move || {
            let caller = |(number, cvm): &(u32, Arc<Cvm>)| {
                let [_, high, middle, low] = number.to_be_bytes();
                // 127.16.0.1 and what follows; the few are elsewhere.
                let address = Ipv4Addr::new(127, 16 + wave * 8 + high, middle, low.saturating_add(1));
                let node = &nodes[*number as usize % nodes.len()];
                node.http1().shows(&Identity::attested(&ca, cvm)).from(IpAddr::V4(address))
            };
            cvms.iter().map(caller).collect::<Vec<_>>()
        })
    });
    let made = join_all(making).await;
    made.into_iter().flat_map(|callers| callers.expect("identities")).collect()
}
