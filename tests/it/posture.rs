//! Relaxed settings are visible, and callers without proof cannot use more than their share of resources.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::support::http::{post, request};
use crate::support::{PATIENCE, World, eventually};
use cvm_kms::proto::{AppKeyResponse, GetAppKeyRequest, GetMetaResponse};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What every KMS under test relaxes, because its platform is simulated.
const ALWAYS: [&str; 2] = ["os_image_not_verified", "external_trust_anchors"];

/// The codes in `GetMeta`, in the metric and in the audit log, which must agree.
async fn relaxed(world: &World) -> Vec<String> {
    let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
    let metrics = world.caller().get("/metrics").await;
    let mut shown: Vec<String> = metrics
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("cvm_kms_relaxed{code=\"")?.strip_suffix("\"} 1"))
        .map(str::to_owned)
        .collect();
    let mut codes = meta.relaxed_settings.clone();
    codes.sort_unstable();
    shown.sort_unstable();
    assert_eq!(codes, shown);
    let of_details = |code: &String| {
        meta.relaxed_details.iter().any(|detail| detail == code || detail.starts_with(&format!("{code}:")))
    };
    assert!(codes.iter().all(of_details), "{:?}", meta.relaxed_details);
    let started = world.audited("started").pop().expect("a line for the start");
    assert_eq!(started["posture"], json!(meta.relaxed_settings));
    codes
}

#[tokio::test]
async fn each_relaxed_setting_shows_in_get_meta_in_the_metrics_and_in_the_audit_log() {
    for (toml, code) in [
        ("", None),
        ("core.attest_rpc_cert = false", Some("rpc_cert_not_attested")),
        ("core.enforce_self_authorization = false", Some("self_authorization_off")),
        ("core.insecure_world_readable_keys = true", Some("world_readable_keys")),
        ("core.auth_api.type = \"dev\"", Some("dev_auth")),
    ] {
        let mut world = World::ready_with(toml).await;
        // The audit record of a start that serves keys at once.
        world.start().await.expect("starts");
        let mut expected: Vec<String> = ALWAYS.into_iter().chain(code).map(str::to_owned).collect();
        expected.sort_unstable();
        eventually("the line of this start", async || (world.audited("started").len() >= 2).then_some(()))
            .await;
        assert_eq!(relaxed(&world).await, expected, "{toml}");
        let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
        let verifies = !expected.contains(&"os_image_not_verified".to_owned());
        assert_eq!(meta.os_image_verification, Some(verifies), "{toml}");
    }
    let unencrypted = "[core]\nenforce_self_authorization = false\nauth_api.type = \"webhook\"\n\
                       auth_api.webhook.url = \"http://192.0.2.1\"";
    let world = World::ready_with(unencrypted).await;
    assert!(relaxed_codes(&world).await.contains(&"webhook_unencrypted".to_owned()));
}

#[tokio::test]
async fn get_meta_says_how_far_each_relaxation_of_the_tcb_goes() {
    let toml = "[core.tcb]\nadvisories = ['INTEL-SA-00837']\nfmspcs = ['b0c06f000000']\n\
                grace = { OutOfDate = '60d' }";
    let world = World::ready_with(toml).await;
    let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
    assert_eq!(meta.relaxed_settings[2..], ["tcb_grace", "tcb_advisories", "tcb_models"]);
    let details = ["tcb_grace:OutOfDate:60d", "tcb_advisory:INTEL-SA-00837", "tcb_model:b0c06f000000"]
        .map(str::to_owned);
    assert_eq!(meta.relaxed_details, [&ALWAYS.map(str::to_owned)[..], &details].concat());
}

async fn relaxed_codes(world: &World) -> Vec<String> {
    world.caller().json("GetMeta", json!({})).await.message::<GetMetaResponse>().relaxed_settings
}

#[tokio::test]
async fn an_empty_device_list_allows_no_device_unless_that_is_said_and_then_it_shows() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    world.allowlist.change(|rules| {
        let app = &mut rules["apps"][hex::encode([1; 20])];
        app["allowAnyDevice"] = json!(false);
        app["devices"] = json!([]);
    });
    let identity = world.attested(&app).await;
    let refusal = world.caller().shows(&identity).json("GetAppKey", json!({})).await.refusal();
    let text = "App not allowed: Boot denied: app is not allowed to boot on this device";
    assert_eq!(refusal, (403, text.to_owned()));
    let open = ["empty_devices_allow_any", "empty_device_list"];
    let codes = relaxed_codes(&world).await;
    assert!(open.iter().all(|code| !codes.contains(&(*code).to_owned())), "{codes:?}");

    world.configure("core.auth_api.allowlist.insecure_empty_devices_allow_any = true");
    world.start().await.expect("starts");
    assert_eq!(world.caller().shows(&identity).json("GetAppKey", json!({})).await.status, 200);
    let codes = relaxed_codes(&world).await;
    assert!(open.iter().all(|code| codes.contains(&(*code).to_owned())), "{codes:?}");
}

