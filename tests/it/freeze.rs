//! A freeze stops every request that begins after its response, survives restarts, and is in the audit log.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::support::http::{self, with};
use crate::support::operator::{Operator, done};
use crate::support::{ADMIN_TOKEN, Answer, Caller, Identity, World, csr, eventually};
use axum::Router;
use axum::routing::post;
use cvm_kms::proto::{FreezeRequest, ListFrozenResponse, SignCertRequest};
use kms_attest::clock::unix_now;
use kms_attest::csr::Csr;
use kms_attest::p256::P256Key;
use kms_simulator::Cvm;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const TOLD: &str = "Boot denied: frozen by the operator";

/// The scopes that apply to an app, with their values.
fn scopes_of(cvm: &Cvm) -> [(&'static str, Vec<u8>); 5] {
    [
        ("app", cvm.app_id().to_vec()),
        ("instance", cvm.instance_id().to_vec()),
        ("device", cvm.platform().device_id().to_vec()),
        ("os_image", cvm.os_image_hash().to_vec()),
        ("kms", Vec::new()),
    ]
}

fn sign_request(cvm: &Cvm) -> Value {
    let key = P256Key::generate();
    let csr = Csr { subject: "an app".to_owned(), usage_client_auth: true, ..csr(cvm, &key) };
    let csr = csr.encode_v2();
    let signature = Csr::sign(&csr, &key);
    serde_json::to_value(SignCertRequest { api_version: 2, csr, signature, ..Default::default() })
        .expect("JSON")
}

/// The error for an app that is frozen.
fn is_frozen(answer: &Answer, prefix: &str) {
    assert_eq!(answer.refusal(), (403, format!("{prefix}{TOLD}")), "{answer:?}");
    assert_eq!(answer.value()["code"], "frozen", "{answer:?}");
    assert_eq!(answer.value()["denial_id"], answer.header("x-denial-id"), "{answer:?}");
    assert!(!answer.text().contains("a test"), "the operator's reason is not the caller's business");
}

#[tokio::test]
async fn the_apps_that_a_freeze_of_everything_would_stop_are_counted() {
    let world = World::ready().await;
    let operator = Operator::of(&world).await;
    let before = operator.called("RecentReleases", json!({})).await;
    assert_eq!(before["apps"], 0);
    for number in [1, 2, 1] {
        let app = world.app(number);
        world.allow_app(&app);
        let caller = world.caller().shows(&world.attested(&app).await);
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    }
    let stranger = world.caller().shows(&world.attested(&world.app(3)).await);
    assert_eq!(stranger.json("GetAppKey", json!({})).await.status, 403);
    let after = operator.called("RecentReleases", json!({})).await;
    assert_eq!((&after["apps"], &after["since"]), (&json!(2), &before["since"]));
    assert!(after["since"].as_u64().is_some_and(|since| since <= unix_now()), "{after}");
}

#[tokio::test]
async fn each_scope_stops_every_release_to_who_is_in_it_and_nothing_else() {
    let world = World::ready().await;
    let (app, bystander) = (world.app(1), world.app(2));
    world.allow_app(&app);
    world.allow_app(&bystander);
    let operator = Operator::of(&world).await;
    let caller = world.caller().shows(&world.attested(&app).await);
    let other = world.caller().shows(&world.attested(&bystander).await);
    let replica = world.caller().shows(&world.attested(&world.replica()).await);
    for (scope, value) in scopes_of(&app) {
        let is_shared = ["device", "os_image", "kms"].contains(&scope);
        operator.freeze(scope, &value).await;
        is_frozen(&caller.json("GetAppKey", json!({})).await, "App not allowed: ");
        is_frozen(&world.caller().json("SignCert", sign_request(&app)).await, "");
        let of_other = other.json("GetAppKey", json!({})).await;
        let of_replica = replica.json("GetKmsKey", json!({})).await;
        match is_shared {
            true => {
                is_frozen(&of_other, "App not allowed: ");
                is_frozen(&of_replica, "");
            }
            false => assert_eq!((of_other.status, of_replica.status), (200, 200), "{scope}"),
        }
        for (method, body) in [
            ("GetMeta", json!({})),
            ("GetTempCaCert", json!({})),
            ("GetAppEnvEncryptPubKey", json!({ "app_id": hex::encode(app.app_id()) })),
        ] {
            assert_eq!(world.caller().json(method, body).await.status, 200, "{scope}: {method} goes on");
        }
        let shown = world.caller().get("/metrics").await;
        assert!(shown.text().contains(&format!("cvm_kms_frozen{{scope=\"{scope}\"}} 1")), "{scope}");
        assert!(operator.unfreeze(scope, &value).await);
        assert!(!operator.unfreeze(scope, &value).await, "once");
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200, "{scope}");
    }
}

