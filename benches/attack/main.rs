//! Floods and faults against the release `kms`, on loopback only: `just attack` (five minutes) and
//! `just attack-quick` (one minute).
//!
//! Each case starts a KMS, attacks it for a while, and at the same time calls it from another address as an
//! honest client. The KMS must respond to that client, stay within its memory limit, be alive afterwards and
//! shut down cleanly. A case is a function in a module below and a row of its table. Arguments: parts of the
//! names of cases, and
//!
//! - `--quick`: the run of one minute;
//! - `--seconds=N`: duration of each attack;
//! - `--before=PATH`: each case first attacks this older `kms`, and the rows show both. Configuration keys
//!   that it does not know are omitted. Only the `kms` of this tree determines the exit status.

#[path = "../../tests/support/mod.rs"]
mod support;

mod bodies;
mod connections;
mod frames;
mod guests;
mod handshakes;
mod operators;
mod surroundings;
mod target;
mod wire;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::program::{KMS, Setting, Stderr};
use target::{Honest, Report, Target, Watch};

/// The work of an attack, or the failure that it caused.
type Outcome = Result<String, String>;

/// An attack.
struct Case {
    name: &'static str,
    /// TOML lines added to the configuration of the KMS.
    config: &'static str,
    /// Changes the setting before the start, or returns why the case cannot run on this machine.
    prepare: fn(&mut Setting) -> Result<(), &'static str>,
    /// The destination of the process log, if not a file.
    stderr: Option<Stderr>,
    /// Maximum size of the process, MiB.
    memory: u64,
    /// Maximum p99 latency of the honest calls.
    max_p99: Duration,
    attack: Attack,
}

/// How a case runs.
#[derive(Clone, Copy)]
enum Attack {
    /// Attacks a KMS while an honest client calls it.
    Beside(fn(&Target, Instant) -> LocalBoxFuture<'_, Outcome>),
    /// Starts and ends the KMS itself.
    Alone(fn(&Setting, Instant) -> LocalBoxFuture<'_, Outcome>),
}

impl Case {
    /// A case with the default limits.
    const fn new(name: &'static str, attack: fn(&Target, Instant) -> LocalBoxFuture<'_, Outcome>) -> Self {
        Self {
            name,
            config: "",
            prepare: |_| Ok(()),
            stderr: None,
            memory: 256,
            max_p99: Duration::from_secs(2),
            attack: Attack::Beside(attack),
        }
    }
}

fn cases() -> impl Iterator<Item = &'static Case> {
    let tables: [&'static [Case]; 7] = [
        handshakes::CASES,
        connections::CASES,
        bodies::CASES,
        frames::CASES,
        operators::CASES,
        surroundings::CASES,
        guests::CASES,
    ];
    tables.into_iter().flatten()
}

/// Duration of all attacks together.
const FULL: Duration = Duration::from_secs(200);
const QUICK: Duration = Duration::from_secs(36);

/// The command line.
#[derive(Default)]
struct Arguments {
    is_quick: bool,
    each: Option<Duration>,
    before: Option<String>,
    names: Vec<String>,
}

impl Arguments {
    fn read() -> Result<Self, String> {
        let mut read = Self::default();
        for argument in std::env::args().skip(1) {
            match argument.split_once('=') {
                // Added by `cargo bench`.
                _ if argument == "--bench" => {}
                _ if argument == "--quick" => read.is_quick = true,
                Some(("--seconds", number)) => {
                    let seconds = number.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
                    read.each = Some(Duration::from_secs(seconds.ok_or("--seconds: 1 to 86400")?));
                }
                Some(("--before", path)) => read.before = Some(path.to_owned()),
                _ if argument.starts_with('-') => return Err(format!("unknown argument {argument}")),
                _ => read.names.push(argument),
            }
        }
        Ok(read)
    }

