//! Unmodified third-party clients against a real KMS: SDKs, gRPC, quote verifiers, and the calls of known
//! tools.
//!
//! Their packages are pinned in `tests/clients`, and installed into `target/tools` once.

use std::process::Command;

use crate::support::process::{Ran, finish};
use crate::support::program::Setting;
use crate::support::{ADMIN_TOKEN, DOMAIN, World, eventually, tools};
use aes_gcm::aead::Aead as _;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use cvm_kms::keys::statement;
use cvm_kms::proto::{AppKeyResponse, GetMetaResponse, PublicKeyResponse};
use kms_attest::binding::ReportData;
use kms_attest::evidence::Evidence;
use kms_attest::identity::AppId;
use kms_attest::measurement::EventVersion;
use kms_attest::ra_tls;
use kms_ledger::Hash;
use kms_ledger::proof::InclusionProof;
use kms_ledger::proof_file::ProofFile;
use kms_ledger::signature::SigningKey;
use kms_simulator::{Cvm, GuestAgent, KeyProvider, Platform, Stage};
use serde_json::{Value, json};

/// Runs `tests/clients/python/<script>` with pinned packages.
pub(crate) async fn python(script: &str, arguments: &[&str], input: &Value) -> Ran {
    let mut command = Command::new(off_runtime(|| tools::python("clients/python")).await);
    // No compiled files beside the scripts, nothing of the caller's Python, no proxy for 127.0.0.1.
    command
        .args(["-B", "-E"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python/").to_owned() + script);
    answer_of(command, arguments, input).await
}

/// Runs `tests/clients/node/<script>` with pinned packages.
async fn node(script: &str, arguments: &[&str], input: &Value) -> Ran {
    let directory = off_runtime(|| tools::npm("clients/node")).await;
    let mut command = Command::new(tools::program("node"));
    command.arg(directory.join(script));
    answer_of(command, arguments, input).await
}

async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the tools are installed")
}

async fn answer_of(mut command: Command, arguments: &[&str], input: &Value) -> Ran {
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command.args(arguments);
    finish(command, input.to_string()).await.expect_ok()
}

/// The output of a script.
pub(crate) fn said(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.text()))
}

/// The env key of an app, as deployers fetch it, and the keys of the app.
async fn env_key_and_keys(world: &World, app: &Cvm) -> (PublicKeyResponse, AppKeyResponse) {
    world.allow_app(app);
    let request = json!({ "app_id": hex::encode(app.app_id()) });
    let key = world.caller().json("GetAppEnvEncryptPubKey", request).await.message();
    let caller = world.caller().shows(&world.attested(app).await);
    (key, caller.json("GetAppKey", json!({})).await.message())
}

/// The plaintext for the guest: `ephemeral key ‖ nonce ‖ ciphertext ‖ tag`, decrypted with the released key.
fn opened(blob: &Value, secret: &[u8]) -> Value {
    let blob = hex::decode(blob.as_str().expect("a blob")).expect("hex");
    let secret: [u8; 32] = secret.try_into().expect("32 bytes");
    let ephemeral: [u8; 32] = blob[..32].try_into().expect("32 bytes");
    let shared = x25519_dalek::StaticSecret::from(secret).diffie_hellman(&ephemeral.into());
    let cipher = Aes256Gcm::new_from_slice(shared.as_bytes()).expect("32 bytes");
    let nonce = blob[32..44].try_into().expect("12 bytes");
    let text = cipher.decrypt(nonce, &blob[44..]).expect("the blob opens");
    serde_json::from_slice(&text).expect("JSON")
}

/// A signature to verify, and whether it must be by the root key.
struct Check {
    name: &'static str,
    request: Value,
    is_good: bool,
}

