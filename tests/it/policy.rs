//! The policy as operators see and change it, and the upload of an allowlist.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::http::{post, request, with};
use crate::support::operator::Operator;
use crate::support::{Answer, World, eventually};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

async fn send(world: &World, call: http::Request<bytes::Bytes>) -> Answer {
    Operator::of(world).await.send(call).await
}

async fn upload(world: &World, query: &str, content: impl Into<Vec<u8>>) -> Answer {
    let call = post(&format!("/api/v1/file-upload/auth-config{query}"), content.into());
    send(world, with(call, "content-type", "application/octet-stream")).await
}

async fn posted(world: &World, path: &str, body: Value) -> Answer {
    send(world, post(path, body.to_string())).await
}

async fn state(world: &World) -> Value {
    let answer = send(world, request("GET", "/api/v1/policy", "")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.value()
}

async fn logs(world: &World) -> String {
    send(world, request("GET", "/logs", "")).await.text().to_owned()
}

fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// The allowlist in force with another OS image in it.
fn with_image(world: &World, image: &str) -> Vec<u8> {
    let mut allowlist: Value =
        serde_json::from_slice(&fs::read(world.path("auth-config.json")).expect("file")).expect("JSON");
    let images = allowlist["osImages"].as_array_mut().expect("images");
    images.push(json!(image));
    serde_json::to_vec_pretty(&allowlist).expect("JSON")
}

fn refusal(answer: &Answer) -> (u16, String) {
    (answer.status, answer.value()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn an_uploaded_allowlist_is_in_force_at_once() {
    let world = World::ready().await;
    let path = world.path("auth-config.json");
    let app = world.app(1);
    let caller = world.caller().shows(&world.attested(&app).await);
    let keys = async || caller.json("GetAppKey", json!({ "api_version": 1, "vm_config": "" })).await.status;
    assert_eq!(keys().await, 403);

    // What the support's own file would be.
    let before = fs::read(&path).expect("file");
    world.allow_app(&app);
    let allowed = fs::read(&path).expect("file");
    fs::write(&path, &before).expect("file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("permissions");
    assert_eq!(keys().await, 403);

    let told = upload(&world, "", allowed.clone()).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let told = told.value();
    assert_eq!(told["name"], "auth-config");
    assert_eq!(told["bytes"], allowed.len());
    assert_eq!(told["sha256"], digest(&allowed));
    assert_eq!((&told["changed"], &told["dry_run"]), (&json!(true), &json!(false)));
    assert_eq!(told["message"], "it is in force");
    assert_eq!(keys().await, 200);
    assert_eq!(fs::read(&path).expect("file"), allowed);
    assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o640);
    let shown = state(&world).await;
    assert_eq!(shown["sha256"], digest(&allowed));
    assert_eq!(shown["document"], serde_json::from_slice::<Value>(&allowed).expect("JSON"));
    assert_eq!(
        (&shown["kind"], &shown["source"], &shown["editable"]),
        (&json!("allowlist"), &json!("file"), &json!(true))
    );
    assert_eq!(shown["message"], Value::Null);
    let event = format!(
        "file auth-config was uploaded: {} bytes, SHA-256 {}; by token from 127.0.0.1",
        allowed.len(),
        digest(&allowed)
    );
    eventually("its event", async || logs(&world).await.contains(&event).then_some(())).await;

    let again = upload(&world, "", allowed.clone()).await.value();
    assert_eq!(again["changed"], false);
    assert_eq!(logs(&world).await.matches("was uploaded").count(), 1, "nothing was done");
}

#[tokio::test]
async fn a_dry_run_says_what_an_upload_would_do() {
    let world = World::ready().await;
    let before = fs::read(world.path("auth-config.json")).expect("file");
    let other = with_image(&world, &"ab".repeat(32));
    let told = upload(&world, "?dry_run=true", other.clone()).await.value();
    assert_eq!((&told["changed"], &told["dry_run"]), (&json!(true), &json!(true)));
    assert_eq!(told["message"], "it could be used");
    let told = upload(&world, "?dry_run=true", before.clone()).await.value();
    assert_eq!(told["changed"], false);
    // It would stop everything.
    let told = upload(&world, "?dry_run=true", "{}").await.value();
    let message = told["message"].as_str().expect("a text");
    assert!(message.contains("it does not allow this KMS itself"), "{message}");
    assert_eq!(fs::read(world.path("auth-config.json")).expect("file"), before);
    assert!(!logs(&world).await.contains("uploaded"));
}

#[tokio::test]
async fn a_bad_upload_changes_nothing_and_says_why() {
    let world = World::ready().await;
    let before = fs::read(world.path("auth-config.json")).expect("file");
    for (query, content, code, text) in [
        ("", "{", "invalid_file", "line 1, column"),
        ("", r#"{"apps": []}"#, "invalid_file", "apps"),
        ("", "", "invalid_file", "is not valid JSON"),
        ("?dry_run=true", r#"{"osImages": 1}"#, "invalid_file", "osImages"),
        ("?dry_run=1", "{}", "invalid_request", "dry_run must be true or false"),
        ("?dryrun=true", "{}", "invalid_request", "there is no parameter dryrun"),
        ("?dry_run=true&dry_run=false", "{}", "invalid_request", "more than once"),
    ] {
        let refused = upload(&world, query, content).await;
        assert_eq!(refusal(&refused), (400, code.to_owned()), "{query} {content}");
        assert!(refused.value()["message"].as_str().expect("a text").contains(text), "{}", refused.text());
    }
    let refused = send(&world, post("/api/v1/file-upload/policy-bundle", "{}")).await;
    assert_eq!(refusal(&refused), (400, "unknown_file".to_owned()));
    assert_eq!(upload(&world, "", vec![b' '; (8 << 20) + 1]).await.status, 413);
    assert_eq!(fs::read(world.path("auth-config.json")).expect("file"), before);
    assert!(!logs(&world).await.contains("uploaded"));
}

#[tokio::test]
async fn an_allowlist_has_no_place_under_another_policy() {
    let world = World::ready_with("core.auth_api.type = \"dev\"").await;
    let refused = upload(&world, "", "{}").await;
    assert_eq!(refusal(&refused), (409, "not_configured".to_owned()));
    assert!(refused.text().contains("\\\"dev\\\""), "{}", refused.text());
    let shown = state(&world).await;
    assert_eq!(
        (&shown["kind"], &shown["editable"], &shown["relaxed"]),
        (&json!("dev"), &json!(false), &json!(true))
    );
    assert_eq!((&shown["document"], &shown["sha256"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn uploads_at_once_leave_one_of_them_whole() {
    let world = World::ready().await;
    let files: Vec<_> = (0..6).map(|number: u8| with_image(&world, &hex::encode([number; 32]))).collect();
    let answers =
        futures_util::future::join_all(files.iter().map(|file| upload(&world, "", file.clone()))).await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let left = fs::read(world.path("auth-config.json")).expect("file");
    assert!(files.contains(&left));
    assert_eq!(state(&world).await["sha256"], digest(&left));
    let names: Vec<_> =
        fs::read_dir(world.path("")).expect("directory").map(|it| it.expect("it").file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with("staged")), "{names:?}");
}

#[tokio::test]
async fn a_disk_that_refuses_an_upload_keeps_the_old_file() {
    let world = World::ready().await;
    let path = world.path("auth-config.json");
    let before = fs::read(&path).expect("file");
    // A directory at the name of the staged file, as a disk that takes no file there.
    fs::create_dir_all(world.path("auth-config.json.staged/x")).expect("directory");
    let refused = upload(&world, "", with_image(&world, &"ab".repeat(32))).await;
    assert_eq!(refusal(&refused), (503, "unavailable".to_owned()));
    let text = refused.text();
    assert!(
        text.contains("nothing was changed") && !text.contains(&world.path("").display().to_string()),
        "{text}"
    );
    assert_eq!(fs::read(&path).expect("file"), before);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let mut world = World::ready().await;
    let before = fs::read(world.path("auth-config.json")).expect("file");
    world.start_without_room_for_audit().await;
    let refused = upload(&world, "", with_image(&world, &"ab".repeat(32))).await;
    assert_eq!(refusal(&refused), (503, "unavailable".to_owned()));
    assert!(refused.text().contains("nothing was changed"), "{}", refused.text());
    assert_eq!(fs::read(world.path("auth-config.json")).expect("file"), before);
    assert!(!world.path("auth-config.json.staged").exists());
}

#[tokio::test]
async fn a_check_names_problems_and_differences_and_judges_a_denial() {
    let world = World::ready().await;
    let app = world.app(1);
    let caller = world.caller().shows(&world.attested(&app).await);
    let denied = caller.json("GetAppKey", json!({ "api_version": 1, "vm_config": "" })).await;
    let id = denied.value()["denial_id"].as_str().expect("an id").to_owned();
    let path = world.path("auth-config.json");
    let before = fs::read(&path).expect("file");
    world.allow_app(&app);
    let allowed: Value = serde_json::from_slice(&fs::read(&path).expect("file")).expect("JSON");
    fs::write(&path, &before).expect("file");

    let told =
        posted(&world, "/api/v1/policy/check", json!({ "document": allowed, "denial_id": id })).await.value();
    assert_eq!((&told["valid"], &told["more_problems"]), (&json!(true), &json!(0)), "{told}");
    // The support's file names its image twice.
    let expected = json!({
        "severity": "warning", "code": "duplicate_value", "at": "osImages[1]", "message": "is in the list already"
    });
    assert_eq!(told["problems"], json!([expected]));
    assert_eq!(told["decision"]["allowed"], true, "{told}");
    assert_eq!(told["allows_this_kms"], true);
    let added = told["difference"]["added"].as_array().expect("a list");
    assert!(added.contains(&json!(format!("app {}", hex::encode(app.app_id())))), "{told}");
    assert_eq!(told["difference"]["removed"], json!([]));

    let now: Value = serde_json::from_slice(&before).expect("JSON");
    let told =
        posted(&world, "/api/v1/policy/check", json!({ "document": now, "denial_id": id })).await.value();
    assert_eq!(
        (&told["decision"]["allowed"], &told["decision"]["code"]),
        (&json!(false), &json!("app_not_registered")),
        "{told}"
    );
    assert_eq!(told["difference"], json!({ "added": [], "removed": [], "omitted": 0 }));

    let told =
        posted(&world, "/api/v1/policy/check", json!({ "document": "{\n  \"apps\": [}" })).await.value();
    assert_eq!(told["valid"], false);
    assert_eq!(told["problems"][0]["at"], "line 2, column 12", "{told}");
    assert_eq!(told["allows_this_kms"], Value::Null);

    for (body, code) in [
        (json!({}), "invalid_request"),
        (json!({ "document": {}, "other": 1 }), "invalid_request"),
        (json!({ "document": {}, "denial_id": "000000000000" }), "unknown_denial"),
        (json!({ "document": {}, "denial_id": "x" }), "unknown_denial"),
    ] {
        assert_eq!(
            refusal(&posted(&world, "/api/v1/policy/check", body.clone()).await),
            (400, code.to_owned()),
            "{body}"
        );
    }
    assert_eq!(fs::read(&path).expect("file"), before);
}

#[tokio::test]
async fn a_candidate_that_was_reviewed_can_be_activated_and_no_other() {
    let world = World::ready().await;
    let operator = Operator::of(&world).await;
    let activate =
        async |sha256: &str| posted(&world, "/api/v1/policy/activate", json!({ "sha256": sha256 })).await;
    assert_eq!(refusal(&activate(&"00".repeat(32)).await), (409, "no_candidate".to_owned()));

    let candidate = with_image(&world, &"ab".repeat(32));
    let text = String::from_utf8(candidate.clone()).expect("text");
    let start = async |text: &str, strict: Value| {
        operator
            .called(
                "StartShadow",
                json!({ "auth_config_json": text, "name": "v2", "strict_devices": strict }),
            )
            .await
    };
    start(&text, Value::Null).await;
    let shown = state(&world).await["shadow"].clone();
    assert_eq!((&shown["sha256"], &shown["name"]), (&json!(digest(&candidate)), &json!("v2")));
    assert_eq!(
        (&shown["seen"], &shown["would_deny"], &shown["would_allow"]),
        (&json!(0), &json!(0), &json!(0))
    );
    assert_eq!(shown["allows_this_kms"], true);
    assert_eq!(refusal(&activate(&"00".repeat(32)).await), (409, "candidate_changed".to_owned()));

    start(&text, json!(false)).await;
    assert_eq!(refusal(&activate(&digest(&candidate)).await), (409, "candidate_differs".to_owned()));

    start(&text, Value::Null).await;
    let told = activate(&digest(&candidate)).await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert_eq!(
        (&told.value()["changed"], &told.value()["sha256"]),
        (&json!(true), &json!(digest(&candidate)))
    );
    assert_eq!(fs::read(world.path("auth-config.json")).expect("file"), candidate);
    let shown = state(&world).await;
    assert_eq!((&shown["sha256"], &shown["shadow"]), (&json!(digest(&candidate)), &Value::Null));
    assert_eq!(refusal(&activate(&digest(&candidate)).await), (409, "no_candidate".to_owned()));
}
