//! `kmsctl diagnostics`: what requests wait for at a KMS, how long each stage takes, and what failed last.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};

const KEY_FLOW: &str = "/api/v1/diagnostics/key-flow";
const REPLY: Reply = Reply {
    max_bytes: 256 << 10,
    unreadable: |url| Failure::failed(format_args!("{url}: the response is not what a KMS sends")),
};

/// Arguments of `kmsctl diagnostics`.
#[derive(Args, Debug)]
pub(crate) struct Diagnostics {
    #[command(flatten)]
    admin: Administered,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyFlow {
    in_flight: Vec<Running>,
    queues: Vec<Queue>,
    caches: Vec<Cache>,
    upstreams: Vec<Service>,
    stages: Vec<Stage>,
    last_errors: Vec<CallerError>,
    clock: Clock,
    process: Option<Process>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Running {
    method: String,
    count: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Queue {
    name: String,
    waiting: u64,
    limit: Option<u64>,
    shed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cache {
    name: String,
    entries: u64,
    limit: Option<u64>,
    hits: u64,
    misses: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Service {
    name: String,
    ok: bool,
    count: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    last_error: Option<ServiceError>,
    breaker: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ServiceError {
    at: String,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stage {
    name: String,
    count: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CallerError {
    at: String,
    method: String,
    code: String,
    message: String,
    request_id: String,
    count: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Clock {
    now: String,
    floor: Option<String>,
    behind_s: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Process {
    rss_bytes: u64,
    open_files: u64,
    max_files: Option<u64>,
    threads: u64,
    cpu_s: f64,
    uptime_s: u64,
}

impl Diagnostics {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let flow: KeyFlow = self.admin.get(terminal, KEY_FLOW, REPLY).await?;
        terminal.show(&flow, |page| flow.show(page))?;
        Ok(Exit::Done)
    }
}

/// A duration in milliseconds, or a dash.
fn millis(duration: Option<f64>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| format!("{duration:.2} ms"))
}

/// ` of 64`, or nothing without a limit.
fn of(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |limit| format!(" of {limit}"))
}

impl KeyFlow {
    fn show(&self, page: &mut Page) {
        let running: Vec<_> =
            self.in_flight.iter().map(|one| format!("{} {}", printable(&one.method), one.count)).collect();
        page.line(format_args!(
            "In flight: {}",
            if running.is_empty() { "nothing".to_owned() } else { running.join(", ") }
        ));
        page.line("Stages (half, 99 of 100, count):");
        for Stage { name, count, p50_ms, p99_ms } in &self.stages {
            page.field(&printable(name), format_args!("{}, {}, {count}", millis(*p50_ms), millis(*p99_ms)));
        }
        page.line("Services:");
        for Service { name, ok, count, p50_ms, p99_ms, last_error, breaker } in &self.upstreams {
            let state = if *ok { page.toned(Tone::Good, "ok") } else { page.toned(Tone::Bad, "failing") };
            let breaker = match breaker.as_deref() {
                Some("open") => ", breaker open",
                _ => "",
            };
            page.field(
                &printable(name),
                format_args!("{state}{breaker}, {}, {}, {count}", millis(*p50_ms), millis(*p99_ms)),
            );
            if let Some(ServiceError { at, message }) = last_error {
                page.field("last error", format_args!("{} {}", printable(at), printable(message)));
            }
        }
        page.line("Queues:");
        for Queue { name, waiting, limit, shed } in &self.queues {
            page.field(&printable(name), format_args!("{waiting}{}, {shed} turned away", of(*limit)));
        }
        page.line("Caches:");
        for Cache { name, entries, limit, hits, misses } in &self.caches {
            page.field(
                &printable(name),
                format_args!("{entries}{}, {hits} hits, {misses} misses", of(*limit)),
            );
        }
        page.line("Errors of the last time that were not the fault of callers:");
        for CallerError { at, method, code, message, request_id, count } in &self.last_errors {
            page.field(
                &printable(at),
                format_args!(
                    "{} {}: {} ({count} times, last request {})",
                    printable(method),
                    printable(code),
                    printable(message),
                    printable(request_id)
                ),
            );
        }
        if self.clock.behind_s > 0 {
            let behind = format!("The clock is {} seconds behind.", self.clock.behind_s);
            page.line(page.toned(Tone::Bad, &behind));
        }
        if let Some(Process { rss_bytes, open_files, max_files, threads, cpu_s, uptime_s }) = &self.process {
            page.line(format_args!(
                "Process: {} MiB, {open_files}{} files, {threads} threads, {cpu_s:.1} s CPU in {uptime_s} s",
                rss_bytes >> 20,
                of(*max_files)
            ));
        }
    }
}
