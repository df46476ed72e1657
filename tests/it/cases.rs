//! The cases of the peer's acceptance suite that need no hardware and are not covered elsewhere, each under
//! its name. `docs/compatibility.md` lists them, and says why some differ on purpose.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::faults::{Fault, FaultServer, Reply, SECRET};
use crate::support::http::{post, with};
use crate::support::process::run;
use crate::support::{Identity, World, csr};
use cvm_kms::config::Config;
use cvm_kms::proto::{AppKeyResponse, PrpcError, SignCertRequest, SignCertResponse};
use kms_attest::binding::ReportData;
use kms_attest::csr::Csr;
use kms_attest::evidence::{Evidence, Platform, Tdx, TpmPlatform, TpmQuote};
use kms_attest::p256::P256Key;
use kms_attest::{certificate, ra_tls};
use kms_client::sign::sign_cert_request;
use kms_simulator::Cvm;
use serde_json::{Value, json};

const RELEASED_0_6_0: &str = include_str!("../support/released-0.6.0.toml");
const AUTO_BOOTSTRAP: &str = "core.onboard.auto_bootstrap_domain = \"localhost\"";

async fn app_key(world: &World, app: &Cvm) -> crate::support::Answer {
    world.caller().shows(&Identity::self_issued(app)).json("GetAppKey", json!({})).await
}

#[tokio::test]
async fn kms_004_get_meta_describes_the_kms_to_anyone_and_says_whether_images_are_verified() {
    let mut world = World::ready().await;
    let first = world.meta().await;
    assert!(first.ca_cert.contains("BEGIN CERTIFICATE") && first.k256_pubkey.len() == 33 && !first.is_dev);
    assert!(first.bootstrap_info.is_some());
    assert_eq!(first.os_image_verification, Some(false));
    let again = world.meta().await;
    assert_eq!((again.ca_cert, again.k256_pubkey), (first.ca_cert.clone(), first.k256_pubkey.clone()));
    world.configure("core.image.verify = true");
    world.start().await.expect("starts");
    let verifying = world.meta().await;
    assert_eq!(verifying.os_image_verification, Some(true));
    assert_eq!(verifying.k256_pubkey, first.k256_pubkey);
}

/// An allowed app, and its request for everything that it may have.
async fn signing() -> (World, Arc<Cvm>, P256Key, Csr) {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let key = P256Key::generate();
    let csr = Csr {
        subject_alt_names: vec!["app.example".to_owned()],
        usage_client_auth: true,
        ext_quote: true,
        ext_app_info: true,
        ..csr(&app, &key)
    };
    (world, app, key, csr)
}

async fn sign(world: &World, request: &SignCertRequest) -> crate::support::Answer {
    world.caller().json("SignCert", serde_json::to_value(request).expect("JSON")).await
}

