//! The wire protocol and faults of a backend, with servers on loopback.

mod breaking;
mod proofs;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex as StdMutex;
use std::time::{Duration, Instant};

use kms_attest::identity::BootInfo;
use kms_attest::outgoing::Endpoint;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::decision::{Denial, DenialCode};
use crate::signed::Claims;

const QUICK: Bounds = Bounds {
    connect: Duration::from_secs(2),
    total: Duration::from_secs(2),
    body: 64 << 10,
    concurrent: 4,
    queued: 100,
    concurrent_each: 4,
    queued_each: 100,
    queue_timeout: Duration::from_secs(1),
    slow: Duration::from_millis(400),
    fresh: Duration::from_secs(1),
};

/// What a server does with each request.
#[derive(Clone)]
enum Behaviour {
    Answer(Vec<u8>),
    Hang,
    HangInBody,
    Close,
    /// Responds to the first request of a connection and closes it at the second.
    CloseOnSecond(Vec<u8>),
}

struct Server {
    base: String,
    requests: Arc<StdMutex<Vec<String>>>,
    connections: Arc<StdMutex<usize>>,
}

impl Server {
    async fn new(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { base, requests: Arc::default(), connections: Arc::default() };
        let (requests, connections) = (server.requests.clone(), server.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock().unwrap() += 1;
                tokio::spawn(serve(stream, behaviour.clone(), requests.clone()));
            }
        });
        server
    }

    async fn answering(status: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        Self::new(Behaviour::Answer([head.as_bytes(), body].concat())).await
    }

    async fn json(body: Value) -> Self {
        Self::answering("200 OK", body.to_string().as_bytes()).await
    }

    fn webhook(&self) -> Webhook {
        webhook(&self.base)
    }

    fn request(&self) -> String {
        self.requests.lock().unwrap().last().cloned().unwrap()
    }
}

