//! Collateral that an owner uploads, for a KMS that reaches no collateral service.

use std::fs;

use crate::support::http::{post, request, with};
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, eventually};
use base64::Engine as _;
use kms_simulator::{CollateralSpec, Platform, Validity};
use serde_json::{Value, json};

async fn upload(world: &World, query: &str, content: impl Into<Vec<u8>>) -> Answer {
    let caller = Caller::new(world.admin_address().await).plain();
    let call = post(&format!("/api/v1/file-upload/collateral-bundle{query}"), content.into());
    caller.send(with(call, "x-admin-token", ADMIN_TOKEN)).await
}

/// A KMS with keys that reaches no collateral service.
async fn offline() -> World {
    let mut world = World::ready().await;
    world.configure("core.attestation.urls.pccs = \"http://127.0.0.1:9\"");
    world.start().await.expect("starts");
    world
}

async fn is_ready(world: &World) -> Option<()> {
    (world.caller().get("/readyz").await.status == 200).then_some(())
}

#[tokio::test]
async fn uploaded_collateral_makes_a_kms_ready_now_and_after_a_restart() {
    let mut world = offline().await;
    assert_eq!(world.caller().get("/readyz").await.status, 503);
    let bundle = serde_json::to_vec(&[world.platform.collateral()]).expect("JSON");
    let told = upload(&world, "?dry_run=true", bundle.clone()).await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert_eq!(
        (&told.value()["changed"], &told.value()["message"]),
        (&json!(true), &json!("it could be used: 1 models"))
    );
    assert!(is_ready(&world).await.is_none(), "it was only checked");

    let told = upload(&world, "", bundle.clone()).await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert!(
        told.value()["message"].as_str().expect("a text").starts_with("1 of 1 models are in use"),
        "{}",
        told.text()
    );
    eventually("it is ready", async || is_ready(&world).await).await;
    assert_eq!(world.audited("file_uploaded")[0]["name"], "collateral-bundle");
    assert_eq!(upload(&world, "", bundle.clone()).await.value()["changed"], false);
    assert_eq!(world.audited("file_uploaded").len(), 1);

    world.start().await.expect("starts");
    eventually("it is ready again", async || is_ready(&world).await).await;
    // One set without a list is a file too.
    let single = serde_json::to_vec(&world.platform.collateral()).expect("JSON");
    assert_eq!(upload(&world, "", single).await.status, 200);
}

#[tokio::test]
async fn collateral_is_checked_as_if_a_service_had_sent_it() {
    let world = offline().await;
    let right = serde_json::to_value(world.platform.collateral()).expect("JSON");
    let foreign = serde_json::to_value(Platform::from_seed(b"another root").collateral()).expect("JSON");
    let expired =
        world.platform.collateral_of(&CollateralSpec::valid(Validity::new(1_577_923_200, 1_577_923_300)));
    let expired = serde_json::to_value(expired).expect("JSON");
    let mut forged = right.clone();
    forged["tcb_info"] = right["tcb_info"].as_str().expect("a text").replace("UpToDate", "Revoked").into();
    for (content, text) in [
        (json!([right, foreign]), "set 2: "),
        (json!([expired]), "set 1: collateral is not valid at this time"),
        (forged, "set 1: "),
        (json!([]), "from 1 to 64 sets"),
        (Value::Array(vec![right.clone(); 65]), "from 1 to 64 sets"),
        (json!({ "x": 1 }), "dcap-qvl"),
        (Value::Null, "dcap-qvl"),
    ] {
        let refused = upload(&world, "", content.to_string()).await;
        assert_eq!(
            (refused.status, &refused.value()["code"]),
            (400, &json!("invalid_file")),
            "{}",
            refused.text()
        );
        assert!(refused.value()["message"].as_str().expect("a text").contains(text), "{}", refused.text());
    }
    assert_eq!(world.caller().get("/readyz").await.status, 503, "nothing was used");
    assert!(!world.key_file("collateral-bundle.json").exists() && world.audited("file_uploaded").is_empty());
}

#[tokio::test]
async fn kept_collateral_that_is_damaged_does_not_stop_the_kms() {
    let mut world = World::ready().await;
    for text in ["{", "[]", "null"] {
        fs::write(world.key_file("collateral-bundle.json"), text).expect("file");
        world.start().await.expect("starts");
        eventually("it is ready", async || is_ready(&world).await).await;
    }
}

fn user(name: &str, password: &str) -> String {
    let hash =
        bcrypt::hash_with_result(password, 4).expect("bcrypt").format_for_version(bcrypt::Version::TwoY);
    format!("{name}:{hash}\n")
}

async fn signed_in(world: &World, name: &str, password: &str) -> u16 {
    let caller = Caller::new(world.admin_address().await).plain();
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    let call = with(request("GET", "/livez", ""), "authorization", &format!("Basic {encoded}"));
    caller.send(call).await.status
}

async fn upload_users(world: &World, content: impl Into<Vec<u8>>) -> Answer {
    let caller = Caller::new(world.admin_address().await).plain();
    let call = post("/api/v1/file-upload/htpasswd", content.into());
    caller.send(with(call, "x-admin-token", ADMIN_TOKEN)).await
}

#[tokio::test]
async fn uploaded_users_count_at_once_and_earlier_ones_no_more() {
    let mut world = World::ready().await;
    let refused = upload_users(&world, user("alice", "first")).await;
    assert_eq!(
        (refused.status, &refused.value()["code"]),
        (409, &json!("not_configured")),
        "{}",
        refused.text()
    );

    let path = world.path("htpasswd");
    fs::write(&path, user("alice", "first")).expect("file");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", path.display()));
    world.start().await.expect("starts");
    assert_eq!(signed_in(&world, "alice", "first").await, 200);
    let before = fs::read(&path).expect("file");
    for (content, text) in [
        ("alice", "line 1"),
        ("", "nobody could log in"),
        ("# nobody\n", "nobody could log in"),
        ("alice:plain\n", "line 1"),
    ] {
        let refused = upload_users(&world, content).await;
        assert_eq!((refused.status, &refused.value()["code"]), (400, &json!("invalid_file")), "{content}");
        assert!(refused.value()["message"].as_str().expect("a text").contains(text), "{}", refused.text());
    }
    assert_eq!(fs::read(&path).expect("file"), before);

    let file = user("alice", "second") + &user("bob", "third");
    let told = upload_users(&world, file.clone()).await;
    assert_eq!((told.status, &told.value()["changed"]), (200, &json!(true)), "{}", told.text());
    for (name, password, status) in [("alice", "first", 401), ("alice", "second", 200), ("bob", "third", 200)]
    {
        assert_eq!(signed_in(&world, name, password).await, status, "{name} {password}");
    }
    assert_eq!(world.audited("file_uploaded")[0]["name"], "htpasswd");
    assert!(
        !std::fs::read_to_string(world.key_file("audit.jsonl")).expect("log").contains("$2y$"),
        "no hash"
    );
    assert_eq!(upload_users(&world, file).await.value()["changed"], false);
    world.start().await.expect("starts");
    assert_eq!(signed_in(&world, "bob", "third").await, 200);
}
