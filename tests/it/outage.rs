//! A dependency is down, slow, or sends garbage: keys are kept, the KMS still responds, and it recovers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::grpc::origin;
use crate::support::http::post;
use crate::support::operator::Operator;
use crate::support::{Closed, Identity, World, eventually};
use cvm_kms::proto::{AppKeyResponse, GetAppKeyRequest, GetMetaResponse};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kms_attest::attester::Attester;
use kms_attest::p256::P256Key;
use kms_client::sign::LeafRequest;
use kms_simulator::{AgentMode, Cvm, Endpoint, GuestAgent, PccsMode, Stage};
use serde_json::{Value, json};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const NO_COLLATERAL: &str = "the collateral service does not answer, evidence cannot be verified now";
const NO_POLICY: &str = "the authorization backend does not answer";

/// The limit of every operation here, whatever does not respond: less than a request to a collateral service may take.
const QUICK: Duration = Duration::from_secs(8);

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

#[tokio::test]
async fn with_a_warm_cache_the_collateral_service_is_not_needed() {
    let world = World::ready().await;
    world.allow_app(&world.app(1));
    for mode in [PccsMode::Down, PccsMode::Silent, PccsMode::Garbage, PccsMode::Disconnecting] {
        world.pccs.set_mode(mode);
        let caller = world.caller().shows(&world.attested(&world.app(1)).await);
        let answer = within(QUICK, "an answer", caller.json("GetAppKey", json!({}))).await;
        assert_eq!(answer.status, 200, "{mode:?}: {answer:?}");
    }
}

