//! Each RPC over loopback TLS, compared with nginx and a bare axum + rustls in one run: `cargo bench --bench
//! rpc`.
//!
//! Servers are separate processes that share the machine with the load generator. `CVM_KMS_BENCH_SECONDS`
//! sets the duration of a round (default 2). `--before=PATH` compares the `kms` of this tree with that older
//! one instead, for the calls with TEXT in their names if there is `--only=TEXT`; `--process` measures start
//! and memory of the `kms` of this tree, `--process=PATH` those of another; `--fresh` compares calls with fresh
//! evidence with the same calls without it.

#[path = "../../tests/support/mod.rs"]
mod support;

mod before;
mod fresh;
mod load;
mod parts;
mod process;
mod servers;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cvm_kms::proto::{GetAppKeyRequest, SignCertRequest};
use kms_attest::binding::ReportData;
use kms_attest::collateral::Collateral;
use kms_attest::csr::Csr;
use kms_attest::p256::P256Key;
use kms_attest::trust::TrustAnchors;
use kms_simulator::Cvm;
use load::{Connections, Load, Numbered, Outcome, Sent};
use parts::Parts;
use prost::Message as _;
use rustls::ClientConfig;
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use servers::Server;
use support::program::KMS;
use support::{Caller, Identity, World};

/// Rounds of each load, alternating with the loads that it is compared with; the median counts.
const ROUNDS: usize = 3;
/// Concurrent clients without evidence.
const CALLERS: usize = 16;
/// Concurrent guests; their responses wait for the disk together.
const GUESTS: usize = 256;
/// Guests prepared for the cold rows; each connects once.
const COLD_GUESTS: u64 = 4500;

/// The peer's rates on a machine of this kind, whose two cores were shared with the load generator.
mod peer {
    pub(super) const ENV_KEY: f64 = 1600.0;
    pub(super) const APP_KEY_KEPT: f64 = 307.0;
    pub(super) const APP_KEY_NEW: f64 = 199.0;
}

/// A row of the table.
struct Row {
    name: &'static str,
    rate: f64,
    median: Duration,
    cpu: Duration,
    /// CPU time of server and load generator per call.
    both: Duration,
}

impl Row {
    /// Calls per second that the CPU time allows on two cores; independent of waiting and of other load.
    fn capacity(&self) -> f64 {
        2.0 / self.both.as_secs_f64()
    }
}

/// The result of one round.
struct Round {
    outcome: Outcome,
    server: Duration,
    generator: Duration,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        servers::be_bare_if_asked().await;
        let option = |name| std::env::args().find_map(|given| Some(given.strip_prefix(name)?.to_owned()));
        match (option("--process"), option("--before=")) {
            _ if option("--fresh").is_some() => fresh::compare().await,
            (Some(program), _) => process::measure(program.strip_prefix('=')).await,
            (None, Some(program)) => before::compare(&program, option("--only=").as_deref()).await,
            (None, None) => bench().await,
        }
    });
}

