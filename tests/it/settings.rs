//! Settings, reload and restart over the admin listener.

use std::fs;

use crate::support::http::{post, request, with};
use crate::support::operator::Operator;
use crate::support::{ADMIN_TOKEN, Answer, Caller, PATIENCE, World, eventually};
use cvm_kms::app;
use cvm_kms::config::{Config, Sources};
use serde_json::{Value, json};

async fn send(world: &World, call: http::Request<bytes::Bytes>) -> Answer {
    Operator::of(world).await.send(call).await
}

async fn patch(world: &World, body: impl ToString) -> Answer {
    let call = http::Request::builder().method("PATCH").uri("/api/v1/settings");
    send(world, call.body(body.to_string().into()).expect("a request")).await
}

async fn settings(world: &World) -> Value {
    let answer = send(world, request("GET", "/api/v1/settings", "")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.value()
}

fn of<'a>(settings: &'a Value, key: &str) -> &'a Value {
    let list = settings["settings"].as_array().expect("a list");
    list.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("no {key}"))
}

fn refusal(answer: &Answer) -> (u16, String) {
    (answer.status, answer.value()["code"].as_str().unwrap_or_default().to_owned())
}

/// How many requests of one address pass at once.
async fn burst(world: &World) -> usize {
    let mut to = world.caller().connect().await.expect("a connection");
    let mut passed = 0;
    while passed < 100 && to.json("GetMeta", json!({})).await.status == 200 {
        passed += 1;
    }
    passed
}

#[tokio::test]
async fn each_setting_has_its_value_and_source_and_no_secret_is_shown() {
    let world = World::ready().await;
    let told = settings(&world).await;
    let text = told.to_string();
    assert!(!text.contains(ADMIN_TOKEN), "{text}");
    for (key, value, source, is_secret) in [
        ("core.site_name", json!("test site"), "file", false),
        ("core.admin.auth_token", json!("set"), "file", true),
        ("core.onboard.auth_token", json!("not set"), "default", true),
        ("rpc.port", json!(0), "file", false),
        ("core.tcb.min_evaluation_number", json!(0), "default", false),
        ("log_level", json!("as started"), "default", false),
    ] {
        let one = of(&told, key);
        let found = (&one["value"], &one["source"], &one["secret"]);
        assert_eq!(found, (&value, &json!(source), &json!(is_secret)), "{key}");
        assert!(one["message"].is_string(), "{key}");
    }
    let measured = of(&told, "core.auth_api.type");
    assert_eq!((&measured["measured"], &measured["editable"]), (&json!(true), &json!(false)));
    let hot = of(&told, "core.limits.app_burst");
    assert_eq!(
        (&hot["editable"], &hot["restart_required"], &hot["measured"]),
        (&json!(true), &json!(false), &json!(false))
    );
    // The log of a test belongs to another program.
    assert_eq!(of(&told, "log_level")["editable"], false);
    assert_eq!(told["restart_required"], json!([]));
    let paths = of(&told, "core.cert_dir")["value"].as_str().expect("a text").to_owned();
    assert!(paths.starts_with('/'), "owners see paths");
}

