//! How a KMS makes or receives its keys, and switches to serving them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::http::{json, post, request, with};
use crate::support::{Closed, DOMAIN, World, eventually};
use cvm_kms::keys::statement;
use cvm_kms::proto::{AppKeyResponse, BootstrapRequest, BootstrapResponse, OnboardResponse};
use kms_attest::evidence::Evidence;
use kms_attest::measurement::EventVersion;
use kms_attest::{certificate, ra_tls};
use kms_simulator::{AgentMode, Cvm, Platform, Stage};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// The files that contain keys or are derived from them.
const FILES: [&str; 10] = [
    "root-ca.key",
    "root-k256.key",
    "tmp-ca.key",
    "rpc.key",
    "root-ca.crt",
    "tmp-ca.crt",
    "rpc.crt",
    "rpc-domain",
    "bootstrap-info.json",
    "root-fingerprints.json",
];

/// Which of [`FILES`] exist, and any file beside the audit log and the collateral floors.
fn key_files(world: &World) -> Vec<String> {
    let Ok(entries) = fs::read_dir(world.path("certs")) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("entry").file_name().into_string().expect("a name"));
    let is_beside =
        |name: &String| name.starts_with("audit.jsonl") || name.starts_with("collateral-floors.json");
    let mut names: Vec<String> = names.filter(|name| !is_beside(name)).collect();
    names.sort_unstable();
    names
}

fn nothing_is_stored(world: &World) {
    let stored: Vec<String> = key_files(world).into_iter().filter(|name| FILES.contains(&&**name)).collect();
    assert!(stored.is_empty(), "{stored:?}");
}

#[tokio::test]
async fn an_operator_reads_what_to_allow_over_http_and_https_on_one_port() {
    let world = World::onboarding().await;
    let callers = [world.caller().plain(), world.caller().http1(), world.caller().http2()];
    for caller in callers {
        for call in [
            json("GetAttestationInfo", json!({})),
            post("/prpc/Onboard.GetAttestationInfo?json", "{}"),
            request("GET", "/prpc/Onboard.GetAttestationInfo?json", ""),
            with(post("/prpc/GetAttestationInfo", "{}"), "content-type", "application/x-www-form-urlencoded"),
        ] {
            let answer = caller.send(call).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let info = answer.value();
            assert_eq!(info["device_id"], hex::encode(world.platform.device_id()));
            assert_eq!(info["ppid"], hex::encode(world.platform.ppid()));
            assert_eq!(info["mr_aggregated"], hex::encode(world.cvm.mr_aggregated()));
            assert_eq!(info["os_image_hash"], hex::encode(world.cvm.os_image_hash()));
            assert_eq!([&info["tee_variant"], &info["attestation_mode"]], [&json!("dstack-tdx"); 2]);
            assert_eq!(info["site_name"], "test site");
            assert_eq!(info["eth_rpc_url"], "");
            assert_eq!(info["kms_contract_address"], "0x1111111111111111111111111111111111111111");
        }
    }
}

#[tokio::test]
async fn the_onboarding_listener_has_a_page_a_probe_and_nothing_of_the_kms() {
    let world = World::onboarding().await;
    for caller in [world.caller().plain(), world.caller()] {
        let page = caller.get("/").await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
        let text = page.text();
        for attribute in ["src=\"", "href=\""] {
            for (at, _) in text.match_indices(attribute) {
                let path = text[at + attribute.len()..].split('"').next().expect("a value");
                if path.starts_with('#') {
                    continue;
                }
                assert!(path.starts_with("/assets/"), "{path}: the page loads nothing from elsewhere");
                assert_eq!(caller.get(path).await.status, 200, "{path}");
            }
        }
        let health = caller.get("/health").await;
        assert_eq!((health.status, health.text()), (200, "OK"));
        for path in ["/metrics", "/nowhere", "/prpc"] {
            assert_eq!(caller.get(path).await.status, 404, "{path}");
        }
        for name in ["GetMeta", "GetAppKey", "GetKmsKey", "GetTempCaCert", "SignCert", "ClearImageCache"] {
            let refusal = caller.json(name, json!({})).await.refusal();
            assert_eq!(refusal, (404, format!("Service not found: {name}")));
            let refusal = caller.json(&format!("KMS.{name}"), json!({})).await.refusal();
            assert_eq!(refusal, (404, format!("Service not found: KMS.{name}")));
        }
        assert_eq!(caller.get("/health").await.header("x-app-version"), "");
    }
}