#[tokio::test]
async fn with_dev_authorization_everyone_attested_is_allowed_and_everyone_can_see_it() {
    let world = World::ready_with("core.auth_api = { type = \"dev\", dev.gateway_app_id = \"0xdev\" }").await;
    let meta: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
    assert!(meta.is_dev && meta.allow_any_upgrade);
    // Like the peer: the configured gateway, and no details of a backend.
    assert_eq!((meta.gateway_app_id.as_deref(), meta.chain_id), (Some("0xdev"), None));
    let caller = world.caller().shows(&world.attested(&world.app(9)).await);
    let keys: AppKeyResponse = caller.json("GetAppKey", json!({})).await.message();
    assert_eq!(keys.gateway_app_id, "0xdev");
    let refusal = world.caller().json("GetAppKey", json!({})).await.refusal();
    assert_eq!(refusal, (401, "App not allowed: No attestation provided".to_owned()));
}

#[tokio::test]
async fn keys_that_others_can_read_do_not_start_unless_that_is_said() {
    let mut world = World::ready().await;
    world.stop().await;
    for name in ["root-ca.key", "root-k256.key", "tmp-ca.key", "rpc.key"] {
        for mode in [0o644, 0o640, 0o606] {
            fs::set_permissions(world.key_file(name), fs::Permissions::from_mode(mode)).expect("mode");
            let error = world.start().await.expect_err("readable by others").to_string();
            let text = format!("{name} has mode {mode:04o}, others may use the key: run chmod 600 on it");
            assert_eq!(error, text);
        }
        fs::set_permissions(world.key_file(name), fs::Permissions::from_mode(0o600)).expect("mode");
    }
    world.start().await.expect("starts");
    world.stop().await;
    fs::set_permissions(world.key_file("root-ca.key"), fs::Permissions::from_mode(0o644)).expect("mode");
    world.configure("core.insecure_world_readable_keys = true");
    world.start().await.expect("starts");
    assert!(relaxed_codes(&world).await.contains(&"world_readable_keys".to_owned()));
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_to_slow_down_while_attested_connections_are_served() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let identity = world.attested(&app).await;
    world.configure("core.limits = { unauthenticated_per_second = 1, unauthenticated_burst = 20 }");
    world.start().await.expect("starts");
    let attested = world.caller().shows(&identity);
    let mut proven = attested.connect().await.expect("a connection");
    assert_eq!(proven.json("GetAppKey", json!({})).await.status, 200);

    let mut line = world.caller().connect().await.expect("a connection");
    let began = Instant::now();
    let mut served = 0;
    let refused = loop {
        let answer = line.json("GetMeta", json!({})).await;
        if answer.status != 200 {
            break answer;
        }
        served += 1;
        assert!(served < 100, "never refused");
    };
    // One a second is added meanwhile.
    let added = usize::try_from(began.elapsed().as_secs()).expect("few");
    assert!((15..=25 + added).contains(&served), "{served}");
    let text = "too many requests from this address; slow down".to_owned();
    assert_eq!(refused.refusal(), (429, text.clone()));
    assert_eq!(refused.header("retry-after"), "1");
    let probe = http::Request::get("/health").body("".into()).expect("a request");
    assert_eq!(line.send(probe).await.status, 200, "probes share their address with everyone");
    // In every encoding. On a slow machine there may be another token, which is used first.
    let line = tokio::sync::Mutex::new(line);
    eventually("a refusal of protobuf", async || {
        let answer = line.lock().await.send(post("/prpc/GetMeta", vec![0x0a])).await;
        (answer.status == 429).then_some(())
    })
    .await;
    let channel = world.caller().grpc().await;
    let status = eventually("a refusal of gRPC", async || channel.clone().get_meta(()).await.err()).await;
    assert_eq!((status.code(), status.message()), (tonic::Code::ResourceExhausted, &*text));
    let channel = attested.grpc().await;
    let drained = async || world.caller().grpc().await.get_meta(()).await.is_err();
    let status = eventually("a refusal of a caller that is not yet proven", async || {
        drained().await.then_some(())?;
        channel.clone().get_app_key(GetAppKeyRequest::default()).await.err()
    })
    .await;
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "not yet proven");

    for _ in 0..50 {
        assert_eq!(proven.json("GetAppKey", json!({})).await.status, 200);
    }
    let metrics = proven.send(http::Request::get("/metrics").body("".into()).expect("a request")).await;
    let shed = "cvm_kms_shed_total{limit=\"unauthenticated_per_second\"} ";
    let count =
        metrics.text().lines().find_map(|line| line.strip_prefix(shed)).expect("the counter").to_owned();
    assert!(count.parse::<f64>().expect("a number") >= 3.0);
    eventually("a token a second", async || {
        (world.caller().json("GetMeta", json!({})).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn onboarding_is_limited_too() {
    let toml = "core.limits = { unauthenticated_per_second = 1, unauthenticated_burst = 5 }";
    let world = World::onboarding_with(toml).await;
    let mut line = world.caller().plain().connect().await.expect("a connection");
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(line.json("Bootstrap", json!({ "domain": "a_b" })).await.status);
    }
    assert!(statuses.starts_with(&[400; 5]) && statuses.contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn more_connections_than_configured_are_closed_at_once() {
    let mut world = World::ready().await;
    world.configure("core.limits.max_connections = 3");
    world.start().await.expect("starts");
    let mut lines = Vec::new();
    for _ in 0..3 {
        let mut line = world.caller().connect().await.expect("a connection");
        assert_eq!(line.json("GetMeta", json!({})).await.status, 200);
        lines.push(line);
    }
    // None has been idle for a second, so none is closed.
    for line in &mut lines {
        assert_eq!(line.json("GetMeta", json!({})).await.status, 200);
    }
    let mut fourth = TcpStream::connect(world.address()).await.expect("the port is open");
    let ended = tokio::time::timeout(PATIENCE, fourth.read(&mut [0; 8])).await.expect("closed at once");
    assert_eq!(ended.unwrap_or(0), 0);
    assert_eq!(lines[0].json("GetMeta", json!({})).await.status, 200);
    lines.pop();
    eventually("a free place", async || world.caller().try_json("GetMeta", json!({})).await.ok()).await;
}

#[tokio::test]
async fn idle_connections_of_strangers_make_room_and_two_addresses_shut_nobody_out() {
    let mut world = World::ready().await;
    world.configure("core.limits.max_connections = 16\ncore.metrics.enabled = true");
    world.start().await.expect("starts");
    let from = async |last: u8| {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, last], 0).into()).expect("an address of loopback");
        socket.connect(world.address()).await.expect("the port is open")
    };
    let (mut held, began) = (Vec::new(), Instant::now());
    for number in 0..14 {
        held.push(from(3 + number / 7).await);
    }
    let early = world.caller().try_json("GetMeta", json!({})).await;
    assert!(early.is_err() || began.elapsed() >= IDLE, "none is idle for long enough yet");
    let early = usize::from(early.is_ok());
    let line = eventually("room is made", async || world.caller().connect().await.ok()).await;
    assert!(began.elapsed() >= IDLE, "none was idle for long enough");
    let line = tokio::sync::Mutex::new(line);
    assert_eq!(line.lock().await.json("GetMeta", json!({})).await.status, 200);
    let metrics = line.lock().await.send(request("GET", "/metrics", "")).await;
    let evicted = format!("cvm_kms_shed_total{{limit=\"idle_connection\"}} {}", 1 + early);
    assert!(metrics.text().contains(&evicted), "{}", metrics.text());
    // One of the flood's was closed.
    let closed = || {
        let is_closed = |stream: &&TcpStream| match stream.try_read(&mut [0; 8]) {
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            Ok(_) => true,
        };
        held.iter().filter(is_closed).count()
    };
    eventually("one is closed", async || (closed() > early).then_some(())).await;
    assert_eq!(line.lock().await.json("GetMeta", json!({})).await.status, 200);
    assert_eq!(closed(), 1 + early);
}

/// From then on a connection without a request is idle for long enough.
const IDLE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn slow_bodies_and_unread_answers_of_three_addresses_keep_no_guest_out() {
    let mut world = World::ready().await;
    world.configure("core.limits.max_request_memory = \"32MiB\"\ncore.metrics.enabled = true");
    world.start().await.expect("starts");
    let from = async |last: u8, window: u32| {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, last], 0).into()).expect("an address of loopback");
        let tcp = socket.connect(world.address()).await.expect("the port is open");
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(world.caller().http2().tls()));
        let name = rustls::pki_types::ServerName::try_from(crate::support::DOMAIN).expect("a name");
        let stream = hyper_util::rt::TokioIo::new(connector.connect(name, tcp).await.expect("TLS"));
        let mut client = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        let opened = client.initial_stream_window_size(window).handshake(stream).await;
        let (sender, connection) = opened.expect("HTTP/2");
        (sender, tokio::spawn(connection))
    };
    let guest = async || {
        let body = format!("{{}}{}", " ".repeat(20_000));
        world.caller().send(post("/prpc/SignCert?json", body)).await.status
    };
    let mut connections = Vec::new();
    let mut held = Vec::new();
    for last in 11..=13 {
        let (mut sender, connection) = from(last, 65_535).await;
        let mut bodies = Vec::new();
        for size in [1_000_000; 12].into_iter().chain([10_000; 8]) {
            let begin = futures_util::stream::iter([Ok(http_body::Frame::data(bytes::Bytes::from(vec![
                    b' ';
                    size
                ])))]);
            let never = futures_util::stream::pending::<Result<_, std::io::Error>>();
            let body = http_body_util::StreamBody::new(futures_util::StreamExt::chain(begin, never));
            let body = http_body_util::BodyExt::boxed(body);
            let request = http::Request::post("https://localhost/prpc/SignCert?json").body(body);
            bodies.push(tokio::spawn(sender.send_request(request.expect("a request"))));
        }
        eventually("its share is full", async || {
            (bodies.iter().filter(|answer| answer.is_finished()).count() >= 8).then_some(())
        })
        .await;
        held.append(&mut bodies);
        connections.push((sender, connection));
    }
    assert_eq!(guest().await, 400, "a guest from a fourth address is heard");

    // Responses of which the caller reads nothing.
    let (mut sender, unread) = from(14, 0).await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        let nothing =
            http_body_util::BodyExt::boxed(http_body_util::Empty::new().map_err(|never| match never {}));
        let request = http::Request::get("https://localhost/metrics").body(nothing).expect("a request");
        answers.push(sender.send_request(request).await.expect("the head of an answer"));
    }
    assert_eq!(guest().await, 400);
    let ends = async {
        while !unread.is_finished() {
            assert_eq!(guest().await, 400);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ends).await.expect("its connection ends, because nothing is read");
    assert!(
        connections.iter().all(|(_, connection)| !connection.is_finished()),
        "bodies end, connections stay"
    );
    drop((held, answers));
}