async fn bench() {
    println!("{}", machine());
    let setting = Setting::new().await;
    let (kms, first_answer) = setting.start().await;
    println!("an answer of GetMeta has {} bytes", text(&setting.world.path("body")).len());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = kms.resident();

    let bare = Server::bare(&setting.directory());
    bare.accepts().await;
    let nginx = Server::nginx(&setting.directory());
    match &nginx {
        Some(nginx) => nginx.accepts().await,
        None => println!("nginx is not installed: its rows, and the ratio to it, are missing"),
    }

    let meta = request("GET", "/prpc/GetMeta", b"");
    let mut rows = Vec::new();
    for connections in [Connections::Kept, Connections::New] {
        let load = anonymous(
            connections,
            Arc::new({
                let meta = Arc::clone(&meta);
                move |_| Arc::clone(&meta)
            }),
        );
        let named = |kept, new| if connections == Connections::Kept { kept } else { new };
        let mut contest = Vec::new();
        if let Some(nginx) = &nginx {
            contest.push((named("nginx, kept", "nginx, new connections"), nginx, load.clone()));
        }
        contest.push((
            named("bare axum + rustls, kept", "bare axum + rustls, new connections"),
            &bare,
            load.clone(),
        ));
        contest.push((named("GetMeta, kept", "GetMeta, new connections"), &kms, load));
        rows.extend(compare(&contest).await);
    }
    drop((bare, nginx));

    let distinct = anonymous(Connections::Kept, Arc::new(env_key_request));
    let repeated = anonymous(Connections::Kept, Arc::new(|_| env_key_request(u64::MAX)));
    rows.extend(
        compare(&[
            ("GetAppEnvEncryptPubKey, distinct apps", &kms, distinct),
            ("GetAppEnvEncryptPubKey, one app", &kms, repeated),
        ])
        .await,
    );

    let app_key = app_key();
    let guests = setting.guests(GUESTS as u64).await;
    let kept = Load {
        connections: Connections::Kept,
        workers: GUESTS,
        sent: Sent::Bytes(app_key.clone()),
        tls: numbered(guests),
        most: u64::MAX,
    };
    rows.extend(compare(&[("GetAppKey, kept", &kms, kept)]).await);
    rows.extend(
        compare(&[("SignCert, kept", &kms, anonymous(Connections::Kept, setting.sign_cert()))]).await,
    );

    let guests = setting.guests(COLD_GUESTS).await;
    let alone = setting.parts(&guests[..64], 0);
    // The complete calls run while the load generator uses the other core, and cores may share caches and
    // clock boost.
    let beside = std::thread::scope(|scope| {
        let other = scope.spawn(|| setting.parts(&guests[64..128], 1));
        let parts = setting.parts(&guests[..64], 2);
        other.join().map(|_| parts).expect("the other core's parts")
    });
    let mut cold = Vec::new();
    for guests in guests.chunks(guests.len() / ROUNDS) {
        let load = Load {
            connections: Connections::New,
            workers: CALLERS,
            sent: Sent::Bytes(app_key.clone()),
            tls: numbered(guests.to_vec()),
            most: guests.len() as u64,
        };
        cold.push(measure(&kms, &load).await);
    }
    rows.push(median_row("GetAppKey, new connection and evidence each", cold));

    print_rows(&rows);
    print_verdicts(&rows, &alone, &beside);
    println!();
    println!("| process | measured | target |\n|---|---:|---:|");
    println!("| start to first answer | {:.0} ms | ≤ 100 ms |", first_answer.as_secs_f64() * 1e3);
    println!("| resident, idle | {:.1} MB | < 25 MB |", idle as f64 / 1e6);
    println!("| resident, after the load | {:.1} MB | |", kms.resident() as f64 / 1e6);
}

/// A KMS with keys and its surroundings.
struct Setting {
    world: World,
    app: Arc<Cvm>,
    port: u16,
    program: String,
}

impl Setting {
    /// The keys are made by a KMS in this process, which then ends.
    async fn new() -> Self {
        let mut world = World::ready_with(&limits(&["unauthenticated", "app", "instance"])).await;
        let app = world.app(1);
        world.allow_app(&app);
        world.stop().await;
        let port = servers::free_port();
        world
            .configure(&format!("rpc.port = {port}\ncore.onboard.port = {port}\ncore.admin.enabled = false"));
        fs::write(world.path("kms.toml"), toml::to_string(&world.config).expect("TOML")).expect("kms.toml");
        Self { world, app, port, program: KMS.to_owned() }
    }

    /// Starts the `kms` binary; returns the time until its first response to `GetMeta` over TLS. Writes its
    /// certificate, key and the size of its response to files for the other servers.
    async fn start(&self) -> (Server, Duration) {
        let tls = Arc::new(Caller::new(([127, 0, 0, 1], self.port).into()).http1().tls());
        let meta = request("GET", "/prpc/GetMeta", b"");
        let kms = Server::kms(&self.program, &self.world.path("kms.toml"), self.port);
        let answer = loop {
            kms.accepts().await;
            if let Ok(answer) = load::once(kms.address, Arc::clone(&tls), &meta).await {
                break answer;
            }
        };
        let first_answer = kms.started.elapsed();
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("headers") + 4;
        fs::write(self.world.path("body"), "x".repeat(answer.len() - head)).expect("body");
        fs::copy(self.world.key_file("rpc.crt"), self.world.path("tls.crt")).expect("certificate");
        fs::copy(self.world.key_file("rpc.key"), self.world.path("tls.key")).expect("key");
        (kms, first_answer)
    }

    fn directory(&self) -> std::path::PathBuf {
        self.world.path("")
    }

    /// TLS configurations of `count` guests, each with its own key and evidence.
    async fn guests(&self, count: u64) -> Vec<Arc<ClientConfig>> {
        self.guests_that_exchange(count, &aws_lc_rs::default_provider().kx_groups).await
    }

    /// TLS configurations of guests with these key exchange groups.
    async fn guests_that_exchange(
        &self,
        count: u64,
        groups: &[&'static dyn SupportedKxGroup],
    ) -> Vec<Arc<ClientConfig>> {
        let ca = cvm_kms::proto::GetTempCaCertResponse {
            temp_ca_cert: text(&self.world.key_file("tmp-ca.crt")),
            temp_ca_key: text(&self.world.key_file("tmp-ca.key")),
            ca_cert: text(&self.world.key_file("root-ca.crt")),
        };
        let threads = 2;
        let workers = (0..threads).map(|_| {
            let (ca, app) = (ca.clone(), Arc::clone(&self.app));
            let caller = Caller::new(([127, 0, 0, 1], self.port).into()).http1().exchanges(groups);
            tokio::task::spawn_blocking(move || {
                let guest = || Arc::new(caller.shows(&Identity::attested(&ca, &app)).tls());
                (0..count.div_ceil(threads)).map(|_| guest()).collect::<Vec<_>>()
            })
        });
        let mut guests = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            guests.extend(worker.await.expect("guests"));
        }
        guests
    }

