//! The setup service: the state of a KMS before it serves, and the checks for operators.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::faults::{Fault, FaultServer, Reply};
use crate::support::http::{post, request, with};
use crate::support::program::Setting;
use crate::support::{Answer, Closed, DOMAIN, World, eventually};
use kms_ledger::signature::CosigningKey;
use kms_simulator::{AgentMode, CollateralSpec, PccsMode, Validity};
use rustix::fs::inotify;
use rustix::process::Signal;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const STATUS: &str = "/api/v1/setup/status";
const UNSET: &str = "this KMS asks for its onboarding token";

async fn status(world: &World) -> Value {
    let answer = world.caller().plain().get(STATUS).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.value()
}

async fn validate(world: &World, what: &str, about: Value) -> Answer {
    let path = format!("/api/v1/setup/validate/{what}");
    world.caller().plain().send(post(&path, about.to_string())).await
}

/// The finding of a check in its common form, which contains nothing about the surroundings of the KMS.
async fn finding(world: &World, what: &str, about: Value) -> Value {
    let answer = validate(world, what, about).await;
    assert_eq!(answer.status, 200, "{what}: {answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let found = answer.value();
    let keys: Vec<&String> = found.as_object().expect("an object").keys().collect();
    let shown = if what == "source" && found["ok"] == true { &["k256_pubkey"][..] } else { &[] };
    assert_eq!(keys, [&["what", "ok", "latency_ms", "detail", "advice"], shown].concat(), "{found}");
    assert_eq!(found["what"], what);
    assert!(found["latency_ms"].as_u64().is_some_and(|took| took <= 11_000), "{found}");
    assert_ne!(found["detail"], "", "{found}");
    assert_eq!(found["advice"] == "", found["ok"] == true, "{found}");
    let directory = world.path("").display().to_string();
    for inside in [&*directory, &world.pccs.url(), &world.pccs.address().to_string(), world.agent.address()] {
        assert!(!answer.text().contains(inside), "{found}");
    }
    found
}

async fn passes(world: &World, what: &str, about: Value, detail: &str) {
    let found = finding(world, what, about).await;
    assert!(found["ok"] == true && found["detail"].as_str().expect("text").contains(detail), "{found}");
}

async fn fails(world: &World, what: &str, about: Value, detail: &str) {
    let found = finding(world, what, about).await;
    assert!(found["ok"] == false && found["detail"].as_str().expect("text").contains(detail), "{found}");
}

/// Every file in `directory` with its content; sockets and directories by name. Excludes the collateral
/// floors, which are not about this KMS.
fn snapshot(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("directory") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // Collateral of Intel is kept once it is verified. The index is made from the log, which is compared, and is synced
        // some seconds after it.
        if name.starts_with("collateral-floors.json") || name == "collateral" || name == "events.redb" {
            continue;
        }
        if path.is_dir() {
            found.extend(snapshot(&path));
        }
        let content = if path.is_file() { fs::read(&path).expect("file") } else { Vec::new() };
        found.insert(path.display().to_string(), content);
    }
    found
}

/// The same, once the start has been recorded. Without keys there is no tree over the log.
async fn settled(world: &World) -> BTreeMap<String, Vec<u8>> {
    eventually("the start is recorded", async || world.audited("started").first().cloned()).await;
    snapshot(&world.path(""))
}

fn steps(status: &Value) -> Vec<&str> {
    let next = status["next"].as_array().expect("steps");
    next.iter().map(|step| step["step"].as_str().expect("a word")).collect()
}

#[tokio::test]
async fn the_status_says_which_start_this_is_and_what_can_be_done() {
    let mut world = World::onboarding().await;
    let first = status(&world).await;
    assert_eq!((&first["mode"], &first["token_required"]), (&json!("onboarding"), &json!(false)));
    assert_eq!(first["serving_port"], Value::Null);
    assert_eq!(steps(&first), ["allow", "bootstrap", "onboard"]);
    assert!(first["version"].as_str().is_some_and(|version| version.starts_with('v')), "{first}");
    let boot = first["boot_id"].as_str().expect("an id");
    assert!(boot.len() == 32 && boot.bytes().all(|digit| digit.is_ascii_hexdigit()), "{boot}");
    let started = OffsetDateTime::parse(first["started_at"].as_str().expect("a time"), &Rfc3339);
    let age = OffsetDateTime::now_utc() - started.expect("RFC 3339");
    assert!((-1..600).contains(&age.whole_seconds()), "{first}");
    assert_eq!(status(&world).await, first);
    world.start().await.expect("starts again");
    assert_ne!(status(&world).await["boot_id"], first["boot_id"]);
}

