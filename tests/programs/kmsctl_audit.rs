//! `kmsctl` in an auditor's and an operator's hands: the log of releases and its events, of a real KMS.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::kmsctl::Desk;
use crate::support::{World, eventually};

const TOKEN: &str = "operators-token";

/// A KMS whose admin listener keeps its port over restarts.
async fn world() -> World {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    World::ready_with(&format!("[core.admin]\nauth_token = \"{TOKEN}\"\nport = {port}")).await
}

async fn desk(world: &World) -> Desk {
    Desk::in_world(world)
        .with("KMS_ADMIN_URL", format!("http://{}", world.admin_address().await))
        .with("KMS_ADMIN_TOKEN", TOKEN)
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
    let desk = desk(&world).await;
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
    let desk = desk(&world).await;
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
    let desk = desk(&world).await;
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
    let ended =
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends").expect("no panic");
    let ended = ended.expect("a status");
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}

#[tokio::test]
async fn an_auditor_verifies_the_files_of_a_log() {
    let mut world = world().await;
    let desk = desk(&world).await;
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
    let other =
        "kms.example.com/cvm-kms/8da50153fc024870+67d0bf5a+Ad6mZObWsmKHyMK2HmKUNEPhALcJ4JKi4hek01rzuq4J";
    let foreign = desk.run(&["audit", "verify", &certs, "--log-key", other]).await;
    assert!(foreign.code == 4 && foreign.err.contains("another log"), "{}", foreign.text());
    let missing = desk.run(&["audit", "verify", "/nowhere"]).await;
    assert_eq!(missing.code, 2, "{}", missing.text());
}
