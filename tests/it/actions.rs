//! Health and actions of operators: drain, reload, self-test and the others.

use crate::support::http::{json, post, request, with};
use crate::support::operator::authorized;
use crate::support::{Answer, Caller, World, eventually};
use serde_json::{Value, json};

async fn admin(world: &World) -> Caller {
    Caller::new(world.admin_address().await).plain()
}

async fn run(world: &World, name: &str) -> Answer {
    admin(world).await.send(authorized(post(&format!("/api/v1/actions/{name}"), ""))).await
}

async fn get(world: &World, path: &str) -> Answer {
    admin(world).await.send(authorized(request("GET", path, ""))).await
}

/// The lines of `/logs`, without their times.
async fn logs(world: &World) -> Vec<String> {
    let logs = get(world, "/logs").await;
    logs.text().lines().map(|line| line.split_once(' ').expect("a time").1.to_owned()).collect()
}

async fn health(world: &World) -> Value {
    let answer = world.caller().send(with(request("GET", "/health", ""), "accept", "application/json")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.value()
}

#[tokio::test]
async fn health_is_plain_unless_json_is_asked_for_by_name() {
    let world = World::ready().await;
    for accept in [None, Some("*/*"), Some("text/html, */*;q=0.8"), Some("application/jsonp")] {
        let call = request("GET", "/health", "");
        let call = match accept {
            Some(accept) => with(call, "accept", accept),
            None => call,
        };
        let answer = world.caller().send(call).await;
        assert_eq!((answer.status, answer.text()), (200, "OK"), "{accept:?}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8", "{accept:?}");
        assert_eq!((answer.header("cache-control"), answer.header("vary")), ("", ""), "{accept:?}");
    }
    let told = health(&world).await;
    let status = get(&world, "/api/v1/health").await.value();
    for (key, expected) in [("service", "cvm-kms"), ("status", "ok"), ("mode", "serving")] {
        assert_eq!((&told[key], &status[key]), (&json!(expected), &json!(expected)));
    }
    for key in ["startedAt", "bootId", "version"] {
        assert!(told[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {told}");
        assert_eq!(told[key], status[key], "{key}");
    }
    assert_eq!(told["reasons"], json!([]));
    assert!(told["startedAt"].as_str() <= told["timestamp"].as_str(), "{told}");

    let boot = told["bootId"].clone();
    let mut world = world;
    world.start().await.expect("starts");
    assert_ne!(health(&world).await["bootId"], boot, "another one after a restart");
}

#[tokio::test]
async fn health_tells_the_public_less_than_operators() {
    let world = World::ready().await;
    std::fs::write(world.path("auth-config.json"), "{").expect("file");
    let told = eventually("an unusable allowlist", async || {
        let told = health(&world).await;
        (told["status"] == "unavailable").then_some(told)
    })
    .await;
    assert_eq!(told["reasons"][0]["code"], "allowlist_unusable");
    let text = "the allowlist is missing or invalid, so everything is denied";
    assert_eq!(told["reasons"][0]["message"], text);
    let status = get(&world, "/api/v1/health").await.value();
    let message = status["reasons"][0]["message"].as_str().expect("a text");
    assert!(message.starts_with(text) && message.len() > text.len(), "{message}");

    let onboarding = World::onboarding().await;
    let told = onboarding
        .caller()
        .plain()
        .send(with(request("GET", "/health", ""), "accept", "application/json"))
        .await
        .value();
    assert_eq!((&told["status"], &told["mode"]), (&json!("unavailable"), &json!("onboarding")));
    assert_eq!(told["reasons"][0]["code"], "no_keys");
}

#[tokio::test]
async fn a_drained_kms_is_not_ready_and_still_serves() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let done = run(&world, "drain").await;
    assert_eq!((done.status, &done.value()["ok"]), (200, &json!(true)), "{}", done.text());

    let ready = world.caller().get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(ready.value()["reasons"][0]["code"], "draining");
    assert!(!ready.text().contains("token"), "not who did it");
    assert!(get(&world, "/readyz").await.text().contains("by token since"), "operators are told");
    assert_eq!(health(&world).await["status"], "unavailable");
    let meta = eventually("GetMeta says so", async || {
        let meta = world.caller().json("GetMeta", json!({})).await.value();
        (meta["ready"] == json!(false)).then_some(meta)
    })
    .await;
    assert_eq!(meta["not_ready"][0]["code"], "draining");
    // Old and new connections.
    for _ in 0..2 {
        let keys = caller.json("GetAppKey", json!({ "api_version": 1, "vm_config": "" })).await;
        assert_eq!(keys.status, 200, "{}", keys.text());
    }
    assert_eq!(run(&world, "drain").await.value()["message"], "it was draining already");
    assert_eq!(get(&world, "/api/v1/overview").await.value()["mode"], "draining");

    assert_eq!(run(&world, "undrain").await.status, 200);
    assert_eq!(get(&world, "/api/v1/overview").await.value()["mode"], "serving");
    assert_eq!(world.caller().get("/readyz").await.status, 200);
    assert_eq!(run(&world, "undrain").await.value()["message"], "there was no drain");

    run(&world, "drain").await;
    let mut world = world;
    world.start().await.expect("starts");
    assert_eq!(world.caller().get("/readyz").await.status, 200, "a drain ends with the process");
}

#[tokio::test]
async fn without_other_nodes_a_kms_drains_itself_only() {
    let world = World::ready().await;
    for (body, problem) in [
        (r#"{"node":"node-1"}"#, "this node shares nothing"),
        (r#"{"node":7}"#, "invalid type"),
        (r#"{"nodes":[]}"#, "unknown field"),
        ("[]", "must be a JSON object"),
    ] {
        for name in ["drain", "undrain"] {
            let call = authorized(post(&format!("/api/v1/actions/{name}"), body));
            let refused = admin(&world).await.send(call).await;
            assert!(refused.status == 400 && refused.text().contains(problem), "{body}: {}", refused.text());
        }
    }
    assert_eq!(world.caller().get("/readyz").await.status, 200);
    let done = admin(&world).await.send(authorized(post("/api/v1/actions/drain", "{}"))).await;
    assert_eq!((done.status, &done.value()["shared"]), (200, &Value::Null), "{}", done.text());
    assert!(!world.key_file("drains.json").exists(), "it ends with the process");
}

#[tokio::test]
async fn each_action_is_recorded_by_two_events() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let listed = get(&world, "/api/v1/actions").await.value();
    let names: Vec<_> =
        listed["actions"].as_array().expect("a list").iter().map(|it| it["name"].clone()).collect();
    let expected = [
        "refresh-collateral",
        "reload-policy",
        "reissue-certificate",
        "drain",
        "undrain",
        "clear-image-cache",
        "self-test",
        "checkpoint",
        "recovery-drill-reminder",
    ];
    assert_eq!(names, expected);
    assert_eq!(listed["actions"][0]["last"], Value::Null);
    for name in expected {
        let before = logs(&world).await.len();
        let done = run(&world, name).await;
        assert_eq!(done.status, 200, "{name}: {}", done.text());
        let value = done.value();
        assert_eq!((&value["name"], &value["ok"]), (&json!(name), &json!(true)));
        assert!(value["took_ms"].is_u64() && value["message"].is_string(), "{value}");
        let lines = eventually("both events", async || {
            let lines = logs(&world).await;
            let added = lines.get(before..).unwrap_or_default();
            let is_end = |line: &String| *line == format!("action {name} succeeded");
            added.iter().any(is_end).then(|| added.to_vec())
        })
        .await;
        let begins = format!("executing action: {name}, by token from 127.0.0.1");
        assert!(lines.contains(&begins), "{name}: {lines:?}");
        let listed = get(&world, "/api/v1/actions").await.value();
        let of = listed["actions"].as_array().expect("a list").iter().find(|it| it["name"] == name);
        assert_eq!(of.expect("listed")["last"]["ok"], json!(true), "{name}");
    }
    // As `curl` users type it.
    let typed = get(&world, "/api/v1/actions/self-test").await;
    assert_eq!(typed.status, 200, "{}", typed.text());
}

#[tokio::test]
async fn what_is_no_action_is_refused_and_not_recorded() {
    let world = World::ready().await;
    let is_indexed = async || (logs(&world).await.len() == world.audit().len()).then_some(());
    eventually("the index has all records of the start", is_indexed).await;
    let before = logs(&world).await.len();
    for name in ["nothing", "Drain", "drain%20", "self_test", "recovery_drill_reminder"] {
        let refused = run(&world, name).await;
        assert_eq!((refused.status, refused.header("x-error-code")), (400, "unknown_action"), "{name}");
        let value = refused.value();
        assert_eq!(value["code"], "unknown_action");
        assert_eq!(value["error"], value["message"]);
        assert!(value["message"].as_str().is_some_and(|text| text.contains("self-test")), "{value}");
    }
    let browser = with(request("GET", "/api/v1/actions/drain", ""), "sec-fetch-site", "same-origin");
    for call in [browser, request("HEAD", "/api/v1/actions/drain", "")] {
        let refused = admin(&world).await.send(authorized(call)).await;
        assert_eq!((refused.status, refused.header("x-error-code")), (400, "invalid_request"));
    }
    assert_eq!(world.caller().get("/readyz").await.status, 200);
    assert_eq!(logs(&world).await.len(), before);
}

#[tokio::test]
async fn an_action_that_fails_says_why() {
    let world = World::ready().await;
    std::fs::write(world.path("auth-config.json"), "{").expect("file");
    for name in ["reload-policy", "self-test"] {
        let failed = run(&world, name).await;
        assert_eq!((failed.status, failed.header("x-error-code")), (503, "action_failed"), "{name}");
        let message = failed.value()["message"].as_str().expect("a text").to_owned();
        assert!(message.starts_with(&format!("action {name} failed: ")), "{message}");
        assert!(!message.contains(&world.path("").display().to_string()), "no path: {message}");
        eventually("its event", async || {
            let begins = format!("action {name} failed: ");
            logs(&world).await.iter().any(|line| line.starts_with(&begins)).then_some(())
        })
        .await;
    }
    let listed = get(&world, "/api/v1/actions").await.value();
    assert_eq!(listed["actions"][1]["last"]["ok"], json!(false), "{listed}");
}

#[tokio::test]
async fn errors_of_routes_have_a_code_and_a_message_and_those_of_methods_do_not() {
    let world = World::ready().await;
    for path in ["/api/v1/events?nothing=1", "/api/v1/actions/x", "/logs?limit=x"] {
        let refused = get(&world, path).await;
        assert_eq!(refused.status, 400, "{path}");
        let value = refused.value();
        assert_eq!(value["error"], value["message"], "{path}");
        assert_eq!(value["code"], refused.header("x-error-code"), "{path}");
    }
    let refused = world.caller().send(json("Nothing", json!({}))).await;
    assert_eq!(refused.value(), json!({ "error": "Service not found: Nothing" }));
    let refused = admin(&world).await.send(authorized(json("Nothing", json!({})))).await;
    assert_eq!(refused.value(), json!({ "error": "Service not found: Nothing" }));
}