#[tokio::test]
async fn the_status_follows_the_keys_until_they_are_served_and_is_gone_then() {
    let world = World::onboarding().await;
    world.bootstrap().await;
    let committed = status(&world).await;
    assert_eq!((&committed["mode"], steps(&committed)), (&json!("committed"), vec!["finish"]));

    // The certificate of the next phase needs evidence, so the switch waits for the attester.
    world.agent.set_mode(AgentMode::Down);
    assert_eq!(world.caller().plain().get("/finish").await.status, 200);
    let waits = eventually("the attester is missed", async || {
        let now = status(&world).await;
        now["next"][0]["text"].as_str().is_some_and(|text| text.contains("attester")).then_some(now)
    })
    .await;
    assert_eq!((&waits["mode"], steps(&waits)), (&json!("committed"), vec!["wait"]));

    let mut line = world.caller().plain().connect().await.expect("a connection");
    world.agent.set_mode(AgentMode::Up);
    let last = loop {
        let now = line.send(request("GET", &format!("{STATUS}?wait=20"), "")).await.value();
        if now["mode"] != "committed" {
            break now;
        }
    };
    assert_eq!((&last["mode"], steps(&last)), (&json!("serving"), vec!["use"]));
    assert_eq!(last["boot_id"], committed["boot_id"]);

    eventually("the setup service is gone", async || {
        let answer = world.caller().try_send(request("GET", STATUS, "")).await.ok()?;
        (answer.status == 404).then_some(())
    })
    .await;
    for path in ["/api/v1/setup/validate/clock", "/api/v1/setup/validate/no-such"] {
        assert_eq!(world.caller().send(post(path, "{}")).await.status, 404);
    }
    assert_eq!(world.caller().get("/").await.status, 404);
    assert_eq!(world.caller().get("/assets/onboard.js").await.status, 404);
}

#[tokio::test]
async fn whoever_waits_hears_of_a_change_and_otherwise_in_time() {
    let world = World::onboarding().await;
    let caller = world.caller().plain();
    let began = Instant::now();
    let unchanged = caller.get(&format!("{STATUS}?wait=1")).await.value();
    assert_eq!(unchanged["mode"], "onboarding");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let waiting = tokio::spawn({
        let caller = caller.clone();
        async move { caller.get(&format!("{STATUS}?wait=20")).await.value() }
    });
    // A commit in progress is not reported as a partial key directory.
    let looking = tokio::spawn({
        let caller = caller.clone();
        async move {
            let mut line = caller.connect().await.expect("a connection");
            let mut modes = BTreeSet::new();
            while !modes.contains("committed") {
                let now = line.send(request("GET", STATUS, "")).await.value();
                modes.insert(now["mode"].as_str().expect("a mode").to_owned());
            }
            modes
        }
    });
    world.bootstrap().await;
    let modes = looking.await.expect("no panic");
    assert!(modes.iter().all(|mode| mode == "onboarding" || mode == "committed"), "{modes:?}");
    assert_eq!(waiting.await.expect("no panic")["mode"], "committed");
    assert!(began.elapsed() < Duration::from_secs(19), "{:?}", began.elapsed());
    for wait in ["x", "-1", ""] {
        let refusal = caller.get(&format!("{STATUS}?wait={wait}")).await.refusal();
        assert_eq!(refusal, (400, "wait must be a whole number of seconds".to_owned()));
    }
}

