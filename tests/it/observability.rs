//! What operators see of requests: the id of each, metrics, and diagnostics.

use http::HeaderMap;
use prost::Message as _;
use serde_json::json;

use crate::support::faults::{Fault, FaultServer, Reply};
use crate::support::http::{post, request, with};
use crate::support::operator::{Operator, authorized};
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, eventually};

const REQUEST_ID: &str = "x-request-id";

fn id(headers: &HeaderMap) -> &str {
    let mut values = headers.get_all(REQUEST_ID).iter();
    let value = values.next().expect("a response has an id").to_str().expect("text");
    assert!(values.next().is_none(), "one id");
    value
}

fn is_ours(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[tokio::test]
async fn every_response_of_both_listeners_has_an_id_of_its_own() {
    let world = World::ready().await;
    let caller = world.caller();
    let admin = Caller::new(world.admin_address().await).plain();
    let grpc = || with(post("/kms.KMS/GetMeta", vec![0; 5]), "content-type", "application/grpc");
    let mut ids = Vec::new();
    for (caller, request, status) in [
        (&caller, request("GET", "/prpc/GetMeta", ""), 200),
        (&caller, post("/prpc/KMS.GetMeta?json", "{}"), 200),
        (&caller, post("/prpc/GetAppKey?json", "{}"), 401),
        (&caller, request("GET", "/health", ""), 200),
        (&caller, request("HEAD", "/health", ""), 200),
        (&caller, request("GET", "/metrics", ""), 200),
        (&caller, request("GET", "/no/such/path", ""), 404),
        (&caller, post("/prpc/NoSuchMethod", "{}"), 404),
        (&caller, request("OPTIONS", "/prpc/GetMeta", ""), 404),
        (&caller, grpc(), 200),
        (&admin, request("GET", "/livez", ""), 401),
        (&admin, request("GET", "/api/v1/credentials", ""), 401),
        (&admin, authorized(request("GET", "/livez", "")), 200),
        (&admin, authorized(request("GET", "/no/such", "")), 404),
        (&admin, authorized(request("TRACE", "/livez", "")), 404),
    ] {
        let shown = format!("{} {}", request.method(), request.uri());
        let answer = caller.send(request).await;
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        let id = id(&answer.headers);
        assert!(is_ours(id), "{shown}: {id}");
        ids.push(id.to_owned());
    }
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

#[tokio::test]
async fn a_plain_id_of_the_caller_comes_back_and_any_other_is_replaced() {
    let world = World::ready().await;
    let caller = world.caller();
    for given in ["proxy-7", "01HVXYZ.a_b", &"a".repeat(64)] {
        let answer = caller.send(with(request("GET", "/health", ""), REQUEST_ID, given)).await;
        assert_eq!(id(&answer.headers), given);
    }
    for given in ["", "a b", "a\tlevel=ERROR", "\u{fc}ber", &"a".repeat(65), &"a".repeat(8192)] {
        let mut request = request("GET", "/health", "");
        request.headers_mut().insert(REQUEST_ID, given.as_bytes().try_into().expect("a header"));
        let answer = caller.send(request).await;
        assert!(answer.status == 200 && is_ours(id(&answer.headers)), "{given:?}: {:?}", answer.headers);
    }
}

#[tokio::test]
async fn errors_of_our_routes_name_the_request_and_those_of_the_peer_do_not() {
    let world = World::ready().await;
    let admin = Operator::of(&world).await;
    let ask = async |request| -> Answer { admin.send(request).await };
    let answer = ask(with(post("/api/v1/credentials", "{}"), REQUEST_ID, "from-my-proxy")).await;
    let body = answer.value();
    assert_eq!(answer.status, 400);
    assert_eq!((&body["request_id"], &body["code"]), (&json!("from-my-proxy"), &json!("invalid_request")));
    assert!(body["message"].is_string() && body["message"] == body["error"], "{body}");
    assert_eq!(answer.header("x-error-code"), "invalid_request");
    // A CVM that reads the peer's bodies gets exactly those.
    let unknown =
        world.caller().send(with(post("/prpc/NoSuch?json", "{}"), REQUEST_ID, "from-my-proxy")).await;
    assert_eq!(unknown.value(), json!({ "error": "Service not found: NoSuch" }));
    let encoded = with(post("/prpc/NoSuch", vec![10]), "content-type", "application/octet-stream");
    let encoded = world.caller().send(encoded).await;
    let expected = cvm_kms::proto::PrpcError { message: "Service not found: NoSuch".to_owned() };
    assert_eq!(encoded.body, expected.encode_to_vec());
}

#[tokio::test]
async fn a_denial_is_recorded_with_the_id_of_its_request() {
    let world = World::ready().await;
    let caller = world.caller().shows(&world.attested(&world.app(1)).await);
    let ask = || json!({ "api_version": 1, "vm_config": "" }).to_string();
    let first = caller.send(with(post("/prpc/GetAppKey?json", ask()), REQUEST_ID, "boot-1")).await;
    assert_eq!((first.status, id(&first.headers)), (403, "boot-1"), "{}", first.text());
    let second = caller.send(post("/prpc/GetAppKey?json", ask())).await;
    let denials = eventually("two denials", async || {
        let denials = world.audited("denied");
        (denials.len() == 2).then_some(denials)
    })
    .await;
    // A caller's own id is marked, so that it cannot pass for one of ours.
    assert_eq!(denials[0]["request_id"], "caller:boot-1");
    assert_eq!(denials[1]["request_id"], id(&second.headers));
}

#[tokio::test]
async fn what_operators_do_is_recorded_with_the_id_of_their_request() {
    let world = World::ready_with("core.admin.supervised = true").await;
    let admin = Caller::new(world.admin_address().await).plain();
    let ask = async |verb: &str, path: &str, body: String, token: &str, number: usize| {
        let call = with(request(verb, path, body), "content-type", "application/json");
        let call = with(call, REQUEST_ID, &format!("operator-{number}"));
        admin.send(with(call, "authorization", &format!("Bearer {token}"))).await
    };
    let expect = async |event: &str, number: usize| {
        let recorded = eventually(event, async || world.audited(event).pop()).await;
        assert_eq!(recorded["request_id"], format!("caller:operator-{number}"), "{recorded}");
    };
    let app = "07".repeat(20);
    let freeze = json!({ "scope": "app", "target": app, "reason": "r" });
    let allowlist = std::fs::read_to_string(world.allowlist.path()).expect("allowlist") + "\n";
    let invitation = json!({ "name": "eve", "role": "owner", "invite": true });
    let invited = ask("POST", "/api/v1/credentials", invitation.to_string(), ADMIN_TOKEN, 100).await.value();
    let invited = invited["token"].as_str().expect("a token");
    let calls: [(&str, &str, String, &str, &[&str]); 16] = [
        ("POST", "/api/v1/activate", String::new(), invited, &["credential_activated"]),
        (
            "POST",
            "/api/v1/credentials",
            json!({ "name": "zoe", "role": "viewer" }).to_string(),
            ADMIN_TOKEN,
            &["credential_created"],
        ),
        ("POST", "/api/v1/credentials/zoe/rotate", String::new(), ADMIN_TOKEN, &["credential_rotated"]),
        ("POST", "/api/v1/credentials/zoe/revoke", String::new(), ADMIN_TOKEN, &["credential_revoked"]),
        (
            "POST",
            "/api/v1/actions/reload-policy",
            String::new(),
            ADMIN_TOKEN,
            &["action_started", "action_succeeded"],
        ),
        (
            "PATCH",
            "/api/v1/settings",
            json!({ "core.limits.app_burst": 7 }).to_string(),
            ADMIN_TOKEN,
            &["setting_changed"],
        ),
        ("POST", "/api/v1/reload", String::new(), ADMIN_TOKEN, &["reloaded"]),
        ("POST", "/api/v1/freezes", freeze.to_string(), ADMIN_TOKEN, &["frozen"]),
        ("POST", &format!("/api/v1/freezes/app-{app}/lift"), "{}".to_owned(), ADMIN_TOKEN, &["unfrozen"]),
        (
            "POST",
            "/prpc/StartShadow",
            json!({ "auth_config_json": "{}" }).to_string(),
            ADMIN_TOKEN,
            &["shadow_started"],
        ),
        ("POST", "/prpc/StopShadow", "{}".to_owned(), ADMIN_TOKEN, &["shadow_stopped"]),
        ("POST", "/prpc/RefreshCollateral", "{}".to_owned(), ADMIN_TOKEN, &["collateral_refreshed"]),
        (
            "POST",
            "/prpc/ClearImageCache",
            json!({ "image_hash": "all" }).to_string(),
            ADMIN_TOKEN,
            &["caches_cleared"],
        ),
        ("POST", "/api/v1/new_event", "maintenance".to_owned(), ADMIN_TOKEN, &["reported"]),
        ("POST", "/api/v1/file-upload/auth-config", allowlist, ADMIN_TOKEN, &["file_uploaded"]),
        ("POST", "/api/v1/restart", String::new(), ADMIN_TOKEN, &["restart_requested"]),
    ];
    for (number, (verb, path, body, token, events)) in calls.into_iter().enumerate() {
        let answer = ask(verb, path, body, token, number).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        for event in events {
            expect(event, number).await;
        }
    }
    assert_eq!(ask("GET", "/livez", String::new(), "wrong", 200).await.status, 401);
    expect("credentials_refused", 200).await;
}

const KEY_FLOW: &str = "/api/v1/diagnostics/key-flow";

async fn key_flow(world: &World) -> serde_json::Value {
    let answer = Operator::of(world).await.get(KEY_FLOW).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.value()
}

/// The entry of a list with this name.
fn named<'a>(flow: &'a serde_json::Value, list: &str, name: &str) -> &'a serde_json::Value {
    let entries = flow[list].as_array().unwrap_or_else(|| panic!("{list}: {flow:#}"));
    entries.iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{list} {name}: {flow:#}"))
}

#[tokio::test]
async fn diagnostics_show_the_stages_of_a_release_and_what_it_needed() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let answer = caller.json("GetAppKey", json!({ "api_version": 1, "vm_config": "" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let flow = key_flow(&world).await;
    for stage in [
        "handshake",
        "verification",
        "self_authorization",
        "policy",
        "os_image",
        "record",
        "ledger_sync",
        "key_derivation",
    ] {
        let stage = named(&flow, "stages", stage);
        let is_measured = stage["count"].as_u64() > Some(0) && stage["p99_ms"].as_f64() > Some(0.0);
        assert!(is_measured || stage["name"] == "os_image", "{stage}");
    }
    for upstream in ["collateral", "own_evidence"] {
        let upstream = named(&flow, "upstreams", upstream);
        assert!(upstream["ok"] == true && upstream["last_error"].is_null(), "{upstream}");
    }
    for queue in ["audit", "passwords", "handshakes", "costly_requests"] {
        assert_eq!(named(&flow, "queues", queue)["shed"], 0);
    }
    for cache in ["collateral", "env_keys", "app_signatures", "os_images", "measurements"] {
        named(&flow, "caches", cache);
    }
    assert_eq!(flow["last_errors"], json!([]));
    assert_eq!(flow["clock"]["behind_s"], 0);
    assert!(flow["process"]["rss_bytes"].as_u64() > Some(1 << 20), "{flow:#}");
    let in_flight = flow["in_flight"].as_array().expect("a list");
    let own = "/api/v1/diagnostics/key-flow";
    assert!(in_flight.iter().any(|running| running["method"] == own), "this request itself: {flow:#}");
}

#[tokio::test]
async fn diagnostics_name_what_fails_and_no_address_of_it() {
    let backend = FaultServer::answering(|_| {
        Reply::json(&json!({ "isAllowed": true, "gatewayAppId": "any", "reason": "" }))
    })
    .await;
    let toml = format!("core.auth_api = {{ type = \"webhook\", webhook.url = \"{}\" }}", backend.url());
    let world = World::ready_with(&toml).await;
    let caller = world.caller().shows(&world.attested(&world.app(1)).await);
    backend.suffer(Fault::Page(500, b"postgres://user:hush".to_vec())).await;
    let ask = || json!({ "api_version": 1, "vm_config": "" }).to_string();
    for id in ["first", "second"] {
        let answer = caller.send(with(post("/prpc/GetAppKey?json", ask()), REQUEST_ID, id)).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    let flow = key_flow(&world).await;
    let webhook = named(&flow, "upstreams", "webhook");
    assert!(webhook["ok"] == false && webhook["last_error"]["message"].is_string(), "{webhook}");
    assert!(webhook["breaker"] == "closed" || webhook["breaker"] == "open", "{webhook}");
    let errors = flow["last_errors"].as_array().expect("a list");
    let error = errors.iter().find(|error| error["method"] == "GetAppKey").expect("an error");
    assert_eq!((&error["code"], &error["request_id"]), (&json!("unavailable"), &json!("caller:second")));
    assert_eq!(error["count"], 2, "the same error is one entry: {errors:#?}");
    let text = flow.to_string();
    assert!(!text.contains(&backend.address().to_string()) && !text.contains("hush"), "{flow:#}");
}

#[tokio::test]
async fn diagnostics_take_no_parameters_and_need_a_credential() {
    let world = World::ready().await;
    let admin = Caller::new(world.admin_address().await).plain();
    let path = format!("{KEY_FLOW}?verbose=1");
    let answer = admin.send(authorized(request("GET", &path, ""))).await;
    let text = "unknown parameter \"verbose\": there are none".to_owned();
    assert_eq!(answer.refusal(), (400, text));
    assert_eq!(admin.send(request("GET", KEY_FLOW, "")).await.status, 401);
}
