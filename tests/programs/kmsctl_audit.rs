//! `kmsctl` in an auditor's and an operator's hands: the log of releases and its events, of a real KMS.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::kmsctl::Desk;
use crate::support::{PATIENCE, World, eventually, free_port};

const TOKEN: &str = "operators-token";

/// A KMS whose admin listener keeps its port over restarts.
async fn world() -> World {
    World::ready_with(&format!(
        "[core.admin]\nauth_token = \"{TOKEN}\"\nport = {}\n[core.limits]\ninstance_burst = 2000",
        free_port()
    ))
    .await
}

/// Releases keys to an app that is allowed, so often.
async fn released(world: &World, times: usize) -> String {
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    for _ in 0..times {
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    }
    hex::encode(app.app_id())
}

/// A `kmsctl` that goes on, and the lines that it prints.
struct Going {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Going {
    async fn start(desk: &Desk, arguments: &[&str]) -> Self {
        let mut command = desk.command(arguments).await;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .stdin(Stdio::null())
            .spawn()
            .expect("kmsctl");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::sync_channel(10_000);
        std::thread::spawn(move || {
            for line in out.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    async fn line(&self) -> String {
        eventually("a line of kmsctl", async || self.lines.try_recv().ok()).await
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The events that are found, once there are `count`.
async fn events(desk: &Desk, count: usize, arguments: &[&str]) -> Vec<Value> {
    eventually("events", async || {
        let found = desk.json(0, &[&["events"], arguments].concat()).await;
        let found = found.as_array().expect("a list").clone();
        (found.len() == count).then_some(found)
    })
    .await
}

#[tokio::test]
async fn an_operator_reads_and_reports_events() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let app_id = released(&world, 3).await;
    let found = events(&desk, 3, &["--app-id", &app_id, "--type", "app_key_released"]).await;
    let recorded = world.audited("app_key_released");
    for (event, record) in found.iter().zip(&recorded) {
        assert_eq!((&event["seq"], &event["received_at"]), (&record["seq"], &record["time"]));
    }
    let newest = events(&desk, 1, &["--limit", "1", "--type", "app_key_released"]).await;
    assert_eq!(newest[0]["seq"], recorded[2]["seq"]);

    let added = desk.json(0, &["event", "add", "disk swapped \u{1b}[31m"]).await;
    let reported = events(&desk, 1, &["--source", "api"]).await;
    assert_eq!(reported[0]["seq"], added["seq"]);
    let listed = desk.run(&["events", "--since", "1h"]).await;
    assert_eq!(listed.code, 0, "{}", listed.text());
    let lines: Vec<&str> = listed.out.lines().collect();
    assert!(
        lines.last().expect("a line").ends_with(r" [api, token] disk swapped \u{1b}[31m"),
        "{}",
        listed.out
    );
    assert!(
        lines.iter().any(|line| line.contains(&format!("keys were released to app {app_id}"))),
        "{lines:?}"
    );
    assert_eq!(
        desk.run(&["events", "--until", "2026-01-01T00:00:00Z"]).await.out,
        "There are no such events.\n"
    );

    for (arguments, code, text) in [
        (&["events", "--type", "x&y"][..], 2, "must be the name of a type"),
        (&["events", "--domain", "a&b"], 2, "a domain's name has"),
        (&["events", "--since", "yesterday"], 2, "RFC 3339"),
        (&["events", "--follow", "--until", "1h"], 2, "cannot be used with"),
        (&["event", "add", ""], 3, "message must not be empty"),
        (&["event", "add", &"x".repeat(4097)], 1, "at most 4096 bytes"),
    ] {
        let ran = desk.run(arguments).await;
        assert!(ran.code == code && ran.err.contains(text), "{arguments:?}: {}", ran.text());
    }
    let stranger = desk.with("KMS_ADMIN_TOKEN", "another");
    assert_eq!(stranger.run(&["events"]).await.code, 3);
}

#[tokio::test]
async fn events_are_followed_over_a_restart_of_the_kms() {
    let mut world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    released(&world, 2).await;
    events(&desk, 2, &["--type", "app_key_released"]).await;
    let following =
        Going::start(&desk, &["events", "--follow", "--type", "app_key_released", "--limit", "1", "--json"])
            .await;
    let mut seen = vec![following.line().await];
    released(&world, 1).await;
    seen.push(following.line().await);
    world.start().await.expect("the KMS starts again");
    released(&world, 2).await;
    seen.push(following.line().await);
    seen.push(following.line().await);
    let seen: Vec<Value> = seen.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let recorded = world.audited("app_key_released");
    assert_eq!(recorded.len(), 5);
    for (event, record) in seen.iter().zip(&recorded[1..]) {
        assert_eq!(event["seq"], record["seq"]);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(following.lines.try_recv().is_err(), "each event once");
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_what_follows() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let mut command = desk.command(&["events", "--follow"]).await;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kmsctl");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let (out, line) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        (out, line)
    })
    .await
    .expect("no panic");
    assert!(!line.is_empty());
    // Nothing happens any more, and it ends all the same.
    drop(out);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("it ends").expect("no panic");
    let ended = ended.expect("a status");
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}

#[tokio::test]
async fn an_auditor_verifies_the_files_of_a_log() {
    let mut world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    released(&world, 4).await;
    let meta: Value = world.caller().json("GetMeta", json!({})).await.value();
    let key = meta["log_key"].as_str().expect("a key").to_owned();
    let certs = world.key_file("").display().to_string();
    std::fs::copy(world.key_file("audit.tree/checkpoint"), desk.path("early")).expect("a checkpoint");
    released(&world, 2).await;
    world.stop().await;
    let records = world.audit().len();

    let verified = desk.json(0, &["audit", "verify", &certs, "--log-key", &key, "--pin", "early"]).await;
    assert_eq!((&verified["records"], &verified["tree"]["log_key"]), (&json!(records), &json!(key)));
    assert_eq!(verified["not_verified"], json!([]));
    let humble = desk.run(&["audit", "verify", &certs]).await;
    assert_eq!(humble.code, 0, "{}", humble.text());
    for text in ["verified", "whose log it is", "rolled back or forked"] {
        assert!(humble.out.contains(text), "{text}: {}", humble.out);
    }

    let file = world.key_file("audit.jsonl");
    let text = std::fs::read_to_string(&file).expect("a log");
    std::fs::write(&file, text.replacen("UpToDate", "OutOfDat", 1)).expect("written");
    let altered = desk.run(&["audit", "verify", &certs]).await;
    assert!(altered.code == 4 && altered.err.contains("its hash does not fit"), "{}", altered.text());
    let cut: String = text.split_inclusive('\n').take(records - 3).collect();
    std::fs::write(&file, cut).expect("written");
    let shrunk = desk.run(&["audit", "verify", &certs]).await;
    assert!(shrunk.code == 4 && shrunk.err.contains("rolled back or cut off"), "{}", shrunk.text());
    std::fs::write(&file, text).expect("written");
    let root = meta["k256_pubkey"].as_str().expect("a key");
    desk.json(0, &["audit", "verify", &certs, "--k256-pubkey", root]).await;
    let other = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    let foreign = desk.run(&["audit", "verify", &certs, "--k256-pubkey", other]).await;
    assert!(foreign.code == 4 && foreign.err.contains("not by --k256-pubkey"), "{}", foreign.text());
    let other =
        "kms.example.com/cvm-kms/8da50153fc024870+67d0bf5a+Ad6mZObWsmKHyMK2HmKUNEPhALcJ4JKi4hek01rzuq4J";
    let foreign = desk.run(&["audit", "verify", &certs, "--log-key", other]).await;
    assert!(foreign.code == 4 && foreign.err.contains("another log"), "{}", foreign.text());
    let missing = desk.run(&["audit", "verify", "/nowhere"]).await;
    assert_eq!(missing.code, 2, "{}", missing.text());
}

/// The root key of a KMS, as its auditors keep it.
async fn root_key(world: &World) -> String {
    let meta: Value = world.caller().json("GetMeta", json!({})).await.value();
    meta["k256_pubkey"].as_str().expect("a key").to_owned()
}

#[tokio::test]
async fn an_auditor_verifies_and_watches_the_log_of_a_running_kms() {
    let mut world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    released(&world, 3).await;
    let root = root_key(&world).await;
    let url = format!("https://{}", world.address());
    let verify = ["audit", "verify", &url, "--k256-pubkey", &root];
    let report = desk.json(0, &[&verify[..], &["--save-checkpoint", "early", "--entries"]].concat()).await;
    assert_eq!(report["entries"], report["size"]);
    assert_eq!(report["k256_pubkey"], root);
    released(&world, 300).await;
    let proof = std::process::Command::new(env!("CARGO_BIN_EXE_kms"))
        .args(["audit", "prove", &world.key_file("audit.jsonl").display().to_string(), "--index", "5"])
        .output()
        .expect("kms");
    assert!(proof.status.success(), "{proof:?}");
    desk.write("proof", &proof.stdout);
    let later = [&verify[..], &["--pin", "early", "--receipt", "proof", "--entries"]].concat();
    let report = desk.json(0, &later).await;
    assert!(report["size"].as_u64().expect("a size") > 300);
    assert_eq!(report["receipt"]["leaf_index"], 5);

    let watch = ["--once", "--state", "state", "--k256-pubkey", &root];
    let look = async |desk: &Desk, world: &World, code: i32| {
        let url = format!("https://localhost:{}", world.address().port());
        desk.json(code, &[&["audit", "watch", &url], &watch[..]].concat()).await
    };
    assert_eq!(look(&desk, &world, 0).await["logs"][0]["standing"], "first");
    released(&world, 2).await;
    let report = look(&desk, &world, 0).await;
    assert_eq!(report["logs"][0]["standing"], "grown", "{report}");
    // The log of another KMS, which has another root key.
    let other = World::ready().await;
    let url = format!("https://{}", other.address());
    let foreign = desk.run(&["audit", "verify", &url, "--k256-pubkey", &root]).await;
    assert!(foreign.code == 4 && foreign.err.contains("not by --k256-pubkey"), "{}", foreign.text());
    let key = root_key(&other).await;
    let pinned = desk.run(&["audit", "verify", &url, "--k256-pubkey", &key, "--pin", "early"]).await;
    assert!(pinned.code == 4 && pinned.err.contains("--pin"), "{}", pinned.text());
    let received = desk.run(&["audit", "verify", &url, "--k256-pubkey", &key, "--receipt", "proof"]).await;
    assert!(received.code == 4 && received.err.contains("the receipt"), "{}", received.text());

    // An old copy of the whole key directory is served again: everything in it is signed.
    world.stop().await;
    let (certs, copy) = (world.key_file(""), world.path("copy"));
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp").success());
    };
    copied(&certs, &copy);
    world.configure(&format!("[core.admin]\nport = 0\n[rpc]\nport = {}", free_port()));
    world.start().await.expect("the KMS starts");
    let port = world.address().port();
    released(&world, 4).await;
    assert_eq!(look(&desk, &world, 0).await["logs"][0]["standing"], "first");
    world.stop().await;
    std::fs::remove_dir_all(&certs).expect("removed");
    copied(&copy, &certs);
    world.start().await.expect("the KMS starts");
    assert_eq!(world.address().port(), port);
    let report = look(&desk, &world, 4).await;
    assert!(["shrunk", "fork"].contains(&report["alarms"][0]["kind"].as_str().expect("a kind")), "{report}");
}

#[tokio::test]
async fn who_pinned_the_old_root_follows_a_kms_to_the_new_one() {
    let mut world = world().await;
    let admin = world.admin_address().await;
    world.configure(&format!(
        "[core.admin]\nauth_token = \"{TOKEN}\"\nport = {}\n[rpc]\nport = {}",
        admin.port(),
        free_port()
    ));
    world.start().await.expect("the KMS starts");
    let desk = Desk::of_operator(&world, TOKEN).await;
    released(&world, 3).await;
    let meta: Value = world.caller().json("GetMeta", json!({})).await.value();
    let root = meta["k256_pubkey"].as_str().expect("a key").to_owned();
    let url = format!("https://localhost:{}", world.address().port());
    let audit = ["audit", "verify", &url, "--k256-pubkey", &root];
    desk.json(0, &[&audit[..], &["--save-checkpoint", "early"]].concat()).await;
    let watch = ["audit", "watch", &url, "--once", "--state", "state"];
    desk.json(0, &[&watch[..], &["--k256-pubkey", &root]].concat()).await;
    let plain = ["verify", &url, "--dangerous-root", "root.der"];
    let spki = desk.run(&[&plain[..], &["--json"]].concat()).await;
    let spki: Value = serde_json::from_str(&spki.out).expect("JSON");
    let spki = spki["root_spki"].as_str().expect("a root").to_owned();
    let pinned = [&plain[..], &["--root-spki", &spki, "--k256-pubkey", &root]].concat();
    let steps = ["root_pin", "k256_attested", "app_key_chain", "log_key"];
    let outcomes = |report: &Value| {
        let outcome = |name: &&str| {
            let found = report["steps"].as_array().expect("steps").iter().find(|step| step["step"] == *name);
            let found = found.unwrap_or_else(|| panic!("no {name}: {report}"));
            (
                found["outcome"].as_str().expect("text").to_owned(),
                found["detail"].as_str().expect("text").to_owned(),
            )
        };
        steps.iter().map(outcome).collect::<Vec<_>>()
    };
    let report = desk.json(0, &pinned).await;
    assert!(outcomes(&report).iter().all(|(outcome, _)| outcome == "passed"), "{report}");

    for change in [&["prepare"][..], &["activate", "1"], &["retire", "0", "--yes"]] {
        let ran = desk.run(&[&["epoch"], change].concat()).await;
        assert_eq!(ran.code, 0, "{change:?}: {}", ran.text());
    }
    world.start().await.expect("it starts again");
    let report = desk.json(0, &pinned).await;
    let outcomes = outcomes(&report);
    assert!(outcomes.iter().all(|(outcome, _)| outcome == "passed"), "{report}");
    assert!(outcomes[0].1.contains("the root CA of root epoch 0 is pinned"), "{report}");
    assert_ne!(report["k256_pubkey"], json!(root));
    // One who pinned the root CA alone is told what else is needed, and a stranger's key leads nowhere.
    let ca_only = desk.run(&[&plain[..], &["--root-spki", &spki]].concat()).await;
    assert!(
        ca_only.code == 4 && ca_only.text().contains("pin the k256 key of that epoch too"),
        "{}",
        ca_only.text()
    );
    let other = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    let foreign = desk.run(&[&plain[..], &["--k256-pubkey", other]].concat()).await;
    assert!(
        foreign.code == 4 && foreign.text().contains("no statement of an older root key"),
        "{}",
        foreign.text()
    );

    let report = desk.json(0, &[&audit[..], &["--pin", "early"]].concat()).await;
    assert_eq!(report["earlier_log_keys"], json!([meta["log_key"]]));
    let unknown = desk.run(&["audit", "verify", &url, "--pin", "early"]).await;
    assert!(unknown.code == 4 && unknown.err.contains("name the root key"), "{}", unknown.text());
    assert_eq!(desk.json(0, &watch).await["logs"][0]["standing"], "grown");
    let certs = world.key_file("").display().to_string();
    desk.json(0, &["audit", "verify", &certs, "--k256-pubkey", &root, "--pin", "early"]).await;
}

#[tokio::test]
async fn an_auditor_exports_events_that_can_be_verified() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let app_id = released(&world, 700).await;
    events(&desk, 700, &["--type", "app_key_released", "--limit", "1000"]).await;
    let export =
        ["audit", "export", "--type", "app_key_released", "--app-id", &app_id, "--out", "events.jsonl"];
    let report = desk.json(0, &export).await;
    assert_eq!((&report["events"], &report["without_entry"]), (&json!(700), &json!(0)));
    let recorded = world.audited("app_key_released");
    let exported = desk.read("events.jsonl");
    let lines: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 700, "over pages, the oldest first, each once");
    for (line, record) in lines.iter().zip(&recorded) {
        assert_eq!(line["seq"], record["seq"]);
        let entry = line["entry"].as_str().expect("an entry");
        let leaf = kms_ledger::Hash::leaf(entry.as_bytes()).to_base64();
        assert_eq!(line["leaf_hash"], leaf);
        let mut record = record.clone();
        record.as_object_mut().expect("a record").remove("hash");
        assert_eq!(serde_json::from_str::<Value>(entry).expect("JSON"), record);
    }
    assert_eq!(desk.run(&export).await.code, 2, "it is not overwritten unasked");
    let printed = desk.run(&["audit", "export", "--type", "app_key_released"]).await;
    assert_eq!((printed.code, printed.out), (0, exported));
    let none = desk.run(&["audit", "export", "--until", "2026-01-01"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, ""));
}
