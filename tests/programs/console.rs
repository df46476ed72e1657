//! The console in a real browser, on a sandbox with its CVMs, and on a KMS in this process.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;

use crate::browser::play;
use crate::support::http::{request, with};
use crate::support::kmsctl::built;
use crate::support::postgres::Postgres;
use crate::support::{Caller, Closed, World, eventually};
use kms_ledger::signature::CosigningKey;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Place, what is there once the data are, and how often at least.
fn views() -> Value {
    json!([
        ["#/overview", ".card", 5],
        ["#/releases", "tbody tr", 8],
        ["#/denials", "tbody tr", 6],
        ["#/cvms", "tbody tr", 7],
        ["#/approvals", ".card", 1],
        ["#/policy", "tbody tr", 4],
        ["#/policy/candidate", ".difference li", 1],
        ["#/policy/edit", "textarea", 1],
        ["#/freezes", "tbody tr", 1],
        ["#/freezes/new", "form", 1],
        ["#/domains", "tbody tr", 1],
        ["#/domains/default", ".card", 2],
        ["#/platforms", "tbody tr", 2],
        ["#/ledger", "tbody tr", 1],
        ["#/ledger/3", ".chain .passed", 3],
        ["#/replicas", "tbody tr", 1],
        ["#/fleet", ".empty", 1],
        ["#/operations", ".card", 1],
        ["#/epochs", "tbody tr", 1],
        ["#/recovery", ".card", 1],
        ["#/credentials", "tbody tr", 1],
        ["#/settings", "tbody tr", 30],
        ["#/settings/actions", "tbody tr", 8],
        ["#/settings/files", "input[type=file]", 1],
        ["#/diagnostics", "tbody tr", 5],
    ])
}