#[tokio::test]
async fn kms_006_sign_cert_needs_no_client_certificate_and_an_unaltered_request() {
    let (world, _, key, csr) = signing().await;
    let good = sign_cert_request(&csr, &key, "");
    let answer = sign(&world, &good).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let chain = answer.message::<SignCertResponse>().certificate_chain;
    assert_eq!(chain.len(), 3);
    assert!(chain.iter().all(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----")));
    let leaf = certificate::der(&chain[0]).expect("PEM");
    assert!(leaf.windows(8).any(|bytes| bytes == b"\x89\xa6app_id"), "app info is a map of nine");
    let altered = |change: fn(&mut SignCertRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for (what, request) in [
        ("signature", altered(|request| *request.signature.last_mut().expect("bytes") ^= 1)),
        ("request", altered(|request| request.csr[40] ^= 1)),
        ("version", altered(|request| request.api_version = 3)),
    ] {
        let answer = sign(&world, &request).await;
        assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
    }
    assert_eq!(world.audited("certificate_issued").len(), 1);
}

#[tokio::test]
async fn keys_certs_004_a_leaf_states_what_was_verified() {
    let (world, app, key, csr) = signing().await;
    let request = sign_cert_request(&csr, &key, app.vm_config());
    let answer = sign(&world, &request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let chain = answer.message::<SignCertResponse>().certificate_chain;
    let leaf = certificate::der(&chain[0]).expect("PEM");
    let info = ra_tls::app_info_in(&leaf).expect("readable").expect("there");
    assert_eq!(info.device_id, world.platform.device_id(), "32 bytes, of the PPID");
    assert_eq!(info.os_image_hash, app.os_image_hash());
    assert_eq!(ra_tls::special_usage(&leaf).expect("readable").as_deref(), Some("app:custom"));
    // Nothing is signed if the request's configuration differs from the one in the evidence.
    let other = Cvm::builder(&world.platform).os_image_hash([9; 32]).build();
    let request = sign_cert_request(&csr, &key, other.vm_config());
    assert_eq!(sign(&world, &request).await.status, 403);
}

/// Evidence of each platform that is not implemented, with its name in the refusal.
fn other_platforms() -> [(&'static str, Platform); 4] {
    let tpm = TpmQuote {
        message: vec![1],
        signature: vec![2],
        pcr_values: Vec::new(),
        ak_cert: Vec::new(),
        platform: TpmPlatform::Gcp,
        event_log: Vec::new(),
    };
    [
        (
            "sev-snp",
            Platform::SevSnp { report: vec![0; 1184], cert_chain: Vec::new(), mr_config: String::new() },
        ),
        ("gcp-tdx", Platform::GcpTdx { tdx: Tdx::default(), tpm }),
        ("aws-nitro-tpm", Platform::AwsNitroTpm { attestation_doc: vec![1] }),
        ("nitro-enclave", Platform::NitroEnclave { nsm_quote: vec![1] }),
    ]
}

/// Nothing is released to these platforms, even with their settings on, and a TDX guest is still served
/// afterwards.
async fn are_refused_by_name(names: &[&str]) {
    let gates = "core.sev_snp_key_release = true\ncore.aws_nitro_tpm_key_release = true\n\
                 core.nitro_enclave_key_release = true";
    for gates in ["", gates] {
        let world = World::ready_with(gates).await;
        let app = world.app(1);
        world.allow_app(&app);
        world.allow_kms(&app);
        let temp_ca = world.temp_ca().await;
        let mut tried = 0;
        for (name, platform) in other_platforms().into_iter().filter(|(name, _)| names.contains(name)) {
            tried += 1;
            let key = P256Key::generate();
            let evidence = app.evidence(ReportData::ra_tls(&key.spki_der()));
            let evidence = Evidence { platform, ..evidence };
            let caller = world.caller().shows(&Identity::with_evidence(&temp_ca, &key, &evidence));
            for method in ["GetAppKey", "GetKmsKey"] {
                let (status, text) = caller.json(method, json!({})).await.refusal();
                let expected = format!("invalid quote: verification of {name} evidence is not supported");
                assert_eq!(status, 401, "{name}: {text}");
                assert!(text.starts_with(&expected), "{method}: {text}");
            }
        }
        assert_eq!(tried, names.len());
        assert!(world.audited("app_key_released").is_empty() && world.audited("kms_key_released").is_empty());
        assert_eq!(app_key(&world, &app).await.status, 200, "a TDX guest of the same app");
    }
}

#[tokio::test]
async fn attestatio_002_sev_snp_is_refused_by_name_whatever_its_gate_says() {
    are_refused_by_name(&["sev-snp"]).await;
}

#[tokio::test]
async fn attestatio_003_gcp_and_nitro_tpm_are_refused_by_name_whatever_their_gate_says() {
    are_refused_by_name(&["gcp-tdx", "aws-nitro-tpm"]).await;
}

#[tokio::test]
async fn platform_006_nitro_enclaves_are_refused_by_name_whatever_their_gate_says() {
    are_refused_by_name(&["nitro-enclave"]).await;
}

#[tokio::test]
async fn attestatio_005_a_file_of_the_released_peer_starts_and_serves() {
    let mut world = World::stopped_with("").await;
    let (certs, root) = (world.path("certs"), world.path("root.der"));
    let files = world.path("admin");
    fs::create_dir(&files).expect("a directory");
    let path = |name: &str| files.join(name).to_str().expect("text").to_owned();
    let arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let (key, crt) = (path("admin.key"), path("admin.crt"));
    let rest = ["-subj", "/CN=localhost", "-keyout", &key, "-out", &crt];
    run("openssl", &[&arguments[..], &rest].concat(), "").await.expect_ok();
    // Only paths and addresses of the test's surroundings are replaced.
    let text = RELEASED_0_6_0
        .replace("/etc/kms/certs/admin.", &path("admin."))
        .replace("/etc/kms/certs", certs.to_str().expect("text"))
        .replace("/tmp/root.pem", root.to_str().expect("text"))
        .replace("http://127.0.0.1:18081", &world.pccs.url())
        .replace("port = 18000", "port = 0")
        .replace("port = 18001", "port = 0");
    world.config = text.parse().expect("TOML");
    // Set by the environment in the peer's suite.
    world.configure(&format!("core.attester.address = {:?}", world.agent.address()));
    let app = world.app(1);
    let mut keys = Vec::new();
    for start in ["the first start", "the second start"] {
        world.start().await.unwrap_or_else(|error| panic!("{start}: {error}"));
        let described = world.meta().await;
        assert_eq!((described.os_image_verification, described.is_dev), (Some(false), true), "{start}");
        let answer = app_key(&world, &app).await;
        assert_eq!(answer.status, 200, "{start}: {answer:?}");
        let mut answer = answer.message::<AppKeyResponse>();
        // Each release has its own receipt.
        assert!(answer.receipt.take().is_some(), "{start}");
        keys.push(answer);
        let replica = world.caller().shows(&Identity::self_issued(&world.replica()));
        let (status, text) = replica.json("GetKmsKey", json!({})).await.refusal();
        let disabled = "public KMS key handover is disabled; use the admin listener";
        assert_eq!((status, &*text), (403, disabled), "{start}");
        let admin = crate::support::Caller::new(world.admin_address().await)
            .shows(&Identity::self_issued(&world.replica()));
        let call = with(post("/prpc/GetKmsKey?json", "{}"), "authorization", "Bearer token");
        assert_eq!(admin.send(call).await.status, 200, "{start}");
    }
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[0].gateway_app_id, "any");
    // Unknown keys are refused here, by name.
    for unknown in
        ["core.onboard.colour = 1", "core.attestation.colour = 1", "core.auth_api.webhook.colour = 1"]
    {
        let text = format!("{unknown}\n");
        let error = Config::from_toml(&text).err().expect("an unknown key").to_string();
        assert!(error.contains("colour: unknown key"), "{error}");
    }
}

#[tokio::test]
async fn keys_certs_008_two_counters_are_integers_and_count_good_and_bad_calls() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let counters = async || {
        let metrics = world.caller().get("/metrics").await.text().to_owned();
        ["dstack_kms_attestation_requests_total ", "dstack_kms_attestation_failures_total "].map(|name| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the counter");
            line.parse::<u64>().expect("an integer")
        })
    };
    let before = counters().await;
    for _ in 0..2 {
        assert_eq!(app_key(&world, &app).await.status, 200);
        assert_eq!(app_key(&world, &world.app(2)).await.status, 403);
    }
    assert_eq!(counters().await, [before[0] + 4, before[1] + 2]);
    // Ours also has metrics with labels and fractions, which the peer has not.
    let metrics = world.caller().get("/metrics").await.text().to_owned();
    assert!(metrics.lines().any(|line| line.starts_with("cvm_kms_requests_total{")));
}

/// A KMS that uses this webhook for apps only, with a timeout of two seconds.
async fn asking(server: &FaultServer) -> World {
    let webhook = format!("url = \"{}\", timeout = \"2s\"", server.url());
    World::ready_with(&format!(
        "[core]\nenforce_self_authorization = false\nauth_api = {{ type = \"webhook\", webhook = {{ {webhook} }} }}"
    ))
    .await
}

#[tokio::test]
async fn keys_certs_008_get_meta_answers_while_the_webhook_is_silent_and_keys_are_refused_in_time() {
    let server = FaultServer::answering(Reply::allowing).await;
    let world = asking(&server).await;
    let app = world.app(1);
    assert_eq!(app_key(&world, &app).await.status, 200);
    server.suffer(Fault::Hanging).await;
    let began = Instant::now();
    assert_eq!(app_key(&world, &app).await.status, 503);
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    // The peer's fails here. Ours never calls the backend for it.
    let answer = world.caller().json("GetMeta", json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn contents(world: &World) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(world.key_file("")).expect("a directory").flatten();
    let mut files: Vec<_> = entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("a file"))
        })
        .filter(|(name, _)| name.ends_with(".key"))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn keys_certs_009_root_keys_without_a_certificate_are_kept_and_served() {
    let mut world = World::ready().await;
    let before = world.meta().await;
    world.stop().await;
    let keys = contents(&world);
    fs::remove_file(world.key_file("rpc.crt")).expect("removed");
    world.configure(AUTO_BOOTSTRAP);
    world.start().await.expect("the peer's refuses; here the certificate is made again");
    assert_eq!(world.meta().await.k256_pubkey, before.k256_pubkey, "no new identity");
    assert_eq!(contents(&world), keys, "no key is touched");
}

#[tokio::test]
async fn keys_certs_009_one_root_key_alone_is_never_replaced() {
    let mut world = World::stopped_with(AUTO_BOOTSTRAP).await;
    fs::create_dir_all(world.key_file("")).expect("a directory");
    let file = world.key_file("root-ca.key");
    fs::write(&file, "junk").expect("a file");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
    let error = world.start().await.expect_err("the peer's makes a new identity; here somebody has to look");
    assert!(error.to_string().contains("the key directory is incomplete"), "{error}");
    assert_eq!(contents(&world), [("root-ca.key".to_owned(), b"junk".to_vec())]);
}

#[tokio::test]
async fn auth_001_the_allowlist_is_read_again_and_fails_closed() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let good = fs::read_to_string(world.allowlist.path()).expect("an allowlist");
    let id = hex::encode([1; 20]);
    let ask = async || app_key(&world, &app).await;
    assert_eq!(ask().await.status, 200);
    let denied = |reason: &str| (403, format!("App not allowed: Boot denied: {reason}"));

    world.allowlist.change(|rules| {
        rules["apps"][&id]["allowAnyDevice"] = json!(false);
        rules["apps"][&id]["devices"] = json!([]);
    });
    assert_eq!(ask().await.refusal(), denied("app is not allowed to boot on this device"));
    world.allowlist.change(|rules| {
        rules["apps"][&id]["devices"] = json!([hex::encode(world.platform.device_id())]);
    });
    assert_eq!(ask().await.status, 200);
    world.allowlist.change(|rules| rules["apps"][&id]["composeHashes"] = json!([]));
    assert_eq!(ask().await.status, 403);
    for broken in ["", "{", "[]", "null"] {
        world.allowlist.write_text(broken);
        assert_ne!(ask().await.status, 200, "{broken:?}");
    }
    // A KMS without a device id is denied too.
    world.allowlist.write_text(&good);
    world.allowlist.change(|rules| {
        rules["kms"]["allowAnyDevice"] = json!(false);
        rules["kms"]["devices"] = json!([]);
    });
    let (status, text) = ask().await.refusal();
    assert_eq!(status, 403);
    assert!(text.ends_with("KMS is not allowed to boot on this device"), "{text}");
    world.allowlist.write_text(&good);
    assert_eq!(ask().await.status, 200);
}