/// A request: when it was sent, and its result.
struct Sent {
    at: Instant,
    answer: Answer,
}

/// Sends requests on one connection until `until`.
async fn asking(
    caller: Caller,
    method: &'static str,
    body: Value,
    until: tokio::sync::watch::Receiver<bool>,
    count: Arc<AtomicUsize>,
) -> Vec<Sent> {
    let mut line = caller.connect().await.expect("a connection");
    let mut sent = Vec::new();
    while !*until.borrow() {
        let at = Instant::now();
        let answer = line.json(method, body.clone()).await;
        sent.push(Sent { at, answer });
        count.fetch_add(1, Ordering::Relaxed);
    }
    sent
}

/// Many concurrent callers during a freeze: no request sent after the response succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_that_begins_after_the_answer_gets_anything() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let operator = Operator::of(&world).await;
    for (scope, value) in scopes_of(&app) {
        let (stop, until) = tokio::sync::watch::channel(false);
        let count = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        for number in 0..12 {
            let caller = world.caller().shows(&world.attested(&app).await);
            let (method, body) = match number % 4 {
                3 => ("SignCert", sign_request(&app)),
                _ => ("GetAppKey", json!({})),
            };
            callers.spawn(asking(caller, method, body, until.clone(), Arc::clone(&count)));
        }
        if scope == "kms" {
            for _ in 0..4 {
                let replica = world.caller().shows(&world.attested(&world.replica()).await);
                callers.spawn(asking(replica, "GetKmsKey", json!({}), until.clone(), Arc::clone(&count)));
            }
        }
        // Waits for releases, however slow this machine is.
        let released = || {
            let log = fs::read_to_string(world.key_file("audit.jsonl")).expect("the log");
            log.matches(r#""event":"app_key_released""#).count()
        };
        let before = released();
        eventually("releases", async || (released() >= before + 20).then_some(())).await;
        operator.freeze(scope, &value).await;
        let frozen = Instant::now();
        // Those that run now, and some that begin later.
        let enough = count.load(Ordering::Relaxed) + callers.len() + 30;
        eventually("more requests", async || (count.load(Ordering::Relaxed) >= enough).then_some(())).await;
        stop.send_replace(true);
        let sent: Vec<Sent> = callers.join_all().await.into_iter().flatten().collect();
        let (later, earlier): (Vec<_>, Vec<_>) = sent.into_iter().partition(|sent| sent.at > frozen);
        assert!(earlier.iter().any(|sent| sent.answer.status == 200), "{scope}: keys flowed before");
        assert!(later.len() > 10, "{scope}: callers went on asking: {}", later.len());
        for sent in &later {
            assert_eq!(sent.answer.status, 403, "{scope}: {:?} after it was frozen", sent.at - frozen);
            assert_eq!(sent.answer.value()["code"], "frozen", "{scope}");
        }
        assert!(operator.unfreeze(scope, &value).await);
    }
}