#[tokio::test]
async fn without_collateral_nothing_is_known_and_the_caller_may_try_again() {
    let world = World::ready_with("core.enforce_self_authorization = false").await;
    let app = world.app(1);
    world.allow_app(&app);
    world.allow_kms(&world.replica());
    world.pccs.set_mode(PccsMode::Down);
    let caller = world.caller().shows(&world.attested(&app).await);
    let mut line = caller.connect().await.expect("a connection");
    let answer = line.json("GetAppKey", json!({})).await;
    assert_eq!(answer.refusal(), (503, format!("App not allowed: {NO_COLLATERAL}")));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(line.json("GetKmsKey", json!({})).await.refusal(), (503, NO_COLLATERAL.to_owned()));
    let status =
        caller.grpc().await.get_app_key(GetAppKeyRequest::default()).await.expect_err("no collateral");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(line.json("GetMeta", json!({})).await.status, 200);
    assert!(world.audited("app_key_released").is_empty());

    world.pccs.set_mode(PccsMode::Up);
    let line = tokio::sync::Mutex::new(line);
    eventually("the same connection recovers", async || {
        let answer = line.lock().await.json("GetAppKey", json!({})).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_answer_of_a_collateral_service_is_believed_that_is_not_signed_and_whole() {
    let ask = async |mode| {
        let world = World::ready_with("core.enforce_self_authorization = false").await;
        world.allow_app(&world.app(1));
        world.pccs.set_mode(mode);
        let caller = world.caller().shows(&world.attested(&world.app(1)).await);
        let began = Instant::now();
        let refusal = caller.json("GetAppKey", json!({})).await.refusal();
        assert_eq!(refusal, (503, format!("App not allowed: {NO_COLLATERAL}")), "{mode:?}");
        assert!(began.elapsed() < QUICK, "{mode:?}: {:?}", began.elapsed());
    };
    tokio::join!(
        ask(PccsMode::Garbage),
        ask(PccsMode::Corrupt),
        ask(PccsMode::Missing),
        ask(PccsMode::Disconnecting),
        ask(PccsMode::Endless),
    );
}

#[tokio::test]
async fn a_slow_collateral_service_is_waited_for_once_by_everyone_who_needs_it() {
    let world = World::ready_with("core.enforce_self_authorization = false").await;
    world.pccs.set_mode(PccsMode::Slow(Duration::from_millis(300)));
    let callers = (1..=8).map(|number| {
        world.allow_app(&world.app(number));
        world.caller().shows(&Identity::self_issued(&world.app(number)))
    });
    let calls: Vec<_> = callers
        .map(|caller| tokio::spawn(async move { caller.json("GetAppKey", json!({})).await.status }))
        .collect();
    for call in calls {
        assert_eq!(within(QUICK, "an answer", call).await.expect("an answer"), 200);
    }
    for endpoint in [Endpoint::TcbInfo, Endpoint::QeIdentity, Endpoint::PckCrl, Endpoint::RootCaCrl] {
        assert_eq!(world.pccs.requests_to(endpoint), 1, "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_silent_collateral_service_holds_a_request_no_longer_than_the_request_may_take() {
    let toml = "core.enforce_self_authorization = false\ncore.limits.request_timeout = \"1s\"";
    let world = World::ready_with(toml).await;
    world.allow_app(&world.app(1));
    world.pccs.set_mode(PccsMode::Silent);
    let caller = world.caller().shows(&world.attested(&world.app(1)).await);
    let refusal = within(QUICK, "an answer", caller.json("GetAppKey", json!({}))).await.refusal();
    assert_eq!(refusal, (503, "the request took too long".to_owned()));
    let status = within(QUICK, "an answer", async {
        caller.grpc().await.get_app_key(GetAppKeyRequest::default()).await.expect_err("no answer")
    })
    .await;
    assert_eq!(status.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn the_next_collateral_service_is_asked_when_one_does_not_answer() {
    let mut world = World::stopped_with("core.enforce_self_authorization = false").await;
    let closed = Closed::new();
    let (closed, pccs) = (closed.address(), world.pccs.url());
    let urls = format!("core.attestation.urls.pccs = [\"http://{closed}\", \"{pccs}\"]");
    world.configure(&urls);
    world.start().await.expect("starts");
    world.bootstrap().await;
    world.finish().await;
    world.allow_app(&world.app(1));
    let caller = world.caller().shows(&world.attested(&world.app(1)).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_attested_is_not_served() {
    let mut world = World::ready().await;
    world.agent.set_mode(AgentMode::Down);
    let error = world.start().await.expect_err("no evidence");
    let text = "Failed to reissue the attested KMS RPC certificate; refusing to start with a potentially unattested \
                certificate";
    assert_eq!(error.to_string(), text);
    world.agent.set_mode(AgentMode::Up);
    world.start().await.expect("starts");
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_kms_that_cannot_prove_itself_serves_its_description_until_it_can() {
    let mut world = World::ready_with("core.attest_rpc_cert = false").await;
    let app = world.app(1);
    world.allow_app(&app);
    let identity = world.attested(&app).await;
    world.agent.set_mode(AgentMode::Down);
    world.start().await.expect("starts");
    let caller = world.caller().shows(&identity);
    let text = "KMS self authorization failed: failed to build local KMS boot info";
    for method in ["GetAppKey", "GetKmsKey", "GetTempCaCert"] {
        assert_eq!(caller.json(method, json!({})).await.refusal(), (503, text.to_owned()), "{method}");
    }
    assert_eq!(caller.json("GetMeta", json!({})).await.status, 200);
    world.agent.set_mode(AgentMode::Up);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
}

#[tokio::test]
async fn the_switch_waits_for_the_guest_agent() {
    let world = World::onboarding().await;
    world.bootstrap().await;
    world.agent.set_mode(AgentMode::Down);
    let caller = world.caller().plain();
    assert_eq!(caller.json("Finish", json!({})).await.status, 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(caller.get("/health").await.status, 200, "still onboarding");
    world.agent.set_mode(AgentMode::Up);
    world.finish().await;
}

#[tokio::test]
async fn a_missing_or_broken_allow_list_denies_everyone_until_it_is_back() {
    for enforce in [false, true] {
        let world = World::ready_with(&format!("core.enforce_self_authorization = {enforce}")).await;
        let app = world.app(1);
        world.allow_app(&app);
        let caller = world.caller().shows(&world.attested(&app).await);
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
        let good = std::fs::read_to_string(world.allowlist.path()).expect("allowlist");
        let prefix = if enforce {
            "KMS self authorization failed: KMS is not allowed"
        } else {
            "App not allowed: Boot denied"
        };
        for content in [None, Some("{"), Some("[]"), Some(""), Some("{\"apps\": 7}"), Some("{}")] {
            match content {
                None => world.allowlist.remove(),
                Some(text) => world.allowlist.write_text(text),
            }
            let refusal = caller.json("GetAppKey", json!({})).await.refusal();
            assert_eq!(refusal, (403, format!("{prefix}: OS image is not allowed")), "{content:?}");
            assert_eq!(caller.json("GetMeta", json!({})).await.status, 200);
        }
        world.allowlist.write_text(&good);
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    }
}

/// How the backend responds to the next requests.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Allow,
    Deny,
    Down,
    Garbage,
    Empty,
    Redirect,
    Silent,
}

/// An authorization backend on loopback with the protocol of auth-simple.
struct BackEnd {
    url: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    mode: Mutex<Mode>,
    asked: Mutex<Vec<(String, Value)>>,
}

impl BackEnd {
    async fn start() -> Self {
        let state = Arc::new(State { mode: Mutex::new(Mode::Allow), asked: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/secret", listener.local_addr().expect("an address"));
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let state = Arc::clone(&serving);
                let answer = service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(state.answer(request).await) }
                });
                tokio::spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { url, state, task }
    }

    fn set(&self, mode: Mode) {
        *self.state.mode.lock().expect("no panic") = mode;
    }

    /// The requests so far.
    fn asked(&self) -> Vec<(String, Value)> {
        self.state.asked.lock().expect("no panic").clone()
    }

    async fn world(&self) -> World {
        let toml = format!("[core.auth_api]\ntype = \"webhook\"\nwebhook.url = \"{}\"", self.url);
        World::ready_with(&toml).await
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<String> {
        let path = request.uri().path().to_owned();
        let is_question = request.method() == "POST";
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let mode = *self.mode.lock().expect("no panic");
        let allowed = if is_question {
            let body = serde_json::from_slice(&body).expect("JSON");
            self.asked.lock().expect("no panic").push((path, body));
            json!({"isAllowed": true, "gatewayAppId": "0xback", "reason": ""})
        } else {
            json!({
                "status": "ok", "kmsContractAddr": "0x33", "gatewayAppId": "0xback", "chainId": 9,
                "appImplementation": "0x44",
            })
        };
        let (status, body) = match mode {
            Mode::Allow => (200, allowed.to_string()),
            Mode::Deny => {
                (200, json!({"isAllowed": false, "gatewayAppId": "", "reason": "not today"}).to_string())
            }
            Mode::Down => (503, "postgres://user:pw@10.0.0.1 refused".to_owned()),
            Mode::Garbage => (200, "<html>".to_owned()),
            Mode::Empty => (200, "{}".to_owned()),
            Mode::Redirect => (302, String::new()),
            Mode::Silent => std::future::pending().await,
        };
        let answer = Response::builder().status(status).header("content-type", "application/json");
        answer.header("location", "http://127.0.0.1:1/").body(body).expect("an answer")
    }
}

#[tokio::test]
async fn the_back_end_decides_with_what_was_verified() {
    let back_end = BackEnd::start().await;
    let world = back_end.world().await;
    let app = world.app(1);
    let caller = world.caller().shows(&world.attested(&app).await);
    let keys: AppKeyResponse = caller.json("GetAppKey", json!({})).await.message();
    assert_eq!(keys.gateway_app_id, "0xback");
    let asked = back_end.asked();
    let (_, about) = asked.iter().find(|(path, _)| path.ends_with("/bootAuth/app")).expect("a question");
    assert_eq!(about["appId"], hex::encode(app.app_id()));
    assert_eq!(about["composeHash"], hex::encode(app.compose_hash()));
    assert_eq!(about["instanceId"], hex::encode(app.instance_id()));
    assert_eq!(about["deviceId"], hex::encode(world.platform.device_id()));
    assert_eq!(about["osImageHash"], hex::encode(app.os_image_hash()));
    assert_eq!(about["mrAggregated"], hex::encode(app.mr_aggregated()));
    assert_eq!((&about["tcbStatus"], &about["advisoryIds"]), (&json!("UpToDate"), &json!([])));
    assert!(asked.iter().any(|(path, _)| path.ends_with("/bootAuth/kms")), "about ourselves");

    // For a certificate, the state at the end of booting decides, which a running app cannot change.
    let running =
        Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).stage(Stage::Ready).build();
    let agent = GuestAgent::serve(&running, world.path("app.sock")).await.expect("a guest agent");
    let attester = Attester::at(agent.address()).expect("an address");
    let wish = LeafRequest { subject: "app".to_owned(), ..LeafRequest::default() };
    let request = wish.attested(&P256Key::generate(), &attester, "").await.expect("a request");
    let answer = world.caller().protobuf("SignCert", &request).await;
    assert_eq!(answer.status, 200);
    let as_running = world.caller().shows(&world.attested(&running).await);
    assert_eq!(as_running.json("GetAppKey", json!({})).await.status, 200);
    let asked = back_end.asked();
    let about_apps: Vec<_> = asked.iter().filter(|(path, _)| path.ends_with("/bootAuth/app")).collect();
    let measured = |index: usize| about_apps[index].1["mrAggregated"].as_str().expect("hex").to_owned();
    assert_eq!(measured(1), hex::encode(app.mr_aggregated()), "as it was when it asked for its keys");
    assert_eq!(measured(2), hex::encode(running.mr_aggregated()), "as it is");
    assert_ne!(measured(1), measured(2));

    back_end.set(Mode::Deny);
    let refusal = caller.json("GetAppKey", json!({})).await.refusal();
    let text = "KMS self authorization failed: KMS is not allowed: not today";
    assert_eq!(refusal, (403, text.to_owned()), "about ourselves first");
}

#[tokio::test]
async fn a_back_end_that_is_down_or_talks_nonsense_allows_nobody_and_get_meta_answers() {
    let back_end = BackEnd::start().await;
    let world = back_end.world().await;
    let app = world.app(1);
    let caller = world.caller().shows(&world.attested(&app).await);
    eventually("the backend's description", async || {
        let meta: GetMetaResponse = caller.json("GetMeta", json!({})).await.message();
        (meta.chain_id == Some(9)).then_some(())
    })
    .await;
    for mode in [Mode::Down, Mode::Garbage, Mode::Empty, Mode::Redirect] {
        back_end.set(mode);
        let answer = within(QUICK, "an answer", caller.json("GetAppKey", json!({}))).await;
        let (status, text) = answer.refusal();
        assert_eq!(status, 503, "{mode:?}: {text}");
        assert!(text.ends_with(NO_POLICY), "{mode:?}: {text}");
        assert!(
            !text.contains("127.0.0.1") && !text.contains("postgres") && !text.contains("secret"),
            "{text}"
        );
        assert_eq!(answer.header("retry-after"), "1");
        let meta: GetMetaResponse =
            within(QUICK, "GetMeta", caller.json("GetMeta", json!({}))).await.message();
        assert_eq!(
            (meta.chain_id, meta.gateway_app_id.as_deref()),
            (Some(9), Some("0xback")),
            "the last known"
        );
        assert!(meta.auth_info_age_seconds.is_some());
    }
    back_end.set(Mode::Allow);
    eventually("keys, within a second or two", async || {
        (caller.json("GetAppKey", json!({})).await.status == 200).then_some(())
    })
    .await;
    back_end.task.abort();
}

#[tokio::test]
async fn a_silent_back_end_holds_nobody_for_ever() {
    let back_end = BackEnd::start().await;
    let toml = format!(
        "[core]\nlimits.request_timeout = \"1s\"\nauth_api.type = \"webhook\"\nauth_api.webhook.url = \"{}\"",
        back_end.url
    );
    let world = World::ready_with(&toml).await;
    let app = world.app(1);
    let caller = world.caller().shows(&world.attested(&app).await);
    back_end.set(Mode::Silent);
    let refusal = within(QUICK, "an answer", caller.json("GetAppKey", json!({}))).await.refusal();
    assert_eq!(refusal.0, 503, "{}", refusal.1);
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(caller.json("GetMeta", json!({})).await.status, 200);
    }
    assert!(began.elapsed() < QUICK);
}

#[tokio::test]
async fn a_back_end_that_was_never_there_leaves_its_fields_empty() {
    let closed = Closed::new();
    let toml = format!(
        "[core]\nenforce_self_authorization = false\nauth_api.type = \"webhook\"\nauth_api.webhook.url = \"http://{}\"",
        closed.address()
    );
    let world = World::ready_with(&toml).await;
    let meta = world.caller().json("GetMeta", json!({})).await.value();
    for field in [
        "gateway_app_id",
        "kms_contract_address",
        "chain_id",
        "app_auth_implementation",
        "auth_info_age_seconds",
    ] {
        assert_eq!(meta[field], Value::Null, "{field}");
    }
    let caller = world.caller().shows(&Identity::self_issued(&world.app(1)));
    assert_eq!(
        caller.json("GetAppKey", json!({})).await.refusal(),
        (503, format!("App not allowed: {NO_POLICY}"))
    );
    assert_eq!(world.caller().send(post("/prpc/GetTempCaCert", "{}")).await.status, 200);
}

#[tokio::test]
async fn while_onboarding_a_dead_back_end_is_told_and_nothing_is_stored() {
    let back_end = BackEnd::start().await;
    let toml = format!("[core.auth_api]\ntype = \"webhook\"\nwebhook.url = \"{}\"", back_end.url);
    let world = World::onboarding_with(&toml).await;
    back_end.set(Mode::Down);
    let caller = world.caller().plain();
    let refusal = caller.json("Bootstrap", json!({"domain": "localhost"})).await.refusal();
    let text = format!("KMS is not allowed to bootstrap: failed to call KMS auth check: {NO_POLICY}");
    assert_eq!(refusal, (503, text));
    let info = caller.json("GetAttestationInfo", json!({})).await;
    assert_eq!((info.status, &info.value()["kms_contract_address"]), (200, &json!("")));
    back_end.set(Mode::Deny);
    let refusal = caller.json("Bootstrap", json!({"domain": "localhost"})).await.refusal();
    assert_eq!(refusal, (403, "KMS is not allowed to bootstrap: boot denied: not today".to_owned()));
    assert!(!world.key_file("root-ca.key").exists());
    back_end.set(Mode::Allow);
    world.bootstrap().await;
}

/// The codes of `/readyz`, with the status that must go with them.
async fn not_ready(world: &World) -> Vec<String> {
    let answer = world.caller().get("/readyz").await;
    let body = answer.value();
    let codes: Vec<String> = body["reasons"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|reason| reason["code"].as_str().expect("a code").to_owned())
        .collect();
    let (status, word) = if codes.is_empty() { (200, "ready") } else { (503, "not_ready") };
    assert_eq!((answer.status, &body["status"]), (status, &json!(word)), "{answer:?}");
    codes
}

async fn grpc_health(world: &World, service: &str) -> ServingStatus {
    let channel = world.caller().channel().await.expect("a connection");
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::with_origin(channel, origin()).check(request).await.expect("health").into_inner().status()
}

/// Every probe reports that nothing is released, and why; details for operators are on the admin listener
/// only.
async fn is_told_everywhere(world: &World, code: &str) {
    eventually(code, async || (not_ready(world).await == [code]).then_some(())).await;
    for service in ["", "kms.KMS"] {
        assert_eq!(grpc_health(world, service).await, ServingStatus::NotServing, "{code} {service:?}");
    }
    assert_eq!(grpc_health(world, "liveness").await, ServingStatus::Serving, "{code}");
    for path in ["/health", "/livez"] {
        assert_eq!(world.caller().get(path).await.status, 200, "{code}: the process lives");
    }
    let metrics = world.caller().get("/metrics").await;
    let shown = format!("\ncvm_kms_not_ready{{reason=\"{code}\"}} 1\n");
    assert!(metrics.text().contains("\ncvm_kms_ready 0\n") && metrics.text().contains(&shown), "{code}");
    let meta: GetMetaResponse = eventually("GetMeta", async || {
        let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
        (meta.ready == Some(false)).then_some(meta)
    })
    .await;
    assert_eq!(meta.not_ready[0].code, code);

    let public = world.caller().get("/readyz").await;
    let admin = Operator::of(world).await.get("/readyz").await;
    assert_eq!((admin.status, &admin.value()["reasons"][0]["code"]), (503, &json!(code)));
    for secret in ["127.0.0.1", "secret", "auth-config.json", "detail", &*world.path("").to_string_lossy()] {
        assert!(!public.text().contains(secret), "{code}: {secret} in {}", public.text());
    }
}

/// A fault that affects everyone is listed for operators, under the id that a guest was told.
async fn is_listed(world: &World, method: &str, code: &str) {
    let answer = world.caller().json(method, json!({})).await;
    let body = answer.value();
    assert_eq!(body["code"], code, "{answer:?}");
    assert_eq!(body["denial_id"], answer.header("x-denial-id"));
    let again = world.caller().json(method, json!({})).await.value();
    assert_eq!(again["denial_id"], body["denial_id"], "one finding, whoever asks");
    let listed = Operator::of(world).await.called("ListDenials", json!({ "code": code })).await;
    let found = listed["denials"].as_array().expect("a list").iter().find(|it| it["id"] == body["denial_id"]);
    assert_eq!(found.expect("listed")["method"], method, "{listed}");
}

#[tokio::test]
async fn a_kms_that_can_release_nothing_says_so_to_every_probe() {
    let world = World::ready_with("core.attest_rpc_cert = false").await;
    assert_eq!(not_ready(&world).await, [] as [&str; 0]);
    assert_eq!(grpc_health(&world, "").await, ServingStatus::Serving);
    let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
    assert_eq!((meta.ready, meta.not_ready.len()), (Some(true), 0));
    let good = std::fs::read_to_string(world.allowlist.path()).expect("allowlist");
    let recovers = async || {
        eventually("ready again", async || not_ready(&world).await.is_empty().then_some(())).await;
        assert_eq!(grpc_health(&world, "kms.KMS").await, ServingStatus::Serving);
    };

    world.allowlist.write_text("{\"osImages\": [");
    is_told_everywhere(&world, "allowlist_unusable").await;
    is_listed(&world, "GetTempCaCert", "allowlist_unusable").await;
    world.allowlist.write_text(&good);
    recovers().await;

    world.allowlist.change(|rules| rules["kms"]["mrAggregated"] = json!([]));
    is_told_everywhere(&world, "kms_not_allowed").await;
    is_listed(&world, "GetTempCaCert", "kms_not_allowed").await;
    is_listed(&world, "GetAppEnvEncryptPubKey", "kms_not_allowed").await;
    world.allowlist.write_text(&good);
    recovers().await;

    let operator = Operator::of(&world).await;
    operator.freeze("kms", &[]).await;
    is_told_everywhere(&world, "frozen").await;
    assert!(operator.unfreeze("kms", &[]).await);
    recovers().await;
}

#[tokio::test]
async fn a_kms_without_evidence_or_collateral_of_its_own_is_not_ready() {
    let mut world = World::ready_with("core.attest_rpc_cert = false").await;
    world.agent.set_mode(AgentMode::Down);
    world.start().await.expect("starts");
    is_told_everywhere(&world, "own_evidence_unavailable").await;
    is_listed(&world, "GetTempCaCert", "own_evidence_unavailable").await;
    world.agent.set_mode(AgentMode::Up);
    eventually("ready again", async || not_ready(&world).await.is_empty().then_some(())).await;

    world.pccs.set_mode(PccsMode::Down);
    world.forget_collateral();
    world.start().await.expect("starts");
    is_told_everywhere(&world, "collateral_unavailable").await;
    is_listed(&world, "GetTempCaCert", "collateral_unavailable").await;
    world.pccs.set_mode(PccsMode::Up);
    eventually("ready again", async || not_ready(&world).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_policy_that_does_not_answer_makes_a_kms_not_ready_whether_or_not_it_asks_about_itself() {
    for enforce in [true, false] {
        let back_end = BackEnd::start().await;
        let toml = format!(
            "[core]\nenforce_self_authorization = {enforce}\nauth_api.type = \"webhook\"\n\
             auth_api.webhook.url = \"{}\"",
            back_end.url
        );
        let world = World::ready_with(&toml).await;
        assert_eq!(not_ready(&world).await, [] as [&str; 0], "{enforce}");
        for mode in [Mode::Down, Mode::Garbage] {
            back_end.set(mode);
            is_told_everywhere(&world, "policy_unavailable").await;
        }
        back_end.set(Mode::Allow);
        eventually("ready again", async || not_ready(&world).await.is_empty().then_some(())).await;
        back_end.task.abort();
    }
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_written_makes_a_kms_not_ready() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    world.start_without_room_for_audit().await;
    is_told_everywhere(&world, "audit_log_unavailable").await;
    let caller = world.caller().shows(&world.attested(&app).await);
    let answer = caller.json("GetAppKey", json!({})).await;
    assert_eq!(
        (answer.status, &answer.value()["code"]),
        (503, &json!("audit_log_unavailable")),
        "{answer:?}"
    );
    let listed = Operator::of(&world).await.called("ListDenials", json!({})).await;
    assert_eq!(listed["denials"][0]["id"], answer.value()["denial_id"], "{listed}");
}

#[tokio::test]
async fn after_the_own_revocation_open_methods_answer_for_less_than_a_second() {
    let world = World::ready().await;
    let good = std::fs::read_to_string(world.allowlist.path()).expect("allowlist");
    for _ in 0..3 {
        assert_eq!(world.caller().json("GetTempCaCert", json!({})).await.status, 200);
        world.allowlist.change(|rules| rules["kms"]["mrAggregated"] = json!([]));
        let revoked = Instant::now();
        loop {
            // What counts is when it asks: the response may take longer on a busy machine.
            let asked = revoked.elapsed();
            let answer = world.caller().json("GetTempCaCert", json!({})).await;
            if answer.status == 403 {
                break;
            }
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(asked < Duration::from_secs(1), "it still answers after {asked:?}");
        }
        world.allowlist.write_text(&good);
        eventually("an answer", async || {
            (world.caller().json("GetTempCaCert", json!({})).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_kms_without_keys_lives_and_is_not_ready() {
    let world = World::onboarding().await;
    for caller in [world.caller(), world.caller().plain()] {
        assert_eq!(caller.get("/health").await.status, 200);
        assert_eq!(caller.get("/livez").await.value(), json!({ "status": "ok" }));
        let answer = caller.get("/readyz").await;
        assert_eq!((answer.status, &answer.value()["reasons"][0]["code"]), (503, &json!("no_keys")));
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(grpc_health(&world, "").await, ServingStatus::NotServing);
    assert_eq!(grpc_health(&world, "kms.Onboard").await, ServingStatus::Serving);
    world.bootstrap().await;
    world.finish().await;
    assert_eq!(not_ready(&world).await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_watch_of_grpc_health_is_told_of_each_change() {
    let world = World::ready().await;
    let channel = world.caller().channel().await.expect("a connection");
    let request = HealthCheckRequest { service: "kms.KMS".to_owned() };
    let mut watch =
        HealthClient::with_origin(channel, origin()).watch(request).await.expect("a watch").into_inner();
    let mut next = async || {
        let status = within(QUICK, "a status", watch.message()).await.expect("a stream").expect("a message");
        status.status()
    };
    assert_eq!(next().await, ServingStatus::Serving);
    let operator = Operator::of(&world).await;
    for _ in 0..2 {
        operator.freeze("kms", &[]).await;
        assert_eq!(next().await, ServingStatus::NotServing);
        assert!(operator.unfreeze("kms", &[]).await);
        assert_eq!(next().await, ServingStatus::Serving);
    }
}
