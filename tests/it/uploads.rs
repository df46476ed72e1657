//! Collateral that an owner uploads, for a KMS that reaches no collateral service.

use std::fs;

use crate::support::http::{post, with};
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, eventually};
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