#[tokio::test]
async fn a_directory_with_half_of_the_keys_is_told_and_not_served() {
    let world = World::onboarding().await;
    world.bootstrap().await;
    fs::rename(world.key_file("root-k256.key"), world.path("away")).expect("renamed");
    let broken = status(&world).await;
    assert_eq!((&broken["mode"], steps(&broken)), (&json!("broken"), vec!["restore"]));
    let text = broken["next"][0]["text"].as_str().expect("a text");
    assert!(text.contains("root-k256.key is missing although root-ca.key is there"), "{text}");
    assert_eq!(world.caller().plain().get("/finish").await.status, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(status(&world).await["mode"], "broken");
    // Once it is complete again, the switch continues by itself.
    fs::rename(world.path("away"), world.key_file("root-k256.key")).expect("renamed");
    eventually("keys are served", async || {
        let answer = world.caller().try_json("GetMeta", json!({})).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_a_change_does_not_have_the_keys_read_again_and_again() {
    let world = World::onboarding().await;
    world.bootstrap().await;
    assert_eq!(status(&world).await["mode"], "committed");
    let opened =
        inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).expect("inotify");
    for file in ["root-ca.key", "root-k256.key", "tmp-ca.key", "rpc.key"] {
        inotify::add_watch(&opened, world.key_file(file), inotify::WatchFlags::OPEN).expect("a watch");
    }
    let count = || {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&opened, &mut buffer);
        std::iter::from_fn(|| events.next().ok().map(drop)).count()
    };
    for _ in 0..5 {
        let now = world.caller().plain().get(&format!("{STATUS}?wait=1")).await.value();
        assert_eq!(now["mode"], "committed");
    }
    assert_eq!(count(), 0, "nothing has changed");
    // A change is noticed even if the file keeps its name and size.
    let key = fs::read(world.key_file("root-ca.key")).expect("a key");
    assert_ne!(count(), 0, "the watch is there");
    fs::write(world.key_file("root-ca.key"), vec![b'x'; key.len()]).expect("written");
    assert_eq!(status(&world).await["mode"], "broken");
    fs::write(world.key_file("root-ca.key"), key).expect("written");
    assert_eq!(status(&world).await["mode"], "committed");
}

#[tokio::test]
async fn loose_permissions_are_warned_of_once_not_at_each_look() {
    let setting = Setting::with("core.insecure_world_readable_keys = true").await;
    let program = setting.start().await;
    let caller = setting.caller().plain();
    let answer = caller.json("Bootstrap", json!({ "domain": DOMAIN })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(program.stop(Signal::TERM).await, Some(0));

    let (key, away) = (setting.world.key_file("root-k256.key"), setting.world.path("away"));
    let (other, elsewhere) = (setting.world.key_file("root-ca.key"), setting.world.path("elsewhere"));
    for (from, to) in [(&key, &away), (&other, &elsewhere)] {
        fs::rename(from, to).expect("renamed");
    }
    // It says that there were keys: without them the KMS would not start.
    fs::remove_file(setting.world.key_file("root-fingerprints.json")).expect("removed");
    for (path, mode) in [(setting.world.key_file("tmp-ca.key"), 0o644), (setting.world.path("certs"), 0o777)]
    {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    }
    let program = setting.start().await;
    let mode = async || caller.get(&format!("{STATUS}?wait=1")).await.value()["mode"].clone();
    assert_eq!(mode().await, "onboarding");
    fs::rename(&away, &key).expect("renamed");
    assert_eq!(mode().await, "broken");
    fs::rename(&elsewhere, &other).expect("renamed");
    for _ in 0..2 {
        assert_eq!(mode().await, "committed");
    }
    let log = program.log();
    for warning in [
        "INSECURE: others may replace the key files: the key directory has mode 0777",
        "INSECURE: others may use a key file: mode 0644",
        "no root key in the key directory, but ",
    ] {
        assert_eq!(log.matches(warning).count(), 1, "{warning}: {log}");
    }
}

#[tokio::test]
async fn keys_that_only_another_configuration_can_serve_need_a_restart() {
    let mut world = World::onboarding().await;
    world.bootstrap().await;
    fs::remove_file(world.key_file("rpc-domain")).expect("removed");
    assert_eq!(world.caller().plain().get("/finish").await.status, 200);
    let stuck = eventually("that is found out", async || {
        Some(status(&world).await).filter(|now| now["mode"] != "committed")
    })
    .await;
    assert_eq!((&stuck["mode"], steps(&stuck)), (&json!("restart_required"), vec!["restart"]));
    let text = stuck["next"][0]["text"].as_str().expect("a text");
    assert!(text.contains("core.onboard.auto_bootstrap_domain"), "{text}");
    world.configure("core.onboard.auto_bootstrap_domain = \"localhost\"");
    world.start().await.expect("starts");
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
}

#[tokio::test]
async fn onboarding_elsewhere_says_where_keys_will_be_served_and_waits_for_that_port() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let world = World::onboarding_with(&format!("rpc.port = {port}")).await;
    assert_eq!(status(&world).await["serving_port"], port);
    world.bootstrap().await;
    assert_eq!(world.caller().plain().get("/finish").await.status, 200);
    eventually("the port is missed", async || {
        let now = status(&world).await;
        now["next"][0]["text"].as_str().is_some_and(|text| text.contains("a port")).then_some(())
    })
    .await;
    drop(taken);
    let there = crate::support::Caller::new(([127, 0, 0, 1], port).into());
    eventually("keys are served there", async || {
        there.try_json("GetMeta", json!({})).await.ok().filter(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn every_check_passes_where_everything_is_well_and_writes_nothing() {
    let source = World::ready().await;
    let world = World::onboarding().await;
    let before = settled(&world).await;
    let url = format!("https://{}", source.address());
    for (what, about, detail) in [
        ("key-directory", json!({}), "A file was written, synced to the disk and removed."),
        ("clock", json!({}), "within the validity of Intel's signed collateral"),
        ("attester", json!({}), "made and verified: dstack-tdx, TCB status UpToDate"),
        ("collateral", json!({}), "and verified, for platforms of kind"),
        ("authorization", json!({}), "The policy (allowlist) allows this KMS"),
        ("source", json!({ "source_url": url }), "It is an attested KMS (TCB status UpToDate"),
        ("domain", json!({ "domain": DOMAIN }), "The TLS certificate will be for localhost, a DNS name."),
        ("domain", json!({ "domain": "10.0.2.2" }), "10.0.2.2, an IPv4 address."),
    ] {
        passes(&world, what, about, detail).await;
        let after = snapshot(&world.path(""));
        let changed: Vec<_> =
            before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name)).collect();
        assert!(changed.is_empty(), "{what} changes {changed:?}");
    }
    assert!(source.audited("kms_key_released").is_empty(), "no keys were asked for");
    assert_eq!(status(&world).await["mode"], "onboarding");
}

#[tokio::test]
async fn collateral_is_fetched_once_and_then_kept() {
    let world = World::onboarding().await;
    passes(&world, "collateral", json!({}), "Fetched now").await;
    let requests = world.pccs.request_count();
    passes(&world, "collateral", json!({}), "Fetched before").await;
    assert_eq!(world.pccs.request_count(), requests);
}

#[tokio::test]
async fn where_images_are_verified_a_denied_kms_is_told_the_entry_that_names_its_image() {
    let toml = "core.image = { verify = true, download_url = 'http://127.0.0.1:1/x' }";
    let world = World::onboarding_with(toml).await;
    world.allowlist.change(|rules| rules["kms"]["mrAggregated"] = json!([]));
    let found = finding(&world, "authorization", json!({})).await;
    let entry = json!({
        "osImageHash": hex::encode(world.cvm.os_image_hash()),
        "composeHash": hex::encode(world.cvm.compose_hash()),
    });
    assert_eq!(found["ok"], false, "{found}");
    let detail = found["detail"].as_str().expect("a detail");
    let told = format!(
        "The policy denies this KMS: aggregated MR not allowed. To allow it, add {entry} to kms.images,"
    );
    assert!(detail.starts_with(&told) && detail.contains("to kms.mrAggregated"), "{detail}");
    // With that entry the decision depends on the image, which cannot be fetched here.
    world.allowlist.change(|rules| rules["kms"]["images"] = json!([entry]));
    let found = finding(&world, "authorization", json!({})).await;
    assert_eq!(found["ok"], false, "{found}");
}

#[tokio::test]
async fn each_check_names_what_is_wrong() {
    let mut world = World::onboarding().await;
    world.agent.set_mode(AgentMode::WrongReportData);
    fails(&world, "attester", json!({}), "Own evidence is for other report data.").await;
    world.agent.set_mode(AgentMode::Down);
    fails(&world, "attester", json!({}), "Guest agent returned status 500.").await;
    for what in ["collateral", "authorization"] {
        fails(&world, what, json!({}), "and there is none: Guest agent returned status 500.").await;
    }
    fails(
        &world,
        "source",
        json!({ "source_url": "https://127.0.0.1:1" }),
        "Guest agent returned status 500.",
    )
    .await;
    passes(&world, "clock", json!({}), "nothing signed to compare it with").await;
    world.agent.set_mode(AgentMode::Up);

    world.pccs.set_mode(PccsMode::Down);
    world.start().await.expect("starts, with nothing cached");
    fails(&world, "collateral", json!({}), "is not available: ").await;
    fails(&world, "attester", json!({}), "Evidence was made. Intel's collateral").await;
    world.pccs.set_mode(PccsMode::Up);

    let directory = world.path("certs");
    fs::rename(&directory, world.path("elsewhere")).expect("renamed");
    fails(&world, "key-directory", json!({}), "the key directory").await;
    fs::rename(world.path("elsewhere"), &directory).expect("renamed");
    passes(&world, "key-directory", json!({}), "").await;

    world.start().await.expect("starts");
    world.allowlist.write(&json!({}));
    fails(&world, "authorization", json!({}), "The policy denies this KMS: OS image is not allowed.").await;
    for wrong in ["", "a_b", "kms.example.com:8000"] {
        fails(&world, "domain", json!({ "domain": wrong }), "domain ").await;
    }
    assert_eq!(status(&world).await["mode"], "onboarding");
}

#[tokio::test]
async fn collateral_of_another_time_speaks_against_the_clock() {
    let mut world = World::stopped_with("").await;
    world.pccs.publish(&CollateralSpec::valid(Validity::new(1_600_000_000, 1_610_000_000)));
    world.start().await.expect("starts");
    fails(&world, "clock", json!({}), "the collateral that was fetched is not valid at that time").await;
    fails(&world, "collateral", json!({}), "collateral is not valid at this time").await;
}

#[tokio::test]
async fn a_silent_back_end_is_told_without_its_address() {
    let refusing = Closed::new();
    let closed = refusing.address();
    let webhook = format!("http://{closed}/secret-path");
    let toml = format!("[core.auth_api]\ntype = \"webhook\"\nwebhook.url = \"{webhook}\"");
    let world = World::onboarding_with(&toml).await;
    let found = finding(&world, "authorization", json!({})).await;
    assert_eq!(
        (&found["ok"], &found["detail"]),
        (&json!(false), &json!("The authorization backend does not answer."))
    );
    for inside in [closed.to_string(), closed.port().to_string(), "secret-path".to_owned()] {
        assert!(!found.to_string().contains(&inside), "{found}");
    }
}

#[tokio::test]
async fn sources_that_are_none_are_told_apart_and_given_nothing() {
    let refusing = Closed::new();
    let closed = refusing.address();
    let world = World::onboarding().await;
    let onboarding = World::onboarding().await;
    let mut stranger = World::of_another_image("").await;
    stranger.start().await.expect("starts");
    stranger.bootstrap().await;
    stranger.finish().await;
    let before = settled(&world).await;
    for (url, detail) in [
        ("nonsense".to_owned(), "not a URL: expected https://host"),
        ("http://kms.example:8000".to_owned(), "the URL of a KMS starts with https://"),
        ("https://user:pw@host".to_owned(), "the URL of a KMS has no user name or password"),
        (format!("https://{closed}"), "connection failed: Connection refused"),
        (
            format!("https://{}", onboarding.address()),
            "The source KMS has no keys yet: it is being onboarded itself",
        ),
        (format!("https://{}", stranger.address()), "boot denied: OS image is not allowed"),
    ] {
        fails(&world, "source", json!({ "source_url": url }), detail).await;
    }
    assert!(snapshot(&world.path("")) == before, "a source was examined, and something is left");
}

/// An issuer, two witnesses and two targets of notifications, the first of each at `there`, the others at `second`.
fn services(there: &str, second: &str) -> String {
    let witness = |name: &str, url: &str| {
        let key = CosigningKey::from_seed(name.parse().expect("a name"), &[name.len() as u8; 32]);
        format!("\"{} {url}\"", key.expect("a key").verifying_key())
    };
    format!(
        "core.admin.oidc = {{ issuer = '{there}', audience = 'kms', roles = {{ all = 'viewer' }} }}\n\
         core.ledger.witnesses.list = [{}, {}]\n\
         [[core.notify]]\nurl = '{there}'\nsecret = 'sixteen bytes or more'\n\
         [[core.notify]]\nname = 'pager'\nurl = '{second}'\nsecret = 'sixteen bytes or more'",
        witness("witness.example/1", there),
        witness("witness.example/two", second),
    )
}

#[tokio::test]
async fn the_services_beside_the_policy_are_reached_or_named_by_their_number() {
    let world = World::onboarding().await;
    for (what, key) in [("oidc", "admin.oidc"), ("witness", "ledger.witnesses"), ("notify", "notify")] {
        passes(&world, what, json!({}), &format!("core.{key} names none")).await;
    }
    let [one, two] = [(); 2].map(|()| FaultServer::answering(|_| Reply::json(&json!({}))));
    let (one, two) = (one.await, two.await);
    let world = World::onboarding_with(&services(&one.url(), &two.url())).await;
    // A method that is not allowed there is an answer too.
    for fault in [None, Some(Fault::Page(405, Vec::new()))] {
        if let Some(fault) = fault {
            two.suffer(fault).await;
        }
        passes(&world, "oidc", json!({}), "The issuer of core.admin.oidc answers").await;
        passes(&world, "witness", json!({}), "All 2 of core.ledger.witnesses can be reached.").await;
        passes(&world, "notify", json!({}), "All 2 of core.notify can be reached.").await;
    }
    let asked = one.asked();
    for (verb, end) in [("GET", "/.well-known/openid-configuration"), ("HEAD", "/add-checkpoint")] {
        assert!(asked.iter().any(|asked| asked.verb == verb && asked.path.ends_with(end)), "{verb} {end}");
    }

    for (fault, problem) in
        [(Fault::Down, "connection refused"), (Fault::Page(503, Vec::new()), "it answered 503")]
    {
        two.suffer(fault).await;
        for (what, key) in [("witness", "core.ledger.witnesses"), ("notify", "core.notify")] {
            let told = finding(&world, what, json!({})).await;
            let expected = format!("Of 2 in {key} cannot be reached: number 2: {problem}.");
            assert_eq!((&told["ok"], &told["detail"]), (&json!(false), &json!(expected)));
            for inside in ["witness.example", "pager", &two.address().to_string()] {
                assert!(!told.to_string().contains(inside), "{told}");
            }
        }
    }
    two.suffer(Fault::Hanging).await;
    fails(&world, "notify", json!({}), "number 2: no answer in time.").await;
    one.suffer(Fault::Page(404, Vec::new())).await;
    fails(&world, "oidc", json!({}), "Of 1 in core.admin.oidc cannot be reached: number 1: it answered 404.")
        .await;
}

#[tokio::test]
async fn what_cannot_be_checked_is_refused_with_what_can() {
    let world = World::onboarding().await;
    let names = "key-directory, clock, attester, collateral, authorization, source, domain, oidc, witness, notify, state";
    for what in ["", "no-such", "Clock", "clock/", "clock/x"] {
        let answer = validate(&world, what, json!({})).await;
        assert_eq!(answer.status, 404, "{what}: {answer:?}");
    }
    let refusal = validate(&world, "no-such", json!({})).await.refusal();
    assert_eq!(refusal, (404, format!("no such check; there are: {names}")));
    for (what, field) in [("source", "source_url"), ("domain", "domain")] {
        let refusal = validate(&world, what, json!({})).await.refusal();
        assert_eq!(refusal, (400, format!("{field} is missing from the request")));
    }
    let caller = world.caller().plain();
    for body in ["[", "\"x\"", "{\"domain\": 7}"] {
        assert_eq!(caller.send(post("/api/v1/setup/validate/domain", body)).await.status, 400, "{body}");
    }
    let large = "x".repeat(17 * 1024);
    assert_eq!(caller.send(post("/api/v1/setup/validate/domain", large)).await.status, 413);
    for (verb, path) in [("GET", "/api/v1/setup/validate/clock"), ("POST", STATUS), ("DELETE", STATUS)] {
        assert_eq!(caller.send(request(verb, path, "")).await.status, 405, "{verb} {path}");
    }
}

#[tokio::test]
async fn a_check_is_run_by_one_caller_at_a_time_and_not_in_quick_succession() {
    let world = World::onboarding().await;
    let before = world.agent.request_count();
    let began = Instant::now();
    let callers = (0..6).map(|_| validate(&world, "attester", json!({})));
    let answers = futures_util::future::join_all(callers).await;
    let statuses: BTreeSet<u16> = answers.iter().map(|answer| answer.status).collect();
    assert!(statuses.is_subset(&BTreeSet::from([200, 429])) && statuses.contains(&200), "{statuses:?}");
    let run = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(world.agent.request_count() - before, run, "each check asks once");
    assert!(began.elapsed() >= Duration::from_millis(250) * (run as u32 - 1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_check_of_what_never_answers_comes_to_an_end() {
    let world = World::onboarding().await;
    world.agent.set_mode(AgentMode::Silent);
    let began = Instant::now();
    let found = finding(&world, "attester", json!({})).await;
    assert_eq!(found["ok"], false, "{found}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    // Another kind of check does not wait for it.
    passes(&world, "domain", json!({ "domain": DOMAIN }), "").await;
}

#[tokio::test]
async fn with_a_token_configured_status_and_checks_ask_for_it() {
    let world = World::onboarding_with("core.onboard.auth_token = \"s3cret\"").await;
    let caller = world.caller().plain();
    let calls = || {
        [
            request("GET", STATUS, ""),
            post("/api/v1/setup/validate/clock", ""),
            post("/api/v1/setup/validate/x", ""),
        ]
    };
    for call in calls() {
        let shown = call.uri().to_string();
        assert_eq!(caller.send(call).await.refusal(), (401, UNSET.to_owned()), "{shown}");
    }
    for call in calls() {
        let call = with(call, "x-onboard-token", "S3cret");
        let wrong = (401, "this is not the onboarding token of this KMS".to_owned());
        assert_eq!(caller.send(call).await.refusal(), wrong);
    }
    for (index, expected) in [200, 200, 404].into_iter().enumerate() {
        for header in [("x-onboard-token", "s3cret"), ("authorization", "Bearer s3cret")] {
            let call = calls().into_iter().nth(index).expect("a call");
            assert_eq!(caller.send(with(call, header.0, header.1)).await.status, expected, "{header:?}");
        }
    }
    let shown = caller.send(with(request("GET", STATUS, ""), "x-onboard-token", "s3cret")).await.value();
    assert_eq!(shown["token_required"], true);
    // A token does not belong in a URL: links carry it, proxies log it. Only the page reads it there.
    for path in [STATUS, "/finish", "/prpc/Onboard.Bootstrap", "/prpc/Finish"] {
        let refusal = caller.get(&format!("{path}?token=s3cret")).await.refusal();
        assert_eq!(refusal, (401, UNSET.to_owned()), "{path}");
    }
    // The page is open to everyone, and requests the token.
    for path in ["/", "/?token=s3cret", "/?token=other", "/assets/onboard.js", "/assets/icon.svg"] {
        let answer = caller.get(path).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (200, ""), "{path}");
        assert!(!answer.text().contains("s3cret"), "{path}");
    }
}

/// A running program; dropping it ends it.
struct Started(std::process::Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_token_is_in_no_log_line_right_or_wrong() {
    let setting = Setting::with("core.onboard.auth_token = \"s3cret-token\"").await;
    let log = setting.world.path("log");
    let mut command = setting.command(&[]);
    command.env("RUST_LOG", "debug").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(&log).expect("a log"));
    let _started = Started(command.spawn().expect("the program starts"));
    let caller = setting.caller();
    eventually("the port opens", async || caller.plain().try_send(request("GET", "/health", "")).await.ok())
        .await;
    for caller in [caller.plain(), caller.http1(), caller.http2()] {
        for token in ["s3cret-token", "wrong-token"] {
            for path in ["/", STATUS, "/prpc/Onboard.Bootstrap", "/api/v1/setup/validate/domain", "/prpc/No"]
            {
                caller.get(&format!("{path}?token={token}")).await;
                let call = with(post(path, json!({ "domain": "a_b" }).to_string()), "x-onboard-token", token);
                caller.send(with(call, "authorization", &format!("Bearer {token}"))).await;
            }
        }
    }
    let bad = with(
        post("/api/v1/setup/validate/domain", json!({ "domain": "a_b" }).to_string()),
        "x-onboard-token",
        "s3cret-token",
    );
    assert_eq!(caller.plain().send(bad).await.status, 200);
    let text = eventually("a failing check is logged", async || {
        Some(fs::read_to_string(&log).expect("a log"))
            .filter(|text| text.contains("a check before setup fails"))
    })
    .await;
    assert!(!text.contains("-token"), "{text}");
}

#[tokio::test]
async fn browsers_may_do_for_this_page_what_they_may_not_do_for_others() {
    for toml in ["", "core.onboard.auth_token = \"s3cret\""] {
        let world = World::onboarding_with(toml).await;
        let caller = world.caller().plain();
        let host = format!("{DOMAIN}:{}", world.address().port());
        let own = format!("http://{host}");
        let refused =
            (403, "a page of another site may not do this; use the page of this KMS, or curl".to_owned());
        let token = |call| with(call, "x-onboard-token", "s3cret");
        let calls = || {
            [
                post("/prpc/Bootstrap?json", json!({ "domain": "a_b" }).to_string()),
                request("GET", "/prpc/Bootstrap?domain=a_b", ""),
                post("/prpc/Onboard.Onboard?json", "{}"),
                request("GET", "/finish", ""),
                post("/api/v1/setup/validate/domain", json!({ "domain": "a_b" }).to_string()),
            ]
        };
        let evil = format!("http://{DOMAIN}:1");
        for headers in [
            vec![("sec-fetch-site", "cross-site")],
            vec![("sec-fetch-site", "same-site"), ("origin", &*own)],
            vec![("origin", "http://evil.example")],
            vec![("origin", &*evil)],
            vec![("origin", "null")],
        ] {
            for call in calls() {
                let told = format!("{} {headers:?}", call.uri());
                let call = headers.iter().fold(token(call), |call, (name, value)| with(call, name, value));
                assert_eq!(caller.send(call).await.refusal(), refused, "{told}");
            }
        }
        for headers in [
            vec![],
            vec![("sec-fetch-site", "same-origin"), ("origin", &*own)],
            vec![("sec-fetch-site", "none")],
            vec![("sec-fetch-mode", "navigate"), ("sec-fetch-user", "?1")],
            vec![("origin", &*own)],
            vec![("user-agent", "curl/8.5.0")],
        ] {
            for (call, expected) in calls().into_iter().zip([400, 400, 400, 503, 200]) {
                let told = format!("{} {headers:?}", call.uri());
                let call = headers.iter().fold(token(call), |call, (name, value)| with(call, name, value));
                assert_eq!(caller.send(call).await.status, expected, "{told}");
            }
            // A link in a mail must not make or fetch keys.
            let is_browser = headers.iter().any(|(name, _)| *name == "sec-fetch-site");
            for (query, invalid) in [
                ("Bootstrap?domain=a_b", "domain contains an invalid DNS label"),
                (
                    "Onboard?source_url=http%3A%2F%2Fx&domain=localhost",
                    "the URL of a KMS starts with https://",
                ),
            ] {
                let call = token(request("GET", &format!("/prpc/{query}"), ""));
                let call = headers.iter().fold(call, |call, (name, value)| with(call, name, value));
                let (status, text) = caller.send(call).await.refusal();
                let expected = if is_browser { "changes something: ask for it by POST" } else { invalid };
                assert!(status == 400 && text.contains(expected), "{query} {headers:?}: {status} {text}");
            }
        }
        let browser = |call| {
            with(with(token(call), "user-agent", "Mozilla/5.0 (X11; Linux x86_64)"), "accept-language", "en")
        };
        for call in [request("GET", "/finish", ""), request("GET", "/prpc/Bootstrap?domain=a_b", "")] {
            assert_eq!(caller.send(browser(call)).await.refusal(), refused);
        }
        for path in ["/", "/health", STATUS, "/prpc/GetAttestationInfo"] {
            assert_eq!(caller.send(browser(request("GET", path, ""))).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn the_peers_name_for_the_setup_status_gives_the_same_answer() {
    let world = World::onboarding().await;
    let status = world.caller().get(STATUS).await;
    assert_eq!(status.status, 200, "{status:?}");
    for path in ["/prpc/GetSetupStatus", "/prpc/Onboard.GetSetupStatus", "/prpc/Onboard.GetSetupStatus?json"]
    {
        for call in [request("GET", path, ""), post(path, "{}"), post(path, "")] {
            let answer = world.caller().send(call).await;
            assert_eq!((answer.status, answer.value()), (200, status.value()), "{path}");
        }
    }
    let guarded = World::onboarding_with("core.onboard.auth_token = \"s3cret\"").await;
    assert_eq!(guarded.caller().get("/prpc/GetSetupStatus").await.status, 401);
}