    fn sign_cert(&self) -> Numbered<Arc<[u8]>> {
        let key = P256Key::generate();
        let spki = key.spki_der();
        let evidence = self.app.evidence(ReportData::ra_tls(&spki)).stripped();
        let csr = Csr {
            subject_alt_names: vec!["app.example".to_owned()],
            usage_client_auth: true,
            ..Csr::plain(&spki, "app.example", evidence)
        };
        let csr = csr.encode_v2();
        let signature = Csr::sign(&csr, &key);
        let message = SignCertRequest { api_version: 2, csr, signature, ..Default::default() };
        let request = request("POST", "/prpc/SignCert", &message.encode_to_vec());
        Arc::new(move |_| Arc::clone(&request))
    }

    /// The parts of a request; each `run` has its own quotes.
    fn parts(&self, guests: &[Arc<ClientConfig>], run: u8) -> Parts {
        let certificate = |path| CertificateDer::from_pem_file(path).expect("certificate");
        let server = parts::asking_server(
            certificate(self.world.path("tls.crt")),
            PrivateKeyDer::from_pem_file(self.world.path("tls.key")).expect("key"),
            certificate(self.world.key_file("tmp-ca.crt")),
        );
        let quotes: Vec<_> = (0..parts::TIMES)
            .map(|number| {
                let mut report_data = [run; 64];
                report_data[..2].copy_from_slice(&number.to_be_bytes());
                self.app.quote(report_data)
            })
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let collateral = Collateral::new(self.world.platform.collateral()).expect("collateral");
        let anchors = TrustAnchors::with_tdx_root(self.world.platform.root_der()).expect("a root");
        Parts {
            handshake: parts::handshake(&server, guests),
            quote: parts::quote(&quotes, &collateral, &anchors, now),
            library: parts::library(&quotes, &collateral, &anchors, now),
            derivation: parts::derivation(&self.world.root_keys()),
        }
    }
}

/// Raises these limits.
fn limits(whose: &[&str]) -> String {
    let most = 4_000_000_000_u32;
    let lift = |who| format!("core.limits.{who}_per_second = {most}\ncore.limits.{who}_burst = {most}\n");
    whose.iter().map(lift).collect()
}

/// The load of clients without a certificate.
fn anonymous(connections: Connections, request: Numbered<Arc<[u8]>>) -> Load {
    let tls = Arc::new(Caller::new(([127, 0, 0, 1], 0).into()).http1().tls());
    let sent = Sent::Bytes(request);
    Load { connections, workers: CALLERS, sent, tls: Arc::new(move |_| Arc::clone(&tls)), most: u64::MAX }
}

fn numbered(guests: Vec<Arc<ClientConfig>>) -> Numbered<Arc<ClientConfig>> {
    Arc::new(move |number| Arc::clone(&guests[number as usize % guests.len()]))
}

/// The guests' request.
fn app_key() -> Numbered<Arc<[u8]>> {
    let body = GetAppKeyRequest { api_version: 1, ..Default::default() }.encode_to_vec();
    let request = request("POST", "/prpc/GetAppKey", &body);
    Arc::new(move |_| Arc::clone(&request))
}