#[tokio::test]
async fn requests_from_hell_end_the_request_and_not_the_process() {
    let world = World::ready().await;
    let deep = "[".repeat(10_000);
    let wide = format!("{{\"app_id\":\"{}\"}}", "0".repeat(15_000));
    let huge_number = format!("{{\"api_version\":1{}}}", "0".repeat(5000));
    for (method, body) in [
        ("GetAppKey", deep.clone()),
        ("GetAppKey", format!("{{\"vm_config\":\"{}\"}}", "[".repeat(100_000))),
        ("GetAppKey", huge_number),
        ("GetAppEnvEncryptPubKey", wide),
        ("GetAppEnvEncryptPubKey", "{\"\u{0}\":1}".to_owned()),
        ("SignCert", format!("{{\"csr\":\"{deep}\"}}")),
        ("SignCert", format!("{{\"api_version\":2,\"csr\":\"{}\"}}", "ff".repeat(400_000))),
        ("%00", "{}".to_owned()),
        ("%ff%fe", "{}".to_owned()),
        ("..%2f..%2fetc%2fpasswd", "{}".to_owned()),
    ] {
        let answer = world.caller().send(post(&format!("/prpc/{method}?json"), body)).await;
        assert!((400..500).contains(&answer.status), "{method}: {answer:?}");
        assert!(answer.body.len() < 2000, "{method}: a short answer");
    }
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
}

#[tokio::test]
async fn an_audit_log_that_begins_beside_existing_keys_says_so_first() {
    let mut world = World::ready().await;
    assert_eq!(world.audited("log_began").len(), 0, "keys and log began together");
    world.start().await.expect("starts");
    assert_eq!(world.audited("log_began").len(), 0, "it goes on");
    world.stop().await;
    // With its tree and name, because a log that is missing alone was rolled back.
    for part in ["audit.jsonl", "audit.node", "audit.tree"] {
        fs::rename(world.key_file(part), world.path(&format!("elsewhere-{part}"))).expect("moved");
    }
    world.start().await.expect("starts");
    let first = eventually("the first line", async || world.audit().into_iter().next()).await;
    assert_eq!(
        (&first["event"], &first["reason"], &first["seq"]),
        (&json!("log_began"), &json!("keys_exist"), &json!(1))
    );
}