fn webhook(base: &str) -> Webhook {
    Webhook::with_bounds(&settings::Webhook::at(Endpoint::parse(base).unwrap()), QUICK).unwrap()
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour, requests: Arc<StdMutex<Vec<String>>>) {
    let (mut received, mut answered) = (Vec::new(), false);
    loop {
        let mut chunk = [0; 4096];
        let Ok(length @ 1..) = stream.read(&mut chunk).await else { return };
        received.extend_from_slice(&chunk[..length]);
        let text = String::from_utf8_lossy(&received).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let expected = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        if body.len() < expected {
            continue;
        }
        requests.lock().unwrap().push(text);
        received.clear();
        match &behaviour {
            Behaviour::Answer(answer) => {
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
            Behaviour::Hang => std::future::pending().await,
            Behaviour::HangInBody => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
                std::future::pending().await
            }
            Behaviour::Close => return,
            Behaviour::CloseOnSecond(_) if answered => return,
            Behaviour::CloseOnSecond(answer) => {
                answered = true;
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn allowing() -> Value {
    json!({"isAllowed": true, "gatewayAppId": "0xgate", "reason": "", "unknown": 1})
}

fn info() -> Value {
    json!({
        "status": "ok",
        "kmsContractAddr": "0xkms",
        "gatewayAppId": "gate",
        "chainId": 8453,
        "appImplementation": "0xapp",
        "appAuthImplementation": "ignored",
    })
}

fn without(mut value: Value, key: &str) -> Value {
    value.as_object_mut().unwrap().shift_remove(key).unwrap();
    value
}

async fn decide(webhook: &Webhook) -> Result<Decision, PolicyError> {
    ask(webhook, Subject::App(&BootInfo::example())).await
}

async fn ask(webhook: &Webhook, subject: Subject<'_>) -> Result<Decision, PolicyError> {
    webhook.decide(subject, FairnessKey::of(subject)).await
}

#[tokio::test]
async fn the_request_is_the_peers_to_the_byte() {
    let server = Server::json(allowing()).await;
    let mut boot_info = BootInfo::example();
    boot_info.instance_id = vec![];
    boot_info.key_provider_info = b"{}".to_vec();
    boot_info.advisory_ids = vec!["INTEL-SA-1".to_owned()];
    ask(&server.webhook(), Subject::App(&boot_info)).await.unwrap();
    let request = server.request();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let expected = format!(
        r#"{{"teeVariant":"dstack-tdx","mrAggregated":"{}","osImageHash":"{}","mrSystem":"{}","appId":"{}","composeHash":"{}","instanceId":"","deviceId":"{}","keyProviderInfo":"7b7d","tcbStatus":"UpToDate","advisoryIds":["INTEL-SA-1"],"attestationMode":"dstack-tdx"}}"#,
        "55".repeat(32),
        "44".repeat(32),
        "66".repeat(32),
        "11".repeat(20),
        "22".repeat(32),
        "33".repeat(32),
    );
    assert_eq!(body, expected);
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /bootAuth/app HTTP/1.1"));
    let headers: Vec<String> = lines.map(str::to_ascii_lowercase).collect();
    for header in [
        concat!("user-agent: dstack-kms/", env!("CARGO_PKG_VERSION")),
        "accept: */*",
        "content-type: application/json",
    ] {
        assert!(headers.iter().any(|line| line == header), "{header} is not in {headers:?}");
    }
    assert!(!headers.iter().any(|line| line.starts_with("authorization")));
}

#[tokio::test]
async fn paths_are_joined_plainly() {
    for (base, path) in [
        ("", "POST /bootAuth/kms "),
        ("/", "POST /bootAuth/kms "),
        ("/a", "POST /a/bootAuth/kms "),
        ("/a/", "POST /a/bootAuth/kms "),
    ] {
        let server = Server::json(allowing()).await;
        let webhook = webhook(&format!("{}{base}", server.base));
        ask(&webhook, Subject::Kms(&BootInfo::example())).await.unwrap();
        assert!(server.request().starts_with(path), "{}", server.request());
    }
    let server = Server::json(info()).await;
    webhook(&format!("{}/a", server.base)).info().await.unwrap();
    assert!(server.request().starts_with("GET /a HTTP/1.1"), "{}", server.request());
}

#[tokio::test]
async fn answers_become_decisions() {
    let allowed =
        Decision::Allowed { gateway_app_id: "0xgate".to_owned(), release_stage: None, epochs: None };
    assert_eq!(decide(&Server::json(allowing()).await.webhook()).await.unwrap(), allowed);
    let server =
        Server::json(json!({"isAllowed": false, "gatewayAppId": "", "reason": "App not registered"})).await;
    let denied = Denial {
        code: DenialCode::AppNotRegistered,
        reason: "App not registered".to_owned(),
        expected: None,
        actual: None,
    };
    assert_eq!(decide(&server.webhook()).await.unwrap(), Decision::Denied(denied));
    let long = "ä\n".repeat(1000);
    let server = Server::json(json!({"isAllowed": false, "gatewayAppId": "", "reason": long})).await;
    let Decision::Denied(denial) = decide(&server.webhook()).await.unwrap() else { panic!("it is denied") };
    assert_eq!((denial.code.name(), denial.reason), ("denied_by_backend", "ä ".repeat(256)));
}

#[tokio::test]
async fn a_response_with_an_unknown_stage_is_unusable() {
    use crate::decision::ReleaseStage;
    for (stage, expected) in [
        (json!(null), Ok(None)),
        (json!("boot"), Ok(Some(ReleaseStage::Boot))),
        (json!("any"), Ok(Some(ReleaseStage::Any))),
        (json!("Boot"), Err(())),
        (json!("never"), Err(())),
        (json!(""), Err(())),
        (json!(0), Err(())),
        (json!(false), Err(())),
        (json!(["boot"]), Err(())),
        (json!({"boot": true}), Err(())),
    ] {
        for is_allowed in [true, false] {
            let answer =
                json!({"isAllowed": is_allowed, "gatewayAppId": "", "reason": "", "releaseStage": stage});
            let decision = decide(&Server::json(answer.clone()).await.webhook()).await;
            match (decision, expected) {
                (Ok(Decision::Allowed { release_stage, .. }), Ok(stage)) if is_allowed => {
                    assert_eq!(release_stage, stage, "{answer}");
                }
                (Ok(Decision::Denied(_)), Ok(_)) if !is_allowed => {}
                (Err(error), Err(())) => {
                    assert!(error.detail().contains("not the expected JSON"), "{answer}")
                }
                (decision, _) => panic!("{answer}: {decision:?}"),
            }
        }
    }
    // A misspelt key would be ignored, and keys released too late.
    for key in ["release_stage", "ReleaseStage", "release-stage", "RELEASESTAGE"] {
        let answer = json!({"isAllowed": true, "gatewayAppId": "", "reason": "", key: "boot", "other": [1]});
        let error = decide(&Server::json(answer).await.webhook()).await.unwrap_err();
        assert!(error.detail().contains("must be written releaseStage"), "{error:?}");
    }
    // The key must not occur twice.
    let twice =
        br#"{"isAllowed":true,"gatewayAppId":"","reason":"","releaseStage":"any","releaseStage":"boot"}"#;
    assert!(decide(&Server::answering("200 OK", twice).await.webhook()).await.is_err());
}

#[tokio::test]
async fn a_response_says_the_epochs_of_an_app_and_a_wrong_or_misspelt_one_is_unusable() {
    let answer = |key: &str, value: Value| json!({"isAllowed": true, "gatewayAppId": "", "reason": "", key: value, "other": [1]});
    for (key, value, expected) in [
        ("rootEpoch", json!("current"), Some("rootEpoch current")),
        ("appEpoch", json!(2), Some("appEpoch 2")),
        ("readableEpochs", json!(["0.1", 0]), Some("readableEpochs 0 0.1")),
        ("rootEpoch", json!(null), None),
        ("epoch", json!(2), None),
    ] {
        let decision = decide(&Server::json(answer(key, value)).await.webhook()).await.unwrap();
        let Decision::Allowed { epochs, .. } = decision else { panic!("{key}") };
        assert_eq!(epochs.map(|epochs| epochs.to_string()).as_deref(), expected, "{key}");
    }
    for (key, value, problem) in [
        ("rootEpoch", json!("newest"), "rootEpoch must be "),
        ("appEpoch", json!(-1), "appEpoch must be "),
        ("readableEpochs", json!("0"), "readableEpochs must be "),
        ("root_epoch", json!(1), "must be written rootEpoch"),
        ("AppEpoch", json!(1), "must be written appEpoch"),
        ("readable-epochs", json!([]), "must be written readableEpochs"),
    ] {
        let error = decide(&Server::json(answer(key, value)).await.webhook()).await.unwrap_err();
        assert!(error.detail().contains(problem), "{error:?}");
    }
}

/// The response of auth-eth while its node does not respond.
const OUTAGE: Claims<'_> = Claims {
    is_allowed: false,
    gateway_app_id: "",
    reason: "authorization backend unavailable",
    release_stage: None,
    epochs: None,
};

fn said(answer: Claims<'_>) -> Value {
    let mut said = json!({
        "isAllowed": answer.is_allowed,
        "gatewayAppId": answer.gateway_app_id,
        "reason": answer.reason,
    });
    if let Some(stage) = answer.release_stage {
        said["releaseStage"] = json!(stage.name());
    }
    if let (Some(epochs), Some(said)) = (answer.epochs, said.as_object_mut()) {
        said.extend(epochs.fields());
    }
    said
}

#[tokio::test]
async fn a_denial_because_of_an_outage_is_unavailable() {
    let server = Server::json(said(OUTAGE)).await;
    let webhook = server.webhook();
    for number in 1..=20 {
        let detail = detail(decide(&webhook).await);
        assert_eq!(detail, "the webhook answered that its own backend is unavailable");
        assert_eq!(webhook.last_error(), Some(detail));
        assert_eq!(server.requests.lock().unwrap().len(), number, "it answers: the breaker stays closed");
    }
    // Only this exact reason, and only in a denial.
    for reason in ["authorization backend unavailable.", "Authorization backend unavailable", "unavailable"] {
        let answer = decide(&Server::json(said(Claims { reason, ..OUTAGE })).await.webhook()).await.unwrap();
        let Decision::Denied(denial) = answer else { panic!("it is denied") };
        assert_eq!((denial.code.name(), &*denial.reason), ("denied_by_backend", reason));
    }
    let allowing = Claims { is_allowed: true, ..OUTAGE };
    let allowed = Decision::Allowed { gateway_app_id: String::new(), release_stage: None, epochs: None };
    assert_eq!(decide(&Server::json(said(allowing)).await.webhook()).await.unwrap(), allowed);
}

#[tokio::test]
async fn info_is_read_and_remembered() {
    let server = Server::json(info()).await;
    let webhook = server.webhook();
    assert_eq!(webhook.last_info(), None);
    let expected = Info {
        gateway_app_id: Some("gate".to_owned()),
        kms_contract_address: Some("0xkms".to_owned()),
        chain_id: Some(8453),
        app_auth_implementation: Some("0xapp".to_owned()),
        eth_rpc_url: Some(String::new()),
    };
    assert_eq!(*webhook.info().await.unwrap(), expected);
    assert_eq!(webhook.last_info().as_deref(), Some(&expected));
    let (first, second) = tokio::join!(webhook.info(), webhook.info());
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(server.requests.lock().unwrap().len(), 1, "a response this fresh serves every caller");
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::json(allowing()).await;
    let webhook = server.webhook();
    for _ in 0..5 {
        decide(&webhook).await.unwrap();
    }
    assert_eq!(*server.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_connection_that_closes_on_reuse_causes_no_failure() {
    let body = allowing().to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let server = Server::new(Behaviour::CloseOnSecond(answer.into_bytes())).await;
    let webhook = server.webhook();
    for _ in 0..4 {
        decide(&webhook).await.unwrap();
    }
    assert!(*server.connections.lock().unwrap() > 1);
}

/// The detail of the error. Checks that callers do not see it.
fn detail(result: Result<Decision, PolicyError>) -> String {
    let error = result.expect_err("a backend that misbehaves has not decided");
    assert_eq!(error.to_string(), "authorization backend unavailable");
    let detail = error.detail().to_owned();
    assert!(detail.chars().count() < 800, "{detail}");
    detail
}

#[tokio::test]
async fn a_backend_that_misbehaves_is_unavailable() {
    let multibyte = [vec![b'x'; 511], "é".repeat(1000).into_bytes()].concat();
    let redirect = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_vec();
    let huge = [b"HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n".as_slice(), &[b' '; 70_000]].concat();
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b' '; 70_000]].concat();
    let nested = format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000));
    let twice = br#"{"isAllowed":false,"gatewayAppId":"","reason":"","isAllowed":true}"#;
    let behind = format!("{}{}", allowing(), allowing());
    let zipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, allowing().to_string().as_bytes()).unwrap();
        let body = encoder.finish().unwrap();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    };
    for (server, expected) in [
        (Server::new(Behaviour::Hang).await, "in time"),
        (Server::new(Behaviour::HangInBody).await, "in time"),
        (Server::new(Behaviour::Close).await, "error sending request to the webhook"),
        (
            Server::answering("500 Internal Server Error", b"{\"secret\": 1}").await,
            "returned 500 Internal Server Error: {\"",
        ),
        (Server::answering("503 Service Unavailable", &multibyte).await, "xé"),
        (Server::answering("200 OK", &multibyte).await, "xé"),
        (Server::answering("502 Bad Gateway", &[0xff, 0xfe, 0]).await, "returned 502"),
        (Server::answering("200 OK", b"<html>login</html>").await, "but not the expected JSON"),
        (Server::answering("200 OK", b"").await, "but not the expected JSON"),
        (Server::answering("204 No Content", b"").await, "but not the expected JSON"),
        (Server::answering("404 Not Found", b"nothing here").await, "returned 404 Not Found: nothing here"),
        (Server::answering("200 OK", nested.as_bytes()).await, "but not the expected JSON"),
        (Server::new(Behaviour::Answer(redirect)).await, "returned 302 Found"),
        (Server::new(Behaviour::Answer(huge)).await, "with more than 65536 bytes"),
        (Server::new(Behaviour::Answer(endless)).await, "with more than 65536 bytes"),
        (Server::new(Behaviour::Answer(b"SSH-2.0-OpenSSH\r\n".to_vec())).await, "error sending request to"),
        (Server::json(without(allowing(), "isAllowed")).await, "missing field `isAllowed`"),
        (Server::json(without(allowing(), "gatewayAppId")).await, "missing field `gatewayAppId`"),
        (Server::json(without(allowing(), "reason")).await, "missing field `reason`"),
        (Server::json(json!({"isAllowed": "true", "gatewayAppId": "", "reason": ""})).await, "invalid type"),
        (Server::json(json!({"isAllowed": 1, "gatewayAppId": "", "reason": ""})).await, "invalid type"),
        (Server::json(json!({"isAllowed": true, "gatewayAppId": null, "reason": ""})).await, "invalid type"),
        (Server::json(json!([true, "", ""])).await, "but not the expected JSON"),
        (Server::json(info()).await, "missing field `isAllowed`"),
        (Server::answering("200 OK", twice).await, "duplicate field `isAllowed`"),
        (Server::answering("200 OK", behind.as_bytes()).await, "trailing characters"),
        (Server::new(Behaviour::Answer(zipped)).await, "but not the expected JSON"),
        (Server::json(json!({"isAllowed": true, "gatewayAppId": 1e300, "reason": ""})).await, "invalid type"),
        (Server::json(json!({"IsAllowed": true, "gatewayAppId": "", "reason": ""})).await, "missing field"),
    ] {
        let webhook = server.webhook();
        let started = Instant::now();
        let detail = detail(decide(&webhook).await);
        assert!(detail.contains(expected), "{expected} is not in {detail}");
        assert!(started.elapsed() < Duration::from_secs(60));
        assert_eq!(webhook.last_error(), Some(detail));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Server::json(allowing()).await;
    let answer =
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.base);
    let server = Server::new(Behaviour::Answer(answer.into_bytes())).await;
    assert!(decide(&server.webhook()).await.is_err());
    assert!(target.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_and_the_url_is_not_told() {
    // Bound and not listening, so that no other server gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let base = format!("http://user:hush@{}/hush?key=hush", socket.local_addr().unwrap());
    let detail = detail(decide(&webhook(&base)).await);
    assert!(detail.contains("Connection refused"), "{detail}");
    assert!(!detail.contains("hush"), "{detail}");
}

#[tokio::test]
async fn info_needs_all_its_keys() {
    for key in ["status", "kmsContractAddr", "gatewayAppId", "chainId", "appImplementation"] {
        let webhook = Server::json(without(info(), key)).await.webhook();
        let error = webhook.info().await.unwrap_err();
        assert!(error.detail().contains(&format!("missing field `{key}`")), "{}", error.detail());
        assert_eq!(webhook.last_info(), None);
    }
    let mut negative = info();
    negative["chainId"] = json!(-1);
    assert!(Server::json(negative).await.webhook().info().await.is_err());
}

#[tokio::test]
async fn the_last_info_outlives_an_outage() {
    let server = Server::json(info()).await;
    let bounds = Bounds { fresh: Duration::ZERO, ..QUICK };
    let config = settings::Webhook::at(Endpoint::parse(&server.base).unwrap());
    let webhook = Webhook::with_bounds(&config, bounds).unwrap();
    webhook.info().await.unwrap();
    let hanging = Server::new(Behaviour::Hang).await;
    let hanging = settings::Webhook::at(Endpoint::parse(&hanging.base).unwrap());
    let backend = Webhook::with_bounds(&hanging, bounds).unwrap().backend;
    let webhook = Webhook { backend, ..webhook };
    assert!(webhook.info().await.is_err());
    assert!(webhook.last_info().is_some());
}

#[tokio::test]
async fn more_requests_than_slots_end_in_time() {
    let server = Server::new(Behaviour::Hang).await;
    let webhook = Arc::new(server.webhook());
    let started = Instant::now();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let webhook = webhook.clone();
            tokio::spawn(async move { decide(&webhook).await })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap().is_err());
    }
    // One after the other they would take 40 seconds.
    assert!(started.elapsed() < QUICK.total * 10);
    assert!(server.requests.lock().unwrap().len() <= QUICK.concurrent);
}

#[test]
fn a_configured_timeout_bounds_all_waits() {
    let ten = BOUNDS.within(Duration::from_secs(10));
    let of = |bounds: Bounds| {
        [bounds.connect, bounds.total, bounds.queue_timeout, bounds.slow].map(|it| it.as_millis())
    };
    assert_eq!(of(ten), of(BOUNDS));
    assert_eq!(of(BOUNDS.within(Duration::from_secs(2))), [2_000, 2_000, 1_000, 1_000]);
    assert_eq!(of(BOUNDS.within(Duration::from_secs(60))), [3_000, 60_000, 30_000, 3_000]);
}

#[tokio::test]
async fn a_silent_webhook_fails_after_the_configured_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut configured = settings::Webhook::at(Endpoint::parse(&url).unwrap());
    configured.timeout = Duration::from_secs(1);
    let webhook = Webhook::new(&configured).unwrap();
    let asked = Instant::now();
    assert!(webhook.info().await.is_err());
    assert!((Duration::from_millis(900)..Duration::from_secs(60)).contains(&asked.elapsed()));
}