#[tokio::test]
async fn roles_that_only_read_see_no_path_and_change_nothing() {
    let world = World::ready().await;
    let made =
        send(&world, post("/api/v1/credentials", json!({ "name": "eyes", "role": "viewer" }).to_string()))
            .await;
    let token = made.value()["token"].as_str().expect("a token").to_owned();
    let viewer = Caller::new(world.admin_address().await).plain();
    let shown = |call| with(call, "authorization", &format!("Bearer {token}"));
    let told = eventually("a password that is checked", async || {
        let answer = viewer.send(shown(request("GET", "/api/v1/settings", ""))).await;
        (answer.status == 200).then(|| answer.value())
    })
    .await;
    assert_eq!(of(&told, "core.cert_dir")["value"], "set");
    assert_eq!(of(&told, "core.attestation.urls.pccs")["value"], "set");
    assert!(!told.to_string().contains(&world.path("").display().to_string()));
    let call = http::Request::builder().method("PATCH").uri("/api/v1/settings");
    let call = call.body(r#"{"core.limits.app_burst": 1}"#.into()).expect("a request");
    assert_eq!(refusal(&viewer.send(shown(call)).await), (403, "denied".to_owned()));
    for path in ["/api/v1/reload", "/api/v1/restart"] {
        assert_eq!(viewer.send(shown(post(path, ""))).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn a_changed_setting_counts_at_once_and_over_a_restart() {
    let mut world =
        World::ready_with("core.limits = { unauthenticated_per_second = 1, unauthenticated_burst = 60 }")
            .await;
    let burst_key = "core.limits.unauthenticated_burst";
    let told = patch(&world, json!({ burst_key: 7 })).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let one = of(&told.value(), burst_key).clone();
    assert_eq!((&one["value"], &one["source"]), (&json!(7), &json!("runtime")));
    assert!(
        one["message"].as_str().expect("a text").contains("Changed at run time; without that it is 60"),
        "{one}"
    );
    let passed = burst(&world).await;
    assert!((7..20).contains(&passed), "{passed}");
    let event = &world.audited("setting_changed")[0];
    assert_eq!(
        (&event["setting"], &event["value"], &event["previous"]),
        (&json!(burst_key), &json!("7"), &json!("60"))
    );
    assert_eq!(event["by"], "token");

    world.start().await.expect("starts");
    assert_eq!(of(&settings(&world).await, burst_key)["value"], 7);
    assert!((7..20).contains(&burst(&world).await));

    // The same again is no change; a null takes it back.
    assert_eq!(patch(&world, json!({ burst_key: 7 })).await.status, 200);
    assert_eq!(world.audited("setting_changed").len(), 1);
    let told = patch(&world, json!({ burst_key: null })).await.value();
    assert_eq!(
        (&of(&told, burst_key)["value"], &of(&told, burst_key)["source"]),
        (&json!(60), &json!("file"))
    );
    assert!(burst(&world).await >= 60);
    assert_eq!(world.audited("setting_changed").len(), 2);
}

#[tokio::test]
async fn what_cannot_change_is_refused_whole() {
    let world = World::ready().await;
    let key = "core.limits.app_burst";
    for (body, status, code, text) in [
        (json!({ key: 5, "core.auth_api.type": "dev" }).to_string(), 409, "not_editable", "measured"),
        (json!({ "core.admin.auth_token": "x" }).to_string(), 409, "not_editable", "measured"),
        (json!({ "core.admin.supervised": true }).to_string(), 409, "not_editable", "may administer"),
        (json!({ "rpc.port": 1 }).to_string(), 409, "not_editable", "restart"),
        (json!({ "log_level": "debug" }).to_string(), 409, "not_editable", "another program"),
        (json!({ key: 5, "core.limits.app_bursts": 5 }).to_string(), 400, "unknown_setting", "app_burst"),
        (json!({ key: 5, "core.limits.instance_burst": 0 }).to_string(), 400, "invalid_setting", "from 1 to"),
        (
            json!({ "core.events.denial_storm_window": "2h" }).to_string(),
            400,
            "invalid_setting",
            "from 1s to 1h",
        ),
        (format!(r#"{{"{key}": 5, "{key}": 6}}"#), 400, "invalid_request", "more than once"),
        ("{}".to_owned(), 400, "invalid_request", "names no setting"),
        ("[]".to_owned(), 400, "invalid_request", "object"),
        (String::new(), 400, "invalid_request", "object"),
    ] {
        let refused = patch(&world, &body).await;
        assert_eq!(refusal(&refused), (status, code.to_owned()), "{body}");
        assert!(refused.value()["message"].as_str().expect("a text").contains(text), "{}", refused.text());
    }
    assert_eq!(patch(&world, " ".repeat(17 * 1024)).await.status, 413);
    assert_eq!(of(&settings(&world).await, key)["source"], "default");
    assert!(!world.key_file("settings.json").exists());
    assert!(world.audited("setting_changed").is_empty());
}

#[tokio::test]
async fn a_damaged_file_of_changes_does_not_stop_the_kms() {
    let mut world = World::ready().await;
    for text in ["{", r#"{"version":1,"settings":{"core.limits.app_burst":0,"rpc.port":1}}"#] {
        fs::write(world.key_file("settings.json"), text).expect("file");
        world.start().await.expect("starts");
        assert_eq!(of(&settings(&world).await, "core.limits.app_burst")["source"], "default", "{text}");
    }
}

/// A KMS whose configuration is in a file.
async fn with_a_file(text: &str) -> (World, app::Running) {
    let mut world = World::ready().await;
    world.stop().await;
    world.configure(text);
    let path = world.path("kms.toml");
    fs::write(&path, toml::to_string(&world.config).expect("TOML")).expect("file");
    let nowhere = world.path("nowhere");
    let sources =
        Sources { system: &nowhere, working: &nowhere, explicit: Some(&path), environment: &|_| None };
    let (config, _) = Config::from_sources(&sources).expect("a configuration");
    let running = app::start(config).await.expect("starts");
    (world, running)
}

#[tokio::test]
async fn a_reload_applies_what_it_can_and_refuses_a_bad_file_whole() {
    let (mut world, running) = with_a_file("core.limits.app_burst = 10").await;
    world.kms = Some(running);
    let reload = async || send(&world, post("/api/v1/reload", "")).await;
    let told = reload().await;
    assert_eq!(told.status, 200, "{}", told.text());
    let names: Vec<_> = told.value()["reloaded"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|part| part["name"].clone())
        .collect();
    assert_eq!(names, ["settings", "policy", "certificate"]);
    assert_eq!(told.value()["reloaded"][0]["changed"], false, "{}", told.text());
    assert_eq!(told.value()["reloaded"][2]["changed"], true);

    let path = world.path("kms.toml");
    let before = fs::read_to_string(&path).expect("file");
    let after = before.replace("app_burst = 10", "app_burst = 11").replace("test site", "another site");
    assert_ne!(after, before);
    fs::write(&path, &after).expect("file");
    let told = reload().await.value();
    assert_eq!(told["reloaded"][0]["message"], "in force now: core.limits.app_burst", "{told}");
    assert_eq!(told["restart_required"], json!(["core.site_name"]));
    let listed = settings(&world).await;
    assert_eq!(of(&listed, "core.limits.app_burst")["value"], 11);
    let site = of(&listed, "core.site_name");
    assert_eq!(site["value"], "test site", "what is in force");
    assert!(site["message"].as_str().expect("a text").contains("after a restart"), "{site}");
    assert_eq!(listed["restart_required"], json!(["core.site_name"]));
    let mode = async || send(&world, request("GET", "/api/v1/overview", "")).await.value()["mode"].clone();
    assert_eq!(mode().await, "restart_required");

    fs::write(&path, after.replace("app_burst = 11", "app_burst = 0\nnonsense = 1")).expect("file");
    let refused = reload().await;
    assert_eq!(refusal(&refused), (400, "invalid_configuration".to_owned()));
    let text = refused.value()["message"].as_str().expect("a text").to_owned();
    for part in ["core.limits.app_burst", "core.limits.nonsense", "nothing was changed"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains(&world.path("").display().to_string()), "no path: {text}");
    fs::write(&path, "not TOML = = ").expect("file");
    let text = reload().await.value()["message"].as_str().expect("a text").to_owned();
    assert!(!text.contains(&world.path("").display().to_string()), "no path: {text}");
    assert_eq!(of(&settings(&world).await, "core.limits.app_burst")["value"], 11, "as before");
    let events = world.audited("reloaded");
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(
        (&events[1]["changed"], &events[1]["by"]),
        (&json!(["core.limits.app_burst"]), &json!("token"))
    );

    // What an owner changed counts more than the file.
    patch(&world, json!({ "core.limits.app_burst": 12 })).await;
    fs::write(&path, &before).expect("file");
    reload().await;
    let listed = settings(&world).await;
    assert_eq!(of(&listed, "core.limits.app_burst")["value"], 12);
    assert_eq!(listed["restart_required"], json!([]));
    assert_eq!(mode().await, "serving");
}

#[tokio::test]
async fn a_signal_reloads_and_a_storm_of_them_does_no_harm() {
    let (mut world, running) = with_a_file("core.limits.app_burst = 10").await;
    let path = world.path("kms.toml");
    let text = fs::read_to_string(&path).expect("file").replace("app_burst = 10", "app_burst = 11");
    fs::write(&path, text).expect("file");
    for _ in 0..1000 {
        running.reload();
    }
    world.kms = Some(running);
    eventually("the new value", async || {
        (of(&settings(&world).await, "core.limits.app_burst")["value"] == 11).then_some(())
    })
    .await;
    let event = eventually("its event", async || world.audited("reloaded").into_iter().next()).await;
    assert_eq!((&event["by"], event.get("remote")), (&json!("SIGHUP"), None));
    assert_eq!(world.caller().get("/readyz").await.status, 200);
    assert!(world.audited("reloaded").len() < 50, "those that come meanwhile count as one");
}

#[tokio::test]
async fn a_restart_needs_a_supervisor_and_is_the_same_however_often_it_is_asked_for() {
    let world = World::ready().await;
    let refused = send(&world, post("/api/v1/restart", "")).await;
    assert_eq!(refusal(&refused), (409, "not_supervised".to_owned()));

    let world = World::ready_with("core.admin.supervised = true").await;
    let boot = send(&world, request("GET", "/api/v1/health", "")).await.value()["bootId"].clone();
    let asked = world.kms.as_ref().expect("it runs").restart_requested();
    for _ in 0..2 {
        let told = send(&world, post("/api/v1/restart", "")).await;
        assert_eq!((told.status, told.value()), (200, json!({ "restarting": true, "boot_id": boot })));
    }
    tokio::time::timeout(PATIENCE, asked).await.expect("the program is told");
    assert_eq!(world.audited("restart_requested").len(), 1);
}

#[tokio::test]
async fn the_setup_status_stays_after_the_setup() {
    let world = World::ready().await;
    let told = send(&world, request("GET", "/api/v1/setup/status", "")).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let told = told.value();
    assert_eq!((&told["mode"], &told["next"]), (&json!("installed"), &json!([])));
    assert!(told["boot_id"].is_string() && told["started_at"].is_string(), "{told}");
}