fn checks(world: &World, app: &Cvm, key: &PublicKeyResponse) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |name, is_good, changes: Value| {
        let mut request = json!({
            "public_key": hex::encode(&key.public_key),
            "signature": hex::encode(&key.signature_v1),
            "app_id": hex::encode(app.app_id()),
            "timestamp": key.timestamp,
            "max_age": null,
        });
        for (field, value) in changes.as_object().expect("an object") {
            request[field] = value.clone();
        }
        checks.push(Check { name, request, is_good });
    };
    let undated = json!({ "timestamp": null, "signature": hex::encode(&key.signature) });
    let with_prefix = json!({ "app_id": format!("0x{}", hex::encode(app.app_id())) });
    check("as answered", true, json!({}));
    check("app id with 0x", true, with_prefix);
    check("without a date", true, undated);
    check("dated signature taken for the undated", false, json!({ "timestamp": null }));
    check(
        "undated signature taken for the dated",
        false,
        json!({ "signature": hex::encode(&key.signature) }),
    );
    check("another app", false, json!({ "app_id": "02".repeat(20) }));
    check("another public key", false, json!({ "public_key": "09".repeat(32) }));
    check("another time", false, json!({ "timestamp": key.timestamp - 1 }));
    for (name, byte) in [("r altered", 5), ("s altered", 40), ("v altered", 64)] {
        let mut signature = key.signature_v1.clone();
        signature[byte] ^= 1;
        check(name, false, json!({ "signature": hex::encode(signature) }));
    }
    let mut short = key.signature_v1.clone();
    short.pop();
    check("64 bytes", false, json!({ "signature": hex::encode(short) }));

    // Signed by the root key, so that only the age is wrong.
    let public_key: [u8; 32] = key.public_key.as_slice().try_into().expect("32 bytes");
    let root = world.root_keys();
    let mut at = |name, is_good, timestamp: u64, max_age: Option<u64>| {
        let signature =
            statement::sign_env_public_key_at(&root, &AppId(*app.app_id()), &public_key, timestamp);
        let changes =
            json!({ "timestamp": timestamp, "signature": hex::encode(signature), "max_age": max_age });
        check(name, is_good, changes);
    };
    at("ten minutes old", false, key.timestamp - 600, None);
    at("ten minutes old where an hour may be", true, key.timestamp - 600, Some(3600));
    at("ten minutes ahead", false, key.timestamp + 600, None);
    checks
}

#[tokio::test]
async fn the_sdks_accept_our_env_keys_and_the_app_reads_what_they_encrypt() {
    let world = World::ready().await;
    let app = world.app(1);
    let (key, keys) = env_key_and_keys(&world, &app).await;
    let root = format!("0x{}", hex::encode(world.meta().await.k256_pubkey));
    let checks = checks(&world, &app, &key);
    let environments = [
        json!([{ "key": "TOKEN", "value": "secret" }, { "key": "EMPTY", "value": "" }]),
        json!([{ "key": "TEXT", "value": "two\nlines, \"quotes\", a \\ and ünïcödé 🔑" }]),
        json!([]),
    ];
    let public_key = hex::encode(&key.public_key);
    let asked = json!({
        "checks": checks.iter().map(|check| &check.request).collect::<Vec<_>>(),
        "environments": environments.iter().flat_map(|env| [
            json!({ "env": env, "public_key": public_key }),
            json!({ "env": env, "public_key": format!("0x{public_key}") }),
        ]).collect::<Vec<_>>(),
    });
    for (sdk, ran) in [
        ("dstack-sdk", python("sdk_env.py", &[], &asked).await),
        ("@phala/dstack-sdk", node("sdk-env.mjs", &[], &asked).await),
    ] {
        let answer = said(&ran);
        let signers = answer["signers"].as_array().expect("a list");
        assert_eq!(signers.len(), checks.len(), "{sdk}");
        for (check, signer) in checks.iter().zip(signers) {
            assert_eq!(*signer == json!(root), check.is_good, "{sdk}: {}: {signer}", check.name);
        }
        let blobs = answer["blobs"].as_array().expect("a list");
        assert_eq!(blobs.len(), 2 * environments.len(), "{sdk}");
        for (index, blobs) in blobs.iter().enumerate() {
            for blob in blobs.as_array().expect("a list") {
                let env = &environments[index / 2];
                assert_eq!(opened(blob, &keys.env_crypt_key), json!({ "env": env }), "{sdk}");
            }
        }
    }
}