/// A `kms-sandbox` whose CVMs reboot; dropping it ends it.
struct Sandbox {
    child: Child,
    /// The address of the console.
    console: String,
    owner: String,
    viewer: String,
    /// The addresses of the KMS, and of one without keys.
    kms: String,
    spare: String,
    directory: TempDir,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The test ends even if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sandbox {
    /// Starts it, and waits until it has shown where the console is.
    async fn start() -> Self {
        tokio::task::spawn_blocking(|| {
            let directory = tempfile::tempdir().expect("directory");
            let mut child = Command::new(built("kms-sandbox", "once"))
                .args(["--port", "0", "--admin-port", "0", "--dir"])
                .arg(directory.path())
                .env_remove("RUST_LOG")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the sandbox starts");
            let told = BufReader::new(child.stdout.take().expect("piped"));
            let mut sandbox = Self {
                child,
                console: String::new(),
                owner: String::new(),
                viewer: String::new(),
                kms: String::new(),
                spare: String::new(),
                directory,
            };
            let told = told.lines().map(|line| line.expect("text"));
            let told: Vec<String> =
                told.take_while(|line| !line.trim_start().starts_with("start over")).collect();
            let console = told.iter().position(|line| line.ends_with(". Console")).expect("a chapter");
            let fact = |name: &str| {
                let value = told[console..].iter().find_map(|line| line.trim_start().strip_prefix(name));
                value.unwrap_or_else(|| panic!("no {name} in {told:#?}")).trim().to_owned()
            };
            sandbox.console = fact("address");
            sandbox.viewer = fact("viewer token");
            let onboard = fact("kmsctl onboard ");
            let after = |option: &str| {
                let value = onboard.split_once(option).and_then(|(_, rest)| rest.split_whitespace().next());
                value.unwrap_or_else(|| panic!("no {option} in {onboard}")).to_owned()
            };
            (sandbox.spare, sandbox.kms) = (after("--kms "), after("--source "));
            let settings = std::fs::read_to_string(sandbox.directory.path().join("env")).expect("env");
            let owner = settings.lines().find_map(|line| line.strip_prefix("export KMS_ADMIN_TOKEN="));
            sandbox.owner = owner.expect("a token").to_owned();
            sandbox
        })
        .await
        .expect("no panic")
    }

    /// Waits until each of its CVMs has asked for keys: all kinds of denials are there, and a replica.
    async fn populated(self) -> Self {
        let onboard = json!({ "source_url": self.kms, "domain": "127.0.0.1" });
        let onboarded = Command::new("curl")
            .args([
                "-sfk",
                "--max-time",
                "60",
                "-H",
                "Content-Type: application/json",
                "-d",
                &onboard.to_string(),
            ])
            .arg(format!("{}/prpc/Onboard.Onboard?json", self.spare))
            .status()
            .expect("curl");
        assert!(onboarded.success(), "a replica receives the root keys");
        let denied = async || {
            let listed = Command::new("curl")
                .args(["-s", "--max-time", "20", "-d", "{}", "-H"])
                .arg(format!("Authorization: Bearer {}", self.owner))
                .arg(format!("{}prpc/Admin.ListDenials", self.console))
                .output()
                .expect("curl");
            let listed: Value = serde_json::from_slice(&listed.stdout).ok()?;
            let codes: BTreeSet<&str> =
                listed["denials"].as_array()?.iter().filter_map(|denial| denial["code"].as_str()).collect();
            (codes.len() >= 6).then_some(())
        };
        let until = Instant::now() + Duration::from_secs(300);
        while denied().await.is_none() {
            assert!(Instant::now() < until, "each CVM has booted");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        self
    }
}

fn given(sandbox: &Sandbox) -> Value {
    json!({ "owner": sandbox.owner, "viewer": sandbox.viewer, "views": views() })
}

#[tokio::test]
async fn each_view_and_its_states_are_sound_and_stories_go_to_their_end_on_a_sandbox() {
    let sandbox = Sandbox::start().await.populated().await;
    let given = given(&sandbox);
    let play = async |scenario: &str| play(scenario, &sandbox.console, given.clone()).await;
    play("console/denial").await;
    let seen = play("console/views").await;
    // Not a limit: machines differ, and 300 ms is the aim.
    eprintln!("first paint after {} ms, {} bytes of assets", seen["paint"], seen["bytes"]);
    for scenario in ["viewer", "states", "freeze", "keyboard", "docs", "settings"] {
        play(&format!("console/{scenario}")).await;
    }
}

/// A KMS in this process, its console, and the token of its owner.
async fn small_world(toml: &str) -> (World, String, &'static str) {
    let token = "the-token-of-an-owner";
    let world = World::ready_with(&format!("core.admin.auth_token = \"{token}\"\n{toml}")).await;
    let console = format!("http://{}/", world.admin_address().await);
    (world, console, token)
}

#[tokio::test]
async fn an_invitation_becomes_a_credential_in_the_browser_of_its_holder() {
    let (world, console, owner) = small_world("").await;
    let seen = play("console/invite", &console, json!({ "owner": owner })).await;
    assert!(seen["token"].as_str().is_some_and(|token| token.len() > 60), "{seen}");
    let revoked = world.audited("credential_revoked");
    assert_eq!(revoked.len(), 1, "{revoked:?}");
}

#[tokio::test]
async fn what_one_owner_asks_for_is_done_when_another_approves_it() {
    let (world, console, owner) = small_world("core.admin.approvals = 2").await;
    play("console/approval", &console, json!({ "owner": owner })).await;
    assert_eq!(world.audited("approval_approved").len(), 1);
    assert_eq!(world.audited("approval_done").len(), 1);
}

/// Five officers, and the files of their keys in a directory.
fn officers(directory: &Path) -> Vec<Value> {
    let officer = |name: &str| {
        let identity = Identity::generate();
        let key = directory.join(format!("{name}.key"));
        std::fs::write(key, identity.to_string().expose_secret()).expect("a key");
        json!({ "name": name, "recipient": identity.to_public().to_string() })
    };
    ["alice", "bob", "carol", "dave", "erin"].map(officer).to_vec()
}

#[tokio::test]
async fn officers_prove_a_recovery_set_while_the_console_shows_it() {
    let (world, console, owner) = small_world("").await;
    let directory = tempfile::tempdir().expect("directory");
    std::fs::write(directory.path().join("root.der"), world.platform.root_der()).expect("root certificate");
    let kmsctl = tokio::task::spawn_blocking(|| built("kmsctl", "commands")).await.expect("no panic");
    let given = json!({
        "owner": owner,
        "officers": officers(directory.path()),
        "directory": directory.path(),
        "kmsctl": kmsctl,
        "kms": format!("https://{}", world.address()),
        "pin": hex::encode(world.cvm.mr_aggregated()),
        "pccs": world.pccs.url(),
    });
    let seen = play("console/recovery", &console, given).await;
    let drills = world.audited("recovery_drill");
    assert_eq!(drills.len(), 1, "{drills:?}");
    assert_eq!(drills[0]["set"], seen["first"]);
    let took_part = drills[0]["officers"].to_string();
    assert!(["alice", "carol", "erin"].iter().all(|name| took_part.contains(name)), "{took_part}");
    let made = world.audited("recovery_set_created");
    assert_eq!(made.len(), 2, "{made:?}");
    assert_eq!((&made[1]["set"], &made[1]["retires"]), (&seen["second"], &seen["first"]));
    assert_eq!(world.audited("recovery_drill_cancelled").len(), 1);
}

#[tokio::test]
async fn two_owners_make_a_recovery_set_in_the_console() {
    let (world, console, owner) = small_world("core.admin.approvals = 2").await;
    let directory = tempfile::tempdir().expect("directory");
    let given = json!({ "owner": owner, "officers": officers(directory.path()) });
    let seen = play("console/recovery_approval", &console, given).await;
    let made = world.audited("recovery_set_created");
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(made[0]["set"], seen["set"]);
}

#[tokio::test]
async fn an_epoch_becomes_the_current_one_and_the_first_is_retired_in_the_console() {
    let (world, console, owner) = small_world("").await;
    play("console/epochs", &console, json!({ "owner": owner })).await;
    for (event, epoch) in [("epoch_prepared", 1), ("epoch_activated", 1), ("epoch_retired", 0)] {
        let found = world.audited(event);
        assert_eq!(found.len(), 1, "{event}: {found:?}");
        assert_eq!(found[0]["epoch"], epoch, "{event}");
    }
    assert!(world.audited("epoch_destroyed").is_empty());
}

#[tokio::test]
async fn a_domain_is_made_filled_archived_and_restored_in_the_console() {
    let (world, console, owner) = small_world("core.admin.approvals = 2").await;
    let [with_keys, without, refused] = [1, 2, 3].map(|number| world.app(number));
    world.allow_app(&with_keys);
    for (app, status) in [(&with_keys, 200), (&refused, 403)] {
        let caller = world.caller().shows(&world.attested(app).await);
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, status);
    }
    let apps = [&with_keys, &without].map(|app| hex::encode(app.app_id()));
    play("console/domains", &console, json!({ "owner": owner, "apps": apps })).await;
    for event in ["domain_created", "domain_archived", "domain_restored"] {
        let found = world.audited(event);
        assert_eq!(found.len(), 1, "{event}: {found:?}");
        assert_eq!(found[0]["domain"], "team", "{event}");
    }
    let assigned = world.audited("app_assigned");
    assert_eq!(assigned.len(), 1, "{assigned:?}");
    assert_eq!(assigned[0]["app_id"], apps[1].as_str());
    let moved = world.audited("app_moved");
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert_eq!(
        (&moved[0]["app_id"], &moved[0]["domain"], &moved[0]["previous_domain"]),
        (&json!(apps[0]), &json!("team"), &json!("default"))
    );
}

#[tokio::test]
async fn without_credentials_the_console_has_none_to_manage() {
    let world = World::ready_with("core.admin = { auth_token = \"\", insecure_no_auth = true }").await;
    let console = format!("http://{}/", world.admin_address().await);
    play("console/anyone", &console, json!({ "views": views() })).await;
}

#[tokio::test]
async fn the_ledger_shows_a_witness_that_does_not_answer() {
    let name = "witness.example/w1";
    let key = CosigningKey::from_seed(name.parse().expect("a name"), &[5; 32]).expect("a key");
    let unused = Closed::new();
    let (key, url) = (key.verifying_key(), format!("http://{}/w1", unused.address()));
    let (_world, console, owner) =
        small_world(&format!("core.ledger.witnesses.list = [\"{key} {url}\"]")).await;
    let given = json!({ "owner": owner, "witness": name, "state": "failing" });
    play("console/witness", &console, given).await;
}

#[tokio::test]
async fn a_replica_is_invited_followed_until_it_serves_and_another_is_cancelled() {
    let (world, console, owner) = small_world("core.onboard.public_key_handover = false").await;
    let replica = World::onboarding().await;
    let admin = Caller::new(world.admin_address().await).plain();
    let body = json!({ "name": "ann", "role": "viewer" }).to_string();
    let made = admin.send(with(request("POST", "/api/v1/credentials", body), "x-admin-token", owner)).await;
    let given = json!({
        "owner": owner,
        "viewer": made.value()["token"],
        "source": format!("https://{}", world.address()),
        "replica": format!("http://{}", replica.address()),
    });
    let seen = play("console/replicas", &console, given).await;
    let ended = world.audited("invitation_ended");
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!((&ended[0]["invitation"], &ended[0]["reason"]), (&seen["id"], &json!("cancelled")));
    assert_eq!(world.root_keys().ca_spki(), replica.root_keys().ca_spki());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_nodes_of_a_fleet_are_shown_with_what_differs_until_the_database_is_lost() {
    let mut postgres = Postgres::start().await;
    let token = "the-token-of-an-owner";
    let config = |name: &str| format!("core.admin.auth_token = \"{token}\"\n{}", postgres.toml(name));
    let here = World::ready_with(&config("rack-1")).await;
    let mut there = here.sibling_with(&config("rack-2")).await;
    let [app, stranger] = [1, 2].map(|number| there.app(number));
    there.allow_app(&app);
    for (caller, status) in [(&app, 200), (&stranger, 403)] {
        let caller = there.caller().shows(&there.attested(caller).await);
        // Before its first view of the shared state a node refuses everybody.
        eventually("an answer of the policy", async || {
            (caller.json("GetAppKey", json!({})).await.status == status).then_some(())
        })
        .await;
    }
    let (console, other) = (here.admin_address().await, there.admin_address().await);
    let (console, other) = (format!("http://{console}/"), format!("http://{other}/"));
    let measured = hex::encode(there.cvm.mr_aggregated());
    let given = json!({
        "owner": token,
        "other": other,
        "measured": measured,
        "app": hex::encode(app.app_id()),
        "code": "app_not_registered",
        "act": "shared",
    });
    let seen = play("console/fleet", &console, given).await;
    let adopted = here.audited("state_adopted");
    assert!(adopted.iter().any(|event| event["node"] == "rack-2"), "{seen}: {adopted:?}");
    there.stop().await;
    play("console/fleet", &console, json!({ "owner": token, "act": "forgotten" })).await;
    assert_eq!(here.audited("node_forgotten")[0]["name"], "rack-2");
    there.start().await.expect("it starts");
    let admin = Caller::new(here.admin_address().await).plain();
    eventually("the node again", async || {
        let asked = with(request("GET", "/api/v1/fleet", ""), "x-admin-token", token);
        let view = admin.send(asked).await.value();
        (view["nodes"].as_array()?.len() == 2).then_some(())
    })
    .await;
    postgres.stop();
    play("console/fleet", &console, json!({ "owner": token, "act": "alone" })).await;
}
