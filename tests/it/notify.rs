//! Webhooks that are told of events and conditions, from the configuration to the receiver.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::faults::{Asked, Fault, FaultServer, Reply};
use crate::support::operator::Operator;
use crate::support::{World, eventually};

async fn receiver() -> FaultServer {
    FaultServer::answering(|_| Reply::json(&json!({}))).await
}

fn entry(receiver: &FaultServer, more: &str) -> String {
    format!(
        "[[core.notify]]\nname = 'pager'\nurl = '{}'\nsecret = 'sixteen bytes or more'\n{more}\n",
        receiver.url()
    )
}

/// The first notification of this type.
async fn told(receiver: &FaultServer, kind: &str) -> Value {
    eventually(kind, async || receiver.asked().iter().map(Asked::json).find(|body| body["type"] == kind))
        .await
}

#[tokio::test]
async fn a_freeze_reaches_people_with_the_name_of_the_log_and_of_the_process() {
    let receiver = receiver().await;
    let world = World::ready_with(&entry(&receiver, "")).await;
    Operator::of(&world).await.freeze("app", &[0xaa; 20]).await;
    // The root keys were made before.
    let bootstrapped = told(&receiver, "keys_bootstrapped").await;
    let frozen = told(&receiver, "frozen").await;
    let recorded = &world.audited("frozen")[0];
    assert_eq!((&frozen["sequence"], &frozen["time"]), (&recorded["seq"], &recorded["time"]));
    let origin = frozen["origin"].as_str().expect("a log that is signed");
    assert!(origin.contains("/cvm-kms/"), "{origin}");
    assert_eq!(frozen["boot_id"], bootstrapped["boot_id"]);
    let metrics = world.caller().get("/metrics").await;
    let line = r#"cvm_kms_notifications_total{outcome="failed",target="pager"} 0"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
}

#[tokio::test]
async fn a_full_disk_reaches_people_although_nothing_can_be_recorded() {
    let receiver = receiver().await;
    let mut world = World::ready_with(&entry(&receiver, "types = ['audit_log_unavailable']")).await;
    world.start_without_room_for_audit().await;
    let body = told(&receiver, "audit_log_unavailable").await;
    assert_eq!((&body["state"], &body["severity"]), (&"raised".into(), &"critical".into()));
    let message = body["message"].as_str().expect("a message");
    assert_eq!(message, "the disk of the audit log is full; no key is released meanwhile");
}

#[tokio::test]
async fn a_target_that_hangs_holds_up_no_release() {
    let receiver = receiver().await;
    receiver.suffer(Fault::Hanging).await;
    let world = World::ready_with(&entry(&receiver, "types = ['app_key_released']")).await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let mut line = caller.connect().await.expect("a connection");
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(line.json("GetAppKey", json!({})).await.status, 200);
    }
    // Each would wait for ten seconds.
    assert!(began.elapsed() < Duration::from_secs(100), "{:?}", began.elapsed());
    let waiting = eventually("they wait", async || {
        let metrics = world.caller().get("/metrics").await;
        let line = r#"cvm_kms_notifications_waiting{target="pager"} "#;
        let count = metrics.text().lines().find_map(|text| text.strip_prefix(line)?.parse::<u64>().ok());
        count.filter(|count| *count >= 99)
    });
    assert_eq!(waiting.await, 99, "one is being sent");
}

#[tokio::test]
async fn a_log_that_was_rolled_back_reaches_people() {
    let receiver = receiver().await;
    let mut world = World::ready_with(&entry(&receiver, "types = ['ledger_contradicted']")).await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    world.stop().await;
    let file = world.key_file("audit.jsonl");
    let text = std::fs::read_to_string(&file).expect("audit log");
    let older: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&file, older[..older.len() - 2].concat()).expect("written");
    world.start().await.expect("the KMS starts");
    let body = told(&receiver, "ledger_contradicted").await;
    assert_eq!((&body["severity"], &body["sequence"]), (&"critical".into(), &Value::Null));
    let message = body["message"].as_str().expect("a message");
    assert!(message.starts_with("the audit log is not the one that was signed"), "{message}");
}

#[tokio::test]
async fn witnesses_that_do_not_answer_reach_people() {
    let receiver = receiver().await;
    let key =
        kms_ledger::signature::CosigningKey::from_seed("w.example/w".parse().expect("a name"), &[5; 32]);
    let key = key.expect("a key").verifying_key().clone();
    let witnesses = format!("[core.ledger.witnesses]\nlist = ['{key} http://127.0.0.1:1/w']\n");
    let entry = entry(&receiver, "types = ['witnesses_lost']");
    let _world = World::ready_with(&(witnesses + &entry)).await;
    let body = told(&receiver, "witnesses_lost").await;
    assert_eq!((&body["state"], &body["severity"]), (&"raised".into(), &"critical".into()));
}

#[tokio::test]
async fn a_process_that_ends_because_of_its_disk_says_so_first() {
    let receiver = receiver().await;
    let mut world = World::ready_with(&entry(&receiver, "")).await;
    world.configure("core.audit.on_failure = 'exit'");
    world.start_without_room_for_audit().await;
    let body = told(&receiver, "audit_log_unavailable").await;
    assert_eq!(body["message"], "the disk of the audit log is full, and this process ends");
}