#[tokio::test]
async fn bootstrap_makes_keys_an_attested_statement_and_a_directory_that_the_peer_reads() {
    let world = World::onboarding().await;
    let statement = world.bootstrap().await;
    let root = world.root_keys();
    assert_eq!(statement.ca_pubkey, root.ca_spki());
    assert_eq!(statement.k256_pubkey, root.k256_public());
    let evidence = Evidence::decode(&statement.attestation).expect("evidence");
    let expected = statement::bootstrap_report_data(&root.ca_spki(), &root.k256_public());
    assert_eq!(evidence.report_data().expect("64 bytes"), expected);

    let mut names = FILES.map(str::to_owned).to_vec();
    names.sort_unstable();
    let found = key_files(&world);
    assert!(names.iter().all(|name| found.contains(name)), "{found:?}");
    for name in FILES {
        let mode = fs::metadata(world.key_file(name)).expect("file").permissions().mode() & 0o777;
        let expected = if name.ends_with(".key") { 0o600 } else { 0o644 };
        assert_eq!(mode, expected, "{name}");
    }
    let mode = fs::metadata(world.path("certs")).expect("directory").permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let text = |name: &str| fs::read_to_string(world.key_file(name)).expect("text");
    for name in ["root-ca.key", "tmp-ca.key", "rpc.key"] {
        assert!(text(name).starts_with("-----BEGIN PRIVATE KEY-----\n"), "{name}");
    }
    for name in ["root-ca.crt", "tmp-ca.crt", "rpc.crt"] {
        assert!(text(name).starts_with("-----BEGIN CERTIFICATE-----\n"), "{name}");
    }
    assert_eq!(text("rpc-domain"), DOMAIN);
    assert_eq!(fs::read(world.key_file("root-k256.key")).expect("key").len(), 32);
    let stored: BootstrapResponse = serde_json::from_str(&text("bootstrap-info.json")).expect("JSON");
    assert_eq!(stored, statement);

    assert_eq!(world.audited("keys_bootstrapped").len(), 1);
    world.finish().await;
    let meta = world.meta().await;
    assert_eq!(meta.bootstrap_info, Some(statement));
    assert_eq!(meta.ca_cert, text("root-ca.crt"));
}

#[tokio::test]
async fn domains_that_no_certificate_can_carry_are_refused_before_anything_else() {
    let world = World::onboarding().await;
    let name = "domain must be a non-empty ASCII DNS name of at most 253 bytes";
    let label = "domain contains an invalid DNS label";
    let address =
        "domain ends in a number, so clients read it as an IPv4 address: it must be one such as 10.0.2.2";
    let long = "a.".repeat(127);
    let cases = [
        ("", name),
        (&long, name),
        ("b\u{fc}cher.example", name),
        ("kms.example.", label),
        ("*.example", label),
        ("a_b", label),
        ("host:8000", label),
        ("::1", label),
        ("-a", label),
        ("555.1.1.1", address),
        ("1.2.3", address),
        ("127.1", address),
        ("0x7f.1", address),
    ];
    for (domain, text) in cases {
        let caller = world.caller().plain();
        let refusal = caller.json("Bootstrap", json!({ "domain": domain })).await.refusal();
        assert_eq!(refusal, (400, text.to_owned()), "{domain:?}");
        let body = json!({ "domain": domain, "source_url": "https://127.0.0.1:1" });
        assert_eq!(caller.json("Onboard", body).await.refusal(), (400, text.to_owned()), "{domain:?}");
    }
    let refusal = world.caller().get("/prpc/Bootstrap?domain=a_b").await.refusal();
    assert_eq!(refusal, (400, label.to_owned()));
    nothing_is_stored(&world);

    world.bootstrap().await;
    let refusal = world.caller().json("Bootstrap", json!({ "domain": "a_b" })).await.refusal();
    assert_eq!(refusal, (400, label.to_owned()), "the domain is looked at first");
}

#[tokio::test]
async fn keys_are_made_once_however_often_and_at_once_it_is_asked() {
    let world = World::onboarding().await;
    let caller = world.caller();
    let callers = (0..8).map(|number| {
        let caller = if number % 2 == 0 { caller.clone() } else { caller.plain() };
        tokio::spawn(async move { caller.json("Bootstrap", json!({ "domain": DOMAIN })).await })
    });
    let mut made = Vec::new();
    for answer in callers.collect::<Vec<_>>() {
        let answer = answer.await.expect("an answer");
        match answer.status {
            200 => made.push(answer.message::<BootstrapResponse>()),
            _ => assert_eq!(answer.refusal(), (400, "KMS has already been bootstrapped".to_owned())),
        }
    }
    let [made] = made.as_slice() else { panic!("one answer with keys, got {}", made.len()) };
    assert_eq!(made.ca_pubkey, world.root_keys().ca_spki());
    let again = caller.plain().json("Bootstrap", json!({ "domain": DOMAIN })).await.refusal();
    assert_eq!(again, (400, "KMS has already been bootstrapped".to_owned()));
    let body = json!({ "domain": DOMAIN, "source_url": "https://127.0.0.1:1" });
    let refusal = caller.plain().json("Onboard", body).await.refusal();
    assert_eq!(refusal, (400, "KMS has already been onboarded".to_owned()));
    assert_eq!(made.ca_pubkey, world.root_keys().ca_spki(), "nothing was replaced");
}

