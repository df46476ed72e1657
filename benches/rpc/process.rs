//! The process: the time from its start to the first response, and its memory after each kind of load.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::load::{self, Connections, Load, Sent};
use super::servers::Server;
use super::support::program::KMS;
use super::{Setting, anonymous, app_key, env_key_request, machine, milliseconds, numbered, request};

/// Number of starts.
const STARTS: usize = 21;
/// Concurrent clients.
const CALLERS: usize = 32;
/// Duration of the load.
const LOADED: Duration = Duration::from_secs(3);
/// Pause before the memory is read again.
const REST: Duration = Duration::from_secs(5);

/// Measures and prints tables.
pub(super) async fn measure(program: Option<&str>) {
    println!("{}", machine());
    let setting = Setting::of(program.unwrap_or(KMS)).await;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let (server, first_answer) = setting.start().await;
        starts.push(first_answer);
        drop(server);
    }
    starts.sort_unstable();
    let [least, median, most] =
        [0, STARTS / 2, STARTS - 1].map(|index| format!("{:.1} ms", milliseconds(starts[index])));
    println!("\n| {STARTS} starts to the first answer | {least} | {median} | {most} |\n");

    let (kms, _) = setting.start().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("| after {CALLERS} callers for {LOADED:?} | answers | resident | of it anonymous |");
    println!("|---|---:|---:|---:|");
    let row = |name: &str, answered: u64| {
        let [resident, anonymous] = memory(&kms).map(|bytes| bytes as f64 / 1e6);
        println!("| {name} | {answered} | {resident:.1} MB | {anonymous:.1} MB |");
    };
    row("nothing", 0);
    let meta = request("GET", "/prpc/GetMeta", b"");
    let guests = setting.guests(CALLERS as u64).await;
    let cold = setting.guests(6000).await;
    let attested = |connections, guests: Vec<_>| Load {
        connections,
        most: if connections == Connections::New { guests.len() as u64 } else { u64::MAX },
        sent: Sent::Bytes(app_key()),
        tls: numbered(guests),
        workers: CALLERS,
    };
    let open = |connections, request| Load { workers: CALLERS, ..anonymous(connections, request) };
    let meta = Arc::new(move |_| Arc::clone(&meta));
    for (name, load) in [
        ("`GetMeta`, kept", open(Connections::Kept, meta.clone())),
        ("`GetMeta`, new connections", open(Connections::New, meta)),
        ("`GetAppEnvEncryptPubKey`, one app", open(Connections::Kept, Arc::new(|_| env_key_request(1)))),
        ("`GetAppEnvEncryptPubKey`, distinct apps", open(Connections::Kept, Arc::new(env_key_request))),
        ("`GetAppKey`, kept", attested(Connections::Kept, guests)),
        ("`SignCert`, kept", open(Connections::Kept, setting.sign_cert())),
        ("`GetAppKey`, new connection and evidence each", attested(Connections::New, cold)),
    ] {
        let outcome = load::run(kms.address, &load, LOADED, || ()).await;
        row(name, outcome.answered);
    }
    tokio::time::sleep(REST).await;
    row(&format!("a rest of {REST:?}"), 0);
}

/// Resident memory of a process, and its anonymous part, bytes.
fn memory(server: &Server) -> [u64; 2] {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("/proc");
    ["VmRSS:", "RssAnon:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("kB") * 1024
    })
}