#[tokio::test]
async fn vmm_cli_and_dstack_cloud_get_the_env_key_in_their_own_ways() {
    let world = World::ready().await;
    let app = world.app(1);
    let (key, keys) = env_key_and_keys(&world, &app).await;
    let root = format!("0x{}", hex::encode(world.meta().await.k256_pubkey));
    let base = format!("https://{}", world.address());
    let id = hex::encode(app.app_id());
    let asked = json!([
        ["vmm-cli", base, id],
        ["vmm-cli", format!("{base}/prpc/with/a/path?and=query"), format!("0x{id}")],
        ["dstack-cloud", base, id],
        ["dstack-cloud", format!("{base}/"), format!("0x{id}")],
        ["vmm-cli", base, "00"],
        ["dstack-cloud", base, "00"],
    ]);
    let answer = said(&python("deployers.py", &[], &asked).await);
    for (index, from) in ["vmm-cli", "vmm-cli", "dstack-cloud", "dstack-cloud"].into_iter().enumerate() {
        let got = &answer[index];
        assert_eq!(got["public_key"], hex::encode(&key.public_key), "{got}");
        assert_eq!(got["signer"], root, "{got}");
        if from == "vmm-cli" {
            assert_eq!(got["older_signer"], root, "{got}");
        }
        let env = json!({ "env": [{ "key": "FROM", "value": from }] });
        assert_eq!(opened(&got["blob"], &keys.env_crypt_key), env);
    }
    let refused = json!({ "asks_the_operator": true, "error": "app_id must be 20 bytes, got 1" });
    assert_eq!(answer[4], refused);
    assert_eq!(answer[5], json!({ "raised": 400 }));
}

#[tokio::test]
async fn the_sdks_talk_to_the_simulated_guest_agent() {
    let world = World::ready().await;
    for (name, is_python) in [("python", true), ("node", false)] {
        let app = world.app(7);
        app.finish_boot(&KeyProvider::Kms(vec![1]));
        let socket = world.path(&format!("{name}.sock"));
        let _agent = GuestAgent::serve(&app, &socket).await.expect("guest agent");
        let (before, aggregated) = (app.td_report([0; 64]), app.mr_aggregated());
        let mut report_data = [0; 64];
        report_data[..13].copy_from_slice(b"by dstack-sdk");
        let (quote, evidence) = (app.quote(report_data), app.evidence(ReportData(report_data)));

        let socket = socket.display().to_string();
        let ran = match is_python {
            true => python("sdk_agent.py", &[&socket], &Value::Null).await,
            false => node("sdk-agent.mjs", &[&socket], &Value::Null).await,
        };
        let got = said(&ran);
        let registers = &before.registers;
        let registers =
            [registers.rt_mr0, registers.rt_mr1, registers.rt_mr2, before.rt_mr3].map(hex::encode);
        assert_eq!(got["reachable"], true, "{name}");
        assert_eq!(got["version"], "0.6.0", "{name}");
        assert_eq!(got["app_id"], hex::encode(app.app_id()), "{name}");
        assert_eq!(got["instance_id"], hex::encode(app.instance_id()), "{name}");
        assert_eq!(got["vm_config"], app.vm_config(), "{name}");
        assert_eq!(got["mr_aggregated"], hex::encode(aggregated), "{name}");
        assert_eq!(got["before"], json!(registers), "{name}");
        assert_eq!(got["replayed"], json!(registers), "{name}: the event log replays to the registers");
        let after = hex::encode(app.td_report([0; 64]).rt_mr3);
        assert_ne!(after, registers[3], "{name}: an event was measured");
        assert_eq!([&got["after"], &got["replayed_after"]], [&json!(after); 2], "{name}");
        assert_eq!(got["last_event"], json!([format!("from-{name}"), "00ff"]));
        assert_eq!(got["quote"], hex::encode(quote), "{name}");
        assert_eq!(got["report_data"], hex::encode(report_data), "{name}");
        let attestation = hex::decode(got["attestation"].as_str().expect("hex")).expect("hex");
        assert_eq!(Evidence::decode(&attestation).expect("evidence"), evidence, "{name}");
        assert!(got["too_long"].as_str().expect("an error").contains("64 bytes"), "{name}: {got}");
        assert!(!got["no_key"].is_null(), "{name}: keys of apps are none of the simulator's calls");
    }
}