#[tokio::test]
async fn a_kms_that_is_not_allowed_makes_no_keys_until_it_is() {
    let world = World::onboarding().await;
    world.allowlist.change(|rules| rules["kms"]["mrAggregated"] = json!([]));
    let caller = world.caller().plain();
    let body = json!({ "domain": DOMAIN });
    let refusal = caller.json("Bootstrap", body.clone()).await.refusal();
    let text = "KMS is not allowed to bootstrap: boot denied: aggregated MR not allowed";
    assert_eq!(refusal, (403, text.to_owned()));
    nothing_is_stored(&world);

    world.allowlist.change(|rules| rules["kms"]["allowAnyDevice"] = json!(false));
    world.allowlist.change(|rules| rules["kms"]["devices"] = json!(["00"]));
    world.allow_kms(&world.cvm);
    let refusal = caller.json("Bootstrap", body.clone()).await.refusal();
    let text = "KMS is not allowed to bootstrap: boot denied: KMS is not allowed to boot on this device";
    assert_eq!(refusal, (403, text.to_owned()));

    let device = hex::encode(world.platform.device_id());
    world.allowlist.change(|rules| rules["kms"]["devices"] = json!([device]));
    assert_eq!(caller.json("Bootstrap", body).await.status, 200);
}

#[tokio::test]
async fn without_a_guest_agent_no_keys_are_made() {
    let world = World::onboarding().await;
    let caller = world.caller().plain();
    for mode in [AgentMode::Down, AgentMode::Garbage, AgentMode::Disconnecting, AgentMode::WrongFields] {
        world.agent.set_mode(mode);
        let (status, text) = caller.json("Bootstrap", json!({ "domain": DOMAIN })).await.refusal();
        assert!(matches!(status, 403 | 503), "{mode:?}: {status} {text}");
        let known = text.starts_with("KMS is not allowed to bootstrap: ")
            || text.starts_with("Failed to get attestation");
        assert!(known && !text.contains("/var/lib"), "{mode:?}: {text}");
        let (status, text) = caller.json("GetAttestationInfo", json!({})).await.refusal();
        assert_eq!(status, 503, "{mode:?}: {text}");
        assert!(text.starts_with("Failed to get attestation"), "{mode:?}: {text}");
        nothing_is_stored(&world);
    }
    world.agent.set_mode(AgentMode::Up);
    world.bootstrap().await;
}