#[tokio::test]
async fn auth_010_no_decision_is_kept_and_malformed_identities_are_refused_before_the_question() {
    let server = FaultServer::answering(Reply::allowing).await;
    let world = asking(&server).await;
    let questions = || server.asked().iter().filter(|asked| asked.path.ends_with("/bootAuth/app")).count();
    let app = world.app(1);
    for number in 1..=3 {
        assert_eq!(app_key(&world, &app).await.status, 200);
        assert_eq!(questions(), number, "each request asks");
    }
    for (event, payload, accepted) in [
        ("compose-hash", vec![], false),
        ("compose-hash", vec![1; 31], false),
        ("compose-hash", vec![1; 33], false),
        ("app-id", vec![1; 19], false),
        ("instance-id", vec![1; 19], false),
        ("instance-id", vec![], true),
    ] {
        let mut events = app.runtime_events();
        let length = payload.len();
        events.iter_mut().find(|found| found.event == event).expect("an event").payload = payload;
        let guest = Cvm::builder(&world.platform).runtime_events(events).build();
        let before = questions();
        let answer = app_key(&world, &guest).await;
        assert_eq!(answer.status == 200, accepted, "{event} of {length} bytes: {answer:?}");
        assert!(accepted || (400..500).contains(&answer.status), "{event} of {length} bytes: {answer:?}");
        assert_eq!(questions() - before, usize::from(accepted), "{event} of {length} bytes");
    }
    let text = format!("{}{}", "é€🦀".repeat(400), SECRET).into_bytes();
    for fault in [Fault::Page(200, b"{\"isAllowed\": 1}".to_vec()), Fault::Page(500, text), Fault::Hanging] {
        let name = fault.to_string();
        server.suffer(fault).await;
        let began = Instant::now();
        let (status, text) = app_key(&world, &app).await.refusal();
        assert_eq!(status, 503, "{name}: {text}");
        assert!(text.len() <= 2048 && !text.contains(SECRET), "{name}: {text}");
        assert!(began.elapsed() < Duration::from_secs(40), "{name}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn contract_001_only_the_content_type_and_the_query_choose_the_encoding() {
    let world = World::ready().await;
    let app_id = hex::encode([1; 20]);
    let good = json!({ "app_id": app_id }).to_string();
    let call = |query: &str, kind: Option<&str>, body: &str| {
        let call = post(&format!("/prpc/GetAppEnvEncryptPubKey{query}"), body.to_owned());
        match kind {
            Some(kind) => with(call, "content-type", kind),
            None => call,
        }
    };
    let octets = "application/octet-stream";
    for (query, kind, body, status, answered) in [
        ("", Some("application/json"), good.as_str(), 200, "application/json"),
        ("?json", None, &good, 200, "application/json"),
        ("", Some("application/json"), "{", 400, "application/json"),
        ("?json", Some(octets), "{", 400, "application/json"),
        ("", None, "{}", 400, octets),
        ("", Some("application/x-not-a-thing"), "{}", 400, octets),
        ("", Some(octets), r#"{"path":"a"}"#, 400, octets),
        ("", None, &good, 400, octets),
        // What `curl -d` sends, in each document of the peer's.
        ("", Some("application/x-www-form-urlencoded"), &good, 200, "application/json"),
    ] {
        let answer = world.caller().send(call(query, kind, body)).await;
        let found = (answer.status, answer.header("content-type").split(';').next().unwrap_or_default());
        assert_eq!(found, (status, answered), "{query} {kind:?} {body}");
        if answered == octets {
            let error: PrpcError = answer.decoded();
            assert!(!error.message.is_empty(), "{query} {kind:?} {body}");
        } else if status != 200 {
            assert!(answer.value()["error"].is_string(), "{query} {kind:?} {body}");
        }
    }
    let large = "x".repeat(300 << 10);
    for kind in [None, Some("application/json"), Some("application/x-not-a-thing")] {
        let answer = world.caller().send(call("", kind, &large)).await;
        assert_eq!(answer.status, 413, "{kind:?}: {answer:?}");
    }
    let alive: Value = world.caller().send(call("?json", None, &good)).await.value();
    assert!(alive["public_key"].is_string());
}