#[tokio::test]
async fn a_guest_in_python_boots_over_a_name_and_over_an_address() {
    for domain in [DOMAIN, "127.0.0.1"] {
        let world = World::onboarding().await;
        let answer = world.caller().plain().json("Bootstrap", json!({ "domain": domain })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let bootstrap = answer.value();
        world.finish().await;
        let app = world.app(1);
        let agent = GuestAgent::serve(&app, world.path("guest.sock")).await.expect("guest agent");
        let asked = json!({
            "url": format!("https://{domain}:{}", world.address().port()),
            "agent": agent.address().strip_prefix("unix:"),
            "pccs": world.pccs.url(),
            "root": hex::encode(world.platform.root_der()),
        });

        let denied = said(&python("guest.py", &[], &asked).await);
        assert_eq!(denied["server"], json!({ "usage": "kms:rpc", "status": "UpToDate", "bound": true }));
        assert_eq!(denied["status"], 403, "{denied}");
        assert_eq!(denied["answer"]["error"], "App not allowed: Boot denied: app not registered");

        world.allow_app(&app);
        let mut got = said(&python("guest.py", &[], &asked).await);
        assert_eq!(got["status"], 200, "{got}");
        assert_eq!(got["key_provider_id"], bootstrap["ca_pubkey"], "what apps pin");
        let caller = world.caller().shows(&world.attested(&app).await);
        let mut expected = caller.json("GetAppKey", json!({ "api_version": 1 })).await.value();
        // Each release has a receipt of its own.
        let receipts = [&mut got["answer"], &mut expected].map(|answer| answer["receipt"].take());
        assert!(receipts.iter().all(|receipt| receipt["index"].is_u64()) && receipts[0] != receipts[1]);
        assert_eq!(got["answer"], expected, "{domain}");
    }
}

/// The input of `grpc_calls.py`.
struct Grpc<'a> {
    target: String,
    roots: Option<&'a str>,
    identity: Option<(String, String)>,
    token: Option<&'a str>,
    calls: Value,
}

impl Grpc<'_> {
    async fn run(self) -> Value {
        let (certificate, key) = self.identity.unzip();
        let asked = json!({
            "target": self.target,
            "roots": self.roots,
            "certificate": certificate,
            "key": key,
            "token": self.token,
            "calls": self.calls,
            "patience": 30,
        });
        said(&python("grpc_calls.py", &[], &asked).await)
    }
}

#[tokio::test]
async fn grpcio_finds_the_services_by_reflection_and_calls_them() {
    let world = World::ready().await;
    let app = world.app(1);
    let (key, keys) = env_key_and_keys(&world, &app).await;
    let meta = world.meta().await;
    let target = format!("{DOMAIN}:{}", world.address().port());
    let id = json!({ "app_id": base64(app.app_id()) });

    let anyone = Grpc {
        target: target.clone(),
        roots: Some(&meta.ca_cert),
        identity: None,
        token: None,
        calls: json!([
            ["kms.KMS", "GetMeta", {}],
            ["kms.KMS", "GetAppEnvEncryptPubKey", id],
            ["kms.KMS", "GetAppEnvEncryptPubKey", {}],
            ["kms.KMS", "GetAppKey", {}],
        ]),
    };
    let got = anyone.run().await;
    let services: Vec<&String> = got["methods"].as_object().expect("services").keys().collect();
    let reflection = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
    assert_eq!(
        services,
        ["grpc.health.v1.Health", reflection[0], reflection[1], "kms.KMS"],
        "what is served"
    );
    let methods = got["methods"]["kms.KMS"].as_array().expect("methods");
    assert!(methods.contains(&json!("GetMeta")) && methods.contains(&json!("SignCert")), "{methods:?}");
    let calls = &got["calls"];
    assert_eq!(calls[0]["reply"]["ca_cert"], meta.ca_cert, "{calls}");
    assert_eq!(calls[0]["reply"]["k256_pubkey"], hex::encode(meta.k256_pubkey));
    assert_eq!(calls[1]["reply"]["public_key"], hex::encode(&key.public_key));
    let refused = json!({ "code": "INVALID_ARGUMENT", "details": "app_id must be 20 bytes, got 0" });
    assert_eq!(calls[2], refused);
    assert_eq!(calls[3]["code"], "UNAUTHENTICATED");

    let guest = Grpc {
        target: target.clone(),
        roots: Some(&meta.ca_cert),
        identity: Some(world.attested(&app).await.pem()),
        token: None,
        calls: json!([["kms.KMS", "GetAppKey", { "api_version": 1 }]]),
    };
    let got = guest.run().await;
    assert_eq!(got["calls"][0]["reply"]["disk_crypt_key"], hex::encode(&keys.disk_crypt_key), "{got}");
}