#[tokio::test]
async fn between_finish_and_serving_the_methods_of_the_kms_are_not_ready_rather_than_unknown() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let world = World::onboarding_with(&format!("rpc.port = {port}")).await;
    world.bootstrap().await;
    let callers = [world.caller().plain(), world.caller().http1(), world.caller().http2()];
    for caller in &callers {
        assert_eq!(caller.json("GetMeta", json!({})).await.status, 404, "before");
    }
    assert_eq!(callers[0].get("/finish").await.status, 200);
    for caller in &callers {
        for method in ["GetMeta", "KMS.GetMeta", "GetAppKey"] {
            let answer = caller.json(method, json!({})).await;
            assert_eq!(answer.header("retry-after"), "1", "{method}");
            let text = "onboarding is over, and keys are not served yet; try again";
            assert_eq!(answer.refusal(), (503, text.to_owned()), "{method}");
        }
        assert_eq!(caller.json("Nope", json!({})).await.status, 404);
        assert_eq!(caller.json("GetAttestationInfo", json!({})).await.status, 200);
    }
    let refused = world.caller().grpc().await.get_meta(()).await.expect_err("not yet");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn finish_before_there_are_keys_changes_nothing_and_says_so_to_people() {
    let world = World::onboarding().await;
    let caller = world.caller().plain();
    assert_eq!(caller.json("Finish", json!({})).await.text(), "null");
    let refusal = caller.get("/finish").await.refusal();
    let text = "there are no keys yet, so nothing is finished: Bootstrap or Onboard comes first";
    assert_eq!(refusal, (503, text.to_owned()));
    assert_eq!(world.caller().grpc_onboard().await.finish(()).await.expect("an answer").into_inner(), ());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(caller.get("/health").await.status, 200);
    world.bootstrap().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_never_closes_while_the_phases_change() {
    let world = World::onboarding().await;
    world.bootstrap().await;
    let caller = world.caller();
    let stop = Arc::new(AtomicBool::new(false));
    let connections = Arc::new([const { AtomicUsize::new(0) }; 4]);
    let loops: Vec<_> = (0..4)
        .map(|number| {
            let (stop, connections) = (Arc::clone(&stop), Arc::clone(&connections));
            let caller = if number % 2 == 0 { caller.http1() } else { caller.http2() };
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let tcp = TcpStream::connect(caller.address()).await;
                    drop(tcp.expect("the port is open"));
                    let health = caller.try_send(request("GET", "/health", "")).await;
                    assert_eq!(health.expect("an answer over TLS").text(), "OK");
                    connections[number].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let more = async || {
        let counts = || connections.each_ref().map(|count| count.load(Ordering::Relaxed));
        let before = counts();
        eventually("more connections of each", async || {
            assert!(loops.iter().all(|running| !running.is_finished()), "no refusal");
            std::iter::zip(before, counts()).all(|(before, now)| now > before + 1).then_some(())
        })
        .await;
    };
    more().await;
    world.finish().await;
    more().await;
    stop.store(true, Ordering::Relaxed);
    for running in loops {
        running.await.expect("no refusal");
    }
    assert!(
        world.caller().plain().try_send(request("GET", "/health", "")).await.is_err(),
        "no plain HTTP any more"
    );
}

#[tokio::test]
async fn connections_of_the_old_phase_get_their_answers_and_end() {
    let world = World::onboarding().await;
    world.bootstrap().await;
    let mut kept = [
        world.caller().plain().connect().await.expect("a connection"),
        world.caller().http2().connect().await.expect("a connection"),
    ];
    for line in &mut kept {
        assert_eq!(line.send(request("GET", "/health", "")).await.status, 200);
    }
    // The KMS also requests a quote for its own certificate; after that, further requests are the caller's.
    eventually("the certificate is attested", async || {
        let leaf = world.caller().connect().await.ok()?.server_certificate?;
        ra_tls::evidence_in(&leaf).expect("readable")
    })
    .await;
    world.agent.set_mode(AgentMode::Slow(Duration::from_millis(200)));
    let asked = world.agent.request_count();
    let mut busy = world.caller().plain().connect().await.expect("a connection");
    let running =
        tokio::spawn(async move { busy.send(request("GET", "/prpc/GetAttestationInfo", "")).await.status });
    let is_running = async || (world.agent.request_count() > asked).then_some(());
    eventually("the request reaches the guest agent", is_running).await;
    world.agent.set_mode(AgentMode::Up);
    world.finish().await;
    assert_eq!(running.await.expect("an answer"), 200, "what was running is answered");
    for line in kept {
        let line = tokio::sync::Mutex::new(line);
        eventually("the end of an old connection", async || {
            line.lock().await.try_send(request("GET", "/health", "")).await.err()
        })
        .await;
    }
}

#[tokio::test]
async fn a_restart_finds_the_keys_and_does_not_onboard_again() {
    let mut world = World::ready().await;
    let before = world.meta().await;
    let leaf = fs::read(world.key_file("rpc.crt")).expect("leaf");
    world.start().await.expect("starts again");
    let after = world.meta().await;
    assert_eq!((before.ca_cert, before.k256_pubkey), (after.ca_cert, after.k256_pubkey));
    assert_eq!(before.bootstrap_info, after.bootstrap_info);
    assert_ne!(leaf, fs::read(world.key_file("rpc.crt")).expect("leaf"), "issued anew, with fresh evidence");
    assert!(world.caller().plain().try_json("Bootstrap", json!({})).await.is_err());
    for name in ["Bootstrap", "Onboard", "GetAttestationInfo", "Finish"] {
        let refusal = world.caller().json(name, json!({ "domain": DOMAIN })).await.refusal();
        assert_eq!(refusal, (404, format!("Service not found: {name}")));
    }
}

#[tokio::test]
async fn what_derives_from_the_keys_is_made_again() {
    let mut world = World::ready().await;
    let before = world.meta().await;
    world.stop().await;
    for name in ["rpc.crt", "rpc.key", "root-ca.crt", "tmp-ca.crt", "bootstrap-info.json"] {
        fs::remove_file(world.key_file(name)).expect("removed");
    }
    world.start().await.expect("starts");
    let after = world.meta().await;
    assert_eq!(after.k256_pubkey, before.k256_pubkey);
    let spki = |pem: &str| ra_tls::spki_of(&certificate::der(pem).expect("PEM")).expect("key");
    assert_eq!(spki(&after.ca_cert), spki(&before.ca_cert));
    assert_eq!(after.bootstrap_info, None);
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_directory_with_half_of_the_keys_refuses_to_start_and_stays_as_it_is() {
    for (missing, names) in [
        ("root-ca.key", "root-ca.key is missing although root-k256.key is there"),
        ("root-k256.key", "root-k256.key is missing although root-ca.key is there"),
        ("tmp-ca.key", "tmp-ca.key is missing"),
    ] {
        let mut world = World::ready().await;
        world.stop().await;
        fs::remove_file(world.key_file(missing)).expect("removed");
        for toml in ["", "core.onboard.auto_bootstrap_domain = \"localhost\""] {
            world.configure(toml);
            let before = snapshot(&world);
            let error = world.start().await.expect_err("incomplete").to_string();
            assert!(error.starts_with("the key directory is incomplete ("), "{error}");
            assert!(error.contains(names) && error.ends_with("nothing was changed"), "{error}");
            assert_eq!(before, snapshot(&world), "{missing}");
        }
    }
}

fn snapshot(world: &World) -> Vec<(String, Vec<u8>)> {
    let names = key_files(world).into_iter().filter(|name| FILES.contains(&&**name));
    names.map(|name| (name.clone(), fs::read(world.key_file(&name)).expect("file"))).collect()
}

#[tokio::test]
async fn without_keys_and_without_onboarding_there_is_no_start() {
    let mut world = World::stopped_with("core.onboard.enabled = false").await;
    let error = world.start().await.expect_err("no keys").to_string();
    assert!(error.starts_with("Failed to onboard"), "{error}");
    nothing_is_stored(&world);
}

#[tokio::test]
async fn auto_bootstrap_serves_keys_at_once_and_again() {
    let mut world = World::onboarding_with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let first = world.meta().await;
    let info = first.bootstrap_info.clone().expect("a statement");
    assert_eq!(info.k256_pubkey, first.k256_pubkey);
    assert!(!info.attestation.is_empty());
    assert_eq!(fs::read_to_string(world.key_file("rpc-domain")).expect("domain"), DOMAIN);
    world.configure("core.onboard.auto_bootstrap_domain = \"other.example\"");
    world.start().await.expect("starts again");
    assert_eq!(world.meta().await.k256_pubkey, first.k256_pubkey);
    let line = world.caller().connect().await.expect("a connection");
    let leaf = line.server_certificate.expect("a certificate");
    assert!(String::from_utf8_lossy(&leaf).contains("other.example"), "the configured name is served");
    assert_eq!(fs::read_to_string(world.key_file("rpc-domain")).expect("domain"), DOMAIN, "and not written");
}

#[tokio::test]
async fn auto_bootstrap_of_a_kms_that_is_not_allowed_ends_the_start() {
    let mut world = World::stopped_with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    world.allowlist.change(|rules| rules["kms"]["mrAggregated"] = json!([]));
    let error = world.start().await.expect_err("denied").to_string();
    assert!(
        error.contains("KMS is not allowed to auto-bootstrap: boot denied: aggregated MR not allowed"),
        "{error}"
    );
    nothing_is_stored(&world);
}

#[tokio::test]
async fn auto_bootstrap_needs_no_guest_agent_where_nothing_has_to_be_attested() {
    let mut world = World::stopped_with(
        "[core]\nattest_rpc_cert = false\nenforce_self_authorization = false\n\
         onboard.auto_bootstrap_domain = \"localhost\"",
    )
    .await;
    world.agent.set_mode(AgentMode::Down);
    world.start().await.expect("starts");
    let meta = world.meta().await;
    assert_eq!((meta.bootstrap_info, meta.k256_pubkey.len()), (None, 33));
}

#[tokio::test]
async fn without_a_tee_nothing_is_attested_and_everything_says_so() {
    let toml = "[core]\ninsecure_no_tee = true\nattest_rpc_cert = false\nenforce_self_authorization = false";
    let mut world = World::stopped_with(toml).await;
    let core = world.config["core"].as_table_mut().expect("a table");
    core.remove("attester");
    world.start().await.expect("starts");
    let body = json!({ "source_url": "https://127.0.0.1:1", "domain": DOMAIN });
    let (status, text) = world.caller().plain().json("Onboard", body).await.refusal();
    assert!(
        text.starts_with("Failed to onboard: this KMS runs without a TEE (core.insecure_no_tee)"),
        "{text}"
    );
    assert_eq!(status, 400);
    let statement = world.bootstrap().await;
    assert!(statement.attestation.is_empty());
    let (status, _) = world.caller().plain().json("GetAttestationInfo", json!({})).await.refusal();
    assert_eq!(status, 503);
    let body = json!({ "source_url": "https://127.0.0.1:1", "domain": DOMAIN });
    let refusal = world.caller().plain().json("Onboard", body).await.refusal();
    assert_eq!(refusal, (400, "KMS has already been onboarded".to_owned()));
    world.finish().await;
    let meta = world.meta().await;
    assert_eq!(meta.bootstrap_info, Some(statement));
    for code in ["no_tee", "rpc_cert_not_attested", "self_authorization_off"] {
        assert!(meta.relaxed_settings.iter().any(|found| found == code), "{code}");
    }
    let leaf =
        world.caller().connect().await.expect("a connection").server_certificate.expect("a certificate");
    assert!(ra_tls::evidence_in(&leaf).expect("readable").is_none());
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200, "apps still prove what they are");
}

#[tokio::test]
async fn the_onboarding_token_guards_what_changes_state_and_nothing_else() {
    let world = World::onboarding_with("core.onboard.auth_token = \" s3cret \"").await;
    let caller = world.caller().plain();
    let refused = (401, "this KMS asks for its onboarding token".to_owned());
    let bootstrap = || json("Bootstrap", json!({ "domain": "a_b" }));
    let invalid = (400, "domain contains an invalid DNS label".to_owned());
    for call in [
        bootstrap(),
        json("Onboard.Bootstrap", json!({ "domain": "a_b" })),
        json("Onboard.Onboard.Bootstrap", json!({ "domain": "a_b" })),
        post("//prpc//Bootstrap?json", "{}"),
        post("/prpc/Onboard%2EBootstrap?json", "{}"),
        request("GET", "/prpc/Bootstrap?domain=a_b", ""),
        json("Onboard", json!({})),
        json("Finish", json!({})),
        request("GET", "/finish", ""),
        request("GET", "//finish", ""),
        with(bootstrap(), "x-onboard-token", ""),
        request("GET", "/prpc/Bootstrap?domain=a_b&token=s3cret", ""),
        json("Bootstrap?token=s3cret", json!({ "domain": "a_b" })),
    ] {
        let shown = format!("{} {:?}", call.uri(), call.headers());
        assert_eq!(caller.send(call).await.refusal(), refused, "{shown}");
    }
    assert!(world.audited("credentials_refused").is_empty(), "nothing was shown");
    let wrong = (401, "this is not the onboarding token of this KMS".to_owned());
    for call in [
        with(bootstrap(), "x-onboard-token", "S3cret"),
        with(bootstrap(), "authorization", "Bearer other"),
        with(bootstrap(), "authorization", "Basic s3cret"),
    ] {
        let shown = format!("{} {:?}", call.uri(), call.headers());
        assert_eq!(caller.send(call).await.refusal(), wrong, "{shown}");
    }
    let recorded = eventually("three lines", async || {
        Some(world.audited("credentials_refused")).filter(|lines| lines.len() == 3)
    })
    .await;
    for line in &recorded {
        assert_eq!((&line["listener"], &line["shown"]), (&json!("onboarding"), &json!("token")), "{line}");
        assert_eq!(line["remote"], "127.0.0.1");
        assert!(!line.to_string().contains("S3cret"), "{line}");
    }
    for call in [
        with(bootstrap(), "x-onboard-token", "s3cret"),
        with(bootstrap(), "authorization", "Bearer s3cret"),
        with(request("GET", "/prpc/Bootstrap?domain=a_b", ""), "x-onboard-token", "s3cret"),
    ] {
        let shown = format!("{} {:?}", call.uri(), call.headers());
        assert_eq!(caller.send(call).await.refusal(), invalid, "{shown}");
    }
    for call in
        [json("GetAttestationInfo", json!({})), request("GET", "/", ""), request("GET", "/health", "")]
    {
        assert_eq!(caller.send(call).await.status, 200);
    }
    let mut grpc = world.caller().grpc_onboard().await;
    let bootstrap = BootstrapRequest { domain: DOMAIN.to_owned() };
    let status = grpc.bootstrap(bootstrap.clone()).await.expect_err("no token");
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    assert!(grpc.get_attestation_info(()).await.is_ok());
    nothing_is_stored(&world);
    let mut request = tonic::Request::new(bootstrap);
    request.metadata_mut().insert("authorization", "Bearer s3cret".parse().expect("a header"));
    assert!(grpc.bootstrap(request).await.is_ok());
}

async fn onboard(replica: &World, source: &World) -> crate::support::Answer {
    let url = format!("https://{}", source.address());
    replica.caller().plain().json("Onboard", json!({ "source_url": url, "domain": "replica.example" })).await
}

#[tokio::test]
async fn a_replica_receives_the_keys_of_its_source_and_serves_the_same_apps() {
    let source = World::ready().await;
    let replica = World::onboarding().await;
    let answer = onboard(&replica, &source).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let received: OnboardResponse = answer.message();
    replica.finish().await;

    let (source_meta, replica_meta) = (source.meta().await, replica.meta().await);
    assert_eq!(received.k256_pubkey, source_meta.k256_pubkey);
    assert_eq!(replica_meta.k256_pubkey, source_meta.k256_pubkey);
    assert_eq!(replica_meta.bootstrap_info, None);
    assert_eq!(source.root_keys().ca_spki(), replica.root_keys().ca_spki());
    let read = |world: &World, name: &str| fs::read(world.key_file(name)).expect("file");
    assert_eq!(read(&source, "tmp-ca.key"), read(&replica, "tmp-ca.key"));
    assert_eq!(read(&source, "root-k256.key"), read(&replica, "root-k256.key"));
    assert_ne!(read(&source, "rpc.key"), read(&replica, "rpc.key"));
    assert_eq!(read(&replica, "rpc-domain"), b"replica.example");

    let app = source.app(1);
    let mut keys = Vec::new();
    // A certificate of the source's temporary CA is accepted by the replica, and vice versa.
    let identities = [source.attested(&app).await, replica.attested(&app).await];
    for world in [&source, &replica] {
        world.allow_app(&app);
        for identity in &identities {
            let answer = world.caller().shows(identity).json("GetAppKey", json!({})).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            keys.push(answer.message::<AppKeyResponse>());
        }
    }
    for other in &keys[1..] {
        assert_eq!(keys[0].disk_crypt_key, other.disk_crypt_key);
        assert_eq!(keys[0].env_crypt_key, other.env_crypt_key);
        assert_eq!(keys[0].k256_key, other.k256_key);
        assert_eq!(keys[0].k256_signature, other.k256_signature);
    }
    assert_eq!(source.audited("kms_key_released").len(), 1);
    let line = &replica.audited("keys_received")[0];
    assert_eq!(line["k256_pubkey"], hex::encode(&received.k256_pubkey));
    assert_eq!(line["domain"], "replica.example");
}

#[tokio::test]
async fn keys_are_handed_over_between_machines_that_measure_v2_events() {
    let platform = Platform::from_seed(b"integration tests");
    let machine = async |version| {
        let cvm =
            Cvm::builder(&platform).app_id([0xca; 20]).event_version(version).stage(Stage::Ready).build();
        let mut world = World::stopped_in(cvm, "").await;
        world.start().await.expect("the KMS starts");
        world
    };
    for [of_source, of_replica] in [
        [EventVersion::V2, EventVersion::V2],
        [EventVersion::V1, EventVersion::V2],
        [EventVersion::V2, EventVersion::V1],
    ] {
        let (source, replica) = (machine(of_source).await, machine(of_replica).await);
        source.bootstrap().await;
        source.finish().await;
        source.allow_kms(&replica.cvm);
        replica.allow_kms(&source.cvm);
        let answer = onboard(&replica, &source).await;
        assert_eq!(answer.status, 200, "{of_source:?} {of_replica:?}: {answer:?}");
        let line = &source.audited("kms_key_released")[0];
        assert_eq!(line["stage"], "running", "a KMS asks when it runs");
    }
}

#[tokio::test]
async fn every_usual_form_of_the_source_url_is_understood_and_a_second_onboard_refused() {
    let source = World::ready().await;
    for ending in ["", "/", "/prpc", "/prpc/", "//"] {
        let replica = World::onboarding().await;
        let url = format!("https://{}{ending}", source.address());
        let body = json!({ "source_url": url, "domain": DOMAIN });
        let caller = replica.caller().plain();
        assert_eq!(caller.json("Onboard.Onboard", body.clone()).await.status, 200, "{url}");
        let refusal = caller.json("Onboard", body).await.refusal();
        assert_eq!(refusal, (400, "KMS has already been onboarded".to_owned()));
        let refusal = caller.json("Bootstrap", json!({ "domain": DOMAIN })).await.refusal();
        assert_eq!(refusal, (400, "KMS has already been bootstrapped".to_owned()));
    }
}

#[tokio::test]
async fn a_replica_in_a_state_that_the_source_does_not_allow_gets_nothing() {
    let source = World::ready().await;
    let mut replica = World::of_another_image("").await;
    replica.allow_kms(&source.cvm);
    replica.start().await.expect("starts");
    let (_, text) = onboard(&replica, &source).await.refusal();
    assert_eq!(
        text,
        "Failed to onboard: GetKmsKey: the server answered 403: Boot denied: OS image is not allowed"
    );
    nothing_is_stored(&replica);
    source.allow_kms(&replica.cvm);
    assert_eq!(onboard(&replica, &source).await.status, 200);
}

#[tokio::test]
async fn a_source_in_a_state_that_the_replica_does_not_allow_is_not_asked_for_keys() {
    let source = World::ready().await;
    let mut replica = World::of_another_image("").await;
    source.allow_kms(&replica.cvm);
    replica.start().await.expect("starts");
    let (_, text) = onboard(&replica, &source).await.refusal();
    let reason = "boot denied: OS image is not allowed";
    assert_eq!(text, format!("Failed to onboard: Source KMS is not allowed for onboarding: {reason}"));
    assert!(source.audited("kms_key_released").is_empty());
    nothing_is_stored(&replica);
}

#[tokio::test]
async fn a_replica_that_cannot_prove_itself_gets_nothing_until_it_can() {
    let source = World::ready().await;
    let replica = World::onboarding().await;
    let vm_info = "Failed to onboard: Failed to get VM info";
    let evidence =
        "Failed to onboard: no attestation for the client certificate: own evidence is for other report data";
    for (mode, text) in [
        (AgentMode::Down, vm_info),
        (AgentMode::Disconnecting, vm_info),
        (AgentMode::Garbage, vm_info),
        (AgentMode::Endless, vm_info),
        (AgentMode::WrongFields, vm_info),
        (AgentMode::WrongReportData, evidence),
    ] {
        replica.agent.set_mode(mode);
        assert_eq!(onboard(&replica, &source).await.refusal(), (503, text.to_owned()), "{mode:?}");
        nothing_is_stored(&replica);
    }
    assert!(source.audited("kms_key_released").is_empty());
    replica.agent.set_mode(AgentMode::Up);
    assert_eq!(onboard(&replica, &source).await.status, 200);
}

#[tokio::test]
async fn a_source_is_not_trusted_while_the_replicas_own_back_end_is_silent() {
    let source = World::ready().await;
    let closed = Closed::new();
    let address = closed.address();
    let toml = format!("core.auth_api = {{ type = \"webhook\", webhook.url = \"http://{address}/path\" }}");
    let replica = World::onboarding_with(&toml).await;
    let text = "Failed to onboard: Source KMS is not allowed for onboarding: failed to call KMS auth check: the \
                authorization backend does not answer";
    assert_eq!(onboard(&replica, &source).await.refusal(), (503, text.to_owned()));
    nothing_is_stored(&replica);
    assert!(source.audited("kms_key_released").is_empty());
}

#[tokio::test]
async fn keys_that_cannot_be_saved_are_told_and_received_again() {
    let source = World::ready().await;
    let replica = World::onboarding().await;
    // A directory in place of a file: nothing is written beside it.
    let in_the_way = replica.key_file("root-ca.crt");
    fs::create_dir(&in_the_way).expect("a directory");
    let refusal = onboard(&replica, &source).await.refusal();
    assert_eq!(refusal, (500, "Failed to store keys".to_owned()));
    fs::remove_dir(&in_the_way).expect("removed");
    nothing_is_stored(&replica);
    assert_eq!(onboard(&replica, &source).await.status, 200);
    replica.finish().await;
    assert_eq!(replica.meta().await.k256_pubkey, source.meta().await.k256_pubkey);
}

#[tokio::test]
async fn sources_that_are_none_are_told_apart() {
    let replica = World::onboarding().await;
    let nobody = Closed::new();
    let closed = nobody.address();
    let onboarding = World::onboarding().await;
    let unattested = World::ready_with("core.attest_rpc_cert = false").await;
    let prefix = "Failed to send request: error sending request for url";
    let caller = replica.caller().plain();
    for (url, text) in [
        (String::new(), "not a URL: expected https://host[:port][/path]".to_owned()),
        ("nonsense".into(), "not a URL: expected https://host[:port][/path]".into()),
        (format!("http://{closed}"), "the URL of a KMS starts with https://".into()),
        ("https://user:pw@host".into(), "the URL of a KMS has no user name or password".into()),
        (
            format!("https://{closed}"),
            format!(
                "{prefix} (https://{closed}/prpc/GetTempCaCert?json): connection failed: Connection refused"
            ),
        ),
        (
            format!("https://{}", onboarding.address()),
            "the source KMS has no keys yet: it is being onboarded itself".into(),
        ),
        (
            format!("https://{}", unattested.address()),
            "Source KMS certificate does not contain attestation".into(),
        ),
    ] {
        let body = json!({ "source_url": url, "domain": DOMAIN });
        let (status, found) = caller.json("Onboard", body).await.refusal();
        assert!(found.starts_with(&format!("Failed to onboard: {text}")), "{url}: {found}");
        assert_ne!(status, 500, "{url}");
        nothing_is_stored(&replica);
    }
}

#[tokio::test]
async fn the_answers_of_bootstrap_are_what_operators_paste() {
    let world = World::onboarding().await;
    let body = json!({ "domain": "10.0.2.2" }).to_string();
    let call = with(post("/prpc/Bootstrap", body), "content-type", "application/x-www-form-urlencoded");
    let answer: Value = world.caller().plain().send(call).await.value();
    let keys: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["ca_pubkey", "k256_pubkey", "attestation"]);
    let text = |key: &str| answer[key].as_str().expect("hex").to_owned();
    assert!(text("ca_pubkey").starts_with("3059301306072a8648ce3d020106082a8648ce3d03010703420004"));
    assert_eq!((text("ca_pubkey").len(), text("k256_pubkey").len()), (182, 66));
    world.caller().plain().get("/finish").await;
    eventually("keys", async || {
        world.caller().try_json("GetMeta", json!({})).await.ok().filter(|a| a.status == 200)
    })
    .await;
}