/// A webhook that allows everyone, but apps only when the test permits it.
async fn held_webhook() -> (SocketAddr, Arc<Semaphore>, Arc<Semaphore>) {
    let (asked, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (asking, going) = (Arc::clone(&asked), Arc::clone(&go));
    let allowed = || {
        let answer = json!({ "isAllowed": true, "gatewayAppId": "any", "reason": "" });
        ([("content-type", "application/json")], answer.to_string())
    };
    let app = post(async move || {
        asking.add_permits(1);
        going.acquire().await.expect("open").forget();
        allowed()
    });
    let router =
        Router::new().route("/bootAuth/app", app).route("/bootAuth/kms", post(async move || allowed()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, asked, go)
}

#[tokio::test]
async fn a_request_that_is_under_way_gets_nothing_either() {
    let (address, asked, go) = held_webhook().await;
    let world = World::ready_with(&format!(
        "core.auth_api = {{ type = \"webhook\", webhook.url = \"http://{address}\" }}"
    ))
    .await;
    let app = world.app(1);
    let operator = Operator::of(&world).await;
    let caller = world.caller().shows(&world.attested(&app).await);
    let waiting = tokio::spawn(async move { caller.json("GetAppKey", json!({})).await });
    asked.acquire().await.expect("open").forget();
    operator.freeze("app", app.app_id()).await;
    go.add_permits(1);
    is_frozen(&waiting.await.expect("an answer"), "App not allowed: ");
    assert!(world.audited("app_key_released").is_empty());
}

#[tokio::test]
async fn freezes_are_kept_over_restarts_and_say_who_did_them() {
    let mut world = World::ready().await;
    let hash =
        bcrypt::hash_with_result("pass word", 4).expect("bcrypt").format_for_version(bcrypt::Version::TwoB);
    fs::write(world.path("htpasswd"), format!("alice:{hash}\n")).expect("file");
    world.configure(&format!("core.admin.htpasswd_file = \"{}\"", world.path("htpasswd").display()));
    world.start().await.expect("starts");
    let app = world.app(1);
    world.allow_app(&app);
    let operator = Operator::of(&world).await;
    let end = unix_now() + 3600;
    let request = FreezeRequest {
        scope: "app".to_owned(),
        value: app.app_id().to_vec(),
        reason: "leaked key, ticket 17".to_owned(),
        expires_at: Some(end),
        replace: false,
    };
    operator.called("Freeze", serde_json::to_value(&request).expect("JSON")).await;
    let by_alice = Caller::new(world.admin_address().await).plain();
    let body = json!({ "scope": "device", "value": "07".repeat(32), "reason": "stolen" });
    let call = crate::support::http::with(
        crate::support::http::json("Freeze", body),
        "authorization",
        "Basic YWxpY2U6cGFzcyB3b3Jk",
    );
    assert_eq!(by_alice.send(call).await.status, 200);
    let before: ListFrozenResponse = operator.call("ListFrozen", json!({})).await.message();

    world.start().await.expect("starts again");
    let operator = Operator::of(&world).await;
    let after: ListFrozenResponse = operator.call("ListFrozen", json!({})).await.message();
    assert_eq!(after, before);
    let [by_token, by_user] = &after.frozen[..] else { panic!("two: {after:?}") };
    assert_eq!((by_token.scope.as_str(), &by_token.value), ("app", &app.app_id().to_vec()));
    assert_eq!((by_token.reason.as_str(), by_token.expires_at), ("leaked key, ticket 17", Some(end)));
    assert_eq!((by_token.by.as_str(), by_token.remote.as_str()), ("token", "127.0.0.1"));
    assert_eq!((by_user.by.as_str(), by_user.reason.as_str()), ("user alice", "stolen"));
    let caller = world.caller().shows(&world.attested(&app).await);
    is_frozen(&caller.json("GetAppKey", json!({})).await, "App not allowed: ");

    assert!(operator.unfreeze("app", app.app_id()).await);
    world.start().await.expect("starts once more");
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    let frozen = world.audited("frozen");
    assert_eq!(frozen.len(), 2);
    assert_eq!(frozen[0]["reason"], "leaked key, ticket 17");
    assert_eq!((&frozen[1]["by"], &frozen[1]["remote"]), (&json!("user alice"), &json!("127.0.0.1")));
    assert_eq!(world.audited("unfrozen").len(), 1);
    let denied = world.audited("denied");
    assert_eq!((&denied[0]["code"], &denied[0]["step"]), (&json!("frozen"), &json!("frozen")));
    assert_eq!(denied[0]["actual"], "leaked key, ticket 17", "operators read the reason");
}

#[tokio::test]
async fn a_freeze_ends_by_the_clock() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let operator = Operator::of(&world).await;
    let caller = world.caller().shows(&world.attested(&app).await);
    let request = json!({ "scope": "kms", "reason": "for a moment", "expires_at": unix_now() + 3 });
    operator.called("Freeze", request).await;
    is_frozen(&caller.json("GetAppKey", json!({})).await, "App not allowed: ");
    eventually("the end of the freeze", async || {
        (caller.json("GetAppKey", json!({})).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(operator.called("ListFrozen", json!({})).await, json!({ "frozen": [] }));
}

#[tokio::test]
async fn what_cannot_be_frozen_is_refused_and_changes_nothing() {
    let world = World::ready().await;
    let operator = Operator::of(&world).await;
    let past = unix_now() - 1;
    for (request, told) in [
        (json!({}), "scope must be"),
        (json!({ "scope": "galaxy", "reason": "r" }), "scope must be"),
        (
            json!({ "scope": "app", "value": "00", "reason": "r" }),
            "value must be 20 bytes for this scope, got 1",
        ),
        (
            json!({ "scope": "kms", "value": "00", "reason": "r" }),
            "value must be 0 bytes for this scope, got 1",
        ),
        (json!({ "scope": "kms" }), "reason must not be empty"),
        (json!({ "scope": "kms", "reason": " \t" }), "reason must not be empty"),
        (json!({ "scope": "kms", "reason": "two\nlines" }), "reason must be one line"),
        (json!({ "scope": "kms", "reason": "x".repeat(501) }), "reason must be at most 500 bytes, got 501"),
        (json!({ "scope": "kms", "reason": "r", "expires_at": past }), "expires_at must be later than now"),
    ] {
        let (status, text) = operator.call("Freeze", request.clone()).await.refusal();
        assert_eq!(status, 400, "{request}");
        assert!(text.starts_with(told), "{request}: {text}");
    }
    assert_eq!(operator.called("ListFrozen", json!({})).await, json!({ "frozen": [] }));
    assert!(world.audited("frozen").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_kmss_do_not_keep_their_freezes_in_one_file() {
    let shared = tempfile::tempdir().expect("a directory");
    let file = format!("core.freeze.file = {:?}", shared.path().join("frozen.json"));
    let mut first = World::ready_with(&file).await;
    let mut second = World::stopped_with(&file).await;
    let error = second.start().await.expect_err("in use");
    assert_eq!(error.to_string(), "the file that core.freeze.file names is in use by another process");
    first.stop().await;
    second.start().await.expect("it is free again");
}

#[tokio::test]
async fn a_kms_that_does_not_know_what_is_frozen_does_not_start() {
    let mut world = World::ready().await;
    let operator = Operator::of(&world).await;
    operator.freeze("kms", &[]).await;
    world.stop().await;
    let file = world.key_file("frozen.json");
    let whole = fs::read_to_string(&file).expect("the file");
    for damaged in [&whole[..whole.len() / 2], "", "{}"] {
        fs::write(&file, damaged).expect("the file");
        let error = world.start().await.expect_err("it does not start").to_string();
        assert!(error.starts_with("the file that core.freeze.file names is damaged"), "{error}");
        assert!(!error.contains(file.to_str().expect("text")), "no path: {error}");
    }
    fs::write(&file, whole).expect("the file");
    world.start().await.expect("starts");
    let shown = Operator::of(&world).await.called("ListFrozen", json!({})).await;
    assert_eq!(shown["frozen"][0]["scope"], "kms");
}

#[tokio::test]
async fn a_frozen_replica_still_freezes_the_next() {
    // A handover to a replica is a release: the source's freeze applies, not the replica's.
    let world = World::ready().await;
    let operator = Operator::of(&world).await;
    operator.freeze("kms", &[]).await;
    let identity: Identity = world.attested(&world.replica()).await;
    let answer = world.caller().shows(&identity).json("GetKmsKey", json!({})).await;
    is_frozen(&answer, "");
    assert!(world.audited("kms_key_released").is_empty());
}

#[tokio::test]
async fn operators_leave_room_for_the_freezes_of_owners_and_can_always_freeze_everything() {
    let mut world = World::ready().await;
    world.stop().await;
    let app = |number: u32| hex::encode([&[0; 16][..], &number.to_be_bytes()].concat());
    let frozen: Vec<_> = (0..900)
        .map(|number| {
            json!({ "scope": "app", "value": app(number), "reason": "r", "since": 1, "expires_at": null, "by": "token",
                "remote": "127.0.0.1" })
        })
        .collect();
    let text = json!({ "version": 1, "frozen": frozen }).to_string();
    fs::write(world.key_file("frozen.json"), text).expect("a file");
    world.start().await.expect("starts");
    let admin = Caller::new(world.admin_address().await).plain();
    let shift = json!({ "name": "shift", "role": "operator" });
    let made = done(&world, "POST", "/api/v1/credentials", shift).await;
    let token = format!("Bearer {}", made["token"].as_str().expect("a token"));
    let freeze = async |header: &'static str, token: &str, scope: &str, value: &str| {
        let request = json!({ "scope": scope, "value": value, "reason": "a test" });
        admin.send(with(http::json("Freeze", request), header, token)).await
    };
    let by_operator = async |scope: &str, value: &str| {
        eventually("a password that is checked", async || {
            let answer = freeze("authorization", &token, scope, value).await;
            (answer.status != 503).then_some(answer)
        })
        .await
    };
    let one_more = app(900);
    let full = "900 freezes are in force: only an owner can add more. The whole KMS can still be frozen; nothing was \
                changed";
    assert_eq!(by_operator("app", &one_more).await.refusal(), (400, full.to_owned()));
    assert_eq!(by_operator("app", &app(0)).await.status, 200, "in place of another");
    assert_eq!(freeze("x-admin-token", ADMIN_TOKEN, "app", &one_more).await.status, 200);
    assert_eq!(by_operator("kms", "").await.status, 200);
}