#[tokio::test]
async fn grpcio_onboards_a_kms_without_tls() {
    let world = World::onboarding().await;
    let target = world.address().to_string();
    let calls = json!([
        ["kms.Onboard", "GetAttestationInfo", {}],
        ["kms.Onboard", "Bootstrap", { "domain": DOMAIN }],
        ["kms.Onboard", "Bootstrap", { "domain": DOMAIN }],
        ["kms.Onboard", "Finish", {}],
    ]);
    let got = Grpc { target, roots: None, identity: None, token: None, calls }.run().await;
    let services = got["methods"].as_object().expect("services");
    assert!(services.contains_key("kms.Onboard") && !services.contains_key("kms.KMS"), "{services:?}");
    let calls = &got["calls"];
    assert_eq!(calls[0]["reply"]["mr_aggregated"], hex::encode(world.cvm.mr_aggregated()), "{calls}");
    let keys = calls[1]["reply"].clone();
    assert_eq!(calls[2]["code"], "FAILED_PRECONDITION");
    assert_eq!(calls[3]["code"], "OK");
    let meta = eventually("GetMeta after Finish", async || {
        let answer = world.caller().try_json("GetMeta", json!({})).await.ok()?;
        (answer.status == 200).then(|| answer.value())
    })
    .await;
    assert_eq!(meta["k256_pubkey"], keys["k256_pubkey"]);
}

#[tokio::test]
async fn grpcio_finds_the_admin_service_with_its_token() {
    let world = World::ready().await;
    let target = world.admin_address().await.to_string();
    let calls = json!([["kms.Admin", "ClearImageCache", { "image_hash": "all", "config_hash": "all" }]]);
    let got = Grpc { target, roots: None, identity: None, token: Some(ADMIN_TOKEN), calls }.run().await;
    let services = got["methods"].as_object().expect("services");
    assert!(services.contains_key("kms.Admin") && !services.contains_key("kms.KMS"), "{services:?}");
    assert_eq!(got["calls"][0]["code"], "OK", "{got}");
}

/// Standard base64, as protobuf's JSON has bytes.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn grpc_health_probes_see_what_is_served() {
    let world = World::onboarding().await;
    let services = ["", "kms.KMS", "kms.Onboard", "kms.Admin", "else"];
    let ask = async |target: String, roots: Option<String>| {
        let asked = json!({ "target": target, "roots": roots, "services": services });
        said(&python("probe.py", &[], &asked).await)
    };
    let expected = |served: &str| {
        services
            .iter()
            .map(|name| {
                let status = match *name {
                    // The KMS as a whole, which must be able to release keys.
                    "" if served == "kms.Onboard" => "NOT_SERVING",
                    "" => "SERVING",
                    name if name == served => "SERVING",
                    // An unknown name ends a watch too, although the protocol recommends that it waits.
                    _ => "NOT_FOUND",
                };
                ((*name).to_owned(), json!([status, status]))
            })
            .collect::<serde_json::Map<_, _>>()
    };
    let address = world.address();
    assert_eq!(ask(address.to_string(), None).await, json!(expected("kms.Onboard")));
    world.bootstrap().await;
    world.finish().await;
    let roots = world.meta().await.ca_cert;
    let target = format!("{DOMAIN}:{}", address.port());
    assert_eq!(ask(target.clone(), Some(roots)).await, json!(expected("kms.KMS")));
    let other = World::ready().await.meta().await.ca_cert;
    let refused = ask(target, Some(other)).await;
    assert_eq!(refused[""][0], "UNAVAILABLE", "another KMS's root: {refused}");
}

#[tokio::test]
async fn dcap_qvl_accepts_the_quote_in_our_certificate_and_no_altered_one() {
    let platform = Platform::from_seed(b"clients");
    for version in [EventVersion::V1, EventVersion::V2] {
        let cvm = Cvm::builder(&platform).event_version(version).stage(Stage::Ready).build();
        let mut world = World::stopped_in(cvm, "").await;
        world.start().await.expect("the KMS starts");
        world.bootstrap().await;
        world.finish().await;
        verify_the_quote_of(&world).await;
    }
}