    fn each(&self) -> Duration {
        let all = u32::try_from(cases().count()).expect("few cases");
        self.each.unwrap_or(if self.is_quick { QUICK } else { FULL } / all)
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // A boot storm needs more sockets than many shells allow.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let chosen: Vec<&Case> = cases()
        .filter(|case| {
            arguments.names.is_empty() || arguments.names.iter().any(|name| case.name.contains(name.as_str()))
        })
        .collect();
    let each = arguments.each();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match arguments.before {
        None => {
            println!("{:<36} {:>7} {:>7} {:>8} {:>6} {:>7}", "", "honest", "failed", "p99 ms", "MiB", "CPU s")
        }
        Some(_) => {
            println!("| Attack | Honest calls failed | p99 | Memory | CPU | Before | Now |");
            println!("|---|---:|---:|---:|---:|---|---|");
        }
    }
    let failed = runtime.block_on(async {
        let mut failed = 0;
        for case in &chosen {
            let before = match &arguments.before {
                Some(program) => Some(figures(case, each, program).await),
                None => None,
            };
            let now = figures(case, each, KMS).await;
            match before {
                None => println!("{}", now.line(case)),
                Some(before) => println!("{}", now.row(case, &before)),
            }
            failed += usize::from(now.verdict.is_err());
        }
        failed
    });
    println!("{} of {} cases failed", failed, chosen.len());
    if failed == 0 && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The result of a case.
struct Figures {
    honest: Option<Report>,
    /// Peak memory, MiB.
    memory: Option<u64>,
    cpu: Option<Duration>,
    verdict: Outcome,
}

/// A figure, or `n/a`.
fn shown(figure: Option<impl ToString>) -> String {
    figure.map_or_else(|| "n/a".to_owned(), |figure| figure.to_string())
}

impl Figures {
    /// A case without measurements.
    fn none(verdict: Outcome) -> Self {
        Self { honest: None, memory: None, cpu: None, verdict }
    }

    fn failures(&self) -> Option<usize> {
        self.honest.as_ref().map(|honest| honest.failures.len())
    }

    /// Milliseconds; `none` if more than one in a hundred calls failed.
    fn p99(&self) -> Option<String> {
        let p99 = self.honest.as_ref()?.p99;
        Some(p99.map_or_else(|| "none".to_owned(), |p99| p99.as_millis().to_string()))
    }

    fn cpu(&self) -> Option<String> {
        self.cpu.map(|cpu| format!("{:.1}", cpu.as_secs_f64()))
    }

    fn said(&self) -> String {
        match &self.verdict {
            Ok(did) => did.clone(),
            Err(error) => format!("FAILED: {error}"),
        }
    }

    /// The result as a line for a terminal.
    fn line(&self, case: &Case) -> String {
        format!(
            "{:<36} {:>7} {:>7} {:>8} {:>6} {:>7}  {}",
            case.name,
            shown(self.honest.as_ref().map(|honest| honest.answered)),
            shown(self.failures()),
            shown(self.p99()),
            shown(self.memory),
            shown(self.cpu()),
            self.said()
        )
    }

    /// The result as a row of a Markdown table.
    fn row(&self, case: &Case, before: &Self) -> String {
        let both = |before: Option<String>, now: Option<String>, unit: &str| {
            format!("{} → {}{unit}", shown(before), shown(now))
        };
        let text = |figures: &Self| {
            let said: String =
                figures.said().chars().map(|c| if c == '|' || c == '\n' { ' ' } else { c }).collect();
            said.chars().take(160).collect::<String>()
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            case.name,
            both(before.failures().map(|n| n.to_string()), self.failures().map(|n| n.to_string()), ""),
            both(before.p99(), self.p99(), " ms"),
            both(before.memory.map(|n| n.to_string()), self.memory.map(|n| n.to_string()), " MiB"),
            both(before.cpu(), self.cpu(), " s"),
            text(before),
            text(self)
        )
    }
}

/// Runs a case; a panic counts as its failure, because an older program may lack what the case needs.
async fn figures(case: &Case, time: Duration, program: &str) -> Figures {
    match AssertUnwindSafe(run(case, time, program)).catch_unwind().await {
        Ok(figures) => figures,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Figures::none(Err(text.unwrap_or_else(|| "a panic of the case".to_owned())))
        }
    }
}

async fn run(case: &Case, time: Duration, program: &str) -> Figures {
    let setting = match target::setting(case, program).await {
        Ok(setting) => setting,
        Err(reason) => return Figures::none(Ok(format!("n/a: {reason}"))),
    };
    let attack = match case.attack {
        Attack::Beside(attack) => attack,
        Attack::Alone(attack) => {
            return Figures::none(attack(&setting, Instant::now() + time).await);
        }
    };
    let target = Target::start(setting, case.stderr).await;
    let watch = Watch::over(&target);
    let before = target.cpu();
    let until = Instant::now() + time;
    let honest = Honest::start(&target, until);
    let attacked = tokio::time::timeout(time + Duration::from_secs(30), attack(&target, until)).await;
    let did = attacked.unwrap_or_else(|_| Err("the attack did not end".to_owned()));
    let honest = honest.result().await;
    let memory = target.peak_memory().max(watch.end());
    let cpu = target.cpu().saturating_sub(before);
    let verdict = match did {
        Ok(did) => match judge(case, &honest, memory) {
            Ok(()) => target.end().await.map(|()| did),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    Figures { honest: Some(honest), memory: Some(memory), cpu: Some(cpu), verdict }
}

fn judge(case: &Case, honest: &Report, memory: u64) -> Result<(), String> {
    if memory > case.memory {
        return Err(format!("it took {memory} MiB, {} are allowed", case.memory));
    }
    if !honest.failures.is_empty() {
        return Err(format!("{} honest calls failed: {}", honest.failures.len(), honest.failures[0]));
    }
    match honest.p99 {
        _ if honest.answered == 0 => Err("no honest call was answered".to_owned()),
        Some(p99) if p99 > case.max_p99 => Err(format!("honest calls took up to {p99:?}")),
        _ => Ok(()),
    }
}
