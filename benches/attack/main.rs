//! Floods and faults against the release `kms`, on loopback only: `just attack` (five minutes), `just attack-quick` (one).
//!
//! Each case starts a KMS of its own, attacks it for a while, and calls it meanwhile as an honest stranger from another
//! address. The KMS must answer that caller, stay within its memory, be alive afterwards and end in order. Arguments:
//! `--quick`, and parts of the names of cases. A case is a function in one of the modules below and a row of its table.

#[path = "../../tests/support/mod.rs"]
mod support;

mod bodies;
mod connections;
mod frames;
mod handshakes;
mod target;
mod wire;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use target::{Honest, Target};

/// One attack.
struct Case {
    name: &'static str,
    /// TOML over the configuration of the KMS.
    config: &'static str,
    /// How large the process may become, in MiB.
    memory: u64,
    /// How slow the slowest of a hundred honest calls may be.
    max_p99: Duration,
    /// Attacks until the time is over, and says what it has done, or what must not have happened.
    attack: fn(&Target, Instant) -> BoxFuture<'_, Result<String, String>>,
}

impl Case {
    /// A case with the usual bounds.
    const fn new(
        name: &'static str,
        attack: fn(&Target, Instant) -> BoxFuture<'_, Result<String, String>>,
    ) -> Self {
        Self { name, config: "", memory: 256, max_p99: Duration::from_secs(2), attack }
    }
}

fn cases() -> impl Iterator<Item = &'static Case> {
    let tables: [&'static [Case]; 4] = [handshakes::CASES, connections::CASES, bodies::CASES, frames::CASES];
    tables.into_iter().flatten()
}

/// How long all cases attack together.
const FULL: Duration = Duration::from_secs(200);
const QUICK: Duration = Duration::from_secs(36);

fn main() -> ExitCode {
    // `cargo bench` adds an argument of its own.
    let (flags, names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let is_quick = flags.iter().any(|flag| flag == "--quick");
    let chosen: Vec<&Case> = cases()
        .filter(|case| names.is_empty() || names.iter().any(|name| case.name.contains(name.as_str())))
        .collect();
    let all = u32::try_from(cases().count()).expect("few cases");
    let each = if is_quick { QUICK } else { FULL } / all;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{:<34} {:>8} {:>8} {:>8} {:>8}", "", "honest", "p99 ms", "MiB", "CPU s");
    let failed = runtime.block_on(async {
        let mut failed = 0;
        for case in &chosen {
            if let Err(error) = run(case, each).await {
                println!("FAILED {}: {error}", case.name);
                failed += 1;
            }
        }
        failed
    });
    println!("{} of {} cases failed", failed, chosen.len());
    if failed == 0 && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(case: &Case, time: Duration) -> Result<(), String> {
    let target = Target::start(case.config).await;
    let before = target.cpu();
    let until = Instant::now() + time;
    let honest = Honest::start(&target, until);
    let attacked = tokio::time::timeout(time + Duration::from_secs(20), (case.attack)(&target, until)).await;
    let did = attacked.map_err(|_| "the attack does not end".to_owned())?;
    let honest = honest.result().await;
    let (memory, cpu) = (target.peak_memory(), target.cpu().saturating_sub(before));
    println!(
        "{:<34} {:>8} {:>8} {:>8} {:>8.1}  {}",
        case.name,
        honest.answered,
        honest.p99.as_millis(),
        memory,
        cpu.as_secs_f64(),
        did.as_deref().unwrap_or("")
    );
    did?;
    if !honest.failures.is_empty() {
        return Err(format!("{} honest calls failed: {}", honest.failures.len(), honest.failures[0]));
    }
    if honest.answered == 0 {
        return Err("no honest call was answered".to_owned());
    }
    if honest.p99 > case.max_p99 {
        return Err(format!("honest calls took up to {:?}", honest.p99));
    }
    if memory > case.memory {
        return Err(format!("it took {memory} MiB, {} are allowed", case.memory));
    }
    target.end().await
}
