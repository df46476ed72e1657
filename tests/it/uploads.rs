//! Files that an owner uploads: collateral, for a KMS that reaches no collateral service, and users with passwords.

use std::fs;

use crate::credentials::{Admin, CREDENTIALS};
use crate::support::http::{post, request, with};
use crate::support::operator::Operator;
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, basic, eventually};
use cvm_kms::api::Role;
use kms_simulator::{CollateralSpec, Platform, Validity};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

async fn upload(world: &World, query: &str, content: impl Into<Vec<u8>>) -> Answer {
    let call = post(&format!("/api/v1/file-upload/collateral-bundle{query}"), content.into());
    Operator::of(world).await.send(call).await
}

/// A KMS with keys that reaches no collateral service, and has kept nothing of one.
async fn offline() -> World {
    let mut world = World::ready().await;
    world.forget_collateral();
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

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_an_earlier_version_is_removed_only_if_all_of_it_is_kept() {
    let mut world = offline().await;
    let file = world.key_file("collateral-bundle.json");
    let right = world.platform.collateral();
    let foreign = Platform::from_seed(b"another root").collateral();
    fs::write(&file, serde_json::to_vec(&[&foreign, &right]).expect("JSON")).expect("file");
    world.start().await.expect("starts");
    eventually("it is ready", async || is_ready(&world).await).await;
    let bundle = serde_json::to_vec(&[&right]).expect("JSON");
    assert_eq!(upload(&world, "", bundle.clone()).await.value()["changed"], false, "it was taken over");
    assert!(file.exists(), "one set was not placed");

    world.forget_collateral();
    fs::write(&file, bundle).expect("file");
    world.start().await.expect("starts");
    eventually("it is ready again", async || is_ready(&world).await).await;
    eventually("the file is gone", async || (!file.exists()).then_some(())).await;
    world.start().await.expect("starts");
    eventually("it is ready from the store", async || is_ready(&world).await).await;
}

fn user(name: &str, password: &str) -> String {
    let hash =
        bcrypt::hash_with_result(password, 4).expect("bcrypt").format_for_version(bcrypt::Version::TwoY);
    format!("{name}:{hash}\n")
}

async fn signed_in(world: &World, name: &str, password: &str) -> u16 {
    let caller = Caller::new(world.admin_address().await).plain();
    let call = with(request("GET", "/livez", ""), "authorization", &basic(name, password));
    caller.send(call).await.status
}

/// Starts a KMS again with a file of users.
async fn with_users(world: &mut World, users: &str) {
    let path = world.path("htpasswd");
    fs::write(&path, users).expect("file");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", path.display()));
    world.start().await.expect("starts");
}

async fn upload_users(world: &World, content: impl Into<Vec<u8>>) -> Answer {
    Operator::of(world).await.send(post("/api/v1/file-upload/htpasswd", content.into())).await
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

#[tokio::test]
async fn a_name_that_is_to_be_a_credential_and_a_user_at_the_same_moment_becomes_one_of_both() {
    let mut world = World::ready().await;
    with_users(&mut world, &user("alice", "first")).await;
    let admin = Admin::of(&world).await;
    for name in ["one", "two", "three", "four"] {
        let body = json!({ "name": name, "role": "viewer" });
        let created = admin.ask("POST", CREDENTIALS, &body, ADMIN_TOKEN);
        let uploaded = upload_users(&world, user("alice", "first") + &user(name, "second"));
        let (created, uploaded) = tokio::join!(created, uploaded);
        let statuses = (created.status, uploaded.status);
        assert!([(200, 400), (400, 200)].contains(&statuses), "{name}: {created:?} {uploaded:?}");
    }
    world.start().await.expect("a start refuses a name that is both");
}

#[tokio::test]
async fn users_with_the_name_of_a_credential_are_refused_also_after_its_end() {
    let mut world = World::ready().await;
    with_users(&mut world, &user("alice", "first")).await;
    let admin = Admin::of(&world).await;
    for name in ["zoe", "ended"] {
        admin.create(name, Role::Viewer).await;
    }
    world.stop().await;
    let file = world.key_file("credentials.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&file).expect("file")).expect("JSON");
    for record in text["credentials"].as_array_mut().expect("a list") {
        if record["name"] == "ended" {
            record["expires_at"] = json!(1);
        }
    }
    fs::write(&file, text.to_string()).expect("file");
    world.start().await.expect("starts");
    let before = fs::read(world.path("htpasswd")).expect("file");
    for name in ["zoe", "ended"] {
        let refused = upload_users(&world, user("alice", "first") + &user(name, "second")).await;
        assert_eq!((refused.status, &refused.value()["code"]), (400, &json!("invalid_file")), "{name}");
        let text = format!("{name} is a named credential");
        assert!(refused.text().contains(&text), "{}", refused.text());
    }
    assert_eq!(fs::read(world.path("htpasswd")).expect("file"), before);
    let admin = Admin::of(&world).await;
    admin.done("POST", &format!("{CREDENTIALS}/ended/revoke"), Value::Null).await;
    let told = upload_users(&world, user("alice", "first") + &user("ended", "second")).await;
    assert_eq!(told.status, 200, "its name is free: {}", told.text());
    world.start().await.expect("starts with what was accepted");
}

#[tokio::test]
async fn an_owner_of_a_domain_changes_nothing_of_the_whole_kms() {
    let mut world = World::ready_with("core.admin.supervised = true").await;
    with_users(&mut world, &user("alice", "first")).await;
    let admin = Admin::of(&world).await;
    let body = json!({ "name": "limited", "role": "owner", "domain": "default" });
    let made = admin.done("POST", CREDENTIALS, body).await;
    let limited = format!("Bearer {}", made["token"].as_str().expect("a token"));
    let send = async |verb: &str, path: &str, body: String, authorization: &str| {
        let call = with(request(verb, path, body), "authorization", authorization);
        admin.0.send(with(call, "content-type", "application/json")).await
    };
    let whole = format!("Bearer {ADMIN_TOKEN}");
    let freeze = json!({ "scope": "kms", "value": "", "reason": "a leak" });
    assert_eq!(send("POST", "/prpc/Freeze", freeze.to_string(), &whole).await.status, 200);
    let now = kms_attest::clock::unix_now();
    let rules = fs::read_to_string(world.path("auth-config.json")).expect("file") + "\n";
    let collateral = serde_json::to_string(&world.platform.collateral()).expect("JSON");
    for (verb, path, body) in [
        ("POST", "/api/v1/file-upload/htpasswd", user("mallory", "second")),
        ("POST", "/api/v1/file-upload/htpasswd?dry_run=true", user("mallory", "second")),
        ("POST", "/api/v1/file-upload/auth-config", rules),
        ("POST", "/api/v1/file-upload/collateral-bundle", collateral),
        ("PATCH", "/api/v1/settings", json!({ "core.limits.app_per_second": 7 }).to_string()),
        ("POST", "/prpc/Unfreeze", json!({ "scope": "kms", "value": "" }).to_string()),
        ("POST", "/prpc/LowerClockFloor", json!({ "reason": "it was ahead", "now": now }).to_string()),
        ("POST", "/api/v1/restart", String::new()),
        ("POST", "/api/v1/reload", String::new()),
        ("POST", "/api/v1/actions/checkpoint", String::new()),
        ("POST", "/api/v1/epochs", String::new()),
        ("POST", "/api/v1/replica-joins", json!({ "domain": "kms2.example.com" }).to_string()),
        ("POST", "/api/v1/recovery/drill", String::new()),
        ("POST", "/prpc/ClearImageCache", json!({}).to_string()),
        (
            "POST",
            "/prpc/Freeze",
            json!({ "scope": "instance", "value": "07".repeat(20), "reason": "x" }).to_string(),
        ),
    ] {
        let refused = send(verb, path, body, &limited).await;
        let told = (refused.status, refused.header("x-error-code"));
        assert_eq!(told, (403, "other_domain"), "{path}: {}", refused.text());
        let text = "your credential is limited to the domain default, and this changes the whole KMS";
        assert_eq!(refused.value()["error"], text, "{path}");
    }
    for event in ["file_uploaded", "setting_changed", "unfrozen", "restart_requested", "epoch_prepared"] {
        assert!(world.audited(event).is_empty(), "{event}");
    }
    assert_eq!(world.audited("frozen").len(), 1, "by the token");
    for path in ["/api/v1/replicas", "/api/v1/ledger", "/api/v1/settings", "/api/v1/replica-joins"] {
        assert_eq!(send("GET", path, String::new(), &limited).await.status, 200, "{path} is read by it");
    }
    let frozen = send("GET", "/prpc/ListFrozen?json", String::new(), &whole).await;
    assert!(frozen.text().contains("\"kms\""), "{}", frozen.text());
}

#[tokio::test]
async fn the_approver_of_users_sees_who_changes_and_nobody_sees_a_hash() {
    let mut world = World::ready().await;
    world.configure("core.admin.approvals = 2");
    let dave = user("dave", "fourth");
    with_users(&mut world, &(user("alice", "first") + &user("bob", "second") + &dave)).await;
    let admin = Admin::of(&world).await;
    let viewer = admin.create("eve", Role::Viewer).await;

    let many: String = (0..5).map(|number| user(&format!("{number}{}", "x".repeat(1000)), "p")).collect();
    let refused = upload_users(&world, many).await;
    assert_eq!((refused.status, &refused.value()["code"]), (400, &json!("invalid_file")));
    assert!(refused.text().contains("has to see each user"), "{}", refused.text());

    let file = user("alice", "other") + &dave + &user("carol, bob", "third");
    let waits = upload_users(&world, file.clone()).await;
    assert_eq!(waits.status, 202, "{}", waits.text());
    assert!(!waits.text().contains("$2y$"), "{}", waits.text());
    let approval = waits.value()["approval"].clone();
    let path = format!("/api/v1/approvals/{}", approval["id"].as_str().expect("an id"));
    let shown = admin.ask("GET", &path, &Value::Null, &viewer).await.value();
    assert_eq!(
        shown["detail"],
        "replace the htpasswd file, whose users are owners; new: \"carol, bob\"; removed: bob; with another password: \
         alice"
    );
    assert_eq!(shown["document"], Value::Null, "{shown}");
    let shown = admin.done("GET", &path, Value::Null).await;
    let entry = |line: &str| hex::encode(Sha256::digest(line));
    let mut lines: Vec<_> = file.lines().map(entry).collect();
    lines.swap(1, 2);
    let expected = format!(
        "alice: SHA-256 {}\n\"carol, bob\": SHA-256 {}\ndave: SHA-256 {}\n",
        lines[0], lines[1], lines[2]
    );
    assert_eq!(shown["document"], expected);
    assert_eq!(shown["sha256"], hex::encode(Sha256::digest(&file)));
    let kept = || fs::read_to_string(world.key_file("approvals.json")).expect("file");
    assert!(kept().contains("$2y$"));

    assert_eq!(signed_in(&world, "alice", "other").await, 401, "it waits");
    let approve = with(post(&format!("{path}/approve"), ""), "authorization", &basic("dave", "fourth"));
    let done = admin.0.send(approve).await;
    assert_eq!((done.status, &done.value()["state"]), (200, &json!("done")), "{}", done.text());
    assert_eq!(signed_in(&world, "alice", "other").await, 200, "though it was tried before");
    assert_eq!(signed_in(&world, "bob", "second").await, 401);
    assert!(!kept().contains("$2y$"), "not after the end of the request");
}