async fn verify_the_quote_of(world: &World) {
    let line = world.caller().connect().await.expect("a connection");
    let certificate = line.server_certificate.expect("a certificate");
    let evidence = ra_tls::evidence_in(&certificate).expect("readable").expect("evidence");
    let quote = &evidence.tdx().expect("TDX").quote;
    // In the header, MRTD, RTMR3, the report data, the signature, and the attestation key.
    let flips = [4, 200, 48 + 472, 48 + 530, 48 + 584 + 4 + 10, 48 + 584 + 4 + 64 + 10];
    let asked = json!({
        "host": "127.0.0.1",
        "port": world.address().port(),
        "pccs": world.pccs.url(),
        "root": hex::encode(world.platform.root_der()),
        "flips": flips,
    });
    for (verifier, ran) in [
        ("dcap-qvl", python("quote.py", &[], &asked).await),
        ("@phala/dcap-qvl", node("quote.cjs", &[], &asked).await),
    ] {
        let got = said(&ran);
        assert_eq!(got["status"], "UpToDate", "{verifier}: {got}");
        assert_eq!(got["usage"], "kms:rpc", "{verifier}");
        assert_eq!(got["binds_the_key"], true, "{verifier}");
        assert_eq!(got["rt_mr3"], hex::encode(&quote[48 + 472..48 + 520]), "{verifier}");
        for offset in flips {
            let verdict = got["flipped"][offset.to_string()].as_str().expect("a verdict");
            assert!(verdict.starts_with("refused: "), "{verifier}: byte {offset}: {verdict}");
        }
        let verdict = got["under_intels_root"].as_str().expect("a verdict");
        assert!(verdict.starts_with("refused: "), "{verifier}: {verdict}");
    }
}

#[tokio::test]
async fn prometheus_reads_our_metrics() {
    let world = World::ready().await;
    let text = world.caller().get("/metrics").await.text().to_owned();
    let families = said(&python("metrics.py", &[], &json!(text)).await);
    for (name, kind) in [
        ("dstack_kms_attestation_requests", "counter"),
        ("cvm_kms_requests", "counter"),
        ("cvm_kms_request_seconds", "histogram"),
        ("cvm_kms_ready", "gauge"),
    ] {
        assert_eq!(families[name], kind, "{families}");
    }
}