fn env_key_request(number: u64) -> Arc<[u8]> {
    let mut app_id = [0; 20];
    app_id[..8].copy_from_slice(&number.to_be_bytes());
    let body = format!(r#"{{"app_id":"{}"}}"#, hex::encode(app_id));
    request("POST", "/prpc/GetAppEnvEncryptPubKey?json", body.as_bytes())
}

fn request(verb: &str, target: &str, body: &[u8]) -> Arc<[u8]> {
    let length = match verb {
        "POST" => format!("content-length: {}\r\n", body.len()),
        _ => String::new(),
    };
    let head = format!("{verb} {target} HTTP/1.1\r\nhost: {}\r\n{length}\r\n", support::DOMAIN);
    [head.as_bytes(), body].concat().into()
}

/// Runs the loads alternately, [`ROUNDS`] times.
async fn compare(contest: &[(&'static str, &Server, Load)]) -> Vec<Row> {
    let mut measured: Vec<Vec<Round>> = contest.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((_, server, load), measured) in contest.iter().zip(&mut measured) {
            measured.push(measure(server, load).await);
        }
    }
    contest.iter().zip(measured).map(|((name, ..), measured)| median_row(name, measured)).collect()
}

/// One round, with the CPU time per request.
async fn measure(server: &Server, load: &Load) -> Round {
    let mut before = (Duration::ZERO, Duration::ZERO);
    let begin = || before = (server.cpu(), parts::process_time());
    let outcome = load::run(server.address, load, round(), begin).await;
    let each = |spent: Duration| spent.div_f64(outcome.answered.max(1) as f64);
    Round {
        server: each(server.cpu() - before.0),
        generator: each(parts::process_time() - before.1),
        outcome,
    }
}

fn median_row(name: &'static str, mut rounds: Vec<Round>) -> Row {
    rounds.sort_by(|left, right| left.outcome.rate().total_cmp(&right.outcome.rate()));
    let Round { outcome, server, generator } = rounds.swap_remove(rounds.len() / 2);
    Row { name, rate: outcome.rate(), median: outcome.median, cpu: server, both: server + generator }
}

fn print_rows(rows: &[Row]) {
    println!("\n| call | a second | median | server CPU each | two cores allow a second |");
    println!("|---|---:|---:|---:|---:|");
    for row in rows {
        println!(
            "| {} | {:.0} | {:.2} ms | {:.0} µs | {:.0} |",
            row.name,
            row.rate,
            milliseconds(row.median),
            microseconds(row.cpu),
            row.capacity(),
        );
    }
}

fn print_verdicts(rows: &[Row], alone: &Parts, beside: &Parts) {
    let find = |name: &str| rows.iter().find(|row| row.name == name);
    println!("\n| ratio | measured | by CPU | target |\n|---|---:|---:|---:|");
    let beside_row = |what: &str, subject: &str, reference: &str, target: &str| {
        if let (Some(row), Some(reference)) = (find(subject), find(reference)) {
            let (measured, by_cpu) = (row.rate / reference.rate, row.capacity() / reference.capacity());
            println!("| {what} | {measured:.2} | {by_cpu:.2} | {target} |");
        }
    };
    let beside_peer = |what: &str, subject: &str, peer: f64, target: &str| {
        if let Some(row) = find(subject) {
            println!("| {what} | {:.2} | {:.2} | {target} |", row.rate / peer, row.capacity() / peer);
        }
    };
    beside_row("GetMeta to nginx, kept", "GetMeta, kept", "nginx, kept", "≥ 0.8");
    beside_row("GetMeta to nginx, new", "GetMeta, new connections", "nginx, new connections", "");
    beside_row("GetMeta to bare, kept", "GetMeta, kept", "bare axum + rustls, kept", "");
    beside_row(
        "GetMeta to bare, new",
        "GetMeta, new connections",
        "bare axum + rustls, new connections",
        "≥ 0.9",
    );
    let env_key = "GetAppEnvEncryptPubKey, distinct apps";
    beside_peer("env key to the peer's, distinct apps", env_key, peer::ENV_KEY, "≥ 5");
    beside_peer("env key to the peer's, one app", "GetAppEnvEncryptPubKey, one app", peer::ENV_KEY, "≥ 9");
    beside_peer("GetAppKey to the peer's, kept", "GetAppKey, kept", peer::APP_KEY_KEPT, "≥ 20");
    let cold = "GetAppKey, new connection and evidence each";
    beside_peer("GetAppKey to the peer's, new", cold, peer::APP_KEY_NEW, "≥ 3");
    if let Some(row) = find(cold) {
        let to = |parts: &Parts| row.cpu.as_secs_f64() / parts.sum().as_secs_f64();
        println!("| CPU of a cold GetAppKey to the sum of its parts | | {:.2} | ≤ 1.5 |", to(alone));
        println!("| the same, parts measured with the other core busy | | {:.2} | |", to(beside));
    }
    println!("\n| part, CPU on one core | alone | other core busy |\n|---|---:|---:|");
    type Part = fn(&Parts) -> Duration;
    let parts: [(&str, Part); 5] = [
        ("TLS handshake with client certificate, server's side", |parts| parts.handshake),
        ("verification of a quote, signatures of its platform remembered", |parts| parts.quote),
        ("keys of an app, signature remembered", |parts| parts.derivation),
        ("sum", Parts::sum),
        ("for comparison: the quote by dcap-qvl as it is, nothing remembered", |parts| parts.library),
    ];
    for (name, part) in parts {
        println!("| {name} | {:.0} µs | {:.0} µs |", microseconds(part(alone)), microseconds(part(beside)));
    }
}

/// The machine, on which the numbers depend.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = read("/proc/sys/kernel/osrelease");
    let busy = read("/proc/loadavg");
    format!(
        "machine: {}, {cores} cores, Linux {}, load average before the run {}",
        model.unwrap_or("unknown"),
        kernel.trim(),
        busy.split(' ').next().unwrap_or_default(),
    )
}

fn round() -> Duration {
    let seconds = std::env::var("CVM_KMS_BENCH_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(2.0))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("a file of the key directory")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
