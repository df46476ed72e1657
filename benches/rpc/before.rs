//! Compares the `kms` of this tree with an older one: the same calls from the same load generator,
//! alternating.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::kx_group;

use super::load::{Connections, Load, Numbered, Sent};
use super::servers::{self, Server};
use super::support::program::KMS;
use super::support::{Caller, DOMAIN, World};
use super::{
    CALLERS, GUESTS, Round, Setting, anonymous, app_key, env_key_request, limits, machine, measure,
    microseconds, numbered, request,
};

/// Measurements of each program, alternating.
const PAIRS: usize = 5;
/// Guests per round that connect once, with evidence that is new to the KMS.
const COLD_GUESTS: usize = 1000;

/// Measures both programs and prints a table of the calls with `only` in their names, or of all.
pub(super) async fn compare(program: &str, only: Option<&str>) {
    let is_asked = |name: &str| only.is_none_or(|only| name.contains(only));
    println!("{}", machine());
    let (before, now) = (Setting::of(program).await, Setting::of(KMS).await);
    let (old, _) = before.start().await;
    let (new, _) = now.start().await;
    println!("\n| Call | Server CPU before | Now | Ratio, median of {PAIRS} pairs | Least | Most |");
    println!("|---|---:|---:|---:|---:|---:|");
    let same = async |name: &str, load: Load| {
        if is_asked(name) {
            pairs(name, (&old, |_| load.clone()), (&new, |_| load.clone())).await;
        }
    };

    let meta: Numbered<Arc<[u8]>> = {
        let meta = request("GET", "/prpc/GetMeta", b"");
        Arc::new(move |_| Arc::clone(&meta))
    };
    same("GetMeta, kept", anonymous(Connections::Kept, Arc::clone(&meta))).await;
    let caller = Caller::new(([127, 0, 0, 1], 0).into()).http1();
    for (name, caller) in [
        ("GetMeta, new connections, X25519", caller.exchanges(&[kx_group::X25519])),
        (
            "GetMeta, new connections, X25519MLKEM768 offered first",
            caller.exchanges(&[kx_group::X25519MLKEM768, kx_group::X25519]),
        ),
    ] {
        let tls = Arc::new(caller.tls());
        let load = anonymous(Connections::New, Arc::clone(&meta));
        same(name, Load { tls: Arc::new(move |_| Arc::clone(&tls)), ..load }).await;
    }
    same("GetAppEnvEncryptPubKey, distinct apps", anonymous(Connections::Kept, Arc::new(env_key_request)))
        .await;
    let one = anonymous(Connections::Kept, Arc::new(|_| env_key_request(u64::MAX)));
    same("GetAppEnvEncryptPubKey, one app", one).await;

    let kept = async |setting: &Setting| Load {
        connections: Connections::Kept,
        workers: GUESTS,
        sent: Sent::Bytes(app_key()),
        tls: numbered(setting.guests(GUESTS as u64).await),
        most: u64::MAX,
    };
    if is_asked("GetAppKey, kept") {
        let (load_before, load_now) = (kept(&before).await, kept(&now).await);
        pairs("GetAppKey, kept", (&old, |_| load_before.clone()), (&new, |_| load_now.clone())).await;
    }
    if is_asked("SignCert, kept") {
        let sign = |setting: &Setting| anonymous(Connections::Kept, setting.sign_cert());
        let (load_before, load_now) = (sign(&before), sign(&now));
        pairs("SignCert, kept", (&old, |_| load_before.clone()), (&new, |_| load_now.clone())).await;
    }

    for (name, groups) in [
        ("GetAppKey, new connection and evidence each, X25519", vec![kx_group::X25519]),
        (
            "GetAppKey, new connection and evidence each, X25519MLKEM768 offered first",
            vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ),
    ]
    .into_iter()
    .filter(|(name, _)| is_asked(name))
    {
        let cold = async |setting: &Setting| {
            let guests = setting.guests_that_exchange((COLD_GUESTS * PAIRS) as u64, &groups).await;
            let loads = guests.chunks(COLD_GUESTS).map(|guests| Load {
                connections: Connections::New,
                workers: CALLERS,
                sent: Sent::Bytes(app_key()),
                tls: numbered(guests.to_vec()),
                most: COLD_GUESTS as u64,
            });
            loads.collect::<Vec<_>>()
        };
        let (loads_before, loads_now) = (cold(&before).await, cold(&now).await);
        let of_round = |loads: &[Load], round: usize| loads[round % loads.len()].clone();
        let before = (&old, |round| of_round(&loads_before, round));
        pairs(name, before, (&new, |round| of_round(&loads_now, round))).await;
    }
}

/// Runs both alternately and prints a row.
async fn pairs(
    name: &str,
    (old, load_before): (&Server, impl Fn(usize) -> Load),
    (new, load_now): (&Server, impl Fn(usize) -> Load),
) {
    let (mut before, mut now, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..PAIRS {
        // Each goes first equally often.
        let (first, second): (Round, Round);
        if round % 2 == 0 {
            first = measure(old, &load_before(round)).await;
            second = measure(new, &load_now(round)).await;
        } else {
            second = measure(new, &load_now(round)).await;
            first = measure(old, &load_before(round)).await;
        }
        ratios.push(second.server.as_secs_f64() / first.server.as_secs_f64());
        before.push(first.server);
        now.push(second.server);
    }
    before.sort_unstable();
    now.sort_unstable();
    ratios.sort_unstable_by(f64::total_cmp);
    let median = |times: &[Duration]| microseconds(times[times.len() / 2]);
    println!(
        "| {name} | {:.1} µs | {:.1} µs | {:.2} | {:.2} | {:.2} |",
        median(&before),
        median(&now),
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

impl Setting {
    /// The keys are made by this program; limits that `program` does not know are omitted.
    pub(super) async fn of(program: &str) -> Self {
        let mut world = World::stopped_with(&limits(&["unauthenticated"])).await;
        let port = servers::free_port();
        world.configure(&format!(
            "rpc.port = {port}\ncore.onboard = {{ port = {port}, auto_bootstrap_domain = \"{DOMAIN}\" }}\n\
             core.admin.enabled = false"
        ));
        let file = world.path("kms.toml");
        let write = |world: &World| {
            std::fs::write(&file, toml::to_string(&world.config).expect("TOML")).expect("kms.toml");
        };
        let known = world.config.clone();
        world.configure(&limits(&["app", "instance"]));
        write(&world);
        let checked = Command::new(program).current_dir("/").arg("-c").arg(&file).arg("check").output();
        let checked = checked.expect("the program runs");
        if [checked.stdout, checked.stderr]
            .iter()
            .any(|out| String::from_utf8_lossy(out).contains("unknown key"))
        {
            world.config = known;
            write(&world);
        }
        let app = world.app(1);
        world.allow_app(&app);
        Self { world, app, port, program: program.to_owned() }
    }
}