/// Runs a line of a shell script, with the addresses and files of the KMS in variables.
async fn sh(setting: &Setting, line: &str) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("KMS", setting.address.to_string()).env("NO_PROXY", "*");
    finish(command, String::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_of_the_peers_scripts_and_tutorials_work() {
    tools::program("curl");
    tools::program("jq");
    let setting = Setting::with("").await;
    let _program = setting.start().await;
    let ok = async |line: &str| sh(&setting, line).await.expect_ok().out.trim().to_owned();

    // The full-stack suite: `-f` everywhere, so that any status but 200 is not ready.
    let info = "curl -fsS http://$KMS/prpc/Onboard.GetAttestationInfo?json | jq -r '.mr_aggregated // .mrAggregated'";
    assert_eq!(ok(info).await, hex::encode(setting.world.cvm.mr_aggregated()));
    assert_eq!(sh(&setting, "curl -fsSk https://$KMS/prpc/GetMeta?json").await.code, 22, "not ready");
    let bootstrap = "curl -fsS -H 'Content-Type: application/json' -d '{\"domain\":\"localhost\"}' \
                     http://$KMS/prpc/Onboard.Bootstrap?json | jq -r .ca_pubkey";
    assert_eq!(ok(bootstrap).await.len(), 182);
    assert_eq!(ok("curl -fsS http://$KMS/finish").await, "OK");
    eventually("GetMeta", async || {
        let ran = sh(&setting, "curl -fsSk https://$KMS/prpc/GetMeta?json").await;
        (ran.code == 0).then_some(())
    })
    .await;

    // By hand: with and without a body, with prefixes, doubled slashes, and each field that contracts need.
    let meta: Value = serde_json::from_str(&ok("curl -sk https://$KMS/prpc/GetMeta").await).expect("JSON");
    for (line, expected) in [
        ("curl -sk https://$KMS/prpc/GetMeta -d '{}' | jq -r .k256_pubkey", &meta["k256_pubkey"]),
        ("curl -sk https://$KMS/prpc/GetMeta | jq -r .k256_pubkey", &meta["k256_pubkey"]),
        ("curl -sk https://$KMS//prpc/KMS.GetMeta?json | jq -r .k256_pubkey", &meta["k256_pubkey"]),
        (
            "curl -sk https://$KMS/prpc/GetMeta | jq -r .bootstrap_info.ca_pubkey",
            &meta["bootstrap_info"]["ca_pubkey"],
        ),
        ("curl -sk https://$KMS/prpc/GetMeta | jq -r .kms_contract_address", &meta["kms_contract_address"]),
    ] {
        assert_eq!(json!(ok(line).await), *expected, "{line}");
    }
    assert_eq!(ok("curl -sk https://$KMS/prpc/GetMeta | jq .chain_id").await, meta["chain_id"].to_string());
    let denied = ok("curl -sk https://$KMS/prpc/KMS.GetAppKey | jq -r .error").await;
    assert_eq!(denied, "App not allowed: No attestation provided");
    assert_eq!(ok("curl -sk -o /dev/null -w '%{http_code}' https://$KMS/health").await, "200");
}

/// The proof of a release with one thing changed, and whether the log's signature and the inclusion still hold.
struct ProofCase {
    name: &'static str,
    input: Value,
    is_good: bool,
}

fn proof_cases(keys: &AppKeyResponse, meta: &GetMetaResponse) -> Vec<ProofCase> {
    let receipt = keys.receipt.as_ref().expect("a receipt");
    let hashes = receipt.proof.chunks(Hash::LEN).map(|hash| hash.try_into().expect("a hash")).collect();
    let proof = ProofFile {
        extra: Some(receipt.entry.clone()),
        index: receipt.index.try_into().expect("an index"),
        proof: InclusionProof::from_hashes(hashes),
        checkpoint: receipt.checkpoint.clone(),
    };
    let origin = meta.log_key.split('+').next().expect("a name");
    let case = |name, is_good, proof: &ProofFile, entry: &[u8], log_key: &str| ProofCase {
        name,
        input: json!({
            "proof": proof.to_string(),
            "entry": hex::encode(entry),
            "log_key": log_key,
            "origin": origin,
        }),
        is_good,
    };
    let (entry, key) = (&receipt.entry[..], meta.log_key.as_str());
    let altered = [entry, b" "].concat();
    let elsewhere = ProofFile { index: (receipt.index - 1).try_into().expect("an index"), ..proof.clone() };
    let shorter = proof.proof.hashes()[1..].to_vec();
    let shorter = ProofFile { proof: InclusionProof::from_hashes(shorter), ..proof.clone() };
    let size = receipt.checkpoint.lines().nth(1).expect("a size").parse::<u64>().expect("a number");
    let larger = receipt.checkpoint.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1);
    let larger = ProofFile { checkpoint: larger, ..proof.clone() };
    let other = SigningKey::from_seed(origin.parse().expect("a name"), &[3; 32]).expect("a key");
    let other = other.verifying_key().to_string();
    vec![
        case("as answered", true, &proof, entry, key),
        case("another record", false, &proof, &altered, key),
        case("another place", false, &elsewhere, entry, key),
        case("a hash left out", false, &shorter, entry, key),
        case("another size", false, &larger, entry, key),
        case("another key of this name", false, &proof, entry, &other),
    ]
}

/// PyPI `proofbundle` and npm `@sigstore/verify`.
#[tokio::test]
async fn verifiers_of_others_judge_the_proof_of_a_release_as_ours_does() {
    let world = World::ready().await;
    let app = world.app(1);
    let mut cases = Vec::new();
    for _ in 0..5 {
        let (_, keys) = env_key_and_keys(&world, &app).await;
        cases.extend(proof_cases(&keys, &world.meta().await));
    }
    let input: Value = cases.iter().map(|case| case.input.clone()).collect();
    for verdicts in
        [said(&python("ledger.py", &[], &input).await), said(&node("ledger.cjs", &[], &input).await)]
    {
        let verdicts = verdicts.as_array().expect("a list");
        assert_eq!(verdicts.len(), cases.len());
        for (case, verdict) in cases.iter().zip(verdicts) {
            assert_eq!(verdict["ok"], case.is_good, "{}: {verdict}", case.name);
        }
    }
}
